"""Crops: the part of the frames that a clip shows."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CROPS = ("resize", "multi_scale", "random_resized")

# Corners, middle and half-way points of the free space, in quarters of it.
_OFFSETS = (
  *((y, x) for y in (0, 2, 4) for x in (0, 2, 4)),
  *((y, x) for y in (1, 3) for x in (1, 3)),
)


class View(NamedTuple):
  """A square cut out of the resized frame; pixels of the resized frame."""

  height: int  # the frame is resized to this
  width: int
  top: int
  left: int
  size: int  # height and width of the cut
  flip: bool = False  # mirror left and right


def resize_view(height: int, width: int, size: int) -> View:
  """The short side becomes `size`; the middle is cut out."""
  short = min(height, width)
  return _box_view(
    height, width, ((height - short) / 2, (width - short) / 2, short, short), size
  )


def random_view(
  height: int,
  width: int,
  size: int,
  crop: str,
  scales: Sequence[float],
  flip: bool,
  rng: np.random.Generator,
) -> View:
  """Draws the part of the frame that a training clip shows.

  Args:
    height: of the frames, pixels.
    width: of the frames, pixels.
    size: of the clip, pixels.
    crop: "resize" as in evaluation; "multi_scale" takes one of 13 positions and a
      height and width among `scales` of the short side, at most one step apart
      (TSN; SimVTP with 1, .875, .75, .66); "random_resized" takes a fraction of the
      area between the two `scales`, of aspect 3/4 to 4/3 (Inception; Frozen in
      Time with .5, 1).
    scales: see `crop`; not read by "resize".
    flip: mirror left and right with chance 1/2.
    rng: the example's generator.
  """
  if crop == "resize":
    view = resize_view(height, width, size)
  elif crop == "multi_scale":
    view = _box_view(height, width, _multi_scale_box(height, width, scales, rng), size)
  else:
    box = _random_resized_box(height, width, scales, rng)
    view = _box_view(height, width, box, size)
  return view._replace(flip=bool(flip and rng.random() < 0.5))


def _multi_scale_box(height, width, scales, rng):
  """(top, left, height, width) in pixels of the frame."""
  pairs = [
    (a, b)
    for i, a in enumerate(scales)
    for j, b in enumerate(scales)
    if abs(i - j) <= 1
  ]
  tall, wide = np.array(pairs[rng.integers(len(pairs))]) * min(height, width)
  y, x = _OFFSETS[rng.integers(len(_OFFSETS))]
  return (height - tall) * y / 4, (width - wide) * x / 4, tall, wide


def _random_resized_box(height, width, scales, rng):
  """(top, left, height, width) in pixels of the frame."""
  for _ in range(10):
    area = height * width * rng.uniform(*scales)
    ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    tall, wide = np.sqrt(area / ratio), np.sqrt(area * ratio)
    if tall <= height and wide <= width:
      return rng.uniform(0, height - tall), rng.uniform(0, width - wide), tall, wide
  # As torchvision does where the frame is too long for any such box.
  tall, wide = min(height, width * 4 / 3), min(width, height * 4 / 3)
  return (height - tall) / 2, (width - wide) / 2, tall, wide


def _box_view(height: int, width: int, box, size: int) -> View:
  """The frame is resized so that `box` becomes the clip."""
  top, left, tall, wide = box
  full = max(round(height * size / tall), size), max(round(width * size / wide), size)
  at = round(top * size / tall), round(left * size / wide)
  return View(*full, min(at[0], full[0] - size), min(at[1], full[1] - size), size)
