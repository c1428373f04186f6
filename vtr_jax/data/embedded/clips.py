"""From rendered frames to records; what all embedded data sets share.

Processes that render import neither JAX nor TFDS, and thus no more than this.
"""

import io
from collections.abc import Callable
from typing import NamedTuple

import av
import numpy as np
from jaxtyping import UInt8

from vtr_jax.data.moving_shapes import scene

FPS = 12
_GOP = 24  # frames from one keyframe to the next: short clips have one


class Clip(NamedTuple):
  """One record, in the order of `sources.features`."""

  id: str
  video: bytes  # mp4, H.264
  captions: list[str]
  label: str


class World(NamedTuple):
  """How the clips of a data set are made; can be pickled.

  name: of the data set. seed: of its meanings and of all else that is drawn.
  make_raw: (split, index, meaning, seed) to frames uint8 [t h w 3] and captions;
  determined by its arguments.
  """

  name: str
  seed: int
  make_raw: Callable[
    [str, int, scene.Meaning, int], tuple[UInt8[np.ndarray, "t h w 3"], list[str]]
  ]

  def meanings(self, split: str, count: int) -> list[scene.Meaning]:
    """The meanings of the first `count` clips of a split, in order."""
    return scene.meanings(split, count, self.seed)

  def clips(self, split: str, start: int, meanings: list[scene.Meaning]) -> list[Clip]:
    """Records `start`, `start + 1`, ... of a split, one for each meaning."""
    made = []
    for index, meaning in enumerate(meanings, start):
      frames, texts = self.make_raw(split, index, meaning, self.seed)
      name = f"{split}-{index:05d}"
      made.append(Clip(name, encode(frames), texts, scene.label_of(meaning)))
    return made


def encode(frames: UInt8[np.ndarray, "t h w 3"]) -> bytes:
  """H.264 in mp4; equal frames give equal bytes on one machine."""
  # x264's look-ahead reads uninitialised memory on frames this small: with it, one clip
  # in three differs from build to build.
  no_lookahead = "rc-lookahead=0:mbtree=0:scenecut=0:weightp=0"
  options = dict(preset="veryfast", crf="26", g=str(_GOP), bf="0", threads="1")
  options["x264-params"] = no_lookahead
  buffer = io.BytesIO()
  with av.open(buffer, "w", format="mp4") as container:
    stream = container.add_stream("libx264", rate=FPS, options=options)
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt = "yuv420p"
    for frame in frames:
      container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
    container.mux(stream.encode())
  return buffer.getvalue()
