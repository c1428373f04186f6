"""How a command's process ends: one line, a code, at once; and lines before that.

Not as Python ends one: it would wait for the other processes of a run, and for a thread
that is stuck in a decoder; a compilation that Ctrl-C has left continues meanwhile, and
crashes; threads of TensorStore print pages.
"""

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

_GRACE = 3.0  # seconds from Ctrl-C until the process is ended from outside; ours
_PATIENCE = 1.0  # seconds that output which nobody reads may take; ours
_INTERRUPTED = 130  # as shells have it
_given_up = False  # standard output


def tell(text: str) -> None:
  """A line on standard error, if it can be written."""
  if sys.stderr:  # None where it is closed: print would take the other one
    _briefly(lambda: print(text, file=sys.stderr, flush=True))


def warn(text: str) -> None:
  """The same of something that a person should know of; nothing ends."""
  tell(f"WARNING: {text}")


def leave(code: int) -> NoReturn:
  """Ends the process; what was printed is written, if it can be."""
  flush()
  os._exit(code)


def flush() -> None:
  """Writes what was printed, if it can be."""
  for stream in (sys.stdout, sys.stderr):
    if stream:
      _briefly(stream.flush)


def give_up_output() -> None:
  """Notes that standard output has failed, was reported, and is not an error."""
  global _given_up
  _given_up = True


def check_output() -> None:
  """Raises OSError if what was printed cannot be written: a disk is full, say."""
  if sys.stdout and not _given_up:
    sys.stdout.flush()


def interrupted() -> NoReturn:
  """Ends the process as Ctrl-C does; nothing more is saved."""
  tell("Interrupted: run it again; what has been saved is whole")
  leave(_INTERRUPTED)


def unread() -> bool:
  """Whether whoever read standard output has gone, as `| head` does."""
  try:
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    gone = select.POLLERR | select.POLLHUP
    return any(event & gone for _, event in poll.poll(0))
  except (OSError, ValueError, AttributeError):  # not a file, or closed
    return False


def see_to_ctrl_c() -> None:
  """From now on Ctrl-C ends the process, within `_GRACE` seconds.

  Its exception alone may not: JAX's compiler can swallow it, Python does in a finalizer
  or a callback, and a thread that is just beginning to wait for a lock does not see it
  until the lock is there.
  """
  if threading.current_thread() is not threading.main_thread():
    return

  def handle(*_: Any) -> None:
    # One is enough: a terminal and a wrapper may both send it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt

  if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, handle)
  plain = sys.unraisablehook

  def hook(unraisable: Any) -> None:
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
      interrupted()
    plain(unraisable)

  sys.unraisablehook = hook
  ours, other_end = socket.socketpair()
  other_end.setblocking(False)
  signal.set_wakeup_fd(other_end.fileno())

  def watch() -> None:
    with other_end:
      while number := ours.recv(1):
        if number[0] == signal.SIGINT:
          time.sleep(_GRACE)
          interrupted()

  threading.Thread(target=watch, daemon=True).start()


def _briefly(write: Callable[[], object]) -> None:
  """In a thread: a pipe that nobody reads would hold it for ever."""

  def work() -> None:
    with contextlib.suppress(OSError, ValueError):  # it is full, or closed
      write()

  thread = threading.Thread(target=work, daemon=True)
  with contextlib.suppress(RuntimeError):  # no thread can be had any more
    thread.start()
    thread.join(_PATIENCE)
