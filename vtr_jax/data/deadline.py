"""Records that a loader gets stuck in: its process is given up, not the run.

A deadline between packets (packets.Deadline) does not end a single call of a decoder
that never comes back, and nothing ends a thread. So each worker process has a thread
that looks on. When a record has taken twice its deadline, of CPU time or without
any, the watcher writes the record down and ends the process. The processes that are
started in its place (workers.Batches) find it written, and refuse it. Where threads of
the run's own process decode, the run ends, and names the record.
"""

import contextlib
import json
import os
import pathlib
import threading
import time
from collections.abc import Iterator

from vtr_jax.core.errors import BadSample
from vtr_jax.core.shutdown import warn

EXIT_CODE = 97  # of a process that was given up; ours
_TICK = 0.1  # seconds between two looks
_PATIENCE = 20.0  # seconds until a record in work is logged; ours

_active: dict[int, "_Item"] = {}  # by thread
_refused: set[int] = set()


class _Item:
  """A record in work, and what its thread has done for it."""

  def __init__(self, record: int, name: str, seconds: float):
    self.record, self.name, self.limit = record, name, 2 * seconds
    # Of a thread that has ended, the clock's number is an error, its own is a crash.
    self._clock = time.pthread_getcpuclockid(threading.get_ident())
    self._begin = self._before = time.clock_gettime(self._clock)
    self._still = 0.0
    self.told = False

  def taken(self, passed: float) -> float:
    """Seconds, of CPU time or without any.

    Args:
      passed: seconds since the last look. A process that was stopped looks at nothing,
        and counts none.
    """
    try:
      now = time.clock_gettime(self._clock)
    except OSError:
      return 0.0
    idle = now - self._before < passed / 100
    self._still = self._still + passed if idle else 0.0
    self._before = now
    return max(now - self._begin, self._still)


@contextlib.contextmanager
def item(record: int, name: str, seconds: float) -> Iterator[None]:
  """Within it, the record is in work, for `start` or `look` to see.

  Args:
    record: its number.
    name: its id.
    seconds: its deadline.

  Raises:
    BadSample: an earlier process was given up because of it.
  """
  if record in _refused:
    raise BadSample(f"decoding it did not end in {2 * seconds:g} s")
  thread = threading.get_ident()
  if hasattr(time, "pthread_getcpuclockid"):  # not on macOS
    _active[thread] = _Item(record, name, seconds)
  try:
    yield
  finally:
    _active.pop(thread, None)


def start(path: str) -> None:
  """Watches this process from now on.

  Args:
    path: of the list of records that processes were given up for.
  """
  _refused.update(record for record, _ in given_up(path))
  threading.Thread(target=_watch, args=(path,), daemon=True).start()


def given_up(path: str) -> list[tuple[int, str]]:
  """(record, id) of each line in the list, which the first one makes."""
  try:
    lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
  except FileNotFoundError:
    return []
  return [tuple(json.loads(line)) for line in lines]


def look(passed: float) -> list[str]:
  """Ids of the records that this process is stuck in.

  Args:
    passed: seconds since the last look.
  """
  return [found.name for found in list(_active.values()) if _stuck(found, passed)]


def _stuck(found: _Item, passed: float) -> bool:
  taken = found.taken(passed)
  if taken > min(_PATIENCE, found.limit / 2) and not found.told:
    found.told = True
    warn(
      f"decoding {found.name} has taken {taken:.0f} s, and is given up after "
      f"{found.limit:g} s"
    )
  return taken > found.limit


def _watch(path: str) -> None:
  while True:
    time.sleep(_TICK)
    for found in list(_active.values()):
      if _stuck(found, _TICK):
        with open(path, "a", encoding="utf-8") as f:
          f.write(json.dumps([found.record, found.name]) + "\n")
        os._exit(EXIT_CODE)
