"""Cuts long videos into clips: windows of fixed length, or shots, and their frames."""

import dataclasses
import itertools
import math
import os
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from vtr_jax.core.config import require
from vtr_jax.core.errors import BadSample
from vtr_jax.data.crops import View, resize_view
from vtr_jax.data.video import stream
from vtr_jax.inference.model import LoadedModel

# FFmpeg's scdet (libavfilter/vf_scdet.c, its default threshold), on small gray frames.
_CUT = 10.0  # percent of the range of brightness
_SMALL = (36, 64)  # ours: height and width
_MIN_SHOT = 1.0  # ours: seconds; a shorter shot is merged into the one before
# Ours: bytes; a smaller file that is one clip is decoded at once, as in evaluation,
# which recovers the most frames of a damaged file.
_MAX_SINGLE = 2**28


@dataclasses.dataclass(frozen=True)
class Options:
  """How videos are cut.

  window: seconds of a clip. overlap: seconds shared by consecutive clips. shots: cut at
  shot boundaries; shots longer than a window are divided into windows.
  """

  window: float = 10.0  # ours
  overlap: float = 0.0  # ours
  shots: bool = False

  def __post_init__(self):
    require(
      math.isfinite(self.window) and self.window >= 0.1,
      f"window: {self.window:g} s; must be 0.1 or more",
    )
    require(
      0 <= self.overlap <= 0.9 * self.window,
      f"overlap: {self.overlap:g} s; must be 0 to nine tenths of --window",
    )


class Clip(NamedTuple):
  """A part of a file, in seconds, and its frames as input of the model."""

  start: float
  end: float  # 0 for an image
  frames: UInt8[np.ndarray, "t s s 3"]
  fraction: float  # of the file up to the end of the clip


def cut(start: float, end: float, options: Options) -> list[tuple[float, float]]:
  """Windows from `start` to `end`, in seconds.

  The last one has 0.5 to 1.5 times the length of the others, so that a short remainder
  does not become a clip of its own.
  """
  window, step = options.window, options.window - options.overlap
  full = max(0, math.floor((end - start - 1.5 * window) / step + 1e-9) + 1)
  starts = [start + i * step for i in range(full + 1)]
  return [*((begin, begin + window) for begin in starts[:-1]), (starts[-1], end)]


def shown(
  start: float, end: float, options: Options, times: Float[np.ndarray, " t"]
) -> list[tuple[float, float]]:
  """The windows of `cut` that contain the start of a frame.

  The others show no new frame, and a file whose timestamps jump by years has billions.
  """
  step = options.window - options.overlap
  times = times[(times >= start) & (times < end)]
  if (end - start) / step <= len(times) + 2:
    parts = cut(start, end, options)
  else:
    begins = start + np.unique(np.floor((times - start) / step)) * step
    parts = [(float(b), min(float(b) + options.window, end)) for b in begins]
  first, last = (np.searchsorted(times, edge) for edge in np.transpose(parts))
  return [part for part, some in zip(parts, last > first, strict=True) if some]


def clips(
  path: str | os.PathLike, options: Options, model: LoadedModel
) -> Iterator[Clip]:
  """All clips of a file in order, one at a time.

  Raises:
    BadSample: the file cannot be decoded, or only the clips yielded so far.
    OSError: the file cannot be read.
  """
  with open(path, "rb") as file:
    line = _timeline(file, model)
    if len(line.times) == 1:
      parts = [(0.0, 0.0)]
    elif options.shots:
      edges = [0.0, *_shots(file, line, model), line.duration]
      pairs = itertools.pairwise(edges)
      parts = [part for pair in pairs for part in shown(*pair, options, line.times)]
    else:
      parts = shown(0.0, line.duration, options, line.times)
    yield from _read(file, line, parts, model)


def clip(path: str | os.PathLike, start: float, end: float, model: LoadedModel) -> Clip:
  """The part of a file from `start` to `end`, in seconds.

  Raises:
    BadSample: the part cannot be decoded, or the file ends before it.
    OSError: the file cannot be read.
  """
  with open(path, "rb") as file:
    line = _timeline(file, model)
    if not 0 <= start <= line.duration:
      raise BadSample(f"has {line.duration:.2f} s, none at {start:g} s")
    end = min(end, line.duration) if len(line.times) > 1 else 0.0
    for part in _read(file, line, [(start, end)], model):
      return part
  raise BadSample(f"no frame can be decoded at {start:g} s")


def _timeline(file: BinaryIO, model: LoadedModel) -> stream.Timeline:
  seconds = model.config.data.decode_timeout
  size = os.fstat(file.fileno()).st_size
  return stream.timeline(file, seconds * (1 + size / 2**30))


def _read(
  file: BinaryIO,
  line: stream.Timeline,
  parts: list[tuple[float, float]],
  model: LoadedModel,
) -> Iterator[Clip]:
  size, deadline = model.config.clip.image_size, model.config.data.decode_timeout
  start, end = parts[0]
  single = start == 0 and (end >= line.duration or len(line.times) == 1)
  if single and os.fstat(file.fileno()).st_size <= _MAX_SINGLE:
    file.seek(0)
    yield Clip(start, end, model.clip(file.read()), 1.0)
    return

  def view(height: int, width: int) -> View:
    return resize_view(height, width, size)

  numbers = [_numbers(line, *part, model) for part in parts]
  decoded = stream.clips(file, line, numbers, view, deadline)
  for part, frames in zip(parts, decoded, strict=False):
    yield Clip(*part, frames, min(part[1] / line.duration, 1.0))


def _numbers(
  line: stream.Timeline, start: float, end: float, model: LoadedModel
) -> Int[np.ndarray, " t"]:
  """Frame numbers of the centred clip of the part from `start` to `end`."""
  # Times are sums of fractions: a frame at the boundary belongs to the second part.
  first, stop = np.searchsorted(line.times, (start - 1e-6, end - 1e-6))
  if stop <= first:  # no frame starts here: the previous one is still shown
    first = max(int(first) - 1, 0)
    stop = first + 1
  return first + model.indices(int(stop - first))


def _shots(file: BinaryIO, line: stream.Timeline, model: LoadedModel) -> list[float]:
  """Times, in seconds, at which a new shot starts."""
  seconds = model.config.data.decode_timeout * (1 + len(line.times) / 1000)
  pictures = stream.small(file, *_SMALL, seconds)
  return changes(pictures, line.times)


def changes(pictures: Iterator[UInt8[np.ndarray, "h w"]], times: np.ndarray) -> list:
  """Times of shot boundaries, in seconds, as detected by FFmpeg's scdet.

  The score is the mean difference of two frames, or its absolute change from the
  previous one if that is smaller, as for steady motion and flashes.

  Args:
    pictures: gray frames in order.
    times: seconds of each frame.
  """
  edges, before, last = [], None, 0.0
  for time, picture in zip(times, pictures, strict=False):
    now = picture.astype(np.float32)
    if before is not None:
      difference = float(np.abs(now - before).mean()) * 100 / 256
      score, last = min(difference, abs(difference - last)), difference
      edge = edges[-1] if edges else 0.0
      if score >= _CUT and time - edge >= _MIN_SHOT:
        edges.append(float(time))
    before = now
  while edges and times[-1] - edges[-1] < _MIN_SHOT:
    edges.pop()
  return edges
