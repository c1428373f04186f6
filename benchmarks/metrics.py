"""Time and peak memory of ranking: a whole matrix, and embeddings without one.

  python -m benchmarks.metrics

Each case runs in a process of its own, whose largest resident size is told beside what
it had before the measured call (Python, NumPy and the input). Seconds are those of the
clock, and of the processor: on a machine that is shared, the latter count.
"""

import multiprocessing
import resource
import time

import numpy as np
from absl import app, flags

from vtr_jax.eval import metrics, ranks

_SIZE = flags.DEFINE_integer("size", 10_000, "Texts and videos of the whole matrix.")
_QUERIES = flags.DEFINE_integer("queries", 50_000, "Texts of the streamed case.")
_VIDEOS = flags.DEFINE_integer("videos", 10_000, "Videos of the streamed case.")
_WIDTH = flags.DEFINE_integer("width", 256, "Width of the embeddings (Frozen: 256).")


def dense(size: int) -> str:
  """Both directions of a given float32 matrix."""
  sim = np.random.default_rng(0).random((size, size), np.float32)
  owner, before, began = np.arange(size), peak(), now()
  metrics.retrieval_metrics(sim, owner)
  told = f"{size:,} x {size:,} scores, given ({sim.nbytes / 1e6:,.0f} MB)"
  return f"{told}: {measured(before, began)}"


def streamed(queries: int, videos: int, width: int) -> str:
  """Both directions of embeddings, product and ranks in one."""
  rng = np.random.default_rng(0)
  text = rng.normal(size=(queries, width)).astype(np.float32)
  video = rng.normal(size=(videos, width)).astype(np.float32)
  owner = np.arange(queries) * videos // queries
  before, began = peak(), now()
  ranks.ranks(text, video, owner)
  whole = f"{4 * queries * videos / 1e6:,.0f} MB as a matrix"
  told = f"{queries:,} texts x {videos:,} videos of width {width} ({whole})"
  return f"{told}: {measured(before, began)}"


def peak() -> float:
  """Largest resident size of this process so far, MB."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def now() -> tuple[float, float]:
  """Seconds of the clock, and of this process's threads."""
  return time.perf_counter(), time.process_time()


def measured(before: float, began: tuple[float, float]) -> str:
  wall, busy = (end - begin for end, begin in zip(now(), began, strict=True))
  memory = f"peak {peak():,.0f} MB (before: {before:,.0f} MB)"
  return f"{wall:.2f} s, {busy:.2f} s of processor, {memory}"


def main(_) -> None:
  sizes = _QUERIES.value, _VIDEOS.value, _WIDTH.value
  for function, arguments in ((dense, (_SIZE.value,)), (streamed, sizes)):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
      print(pool.apply(function, arguments), flush=True)


if __name__ == "__main__":
  app.run(main)
