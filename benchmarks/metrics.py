"""Time and peak memory of ranking, from a given matrix and from embeddings.

  python -m benchmarks.metrics

Each case runs in its own process. Its peak resident size is reported with the size
before the measured call (Python, NumPy and the input). Both wall-clock and CPU time are
printed; on a shared machine, compare CPU time.
"""

import multiprocessing
import resource
import time

import numpy as np
from absl import app, flags

from vtr_jax.eval import metrics, ranks

_SIZE = flags.DEFINE_integer("size", 10_000, "Texts and videos of the given matrix.")
_QUERIES = flags.DEFINE_integer("queries", 50_000, "Texts of the streamed case.")
_VIDEOS = flags.DEFINE_integer("videos", 10_000, "Videos of the streamed case.")
_WIDTH = flags.DEFINE_integer("width", 256, "Width of the embeddings (Frozen: 256).")


def dense(size: int) -> str:
  """Ranks in both directions of a given float32 matrix."""
  sim = np.random.default_rng(0).random((size, size), np.float32)
  owner, before, began = np.arange(size), peak(), now()
  metrics.retrieval_metrics(sim, owner)
  told = f"{size:,} x {size:,} scores, given ({sim.nbytes / 1e6:,.0f} MB)"
  return f"{told}: {measured(before, began)}"


def streamed(queries: int, videos: int, width: int) -> str:
  """Ranks in both directions of embeddings, without storing the matrix."""
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
  """Peak resident size of this process, MB."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def now() -> tuple[float, float]:
  """Wall-clock seconds, and CPU seconds of this process."""
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
