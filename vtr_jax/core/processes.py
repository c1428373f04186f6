"""What several processes need that make data together. Imports nothing of weight."""

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

_TICK = 0.2  # seconds between two tries for a lock
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)  # such a file system


def cores() -> int:
  """Cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def end_with_parent(*leavings: str) -> None:
  """Ends this process when its parent has been killed and could not say goodbye.

  Args:
    leavings: files of the parent, to be removed then.
  """

  def watch():
    if (parent := multiprocessing.parent_process()) is not None:
      parent.join()
      for path in leavings:
        pathlib.Path(path).unlink(missing_ok=True)
      os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


def track_shared_memory() -> None:
  """Has shared memory that this process makes removed whenever it is killed.

  Python tells its resource tracker, which outlives us, just after making it: killed in
  between, the memory stays for ever. From now on it is told before.
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


def children() -> list[str]:
  """What each child of this process does, as far as the system tells it."""
  found = []
  for child in multiprocessing.active_children():
    try:
      stat = pathlib.Path(f"/proc/{child.pid}/stat").read_text()
    except OSError:  # another system, or it has just ended
      continue
    state = stat.rpartition(")")[2].split()[0].upper()
    found.append(f"process {child.pid} {_STATES.get(state, f'is in state {state}')}")
  return found


@contextlib.contextmanager
def hidden_main() -> Iterator[None]:
  """Processes started meanwhile do not run the caller's script a second time.

  They would import all that it imports, and start processes of their own if it lacks
  the `__main__` guard.
  """
  main = sys.modules["__main__"]
  sys.modules["__main__"] = types.ModuleType("__main__")
  try:
    yield
  finally:
    sys.modules["__main__"] = main


@contextlib.contextmanager
def locked(
  path: pathlib.Path, what: str, alone: bool = True, patience: float = math.inf
) -> Iterator[None]:
  """Holds `path` for this process; the system frees it even after SIGKILL.

  Args:
    path: a file, made if it is not there.
    what: is waited for, as the message calls it.
    alone: keep all others out, or only those who would be alone.
    patience: seconds to wait for others.

  Raises:
    DataError: another has it all that time.
  """
  kind = (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB
  begin, told = time.monotonic(), False
  with path.open("a+") as f:
    while True:
      try:
        fcntl.flock(f, kind)
        break
      except BlockingIOError:
        if time.monotonic() - begin > patience:
          raise DataError(
            f"{path}: another {what} holds it; wait for its end, or work elsewhere"
          ) from None
        if not told:
          warn(f"{path}: waiting for another {what} to end")
        told = True
        time.sleep(_TICK)
      except OSError as e:
        if e.errno in _NO_LOCKS:
          break
        raise
    yield
