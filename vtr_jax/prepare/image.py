"""One image, checked and resized: a video of one frame."""

import io
import warnings

from PIL import Image, ImageOps

from vtr_jax.core.errors import BadSample, one_line
from vtr_jax.prepare.options import Options, Result

_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM")
_QUALITY = 95  # ours: the highest that Pillow recommends
_BLANK = 8  # ours: brightest minus darkest of 255, noise of compression included


def is_image(data: bytes) -> bool:
  """Whether these are JPEG, PNG, WebP or BMP; a GIF is a video."""
  return data.startswith(_MAGIC) or (data[:4], data[8:12]) == (b"RIFF", b"WEBP")


def encode(data: bytes, options: Options) -> Result:
  """The image upright, its short side at most `options.short_side`, as JPEG.

  Raises:
    BadSample: it cannot be decoded, is too large, or cannot be copied because it is
      neither JPEG nor PNG.
  """
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # of Pillow's own limit; ours is below
      image = Image.open(io.BytesIO(data))
      if image.width * image.height > options.max_pixels:
        raise BadSample(f"{image.width} x {image.height} pixels, above --max_pixels")
      kind = image.format
      image = ImageOps.exif_transpose(image)
      image = image.convert("RGB")  # decodes; a truncated file raises here
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
    raise BadSample(f"not an image ({one_line(e)})") from e
  if options.copy:
    if kind not in ("JPEG", "PNG"):
      raise BadSample(f"{kind} cannot be copied, only JPEG and PNG; omit --copy")
    return _result(image, data)
  scale = options.short_side / min(image.size)
  if scale < 1:
    size = round(image.width * scale), round(image.height * scale)
    image = image.resize(size, Image.Resampling.LANCZOS)
  small = io.BytesIO()
  image.save(small, "JPEG", quality=_QUALITY)
  return _result(image, small.getvalue())


def _result(image: Image.Image, data: bytes) -> Result:
  darkest, brightest = image.convert("L").getextrema()
  blank = brightest - darkest < _BLANK  # pyright: ignore[reportOperatorIssue]
  return Result(
    data,
    warnings=("blank: all pixels are nearly equal",) if blank else (),
    frames=1,
    width=image.width,
    height=image.height,
  )
