"""RandAugment and random erasing of training clips, as VideoMAE's fine-tuning.

What is drawn holds for all frames of a clip. VideoMAE augments before it crops; here
the crop comes first, so that operations see only the pixels that are kept.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance, ImageOps

from vtr_jax.core.config import require

_FILL = (128, 128, 128)  # of what lies outside the frame; code: VideoMAE
_BICUBIC = Image.Resampling.BICUBIC  # code: VideoMAE
_MAX_MAGNITUDE = 10.0
# Of an erased box: fraction of the frame, height / width; code: VideoMAE, timm.
_AREA, _ASPECT = (0.02, 1 / 3), (0.3, 1 / 0.3)
_BOXES = 100  # draws of a box until one fits; code: VideoMAE


@dataclasses.dataclass(frozen=True)
class RandAugment:
  """Section `data.rand_augment`: RandAugment (arXiv 1909.13719) as in timm.

  VideoMAE's "rand-m7-n4-mstd0.5-inc1" is n = 4 with these defaults.
  """

  n: int = 0  # operations drawn for a clip, each applied with chance 1/2; ours: 0 = off
  magnitude: float = 7.0  # 0 = off, whatever `std` is, to 10; code: VideoMAE
  std: float = 0.5  # of the magnitude of each operation; code: VideoMAE

  def __post_init__(self):
    require(self.n >= 0, f"n: {self.n} must not be negative")
    require(
      0 <= self.magnitude <= _MAX_MAGNITUDE,
      f"magnitude: {self.magnitude} not in [0, {_MAX_MAGNITUDE:g}]",
    )
    require(self.std >= 0, f"std: {self.std} must not be negative")


class Operation(NamedTuple):
  """One of RandAugment's, of a level in [0, 1]; in [-1, 1] if `signed`."""

  apply: Callable[[Image.Image, float], Image.Image]
  signed: bool = False


def _solarize_add(image: Image.Image, level: float) -> Image.Image:
  added = int(110 * level)
  return image.point([min(i + added, 255) if i < 128 else i for i in range(256)] * 3)


def _enhance(kind: Callable[[Image.Image], Any]) -> Operation:
  """`kind` is one of ImageEnhance's."""
  return Operation(lambda image, level: kind(image).enhance(1 + 0.9 * level), True)


def _affine(matrix: Callable[[float, tuple[int, int]], tuple[float, ...]]) -> Operation:
  """`matrix` of (level, (width, height)) leads from an output to an input pixel."""

  def apply(image: Image.Image, level: float) -> Image.Image:
    return image.transform(
      image.size,
      Image.Transform.AFFINE,
      matrix(level, image.size),
      _BICUBIC,
      fillcolor=_FILL,
    )

  return Operation(apply, True)


# timm's "increasing" set: the effect grows with the level. The first three do not read
# it, and posterize keeps 4 of 8 bits at level 0, where all others are the identity.
OPERATIONS = dict(
  auto_contrast=Operation(lambda image, _: ImageOps.autocontrast(image)),
  equalize=Operation(lambda image, _: ImageOps.equalize(image)),
  invert=Operation(lambda image, _: ImageOps.invert(image)),
  posterize=Operation(
    lambda image, level: ImageOps.posterize(image, 4 - int(4 * level))
  ),
  solarize=Operation(
    lambda image, level: ImageOps.solarize(image, 256 - int(256 * level))
  ),
  solarize_add=Operation(_solarize_add),
  color=_enhance(ImageEnhance.Color),
  contrast=_enhance(ImageEnhance.Contrast),
  brightness=_enhance(ImageEnhance.Brightness),
  sharpness=_enhance(ImageEnhance.Sharpness),
  rotate=Operation(
    lambda image, level: image.rotate(30 * level, _BICUBIC, fillcolor=_FILL), True
  ),
  shear_x=_affine(lambda level, _: (1, 0.3 * level, 0, 0, 1, 0)),
  shear_y=_affine(lambda level, _: (1, 0, 0, 0.3 * level, 1, 0)),
  translate_x=_affine(lambda level, size: (1, 0, 0.45 * level * size[0], 0, 1, 0)),
  translate_y=_affine(lambda level, size: (1, 0, 0, 0, 1, 0.45 * level * size[1])),
)


def rand_augment(
  clip: UInt8[np.ndarray, "t h w 3"], config: RandAugment, rng: np.random.Generator
) -> UInt8[np.ndarray, "t h w 3"]:
  """Applies what `draw_operations` draws; if off, returns `clip` and draws nothing."""
  if not config.n or not config.magnitude:
    return clip
  return operate(clip, draw_operations(config, rng))


def draw_operations(
  config: RandAugment, rng: np.random.Generator
) -> list[tuple[str, float]]:
  """(key of OPERATIONS, level) of those to apply, in order; one may come twice."""
  chosen = rng.integers(len(OPERATIONS), size=config.n)
  applied = rng.random(config.n) < 0.5
  magnitudes = rng.normal(config.magnitude, config.std, config.n)
  levels = np.clip(magnitudes, 0, _MAX_MAGNITUDE) / _MAX_MAGNITUDE
  signs = np.where(rng.random(config.n) < 0.5, -1, 1)
  names = list(OPERATIONS)
  return [
    (names[i], float(sign * level if OPERATIONS[names[i]].signed else level))
    for i, level, sign in zip(
      chosen[applied], levels[applied], signs[applied], strict=True
    )
  ]


def operate(
  clip: UInt8[np.ndarray, "t h w 3"], operations: Sequence[tuple[str, float]]
) -> UInt8[np.ndarray, "t h w 3"]:
  """Applies (key of OPERATIONS, level) in order to each frame."""
  if not operations:
    return clip
  frames = []
  for frame in clip:
    image = Image.fromarray(frame)
    for name, level in operations:
      image = OPERATIONS[name].apply(image, level)
    frames.append(np.asarray(image))
  return np.stack(frames)


def erase(
  clip: UInt8[np.ndarray, "t h w 3"],
  probability: float,
  mean: Sequence[float],
  std: Sequence[float],
  rng: np.random.Generator,
) -> UInt8[np.ndarray, "t h w 3"]:
  """Random erasing (arXiv 1708.04896), timm's mode "pixel".

  Args:
    clip: one clip.
    probability: that a box, the same in all frames, is replaced by noise that differs
      in every pixel and frame; 0 draws nothing.
    mean: of RGB in [0, 1], as `ClipSpec.mean`.
    std: of RGB in [0, 1]; normalised by both, the noise is N(0, 1) up to the clipping
      to what a pixel can be.
    rng: the example's generator.
  """
  if not probability or rng.random() >= probability:
    return clip
  frames, height, width, _ = clip.shape
  box = _erased_box(height, width, rng)
  if box is None:
    return clip
  top, left, tall, wide = box
  noise = rng.standard_normal((frames, tall, wide, 3), np.float32)
  pixels = 255 * (noise * np.asarray(std, np.float32) + np.asarray(mean, np.float32))
  erased = clip.copy()
  region = erased[:, top : top + tall, left : left + wide]
  region[:] = np.clip(np.rint(pixels), 0, 255)
  return erased


def _erased_box(
  height: int, width: int, rng: np.random.Generator
) -> tuple[int, int, int, int] | None:
  """(top, left, height, width) in pixels; None if none fits, as in tiny frames."""
  for _ in range(_BOXES):
    area = height * width * rng.uniform(*_AREA)
    aspect = math.exp(rng.uniform(*np.log(_ASPECT)))
    tall, wide = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    if tall < height and wide < width:
      top = int(rng.integers(height - tall + 1))
      return top, int(rng.integers(width - wide + 1)), tall, wide
  return None
