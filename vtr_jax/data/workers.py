"""Rows to batches of one host, made in order by threads or processes."""

import os
import signal
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import grain
import numpy as np
from absl import flags

from vtr_jax.data import processes
from vtr_jax.errors import ConfigError

_THREADS = min(4, os.cpu_count() or 1)  # where there are no worker processes
_BUFFER = 2  # finished batches that wait in each worker


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


class ByTurns(grain.MapDataset):
  """Batch number to a batch of one of several data sets."""

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
    return self._by_key[key][number]


class Batches:
  """An iterator over batches that owns its workers; close it when done."""

  def __init__(self, dataset: grain.IterDataset):
    self._open: list[grain.DatasetIterator] = [iter(dataset)]
    # Also called when this object is lost, and before Python takes grain apart.
    self._finalize = weakref.finalize(self, _close, self._open)

  def __iter__(self) -> "Batches":
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    if not self._open:
      raise ValueError("these batches are closed")
    # Out of the shared memory at once: it is small in containers, and an array
    # that still lives there when Python exits leaves it behind.
    return {k: np.array(v, subok=False) for k, v in next(self._open[0]).items()}

  def close(self) -> None:
    """Ends the workers and waits for them; may be called twice."""
    self._finalize()

  def __enter__(self) -> "Batches":
    return self

  def __exit__(self, *unused) -> None:
    self.close()


def _close(iterators: list) -> None:
  """Closes and forgets: grain fails where an iterator outlives its module."""
  while iterators:
    iterators.pop().close()


def iterate(batches: grain.MapDataset, workers: int) -> Batches:
  """Makes the batches ahead of time, in order.

  Args:
    batches: batch number to batch.
    workers: processes, each making every n-th batch; 0 = threads of this process.
  """
  threads = 1 if workers else _THREADS
  dataset = batches.to_iter_dataset(grain.ReadOptions(threads, threads))
  if workers:
    if not flags.FLAGS.is_parsed():  # grain reads its flags; in a notebook, say
      flags.FLAGS.mark_as_parsed()
    options = grain.MultiprocessingOptions(workers, _BUFFER)
    dataset = dataset.mp_prefetch(options, worker_init_fn=_start_worker)
  return Batches(dataset)


def _start_worker(index: int, count: int) -> None:
  """Ties the worker's life to its parent's, and to nothing else."""
  del index, count
  # A signal to the whole process group is the parent's to answer: it may still
  # need batches while it finishes its step and saves.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  processes.end_with_parent()
