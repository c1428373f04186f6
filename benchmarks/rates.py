"""Measurements that several benchmarks share."""

import time
from collections.abc import Iterator

import numpy as np

from vtr_jax.inference.model import LoadedModel


def clips_rate(batches: Iterator, batch_size: int, seconds: float) -> float:
  """Clips per second of a loader that runs already."""
  for _ in range(8):  # batches prefetched during start-up would count as speed
    next(batches)
  began, count = time.perf_counter(), 0
  while time.perf_counter() - began < seconds:
    next(batches)
    count += batch_size
  return count / (time.perf_counter() - began)


def compile_embedding(model: LoadedModel) -> None:
  """Embeds clips in a batch of every size, each of which is compiled once."""
  c, size = model.config, 1
  shape = (c.clip.num_frames, c.clip.image_size, c.clip.image_size, 3)
  while size < 2 * c.eval_batch_size:
    model.embed_clips(np.zeros((min(size, c.eval_batch_size), *shape), "u1"))
    size *= 2
