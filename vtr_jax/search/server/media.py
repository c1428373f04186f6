"""Media of a clip for browsers: a poster, and a preview that every browser plays."""

import collections
import io
import os
import threading
from collections.abc import Callable, Hashable

from PIL import Image

from vtr_jax.core import processes
from vtr_jax.core.errors import BadSample
from vtr_jax.data.video.decode import decode
from vtr_jax.data.video.image import HEAD, is_image
from vtr_jax.prepare import image, video
from vtr_jax.prepare.options import Options

# Ours. Of a damaged video, the readable part is shown: it may be indexed.
_POSTER = Options(short_side=240, crf=18, needed=1)
_PREVIEW = Options(short_side=480, crf=24, gop=48, needed=1)
_PREVIEW_SECONDS = 30.0
_QUALITY = 82  # of a JPEG
_SECONDS = 20.0  # of CPU time
_CACHE_BYTES = 64 * 2**20

_decoders = threading.BoundedSemaphore(processes.cores())


class _Cache:
  """The most recently used results, up to a number of bytes."""

  def __init__(self, size: int):
    self._free, self._lock = size, threading.Lock()
    self._entries: collections.OrderedDict[Hashable, bytes] = collections.OrderedDict()

  def get(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
    with self._lock:
      if key in self._entries:
        self._entries.move_to_end(key)
        return self._entries[key]
    with _decoders:
      data = make()
    with self._lock:
      self._free -= len(data) - len(self._entries.pop(key, b""))
      self._entries[key] = data
      while self._free < 0:
        self._free += len(self._entries.popitem(last=False)[1])
    return data


_cache = _Cache(_CACHE_BYTES)


def poster(file: io.BufferedIOBase, second: float) -> bytes:
  """The frame at `second`, or the first one if the video is shorter, as JPEG.

  Raises:
    BadSample: nothing can be decoded.
  """

  def at(second: float) -> bytes:
    # Of a video of one frame, so that seeking, rotation and scaling are the same.
    return video.encode(file, _POSTER, second, second + 1e-3, _SECONDS).data

  def make() -> bytes:
    file.seek(0)
    head = file.read(HEAD)
    if is_image(head):
      return image.encode(head + file.read(), _POSTER).data
    try:
      part = at(second)
    except BadSample:
      part = at(0.0)
    jpeg = io.BytesIO()
    frame = Image.fromarray(decode(part, [0])[0])
    frame.save(jpeg, "JPEG", quality=_QUALITY)
    return jpeg.getvalue()

  return _cache.get(("poster", *version(file), second), make)


def preview(file: io.BufferedIOBase, start: float, end: float) -> bytes:
  """The part from `start` to `end`, at most 30 s, as H.264 in mp4 without sound.

  Raises:
    BadSample: nothing can be decoded there.
  """
  end = min(end, start + _PREVIEW_SECONDS)
  key = ("preview", *version(file), start, end)
  make = lambda: video.encode(file, _PREVIEW, start, end, _SECONDS).data
  return _cache.get(key, make)


def version(file: io.BufferedIOBase) -> tuple[int, ...]:
  """Numbers that differ if a file was changed or replaced."""
  stat = os.fstat(file.fileno())
  return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
