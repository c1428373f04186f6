"""The work on one item, in a worker process: read, check, encode, write the result."""

import os
import pathlib

from vtr_jax.core.errors import BadSample, one_line
from vtr_jax.core.paths import near
from vtr_jax.data.video.image import HEAD, is_image
from vtr_jax.prepare import image, spool, video
from vtr_jax.prepare.formats.base import Item, Media
from vtr_jax.prepare.options import Options, Result, unfit


def make(path: pathlib.Path, item: Item, options: Options) -> None:
  """Writes the item's result to `path`.

  Raises:
    OSError: the result cannot be written.
  """
  spool.write(path, result(item, options))


def result(item: Item, options: Options) -> Result:
  """The encoded item, or the reason why it is refused; raises no error."""
  if reason := unfit(item, options):
    return Result(refused=reason)
  try:
    data = read(item.media, options.max_mb)
    if is_image(data[:HEAD]):
      return image.encode(data, options)
    return video.encode(data, options, item.start, item.end)
  except BadSample as e:
    return Result(refused=str(e))
  except OSError as e:
    return Result(refused=f"cannot be read ({e.strerror or one_line(e)})")
  except Exception as e:  # one unusual file among millions must not end the run
    return Result(refused=f"{type(e).__name__}: {one_line(e)}")


def read(media: Media, max_mb: int) -> bytes:
  """Bytes of a file, or of a part of it.

  Raises:
    BadSample: the file is missing, too large, or ends before the part.
  """
  if os.path.exists(media.path) and not os.path.isfile(media.path):
    raise BadSample("not a file")  # a pipe, say, which would block
  try:
    with open(media.path, "rb") as f:
      end = f.seek(0, 2)
      size = end - media.offset if media.size < 0 else media.size
      if size > max_mb * 2**20:
        raise BadSample(f"{size >> 20} MB, above --max_mb={max_mb}")
      f.seek(media.offset)
      data = f.read(max(size, 0))
  except FileNotFoundError as e:
    raise BadSample(f"no such file{near(media.path)}") from e
  if len(data) < size:
    raise BadSample(f"cut short: {len(data)} of {size} bytes")
  if not data:
    raise BadSample("empty file")
  return data
