"""From rendered frames to records; what all embedded data sets share.

Processes that render import neither JAX nor TFDS, and thus no more than this.
"""

import functools
import io
import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import av
import numpy as np
from jaxtyping import UInt8

from vtr_jax.data.moving_shapes import scene

FPS = 12
_GOP = 24  # frames from one keyframe to the next: short clips have one
# (split, index, meaning, seed) to frames and captions; determined by its arguments.
MakeRaw = Callable[
  [str, int, scene.Meaning, int], tuple[UInt8[np.ndarray, "t h w 3"], list[str]]
]


class Clip(NamedTuple):
  """One record, in the order of `sources.features`."""

  id: str
  video: bytes  # mp4, H.264
  captions: list[str]
  label: str


class World(NamedTuple):
  """How the records of a data set are made; can be pickled.

  name: of the data set. draw: (split, count) to the contents of the first `count`
  records, in order. make: (split, index, content) to a record; determined by its
  arguments. unit: what a record is called.
  """

  name: str
  draw: Callable[[str, int], list[Any]]
  make: Callable[[str, int, Any], Clip]
  unit: str = "clip"


def stories(name: str, seed: int, make_raw: MakeRaw) -> World:
  """A data set whose clips each show a meaning; all is drawn from `seed`."""
  draw = functools.partial(scene.meanings, seed=seed)
  return World(name, draw, functools.partial(_make_story, make_raw, seed))


def _make_story(
  make_raw: MakeRaw, seed: int, split: str, index: int, meaning: scene.Meaning
) -> Clip:
  frames, texts = make_raw(split, index, meaning, seed)
  return Clip(name(split, index), encode(frames), texts, scene.label_of(meaning))


def name(split: str, index: int) -> str:
  """The id of a record."""
  return f"{split}-{index:05d}"


def encode(frames: UInt8[np.ndarray, "t h w 3"]) -> bytes:
  """H.264 in mp4; equal frames give equal bytes on one machine."""
  buffer = io.BytesIO()
  write(buffer, frames)
  return buffer.getvalue()


def write(
  file: str | io.BufferedIOBase, frames: Iterable[UInt8[np.ndarray, "h w 3"]]
) -> None:
  """As `encode`, for videos that are too long to be held in memory.

  Args:
    file: path, or file object, of the mp4.
    frames: FPS a second, all of one size; one or more.
  """
  # x264's look-ahead reads uninitialised memory on frames this small: with it, one clip
  # in three differs from build to build.
  no_lookahead = "rc-lookahead=0:mbtree=0:scenecut=0:weightp=0"
  options = dict(preset="veryfast", crf="26", g=str(_GOP), bf="0", threads="1")
  options["x264-params"] = no_lookahead
  with av.open(file, "w", format="mp4") as container:
    stream = container.add_stream("libx264", rate=FPS, options=options)
    left = iter(frames)
    first = next(left)
    stream.height, stream.width = first.shape[:2]
    stream.pix_fmt = "yuv420p"
    for frame in itertools.chain([first], left):
      container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
    container.mux(stream.encode())
