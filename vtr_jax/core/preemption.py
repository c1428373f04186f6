"""Asked to stop: at once where nothing is lost, else after saving, by all processes.

The first SIGTERM asks, the second one has its usual effect. What it does depends on
what the run is doing:

free  nothing to save (being built, in the first compilation): the process leaves at
      once, from a thread, since handlers do not run while XLA compiles.
wait  between steps (waiting for data, evaluating): `Preempted` is raised where the main
      thread is, and the loop saves what has been learned.
busy  in a step, or saving: the loop looks at the flag when it is done.

Several processes must stop after the same step. They only raise a flag; `post` sends
it along with the steps, without waiting, and `agreed` reads what was sent two steps
ago.
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

_NUDGE = signal.SIGURG  # ignored by default, and used by nothing here
_BEHIND = 2  # steps; by then the flag has been sent, and reading it waits for nothing


class StopSignal:
  """Used as a context, in the main thread; elsewhere signals are left alone."""

  def __init__(self):
    self._asked, self._mode = False, "busy"
    self._sent: collections.deque[jax.Array] = collections.deque()

  @property
  def _alone(self) -> bool:
    return not jax.distributed.is_initialized() or jax.process_count() == 1

  @functools.cached_property
  def _each(self) -> NamedSharding:
    """One flag a device."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("all",))
    return NamedSharding(mesh, PartitionSpec("all"))

  @functools.cached_property
  def _any(self) -> Callable[[jax.Array], jax.Array]:
    whole = NamedSharding(self._each.mesh, PartitionSpec())
    return jax.jit(lambda flags: flags.any(), out_shardings=whole)

  def __enter__(self) -> "StopSignal":
    self._installed = threading.current_thread() is threading.main_thread()
    if self._installed:
      self._ours, self._other_end = socket.socketpair()
      self._other_end.setblocking(False)
      self._fd = signal.set_wakeup_fd(self._other_end.fileno())
      self._before = signal.signal(signal.SIGTERM, self._handle)
      self._nudge_before = signal.signal(_NUDGE, lambda *_: None)
      threading.Thread(target=self._watch, daemon=True).start()
    return self

  def __exit__(self, *unused: Any) -> None:
    if self._installed:
      signal.signal(signal.SIGTERM, self._before)
      signal.signal(_NUDGE, self._nudge_before)
      signal.set_wakeup_fd(self._fd)
      self._other_end.close()  # ends the thread
      self._installed = False

  @contextlib.contextmanager
  def during(self, mode: str) -> Iterator[None]:
    """What the run is doing within it: "free" or "wait"; without, it is busy.

    Raises:
      Preempted: in "wait", when asked before or meanwhile.
    """
    before, self._mode = self._mode, mode
    try:
      if self._asked and self._alone and mode == "free":
        _leave()
      if self._asked and self._alone and mode == "wait":
        raise Preempted("asked to stop")
      yield
    finally:
      self._mode = before

  def post(self) -> None:
    """Sends this process's flag to all; to be called by all, once a step."""
    if not self._alone:
      self._sent.append(self._send())

  def agreed(self) -> bool:
    """Whether all processes are to stop now; the same in all."""
    if self._alone:
      return self._asked
    found = False
    while len(self._sent) > _BEHIND:
      found |= bool(self._sent.popleft())
    return found

  def check(self) -> None:
    """For long work in which all processes take the same steps, such as evaluation.

    Raises:
      Preempted: one of them was asked to stop.
    """
    if self._asked if self._alone else bool(self._send()):
      raise Preempted("asked to stop")

  def _send(self) -> jax.Array:
    mine = np.full(jax.local_device_count(), self._asked)
    return self._any(jax.make_array_from_process_local_data(self._each, mine))

  def _handle(self, number: int, frame: Any) -> None:
    del number, frame
    self._asked = True
    signal.signal(signal.SIGTERM, self._before)
    if self._mode == "wait" and self._alone:
      raise Preempted("asked to stop")

  def _watch(self) -> None:
    """Leaves while the main thread is held in a call that Python cannot interrupt.

    And wakes it where another thread was given the signal: handlers run in the main
    thread alone, and it would sleep on.
    """
    while number := self._ours.recv(1):
      if number[0] != signal.SIGTERM:
        if self._fd >= 0:  # whoever watched before
          os.write(self._fd, number)
        continue
      if self._mode == "free" and self._alone:
        _leave()
      time.sleep(0.05)
      if not self._asked:
        main = threading.main_thread().ident
        assert main is not None  # it runs
        signal.pthread_kill(main, _NUDGE)
    self._ours.close()


def _leave() -> NoReturn:
  shutdown.tell("asked to stop before the first step; run it again")
  shutdown.leave(Preempted.exit_code)
