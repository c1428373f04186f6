"""Measurements that several benchmarks share."""

import time
from collections.abc import Iterator


def clips_rate(batches: Iterator, batch_size: int, seconds: float) -> float:
  """Clips per second of a loader that runs already."""
  for _ in range(8):  # batches prefetched during start-up would count as speed
    next(batches)
  began, count = time.perf_counter(), 0
  while time.perf_counter() - began < seconds:
    next(batches)
    count += batch_size
  return count / (time.perf_counter() - began)
