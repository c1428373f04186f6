"""Rows to batches of one host, made in order by threads or processes."""

import contextlib
import functools
import math
import os
import queue
import signal
import tempfile
import threading
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grain
import numpy as np
from absl import flags

from vtr_jax.core import processes
from vtr_jax.core.errors import ConfigError, DataError, one_line
from vtr_jax.core.shutdown import warn
from vtr_jax.data import deadline
from vtr_jax.data.video import decode

_THREADS = min(4, os.cpu_count() or 1)  # where there are no worker processes
_SHARED_MEMORY = "/dev/shm"
_BUFFER = 2  # finished batches that wait in each worker
_LOOK = 1.0  # seconds between two looks at why a batch does not come
_PATIENCE = 20  # looks until that is logged; ours
_IN_A_ROW = 3  # times that workers are stuck before a batch comes, then it ends; ours


def check_shared_memory(size: int, workers: int) -> None:
  """Checks that /dev/shm has room for batches of `size` bytes that wait in workers.

  A worker that writes beyond its end is killed, and says nothing. Containers have 64 MB
  unless they ask for more.

  Raises:
    ConfigError: it does not; names the size that is needed.
  """
  try:
    found = os.statvfs(_SHARED_MEMORY)
  except OSError:  # another system, without it
    return
  free, need = found.f_bavail * found.f_frsize, size * workers * (_BUFFER + 1)
  if need > free:
    raise ConfigError(
      f"config.data.num_workers: {workers} workers need {need / 2**20:,.0f} MiB of "
      f"{_SHARED_MEMORY}, which has {free / 2**20:,.0f} MiB; start the container with "
      f"--shm-size={math.ceil(need / 2**30)}g, or set fewer workers, 0 = none"
    )


class HostBatches(grain.MapDataset):
  """Batch number to this host's rows of it, stacked.

  Rows that are missing in the last batch are filled up with zeros, which makes
  them valid = False; their record is -1.
  """

  def __init__(
    self, rows: grain.MapDataset, batch_size: int, host: int, num_hosts: int
  ):
    """Takes an even share of every global batch.

    Args:
      rows: examples, dicts of arrays, in global order.
      batch_size: rows of the global batch.
      host: number of this host.
      num_hosts: hosts that share the global batch.

    Raises:
      ConfigError: the hosts cannot share the batch evenly.
    """
    super().__init__(rows)
    if batch_size < 1 or batch_size % num_hosts:
      near = max(batch_size // num_hosts, 1) * num_hosts
      raise ConfigError(
        f"batch_size: {batch_size} cannot be shared by {num_hosts} hosts; "
        f"use {near} or {near + num_hosts}"
      )
    self._batch_size = batch_size
    self._share = batch_size // num_hosts
    self._first = host * self._share
    # Of this host's rows, in every global batch.
    self.row_numbers = np.arange(self._share, dtype=np.int32) + np.int32(self._first)

  def __len__(self) -> int:
    return -(-len(self._parent) // self._batch_size)

  def __getitem__(self, index):
    if isinstance(index, slice):
      return self.slice(index)
    return self.batch(index)

  def batch(self, index: int) -> dict[str, np.ndarray]:
    """This host's rows of batch number `index`."""
    start = index * self._batch_size + self._first
    stop = min(start + self._share, len(self._parent))
    rows: list[Any] = [self._parent[g] for g in range(start, stop)]
    if len(rows) < self._share:
      # A host may get no row at all: the shapes come from any example.
      like: Any = rows[0] if rows else self._parent[0]
      empty = {k: np.zeros_like(v) for k, v in like.items()}
      rows += [empty | dict(record=np.int64(-1))] * (self._share - len(rows))
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


class Repeated(grain.MapDataset):
  """Each element `repeats` times in a row, of an endless data set."""

  def __init__(self, parent: grain.MapDataset, repeats: int):
    super().__init__(parent)
    self._repeats = repeats

  def __len__(self) -> int:
    return len(self._parent)

  def __getitem__(self, index):
    if isinstance(index, slice):
      return self.slice(index)
    return self._parent[index // self._repeats]


class ByTurns(grain.MapDataset):
  """Batch number to a training batch, of one of several data sets."""

  def __init__(
    self, parents: Mapping[Any, HostBatches], turn: Callable[[int], tuple[Any, int]]
  ):
    """Takes the data sets by key, and (key, number in there) of each batch number."""
    super().__init__(list(parents.values()))
    self._by_key = parents
    self._turn = turn

  def __len__(self) -> int:
    return min(map(len, self._by_key.values()))

  def __getitem__(self, index):
    if isinstance(index, slice):
      return self.slice(index)
    key, number = self._turn(index)
    rows = self._by_key[key]
    return rows.batch(number) | dict(row=rows.row_numbers)


class _Feeder:
  """Takes from an iterator in a thread of its own, so that waiting can be given up."""

  def __init__(self, iterator: grain.DatasetIterator):
    self._iterator, self._asked = iterator, queue.SimpleQueue()
    self._came: queue.SimpleQueue[tuple[Any, BaseException | None]]
    self._came = queue.SimpleQueue()
    args = (iterator, self._asked, self._came)
    threading.Thread(target=_feed, args=args, daemon=True).start()

  def next(self, look: Callable[[int], None]) -> Any:
    """What comes next; meanwhile calls `look(1)`, `look(2)`..., which may raise."""
    self._asked.put(True)
    looks = 0
    while True:
      try:
        result, error = self._came.get(timeout=_LOOK)
        break
      except queue.Empty:
        looks += 1
        look(looks)
    if error is not None:
      raise error
    return result

  def close(self) -> None:
    self._asked.put(False)
    self._iterator.close()


def _feed(iterator: Iterator, asked: queue.SimpleQueue, came: queue.SimpleQueue):
  while asked.get():
    try:
      came.put((next(iterator), None))
    except BaseException as e:
      came.put((None, e))


class Batches:
  """An iterator over batches that owns its workers; close it when done.

  Batches are made ahead of time, in order. A worker that hangs is replaced, see
  deadline.py; its batches are recomputed, so that no batch is lost or changed. The
  reason for a late batch is logged.
  """

  def __init__(self, batches: grain.MapDataset, workers: int):
    """Starts the workers.

    Args:
      batches: batch number to batch.
      workers: processes, each making every n-th batch; 0 = threads of this process.
    """
    self._batches, self._workers, self._done = batches, workers, 0
    self._stuck: list[str] = []  # ids of records since the last batch came
    self._in_a_row = 0  # times that workers were replaced since then
    self._list = ""  # of the records that worker processes were given up for
    if workers:
      # Created by workers only when needed, so that a killed run leaves no file.
      name = f"vtr_stuck_{uuid.uuid4().hex}"
      self._list = os.path.join(tempfile.gettempdir(), name)
    self._open: list[_Feeder] = []
    # Also called when this object is lost, and before Python takes grain apart.
    self._finalize = weakref.finalize(self, _close, self._open, self._list)
    self._start()

  def __iter__(self) -> "Batches":
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    """The next batch.

    Raises:
      DataError: a worker was killed, workers hang in several records in a row, or a
        thread of this process hangs.
    """
    while self._open:
      try:
        batch = self._take()
      except RuntimeError as e:
        if not str(e).startswith("Worker process was terminated"):
          raise
        self._replace(e)
        continue
      self._done += 1
      self._stuck, self._in_a_row = [], 0
      for texts in set(map(str, batch.get("untold", ()))) - {""}:
        for text in sorted(texts.split("; ")):
          decode.tell(text)
      # Copied out of the shared memory at once: it is small in containers, and leaks
      # if an array still lives there when Python exits.
      return {k: np.array(v, subok=False) for k, v in batch.items() if k != "untold"}
    raise ValueError("these batches are closed")

  def close(self) -> None:
    """Ends the workers and waits for them; may be called twice."""
    self._finalize()

  def __enter__(self) -> "Batches":
    return self

  def __exit__(self, *unused) -> None:
    self.close()

  def _take(self) -> dict[str, np.ndarray]:
    if not self._to_start:
      return self._open[0].next(self._look)
    self._to_start -= 1
    with processes.hidden_main():
      return self._open[0].next(self._look)

  def _look(self, number: int) -> None:
    """Called while a batch is late: logs why; raises where a thread hangs."""
    if not self._workers and (stuck := deadline.look(_LOOK)):
      raise DataError(
        f"decoding {stuck[0]} did not end, and nothing ends a thread; repair or remove "
        "it, or set config.data.num_workers=1, which replaces it by another record"
      )
    if number == _PATIENCE:
      states = "; ".join(processes.child_states()) or "threads of this process make it"
      warn(f"no batch for {_PATIENCE * _LOOK:.0f} s: {states}")

  def _start(self) -> None:
    """Starts the workers at the next batch; each is up when its first batch is."""
    self._to_start = self._workers
    threads = 1 if self._workers else _THREADS
    rest = self._batches.slice(slice(self._done, None))
    dataset = rest.to_iter_dataset(grain.ReadOptions(threads, threads))
    if self._workers:
      self._known = len(deadline.given_up(self._list))
      if not flags.FLAGS.is_parsed():  # grain reads its flags; as in a notebook
        flags.FLAGS.mark_as_parsed()
      options = grain.MultiprocessingOptions(self._workers, _BUFFER)
      start = functools.partial(_start_worker, self._list)
      dataset = dataset.mp_prefetch(options, worker_init_fn=start)
    self._open.append(_Feeder(iter(dataset)))

  def _replace(self, error: RuntimeError) -> None:
    """Restarts the workers if the watchdog has ended one; raises otherwise."""
    given_up = deadline.given_up(self._list)[self._known :]
    if not given_up:
      raise DataError(
        f"a loader process was killed ({one_line(error)}); the likely cause is "
        "lack of memory: lower config.data.num_workers, and run it again"
      ) from error
    self._stuck += [name for _, name in given_up]
    self._in_a_row += 1
    if self._in_a_row == _IN_A_ROW:
      raise DataError(
        f"decoding {', '.join(self._stuck)} did not end, one after the other; "
        "repair or remove them, or raise config.data.decode_timeout"
      )
    self._open.pop().close()
    self._start()


def _close(feeders: list, path: str) -> None:
  """Closes and forgets: grain fails where an iterator outlives its module."""
  while feeders:
    feeders.pop().close()
  with contextlib.suppress(FileNotFoundError):
    os.remove(path)


def _start_worker(path: str, index: int, count: int) -> None:
  """The worker ends with its parent, or when a record exceeds its deadline."""
  del index, count
  # The parent handles signals to the process group: it may need batches while it
  # finishes its step and saves.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  processes.end_with_parent(path)
  processes.track_shared_memory()
  deadline.start(path)
