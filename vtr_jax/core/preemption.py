"""Stops a run on SIGTERM: at once if nothing is lost, else after saving.

The first SIGTERM requests a stop, the second one has its usual effect. The effect of a
request depends on the mode of the run:

free  nothing to save (being built, in the first compilation): the process exits at
      once, from a thread, since handlers do not run while XLA compiles.
wait  between steps (waiting for data, evaluating): `Preempted` is raised in the main
      thread, and the loop saves the state.
busy  in a step, or saving: the loop reads the flag afterwards.

Several processes must stop after the same step. They only set a flag; `post` sends it
along with the steps, without waiting, and `agreed` reads the flags of two steps before.
"""

import collections
import contextlib
import functools
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from vtr_jax.core import shutdown
from vtr_jax.core.errors import Preempted

_WAKE = signal.SIGURG  # ignored by default, and not used otherwise
_DELAY = 2  # steps; by then the flag has arrived, and reading it does not wait


class StopSignal:
  """A context for the main thread; in other threads it handles no signal."""

  def __init__(self):
    self._requested, self._mode = False, "busy"
    self._sent: collections.deque[jax.Array] = collections.deque()

  @property
  def _single_process(self) -> bool:
    return not jax.distributed.is_initialized() or jax.process_count() == 1

  @functools.cached_property
  def _each(self) -> NamedSharding:
    """One flag per device."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("all",))
    return NamedSharding(mesh, PartitionSpec("all"))

  @functools.cached_property
  def _any(self) -> Callable[[jax.Array], jax.Array]:
    replicated = NamedSharding(self._each.mesh, PartitionSpec())
    return jax.jit(lambda flags: flags.any(), out_shardings=replicated)

  def __enter__(self) -> "StopSignal":
    self._installed = threading.current_thread() is threading.main_thread()
    if self._installed:
      self._receiver, self._sender = socket.socketpair()
      self._sender.setblocking(False)
      self._fd = signal.set_wakeup_fd(self._sender.fileno())
      self._term_handler = signal.signal(signal.SIGTERM, self._handle)
      self._wake_handler = signal.signal(_WAKE, lambda *_: None)
      threading.Thread(target=self._watch, daemon=True).start()
    return self

  def __exit__(self, *unused: Any) -> None:
    if self._installed:
      signal.signal(signal.SIGTERM, self._term_handler)
      signal.signal(_WAKE, self._wake_handler)
      signal.set_wakeup_fd(self._fd)
      self._sender.close()  # ends the thread
      self._installed = False

  @contextlib.contextmanager
  def during(self, mode: str) -> Iterator[None]:
    """Sets the mode, "free" or "wait"; outside of it the mode is "busy".

    Raises:
      Preempted: in "wait", if a stop was requested before or meanwhile.
    """
    before, self._mode = self._mode, mode
    try:
      if self._requested and self._single_process and mode == "free":
        _exit()
      if self._requested and self._single_process and mode == "wait":
        raise Preempted("a stop was requested")
      yield
    finally:
      self._mode = before

  def post(self) -> None:
    """Sends this process's flag to all; all call it once a step."""
    if not self._single_process:
      self._sent.append(self._send())

  def agreed(self) -> bool:
    """Whether all processes are to stop now; the same in all."""
    if self._single_process:
      return self._requested
    stop = False
    while len(self._sent) > _DELAY:
      stop |= bool(self._sent.popleft())
    return stop

  def check(self) -> None:
    """For long work in which all processes take the same steps, such as evaluation.

    Raises:
      Preempted: a stop of one of them was requested.
    """
    if self._requested if self._single_process else bool(self._send()):
      raise Preempted("a stop was requested")

  def _send(self) -> jax.Array:
    local = np.full(jax.local_device_count(), self._requested)
    return self._any(jax.make_array_from_process_local_data(self._each, local))

  def _handle(self, number: int, frame: Any) -> None:
    del number, frame
    self._requested = True
    signal.signal(signal.SIGTERM, self._term_handler)
    if self._mode == "wait" and self._single_process:
      raise Preempted("a stop was requested")

  def _watch(self) -> None:
    """Exits while the main thread is in a call that Python cannot interrupt.

    Also wakes the main thread if another one received the signal: handlers run in the
    main thread only, which may be asleep.
    """
    while number := self._receiver.recv(1):
      if number[0] != signal.SIGTERM:
        if self._fd >= 0:  # the previous wakeup descriptor
          os.write(self._fd, number)
        continue
      if self._mode == "free" and self._single_process:
        _exit()
      time.sleep(0.05)
      if not self._requested:
        main = threading.main_thread().ident
        assert main is not None  # it is running
        signal.pthread_kill(main, _WAKE)
    self._receiver.close()


def _exit() -> NoReturn:
  shutdown.print_line("stopped before the first step; run it again")
  shutdown.exit_now(Preempted.exit_code)
