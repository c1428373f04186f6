"""Search: exact top-k against NumPy and faiss, and a folder from files to hits.

  python -m benchmarks.search [--rows=100000,1000000] [--width=256] [--rounds=15]
  python -m benchmarks.search --checkpoint=runs/mac-demo [--data=data]

The first measures exact top-10 of random vectors from a memory-mapped float16 file, as
in an index. Up to 2 million vectors, NumPy's product and, if installed (`pip install
faiss-cpu`; nothing else here needs it), faiss' IndexFlatIP do the same alternately with
float32 in memory. Prints medians, ratios to ours, and the fraction of equal hits.

The second writes clips of `moving_shapes` that the model was not trained on as mp4
files with unusual names into nested folders, indexes them, queries 100 captions, adds
10 files and deletes 10, and indexes again.
"""

import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable

import numpy as np
from absl import app, flags

from benchmarks.rates import compile_embedding
from vtr_jax.data import sources
from vtr_jax.data.embedded import build as embedded
from vtr_jax.inference.load import load
from vtr_jax.search import build, store, topk
from vtr_jax.search.searcher import Searcher

_ROWS = flags.DEFINE_list("rows", ["100000", "1000000"], "Clips, random vectors.")
_WIDTH = flags.DEFINE_integer("width", 256, "Of the vectors (Frozen: 256).")
_ROUNDS = flags.DEFINE_integer("rounds", 15, "Measured rounds, after two of warm-up.")
_BATCHES = flags.DEFINE_list("batches", ["1", "64"], "Queries at once.")
_CHECKPOINT = flags.DEFINE_string(
  "checkpoint", "", "A run; measures a folder of files."
)
_DATA = flags.DEFINE_string("data", "data", "Where moving_shapes is, or is made.")
_FILES = flags.DEFINE_integer("files", 500, "Files of the folder.")

TOP = 10
BLOCK = 100_000  # vectors made at once
IN_MEMORY = 2_000_000  # vectors that others are given
NAMES = (
  "plain {}.mp4",
  "ünïcödé 動画 {}.mp4",
  "-dash & 'quotes' \"{}\" #50%.MP4",
  "  spaces  {} .mp4",
  "new\nline {}.mp4",
)
FOLDERS = ("", "a folder", "a folder/b.mp4/ç", "50% off", "x/y/z")


def vectors(rng: np.random.Generator, count: int) -> np.ndarray:
  """Of unit norm."""
  found = rng.standard_normal((count, _WIDTH.value), np.float32)
  return found / np.linalg.norm(found, axis=1, keepdims=True)


def nearest(folder: pathlib.Path, count: int) -> None:
  """Exact top-10 of `count` clips, measured alternately."""
  rng, path = np.random.default_rng(0), folder / "vectors"
  blocks = []
  with path.open("wb") as f:
    for start in range(0, count, BLOCK):
      block = vectors(rng, min(BLOCK, count - start))
      f.write(block.astype(store.VECTOR).tobytes())
      if count <= IN_MEMORY:
        blocks.append(block)
  tools = peers(np.concatenate(blocks)) if blocks else {}
  mapped = np.memmap(path, store.VECTOR, "r", 0, (count, _WIDTH.value))
  before, rows = own_memory(), topk.Rows(mapped)
  tools = dict(ours=lambda q: rows.top(q, TOP)[1]) | tools
  for batch in map(int, _BATCHES.value):
    queries = vectors(rng, batch)
    times = {name: [] for name in tools}
    for turn in range(_ROUNDS.value + 2):
      for name, search in tools.items():
        began = time.perf_counter()
        found = search(queries)
        if turn >= 2:
          times[name].append(time.perf_counter() - began)
        if name == "ours":
          ours = found
    took = {name: statistics.median(found) for name, found in times.items()}
    for name, seconds in took.items():
      line = f"{count:,} clips, {batch} at once: {name:5} {1e3 * seconds:8.1f} ms"
      line += f" {batch / seconds:8.1f} queries/s {seconds / took['ours']:6.2f}"
      found = tools[name](queries)
      same = np.mean(
        [len(set(a) & set(b)) / TOP for a, b in zip(ours, found, strict=True)]
      )
      print(f"{line}, {100 * same:.1f} % of the hits are equal", flush=True)
  print(f"{own_memory() - before:.0f} MB of memory besides the mapped file")


def peers(float32: np.ndarray) -> dict[str, Callable]:
  """Functions from queries to row numbers: NumPy, and faiss if installed."""

  def numpy(queries: np.ndarray) -> np.ndarray:
    scores = queries @ float32.T
    return np.argpartition(-scores, TOP, axis=1)[:, :TOP]

  try:
    import faiss  # pyright: ignore[reportMissingImports] - optional
  except ImportError:
    print("faiss: not installed")
    return dict(NumPy=numpy)
  flat = faiss.IndexFlatIP(_WIDTH.value)
  flat.add(float32)
  return dict(NumPy=numpy, faiss=lambda queries: flat.search(queries, TOP)[1])


def own_memory() -> float:
  """MB of this process without file-backed pages."""
  for line in pathlib.Path("/proc/self/status").read_text().splitlines():
    if line.startswith("RssAnon"):
      return int(line.split()[1]) / 1024
  return float("nan")


def write(folder: pathlib.Path, number: int, record: dict) -> str:
  """Writes a clip to a file with an unusual name; returns its path."""
  place = folder / FOLDERS[number % len(FOLDERS)]
  place.mkdir(parents=True, exist_ok=True)
  path = place / NAMES[number // len(FOLDERS) % len(NAMES)].format(number)
  path.write_bytes(record["video"])
  return str(path)


def folder_of_files(folder: pathlib.Path) -> None:
  """Indexes a folder, queries it, changes files, indexes again."""
  embedded.build(_DATA.value, "moving_shapes/full")
  test = sources.open_split(sources.find(_DATA.value, "moving_shapes/full"), "test")
  paths = [write(folder / "clips", i, test[i]) for i in range(_FILES.value)]
  model = load(_CHECKPOINT.value)
  began = time.perf_counter()
  compile_embedding(model)
  print(f"compiled for all batch sizes: {time.perf_counter() - began:.1f} s")
  began = time.perf_counter()
  report = build.build(folder / "clips", folder / "index", model)
  first = time.perf_counter() - began
  print(
    f"{_FILES.value} files: {first:.1f} s, {_FILES.value / first:.0f} a second; "
    f"embedding {report.embedding:.2f} s, decoding {report.decoding:.2f} s of "
    f"CPU time: ratio {report.embedding / report.decoding:.2f}"
  )
  searcher = Searcher(model, [folder / "index"])
  asked = np.linspace(0, _FILES.value - 1, 100).astype(int)
  began = time.perf_counter()
  hits = [searcher.query(text=test[int(i)]["captions"][0]) for i in asked]
  took = (time.perf_counter() - began) / len(asked)
  right = sum(found[0].path == paths[i] for i, found in zip(asked, hits, strict=True))
  print(f"clip ranked first: {right} of {len(asked)}; {1e3 * took:.1f} ms a query")
  for path in paths[::50]:
    os.remove(path)
  new = range(_FILES.value, _FILES.value + 10)
  paths = [write(folder / "clips", i, test[i]) for i in new]
  began = time.perf_counter()
  report = build.build(folder / "clips", folder / "index", model)
  again = time.perf_counter() - began
  assert (report.embedded, report.dropped) == (10, len(range(0, _FILES.value, 50)))
  print(f"10 files added, 10 deleted: {again:.2f} s, {first / again:.0f} times faster")


def main(_) -> None:
  with tempfile.TemporaryDirectory() as folder:
    if _CHECKPOINT.value:
      folder_of_files(pathlib.Path(folder))
      return
    for count in map(int, _ROWS.value):
      nearest(pathlib.Path(folder), count)


if __name__ == "__main__":
  app.run(main)
