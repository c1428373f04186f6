"""Items to results, in several processes that may hang or die.

Unlike that of concurrent.futures, pebble's pool gives each task a deadline, and a
process that dies fails no task but its own.
"""

import concurrent.futures
import concurrent.futures.process
import itertools
import multiprocessing
import pathlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pebble

from vtr_jax.core import processes
from vtr_jax.core.errors import DataError, one_line
from vtr_jax.prepare import spool
from vtr_jax.prepare.formats.base import Item
from vtr_jax.prepare.options import Options, Result
from vtr_jax.prepare.work import make


class Task(NamedTuple):
  """An item, the path of its result, and the number of its shard."""

  shard: int
  path: pathlib.Path
  item: Item


def run(
  tasks: Iterable[Task], options: Options, workers: int, deadline: float
) -> Iterator[Task]:
  """Computes the result of every task, and yields tasks as they are done.

  An item that hangs for `deadline` seconds or ends its process is refused. If this
  process ends, unfinished items have no result.

  Raises:
    DataError: a result cannot be written, or processes end before they start.
  """
  tasks = iter(tasks)
  # Not forked: threads in the parent may hold locks.
  context = multiprocessing.get_context("spawn")
  pool = pebble.ProcessPool(
    workers, initializer=processes.end_with_parent, context=context
  )
  pending: dict[concurrent.futures.Future, Task] = {}
  try:
    while True:
      # Two per worker: one running, one queued.
      for task in itertools.islice(tasks, 2 * workers - len(pending)):
        args = (task.path, task.item, options)
        pending[pool.schedule(make, args=args, timeout=deadline)] = task
      if not pending:
        return
      done, _ = concurrent.futures.wait(
        pending, return_when=concurrent.futures.FIRST_COMPLETED
      )
      for future in done:
        task = pending.pop(future)
        _settle(future, task, deadline)
        yield task
  finally:
    pool.stop()
    pool.join()


def _settle(future, task: Task, deadline: float) -> None:
  """Writes a refusal as the result of an item whose process was ended."""
  try:
    future.result()
  except concurrent.futures.TimeoutError:
    reason = f"not done after {deadline:g} s; raise --deadline if it is that long"
    spool.write(task.path, Result(refused=reason))
  except pebble.ProcessExpired as e:
    reason = f"its process died (exit code {e.exitcode}), perhaps out of memory"
    spool.write(task.path, Result(refused=reason))
  except OSError as e:
    raise DataError(
      f"{task.path}: cannot be written ({one_line(e)}); make room and run it again"
    ) from e
  except concurrent.futures.process.BrokenProcessPool as e:
    raise DataError(
      "processes end before they start, perhaps out of memory; run it again with "
      "fewer --workers"
    ) from e
