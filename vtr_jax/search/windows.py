"""Long videos to clips: windows of fixed length, or shots, and the frames of each."""

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
_SHORTEST = 1.0  # ours: seconds of a shot; what is shorter belongs to the one before
# Ours: a file that is one clip is read as evaluation reads it, all of it at once,
# which makes the best of one that is damaged; up to so many bytes.
_WHOLE = 2**28


@dataclasses.dataclass(frozen=True)
class Options:
  """How videos are cut.

  window: seconds of a clip. overlap: seconds that one clip shares with the next.
  shots: cut where the picture changes at once; shots longer than a window are cut too.
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
  """A part of a file, in seconds, and what the model sees of it."""

  start: float
  end: float  # an image has 0
  frames: UInt8[np.ndarray, "t s s 3"]
  share: float  # of the file up to its end


def cut(start: float, end: float, options: Options) -> list[tuple[float, float]]:
  """Windows from `start` to `end`, in seconds.

  The last has half to one and a half times the length of the others: what is left over
  is no clip of its own when it is short.
  """
  window, step = options.window, options.window - options.overlap
  whole = max(0, math.floor((end - start - 1.5 * window) / step + 1e-9) + 1)
  starts = [start + i * step for i in range(whole + 1)]
  return [*((begin, begin + window) for begin in starts[:-1]), (starts[-1], end)]


def shown(
  start: float, end: float, options: Options, times: Float[np.ndarray, " t"]
) -> list[tuple[float, float]]:
  """The windows of `cut` in which a frame begins.

  Others show nothing new; and a file whose clock jumps by years has billions of them.
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
    BadSample: it cannot be decoded, or not from here on: clips before the damage have
      been given. OSError: it cannot be read.
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
  """The part of a file that is shown from `start` until `end`.

  Raises:
    BadSample: it cannot be decoded, or ends before. OSError: it cannot be read.
  """
  with open(path, "rb") as file:
    line = _timeline(file, model)
    if not 0 <= start <= line.duration:
      raise BadSample(f"has {line.duration:.2f} s, none at {start:g} s")
    end = min(end, line.duration) if len(line.times) > 1 else 0.0
    for found in _read(file, line, [(start, end)], model):
      return found
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
  whole = start == 0 and (end >= line.duration or len(line.times) == 1)
  if whole and os.fstat(file.fileno()).st_size <= _WHOLE:
    file.seek(0)
    yield Clip(start, end, model.clip(file.read()), 1.0)
    return

  def view(height: int, width: int) -> View:
    return resize_view(height, width, size)

  wanted = [_numbers(line, *part, model) for part in parts]
  found = stream.clips(file, line, wanted, view, deadline)
  for part, frames in zip(parts, found, strict=False):
    yield Clip(*part, frames, min(part[1] / line.duration, 1.0))


def _numbers(
  line: stream.Timeline, start: float, end: float, model: LoadedModel
) -> Int[np.ndarray, " t"]:
  """Frames of the clip in the middle of those shown from `start` until `end`."""
  # Times are sums of fractions: a frame at the edge begins the second part.
  first, stop = np.searchsorted(line.times, (start - 1e-6, end - 1e-6))
  if stop <= first:  # none begins here: the one before is still shown
    first = max(int(first) - 1, 0)
    stop = first + 1
  return first + model.indices(int(stop - first))


def _shots(file: BinaryIO, line: stream.Timeline, model: LoadedModel) -> list[float]:
  """Seconds at which a new shot begins."""
  seconds = model.config.data.decode_timeout * (1 + len(line.times) / 1000)
  pictures = stream.small(file, *_SMALL, seconds)
  return changes(pictures, line.times)


def changes(pictures: Iterator[UInt8[np.ndarray, "h w"]], times: np.ndarray) -> list:
  """Seconds at which the picture changes at once.

  FFmpeg's scdet: the mean difference of two frames, or how much it exceeds the one
  before if that is less, which steady motion and flashes leave small.

  Args:
    pictures: gray frames in order.
    times: of each, seconds.
  """
  found, before, last = [], None, 0.0
  for time, picture in zip(times, pictures, strict=False):
    now = picture.astype(np.float32)
    if before is not None:
      difference = float(np.abs(now - before).mean()) * 100 / 256
      score, last = min(difference, abs(difference - last)), difference
      edge = found[-1] if found else 0.0
      if score >= _CUT and time - edge >= _SHORTEST:
        found.append(float(time))
    before = now
  while found and times[-1] - found[-1] < _SHORTEST:
    found.pop()
  return found
