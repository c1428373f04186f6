"""Records whose decoding hangs: the worker process is ended, not the run.

A deadline checked between packets (packets.Deadline) does not interrupt a single call
of a decoder that never returns, and nothing ends a thread. So each worker process has a
watchdog thread. When a record has taken twice its deadline, of CPU time or without any,
the watchdog logs the record to a file and ends the process. The processes started in
its place (workers.Batches) read that file and reject the record. Where threads of the
run's own process decode, the run ends with an error that names the record.
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

EXIT_CODE = 97  # of a process that was ended; ours
_TICK = 0.1  # seconds between two checks
_PATIENCE = 20.0  # seconds until a slow record is logged; ours

_active: dict[int, "_Item"] = {}  # by thread
_rejected: set[int] = set()


class _Item:
  """A record that is being decoded, and the time its thread has spent on it."""

  def __init__(self, record: int, name: str, seconds: float):
    self.record, self.name, self.limit = record, name, 2 * seconds
    # The clock of an ended thread is an error; the id of an ended thread is a crash.
    self._clock = time.pthread_getcpuclockid(threading.get_ident())
    self._begin = self._before = time.clock_gettime(self._clock)
    self._still = 0.0
    self.warned = False

  def taken(self, passed: float) -> float:
    """Seconds, of CPU time or without any.

    Args:
      passed: seconds since the last check; a stopped process counts none.
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
  """Marks the record as being decoded, for `start` or `look` to watch.

  Args:
    record: index.
    name: id of the record.
    seconds: deadline of the record.

  Raises:
    BadSample: an earlier process was ended because of it.
  """
  if record in _rejected:
    raise BadSample(f"decoding it did not end in {2 * seconds:g} s")
  thread = threading.get_ident()
  if hasattr(time, "pthread_getcpuclockid"):  # not on macOS
    _active[thread] = _Item(record, name, seconds)
  try:
    yield
  finally:
    _active.pop(thread, None)


def start(path: str) -> None:
  """Starts the watchdog of this process.

  Args:
    path: of the list of records whose decoding hung.
  """
  _rejected.update(record for record, _ in given_up(path))
  threading.Thread(target=_watch, args=(path,), daemon=True).start()


def given_up(path: str) -> list[tuple[int, str]]:
  """(record, id) of each line in the list, which need not exist."""
  try:
    lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
  except FileNotFoundError:
    return []
  return [tuple(json.loads(line)) for line in lines]


def look(passed: float) -> list[str]:
  """Ids of the records whose decoding hangs in this process.

  Args:
    passed: seconds since the last check.
  """
  return [active.name for active in list(_active.values()) if _stuck(active, passed)]


def _stuck(active: _Item, passed: float) -> bool:
  taken = active.taken(passed)
  if taken > min(_PATIENCE, active.limit / 2) and not active.warned:
    active.warned = True
    warn(
      f"decoding {active.name} has taken {taken:.0f} s, and is given up after "
      f"{active.limit:g} s"
    )
  return taken > active.limit


def _watch(path: str) -> None:
  while True:
    time.sleep(_TICK)
    for active in list(_active.values()):
      if _stuck(active, _TICK):
        with open(path, "a", encoding="utf-8") as f:
          f.write(json.dumps([active.record, active.name]) + "\n")
        os._exit(EXIT_CODE)
