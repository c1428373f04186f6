"""Helpers for processes that prepare data together; fast to import."""

import contextlib
import errno
import fcntl
import math
import multiprocessing
import os
import pathlib
import sys
import threading
import time
import types
from collections.abc import Iterator
from multiprocessing import resource_tracker, shared_memory

from vtr_jax.core.errors import DataError
from vtr_jax.core.shutdown import warn

_RETRY = 0.2  # seconds between attempts to acquire a lock
_NO_LOCKS = (
  errno.ENOLCK,
  errno.EOPNOTSUPP,
  errno.ENOSYS,
)  # of file systems without locks


def cores() -> int:
  """Cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def end_with_parent(*files: str) -> None:
  """Ends this process when its parent has been killed.

  Args:
    files: of the parent, to be removed then.
  """

  def watch():
    if (parent := multiprocessing.parent_process()) is not None:
      parent.join()
      for path in files:
        pathlib.Path(path).unlink(missing_ok=True)
      os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


def track_shared_memory() -> None:
  """Makes sure that shared memory of this process is removed if it is killed.

  Python registers shared memory with its resource tracker, which outlives this process,
  just after creating it: if it is killed in between, the memory is leaked. From now on
  it is registered before.
  """
  make = shared_memory._make_filename  # pyright: ignore

  def registered() -> str:
    name = make()
    resource_tracker.register(name, "shared_memory")
    return name

  shared_memory._make_filename = registered  # pyright: ignore


_STATES = dict(
  T="is stopped, by a signal or a debugger",
  D="waits for a disk or the network",
  Z="has ended",
  R="works",
  S="waits or works in threads",
)


def child_states() -> list[str]:
  """The state of each child of this process, if the system reports it."""
  states = []
  for child in multiprocessing.active_children():
    try:
      stat = pathlib.Path(f"/proc/{child.pid}/stat").read_text()
    except OSError:  # another system, or it has just ended
      continue
    state = stat.rpartition(")")[2].split()[0].upper()
    states.append(f"process {child.pid} {_STATES.get(state, f'is in state {state}')}")
  return states


@contextlib.contextmanager
def hidden_main() -> Iterator[None]:
  """Keeps processes started within it from running the caller's script again.

  They would import all of its modules, and start processes of their own if it lacks the
  `__main__` guard.
  """
  main = sys.modules["__main__"]
  sys.modules["__main__"] = types.ModuleType("__main__")
  try:
    yield
  finally:
    sys.modules["__main__"] = main


@contextlib.contextmanager
def locked(
  path: pathlib.Path, owner: str, exclusive: bool = True, timeout: float = math.inf
) -> Iterator[None]:
  """Locks `path` for this process; the system releases it even after SIGKILL.

  Args:
    path: a file, created if it is missing.
    owner: what messages call the other process.
    exclusive: whether the lock is exclusive or shared.
    timeout: seconds to wait for it.

  Raises:
    DataError: another process holds it longer than that.
  """
  kind = (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB
  start, warned = time.monotonic(), False
  with path.open("a+") as f:
    while True:
      try:
        fcntl.flock(f, kind)
        break
      except BlockingIOError:
        if time.monotonic() - start > timeout:
          raise DataError(
            f"{path}: another {owner} holds it; wait for it to end, or work elsewhere"
          ) from None
        if not warned:
          warn(f"{path}: waiting for another {owner} to end")
        warned = True
        time.sleep(_RETRY)
      except OSError as e:
        if e.errno in _NO_LOCKS:
          break
        raise
    yield
