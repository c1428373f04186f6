"""Still pictures by Pillow: upright RGB, whatever file and mode they come in."""

import importlib
import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vtr_jax.core.errors import BadSample, MissingPackage, one_line

# Of Pillow's own limit of pixels, of damaged EXIF data. Once, since threads decode.
warnings.filterwarnings("ignore", module=r"PIL\.")

HEAD = 16  # bytes that `is_image` needs
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*")
_AVIF = (b"avif", b"avis")
_BRANDS = 64  # ours: bytes of the list of brands that are looked at
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def is_image(head: bytes) -> bool:
  """Whether a file that begins so is a picture; a GIF is a video.

  JPEG, PNG, WebP, BMP, TIFF, AVIF and HEIF, animated or not.
  """
  if head[4:8] == b"ftyp":
    return head[8:12] in _AVIF + _HEIF
  return head.startswith(_MAGIC) or (head[:4], head[8:12]) == (b"RIFF", b"WEBP")


def read(
  data: bytes, max_pixels: int, limit: str = "2^26"
) -> tuple[Image.Image, str, int]:
  """(the first picture, upright and in RGB, its format, number of pictures).

  Phones append pictures to a JPEG (MPO), and WebP, PNG and AVIF may be animated. A HEIF
  names its main picture, which is taken; its tiles are no pictures of their own.
  Transparency is dropped. Gray of 16 bits keeps the higher 8; other integers and
  fractions count as of 8 bits, or of 16 or up to 1 if they all fit there.

  Args:
    data: the file.
    max_pixels: larger pictures are refused before they are decoded.
    limit: what the message calls `max_pixels`.

  Raises:
    BadSample: it cannot be decoded or is too large.
  """
  if _needs_heif(data):
    _register_heif()
  try:
    image = Image.open(io.BytesIO(data))
    kind, count = image.format or "", getattr(image, "n_frames", 1)
    if image.width * image.height > max_pixels:
      raise BadSample(f"{image.width} x {image.height} pixels, above {limit}")
    image = ImageOps.exif_transpose(image)
    return _rgb(image), kind, count  # decodes; a truncated file raises here
  except BadSample:
    raise
  except UnidentifiedImageError as e:  # its message has the address of an object
    raise BadSample("not an image (damaged, or of an unknown kind)") from e
  except Exception as e:  # for damaged files, Pillow raises many kinds
    raise BadSample(f"not an image ({one_line(e)})") from e


def animated(kind: str, count: int) -> str:
  """A warning if a file of that format and number of pictures shows more than one."""
  if count < 2 or kind == "MPO":  # a phone's second picture shows the same
    return ""
  if kind == "HEIF":
    return f"several pictures: only the main one of {count} is taken"
  return f"animated: only the first of {count} pictures is taken"


def _rgb(image: Image.Image) -> Image.Image:
  if image.mode[:1] not in ("I", "F"):
    image.info.pop("transparency", None)
    return image.convert("RGB")
  values = np.asarray(image).astype(np.float64)
  top = float(values.max(initial=0))
  if image.mode[0] == "F" and top <= 1:
    values = values * 255
  elif image.mode.startswith("I;16") or top > 255:
    values = values // 256
  gray = np.clip(np.nan_to_num(values), 0, 255).astype(np.uint8)
  return Image.fromarray(gray).convert("RGB")


def _needs_heif(data: bytes) -> bool:
  """Whether the file is HEIF, but not AVIF under a brand that both use."""
  brands = data[16 : int.from_bytes(data[:4])][:_BRANDS]
  return data[4:8] == b"ftyp" and data[8:12] in _HEIF and b"avif" not in brands


def _register_heif() -> None:
  try:
    heif = importlib.import_module("pillow_heif")
    heif.options.DECODE_THREADS = 1  # files are decoded in parallel
    heif.register_heif_opener()
  except ImportError as e:
    raise MissingPackage(
      "HEIF, which needs pillow-heif: pip install pillow-heif, or save it as JPEG"
    ) from e
