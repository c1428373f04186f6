"""Moments of a long video: seconds of decoding, of embedding, and of the rest.

  python -m benchmarks.moments --checkpoint=runs/mac-demo [--minutes=60] [--scale=1]
  ... --window=2 --overlap=1

Joins videos of `moving_shapes_long` (96 pixels, 12 frames a second; `--scale` enlarges
them) to one H.264 file, and measures two ways to the moment of a sentence:

  windows   all windows of `vtr_jax.moments`, then a query on them
  search    the index of `vtr_jax.search`, of clips of `--window` seconds, then a query,
            and the first hit's moment

Decoding is measured alone, embedding on at most 20 batches, then the command, which
does both. By the clock, the rest is negative as far as they overlap. The second line of
each counts CPU time, in which other processes of the machine do not matter.
"""

import itertools
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np
from absl import app, flags, logging

from benchmarks.rates import compile_embedding
from vtr_jax.core import processes
from vtr_jax.core.progress import Bar
from vtr_jax.data.embedded import clips, long
from vtr_jax.inference import windows
from vtr_jax.inference.load import load
from vtr_jax.inference.model import LoadedModel
from vtr_jax.moments import zero_shot
from vtr_jax.moments.features import of_file
from vtr_jax.moments.grid import Grid
from vtr_jax.search import build
from vtr_jax.search.searcher import Searcher

T = TypeVar("T")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "", "Directory of a run.")
_MINUTES = flags.DEFINE_float("minutes", 60.0, "Duration of the video.")
_WINDOW = flags.DEFINE_float("window", 10.0, "Of the index, as search's.")
_OVERLAP = flags.DEFINE_float("overlap", 0.0, "Of the index, as search's.")
_SCALE = flags.DEFINE_integer("scale", 1, "Side of the video, in units of 96 pixels.")


class Seconds(NamedTuple):
  """Of the clock, and of all cores of this process."""

  wall: float
  cpu: float


def timed(call: Callable[[], T]) -> tuple[Seconds, T]:
  """(seconds, result)."""
  wall, cpu = time.perf_counter(), time.process_time()
  result = call()
  return Seconds(time.perf_counter() - wall, time.process_time() - cpu), result


def frames(count: int) -> Iterator[np.ndarray]:
  """`count` frames of videos of moving_shapes_long, one after the other."""
  numbers = itertools.count()
  shown = itertools.chain.from_iterable(long.frames("test", n) for n in numbers)
  for frame in Bar(itertools.islice(shown, count), "rendering", count, unit="frame"):
    yield frame.repeat(_SCALE.value, axis=0).repeat(_SCALE.value, axis=1)


def measure(
  name: str,
  model: LoadedModel,
  decode: Callable[[], Iterator[windows.Clip]],
  call: Callable[[], T],
) -> T:
  """Prints the time of `call`, of decoding its clips, and of embedding as many."""
  decoding, count = timed(lambda: sum(1 for _ in decode()))
  frames, few = next(decode()).frames, min(count, 20 * model.config.eval_batch_size)
  embedding, _ = timed(lambda: model.embed_clips(frames for _ in range(few)))
  whole, result = timed(call)
  print(f"{name}: {count:,} clips")
  for clock in Seconds._fields:
    total = getattr(whole, clock)
    parts = dict(
      decoding=getattr(decoding, clock),
      embedding=getattr(embedding, clock) * count / few,
    )
    parts["rest"] = total - sum(parts.values())
    rows = [f"{k} {v:.2f} s ({100 * v / total:.0f} %)" for k, v in parts.items()]
    print(f"  {clock:4} {total:7.2f} s: {', '.join(rows)}", flush=True)
  return result


def all_windows(path: pathlib.Path, model: LoadedModel, query: str) -> None:
  """The windows of `vtr_jax.moments`, and a query on them."""
  grid = Grid()

  def decode() -> Iterator[windows.Clip]:
    choose = lambda end: [(float(a), float(b)) for a, b in grid.windows(end)]
    with path.open("rb") as file:
      yield from windows.parts(file, choose, model)

  found = measure("windows", model, decode, lambda: of_file(path, grid, model))
  text = model.embed_text([query])
  asking, _ = timed(
    lambda: zero_shot.ranked(found.times, zero_shot.scores(found.vectors, text)[0])
  )
  print(f"  a query: {1e3 * asking.wall:.0f} ms")


def search(
  path: pathlib.Path, out: pathlib.Path, model: LoadedModel, query: str
) -> None:
  """The index, a query, and the moment of its first hit."""
  options = windows.Options(_WINDOW.value, _OVERLAP.value)
  decode = lambda: windows.clips(path, options, model)
  index = lambda: build.build(path.parent, out, model, options=options)
  measure("search", model, decode, index)
  searcher = Searcher(model, [out])
  asking, hits = timed(lambda: searcher.query(text=query))
  refining, _ = timed(lambda: searcher.moment(query, hits[0]))
  print(f"  a query: {1e3 * asking.wall:.0f} ms; its moment: {refining.wall:.2f} s")


def main(_: list[str]) -> None:
  logging.set_verbosity(logging.ERROR)  # the reader of checkpoints
  model, count = load(_CHECKPOINT.value), round(60 * _MINUTES.value * clips.FPS)
  query = long.moments("test", 0)[0].text
  with tempfile.TemporaryDirectory() as place:
    folder, out = pathlib.Path(place, "videos"), pathlib.Path(place, "index")
    path = folder / "long.mp4"
    folder.mkdir()
    clips.write(str(path), frames(count))
    print(
      f"{_MINUTES.value:g} minutes, {count:,} frames of {96 * _SCALE.value} pixels, "
      f"{path.stat().st_size / 1e6:.1f} MB; {processes.cores()} cores"
    )
    compile_embedding(model)
    model.embed_text([query])
    all_windows(path, model, query)
    search(path, out, model, query)


if __name__ == "__main__":
  app.run(main)
