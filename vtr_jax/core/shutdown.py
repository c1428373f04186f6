"""Ends a command's process at once, with one line and an exit code.

Python's own exit would wait for the other processes of a run, and for a thread that is
stuck in a decoder; meanwhile a compilation that Ctrl-C interrupted continues, and
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
_OUTPUT_TIMEOUT = 1.0  # seconds for output that nobody reads; ours
_INTERRUPTED = 130  # as in shells
_output_failed = False


def print_line(text: str) -> None:
  """Prints a line to standard error, if it can be written."""
  if sys.stderr:  # None if it is closed: print would use standard output
    _with_timeout(lambda: print(text, file=sys.stderr, flush=True))


def warn(text: str) -> None:
  """Prints a warning to standard error, if it can be written."""
  print_line(f"WARNING: {text}")


def exit_now(code: int) -> NoReturn:
  """Ends the process after flushing the output, if it can be written."""
  flush()
  os._exit(code)


def flush() -> None:
  """Flushes standard output and error, if they can be written."""
  for stream in (sys.stdout, sys.stderr):
    if stream:
      _with_timeout(stream.flush)


def ignore_output() -> None:
  """Makes `check_output` ignore failures of standard output, which were reported."""
  global _output_failed
  _output_failed = True


def check_output() -> None:
  """Flushes standard output; raises OSError if that fails, as on a full disk."""
  if sys.stdout and not _output_failed:
    sys.stdout.flush()


def interrupted() -> NoReturn:
  """Ends the process as Ctrl-C does; nothing more is saved."""
  print_line("Interrupted: run it again; saved files are complete")
  exit_now(_INTERRUPTED)


def output_is_closed() -> bool:
  """Whether the reader of standard output has exited, as after `| head`."""
  try:
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    closed = select.POLLERR | select.POLLHUP
    return any(event & closed for _, event in poll.poll(0))
  except (OSError, ValueError, AttributeError):  # not a file, or closed
    return False


def handle_ctrl_c() -> None:
  """From now on Ctrl-C ends the process, within `_GRACE` seconds.

  KeyboardInterrupt alone may not: JAX's compiler can swallow it, Python does in a
  finalizer or a callback, and a thread that starts to wait for a lock gets it only
  after it has acquired the lock.
  """
  if threading.current_thread() is not threading.main_thread():
    return

  def handle(*_: Any) -> None:
    # One is enough: a terminal and a wrapper may both send it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt

  if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, handle)
  default = sys.unraisablehook

  def hook(unraisable: Any) -> None:
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
      interrupted()
    default(unraisable)

  sys.unraisablehook = hook
  receiver, sender = socket.socketpair()
  sender.setblocking(False)
  signal.set_wakeup_fd(sender.fileno())

  def watch() -> None:
    with sender:
      while number := receiver.recv(1):
        if number[0] == signal.SIGINT:
          time.sleep(_GRACE)
          interrupted()

  threading.Thread(target=watch, daemon=True).start()


def _with_timeout(write: Callable[[], object]) -> None:
  """Writes in a thread: a pipe that nobody reads would block forever."""

  def work() -> None:
    with contextlib.suppress(OSError, ValueError):  # full, or closed
      write()

  thread = threading.Thread(target=work, daemon=True)
  with contextlib.suppress(RuntimeError):  # no more threads can be started
    thread.start()
    thread.join(_OUTPUT_TIMEOUT)
