"""Cuts long videos into clips: windows of fixed length, or shots, and their frames."""

import dataclasses
import io
import itertools
import math
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

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
_MIN_SHOT = 1.0  # ours: seconds; a shorter shot is merged into the previous one
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
  """A clip of a file: times in seconds, and its frames as input of the model."""

  start: float
  end: float  # 0 for an image
  frames: UInt8[np.ndarray, "t s s 3"]
  fraction: float  # of the file before the end of the clip


def cut(start: float, end: float, options: Options) -> list[tuple[float, float]]:
  """Windows from `start` to `end`, in seconds.

  The last one has 0.5 to 1.5 times the length of the others, so that a short remainder
  does not become a clip of its own.
  """
  window, step = options.window, options.window - options.overlap
  full = max(0, math.floor((end - start - 1.5 * window) / step + 1e-9) + 1)
  starts = [start + i * step for i in range(full + 1)]
  return [*((first, first + window) for first in starts[:-1]), (starts[-1], end)]


def shown(
  start: float, end: float, options: Options, times: Float[np.ndarray, " t"]
) -> list[tuple[float, float]]:
  """The windows of `cut` that contain the start of a frame.

  Other windows show no new frame, and a file whose timestamps jump by years would have
  billions of them.
  """
  step = options.window - options.overlap
  times = times[(times >= start) & (times < end)]
  if (end - start) / step <= len(times) + 2:
    parts = cut(start, end, options)
  else:
    starts = start + np.unique(np.floor((times - start) / step)) * step
    parts = [(float(s), min(float(s) + options.window, end)) for s in starts]
  first, last = (np.searchsorted(times, edge) for edge in np.transpose(parts))
  return [part for part, ok in zip(parts, last > first, strict=True) if ok]


def clips(
  path: str | os.PathLike, options: Options, model: LoadedModel
) -> Iterator[Clip]:
  """All clips of a file in order, one at a time.

  Raises:
    BadSample: the file, or the rest of it, cannot be decoded; also after the last clip,
      if the file ends too early.
    OSError: the file cannot be read.
  """
  with open(path, "rb") as file:
    timeline = _timeline(file, model)
    if len(timeline.times) == 1:
      parts = [(0.0, 0.0)]
    elif options.shots:
      boundaries = [0.0, *_shots(file, timeline, model), timeline.duration]
      pairs = itertools.pairwise(boundaries)
      parts = [part for pair in pairs for part in shown(*pair, options, timeline.times)]
    else:
      parts = shown(0.0, timeline.duration, options, timeline.times)
    yield from _read(file, timeline, parts, model)


def clip(path: str | os.PathLike, start: float, end: float, model: LoadedModel) -> Clip:
  """The clip of a file from `start` to `end`, in seconds.

  Raises:
    BadSample: the clip cannot be decoded, or the file ends before it.
    OSError: the file cannot be read.
  """
  with open(path, "rb") as file:
    timeline = _timeline(file, model)
    if not 0 <= start <= timeline.duration:
      raise BadSample(f"has {timeline.duration:.2f} s, none at {start:g} s")
    end = min(end, timeline.duration) if len(timeline.times) > 1 else 0.0
    for part in _read(file, timeline, [(start, end)], model):
      return part
  raise BadSample(f"no frame can be decoded at {start:g} s")


def parts(
  file: io.BufferedIOBase,
  choose: Callable[[float], list[tuple[float, float]]],
  model: LoadedModel,
) -> Iterator[Clip]:
  """Any parts of a file, which may overlap, one at a time.

  Args:
    file: of a video.
    choose: from the duration in seconds to (start, end) of each part, sorted.
    model: its input.

  Raises:
    BadSample: the file, or the rest of it, cannot be decoded.
  """
  timeline = _timeline(file, model)
  yield from _read(file, timeline, choose(timeline.duration), model)


def slices(
  path: str | os.PathLike, count: int, model: LoadedModel
) -> tuple[list[Clip], str]:
  """`count` clips of equal length that together are a file; one if it is an image.

  Returns:
    The clips; and if they are of what is left of a damaged file, how it is damaged.

  Raises:
    BadSample: the file, or a part of it, cannot be decoded.
    OSError: the file cannot be read.
  """
  with open(path, "rb") as file:
    timeline = _timeline(file, model)
    edges = np.linspace(0, timeline.duration, count + 1).tolist()
    parts = list(itertools.pairwise(edges))
    if len(timeline.times) == 1:
      parts = [(0.0, 0.0)]
    found, problem = [], ""
    try:
      for part in _read(file, timeline, parts, model):
        found.append(part)
    except BadSample as e:
      problem = str(e)
  if len(found) < len(parts):
    raise BadSample(
      problem or f"only {len(found)} of {len(parts)} slices can be decoded"
    )
  return found, problem


def _timeline(file: io.BufferedIOBase, model: LoadedModel) -> stream.Timeline:
  seconds = model.config.data.decode_timeout
  return stream.timeline(file, seconds * (1 + file.seek(0, io.SEEK_END) / 2**30))


def _read(
  file: io.BufferedIOBase,
  timeline: stream.Timeline,
  parts: list[tuple[float, float]],
  model: LoadedModel,
) -> Iterator[Clip]:
  size, deadline = model.config.clip.image_size, model.config.data.decode_timeout
  start, end = parts[0]
  whole = start == 0 and (end >= timeline.duration or len(timeline.times) == 1)
  if whole and len(parts) == 1 and file.seek(0, io.SEEK_END) <= _MAX_SINGLE:
    file.seek(0)
    damage: list[str] = []
    yield Clip(start, end, model.clip(file.read(), damage), 1.0)
    if damage:
      raise BadSample(damage[0])
    return

  def view(height: int, width: int) -> View:
    return resize_view(height, width, size)

  numbers = [_frame_numbers(timeline, *part, model) for part in parts]
  decoded = stream.clips(file, timeline, numbers, view, deadline)
  for part, frames in zip(parts, decoded, strict=False):
    yield Clip(*part, frames, min(part[1] / timeline.duration, 1.0))
  # Of a file that is cut, what is left may be whole.
  if timeline.damaged:
    raise BadSample(f"damaged after {len(timeline.times)} frames")


def _frame_numbers(
  timeline: stream.Timeline, start: float, end: float, model: LoadedModel
) -> Int[np.ndarray, " t"]:
  """Numbers of the frames that the model sees of a clip from `start` to `end`."""
  # Times are sums of fractions: a frame at the boundary belongs to the second clip.
  first, stop = np.searchsorted(timeline.times, (start - 1e-6, end - 1e-6))
  if stop <= first:  # no frame starts here: the previous one is still shown
    first = max(int(first) - 1, 0)
    stop = first + 1
  return first + model.indices(int(stop - first), timeline.times[first:stop])


def _shots(
  file: io.BufferedIOBase, timeline: stream.Timeline, model: LoadedModel
) -> list[float]:
  """Times, in seconds, at which a new shot starts."""
  seconds = model.config.data.decode_timeout * (1 + len(timeline.times) / 1000)
  frames = stream.small(file, *_SMALL, seconds)
  return changes(frames, timeline.times)


def changes(frames: Iterator[UInt8[np.ndarray, "h w"]], times: np.ndarray) -> list:
  """Times of shot boundaries, in seconds, as detected by FFmpeg's scdet.

  The score is the mean difference of two frames, or its absolute change from the
  previous one if that is smaller, as for steady motion and flashes.

  Args:
    frames: gray frames in order.
    times: seconds of each frame.
  """
  boundaries, previous, last = [], None, 0.0
  for time, frame in zip(times, frames, strict=False):
    current = frame.astype(np.float32)
    if previous is not None:
      difference = float(np.abs(current - previous).mean()) * 100 / 256
      score, last = min(difference, abs(difference - last)), difference
      shot_start = boundaries[-1] if boundaries else 0.0
      if score >= _CUT and time - shot_start >= _MIN_SHOT:
        boundaries.append(float(time))
    previous = current
  while boundaries and times[-1] - boundaries[-1] < _MIN_SHOT:
    boundaries.pop()
  return boundaries
