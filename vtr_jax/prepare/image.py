"""One image, checked and resized: a video of one frame."""

import io

from PIL import Image

from vtr_jax.core.errors import BadSample
from vtr_jax.data.video import image as image_lib
from vtr_jax.prepare.options import Options, Result

_QUALITY = 95  # ours: the highest that Pillow recommends
_BLANK = 8  # ours: brightest minus darkest of 255, noise of compression included
_COPIED = ("JPEG", "MPO", "PNG")


def encode(data: bytes, options: Options) -> Result:
  """The picture upright, its short side at most `options.short_side`, as JPEG.

  Raises:
    BadSample: it cannot be decoded, is too large, or cannot be copied because it is
      neither JPEG nor PNG.
  """
  image, kind, count = image_lib.read(data, options.max_pixels, "--max_pixels")
  if options.copy:
    if kind not in _COPIED:
      raise BadSample(f"{kind} cannot be copied, only JPEG and PNG; omit --copy")
    return _result(image, data, kind, count)
  scale = options.short_side / min(image.size)
  if scale < 1:
    size = round(image.width * scale), round(image.height * scale)
    image = image.resize(size, Image.Resampling.LANCZOS)
  small = io.BytesIO()
  image.save(small, "JPEG", quality=_QUALITY)
  return _result(image, small.getvalue(), kind, count)


def _result(image: Image.Image, data: bytes, kind: str, count: int) -> Result:
  darkest, brightest = image.convert("L").getextrema()
  blank = brightest - darkest < _BLANK  # pyright: ignore[reportOperatorIssue]
  warnings = ["blank: all pixels are nearly equal"] if blank else []
  if animated := image_lib.animated(kind, count):
    warnings.append(animated)
  return Result(
    data,
    warnings=tuple(warnings),
    frames=1,
    width=image.width,
    height=image.height,
  )
