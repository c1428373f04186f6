"""Embeddings of the windows of videos, computed once and memory-mapped."""

import io
import itertools
import json
import os
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from vtr_jax.core.errors import BadSample, DataError
from vtr_jax.core.progress import Bar
from vtr_jax.data import sources
from vtr_jax.inference import windows
from vtr_jax.inference.model import LoadedModel
from vtr_jax.moments.grid import Grid
from vtr_jax.train import workdir

_VECTOR = np.dtype("<f2")  # half the size; as in an index, see docs/search.md
_GROUP = 8  # ours: videos whose windows are embedded together


class Features(NamedTuple):
  """The windows of a video: seconds, and embeddings of unit norm."""

  times: Float[np.ndarray, "w 2"]
  vectors: Float[np.ndarray, "w e"]


def of_file(
  path: str | os.PathLike,
  grid: Grid,
  model: LoadedModel,
  start: float = 0.0,
  end: float = float("inf"),
) -> Features:
  """The windows of a file from `start` to `end`, in seconds.

  Raises:
    BadSample: they cannot be decoded. OSError: the file cannot be read.
  """
  times: list[tuple[float, float]] = []
  with open(path, "rb") as file:
    clips = _clips(file, grid, model, times, start, end)
    vectors = model.embed_clips(clips)
  return Features(np.array(times), vectors)


def of_split(
  model: LoadedModel, source: sources.Split, grid: Grid, directory: pathlib.Path
) -> list[Features]:
  """The windows of every video of `source`, memory-mapped from files in `directory`.

  Reuses the files if they were computed from the same weights, videos and grid.

  Raises:
    DataError: a record is unusable.
  """
  path = directory / f"windows-{source.name}.f16"
  stamp, provenance = path.with_suffix(".json"), _provenance(model, source, grid)
  kept = _read(stamp)
  if kept.get("provenance") == provenance and path.exists():
    print(f"{path}: cached features are reused")
    return _mapped(path, kept["ends"], grid, model.dim)
  directory.mkdir(parents=True, exist_ok=True)
  stamp.unlink(missing_ok=True)
  temporary, ends = path.with_suffix(".tmp"), []
  groups = range(0, len(source), _GROUP)
  with temporary.open("wb") as out:
    for first in Bar(groups, f"windows of {source.name}", unit="batch"):
      numbers = range(first, min(first + _GROUP, len(source)))
      clips = (_record(source, i, grid, model, ends) for i in numbers)
      vectors = model.embed_clips(itertools.chain.from_iterable(clips))
      out.write(vectors.astype(_VECTOR).tobytes())
  os.replace(temporary, path)
  workdir.write_json(stamp, dict(provenance=provenance, ends=ends))
  return _mapped(path, ends, grid, model.dim)


def _record(
  source: sources.Split, index: int, grid: Grid, model: LoadedModel, ends: list[float]
) -> Iterator[np.ndarray]:
  """The clips of a record; its duration is added to `ends`."""
  times: list[tuple[float, float]] = []
  try:
    file = io.BytesIO(source[index]["video"])
    yield from _clips(file, grid, model, times)
  except BadSample as e:
    raise sources.unusable(source, index, e) from e
  ends.append(max(end for _, end in times))


def _clips(
  file: Any,
  grid: Grid,
  model: LoadedModel,
  times: list[tuple[float, float]],
  start: float = 0.0,
  end: float = float("inf"),
) -> Iterator[np.ndarray]:
  """The frames of each window; their times are added to `times`."""

  def choose(duration: float) -> list[tuple[float, float]]:
    found = grid.windows(min(duration, end), start)
    times.extend((float(a), float(b)) for a, b in found)
    return times

  count = 0
  for clip in windows.parts(file, choose, model):
    count += 1
    yield clip.frames
  if count < len(times):
    raise BadSample(f"only {count} of {len(times)} windows can be decoded")


def _mapped(
  path: pathlib.Path, ends: list[float], grid: Grid, dim: int
) -> list[Features]:
  times = [grid.windows(end) for end in ends]
  count = sum(map(len, times))
  if path.stat().st_size != count * dim * _VECTOR.itemsize:
    raise DataError(f"{path}: damaged; delete it")
  vectors = np.memmap(path, _VECTOR, "r", 0, (count, dim))
  starts = itertools.accumulate(map(len, times), initial=0)
  return [
    Features(each, vectors[first : first + len(each)])
    for each, first in zip(times, starts, strict=False)
  ]


def _provenance(
  model: LoadedModel, source: sources.Split, grid: Grid
) -> dict[str, Any]:
  """Everything the windows depend on, as JSON."""
  weights = 0
  for leaf in jax.tree.leaves(model.params):
    weights = zlib.crc32(np.ascontiguousarray(leaf).data, weights)
  clip, data = model.config.clip, model.config.data
  return dict(
    weights=weights,
    fingerprint=sources.fingerprint(source.directory, source.name),
    frames=clip.num_frames,
    size=clip.image_size,
    sampling=data.sampling,
    stride=data.stride,
    lengths=list(grid.lengths),
    step=grid.step,
  )


def _read(stamp: pathlib.Path) -> dict[str, Any]:
  try:
    return json.loads(stamp.read_text())
  except (OSError, ValueError):  # absent or incomplete
    return {}
