"""Containers of encoded videos: opened safely, and the stream that is the video."""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import av
from av.stream import Disposition

from vtr_jax.core.errors import BadSample

# Containers that need no other file. Without the list, a text that names a URL
# (an HLS playlist) would be opened and followed.
_FORMATS = (
  "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,ogg,flv,asf,gif,h264,hevc,ivf"
)
# A small file may unfold to any size. Ours: 8192 x 8192 pixels of one frame.
MAX_PIXELS = 2**26
_NOT_VIDEO = (
  Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.dependent
)
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_HEAD = 4096  # ours: bytes that hold the beginning of a Matroska or ASF file
# GUIDs of ASF's header and of its file properties; the trailer of a GIF.
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_GIF_END = b"\x3b"
# PyAV 18 rejects a title that is not UTF-8, unless told otherwise; 19 takes any.
LENIENT: dict[str, Any] = (
  {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
)
_STILL = ("mjpeg", "png", "webp", "bmp", "gif")  # codecs of covers


@contextlib.contextmanager
def opened(data: bytes | io.BufferedIOBase) -> Iterator[Any]:
  """An encoded file's PyAV container; what it names outside itself is not followed.

  Args:
    data: the file's bytes, or the file, opened: it is read as far as it is asked for.

  Raises:
    BadSample: not a video, also where that shows only inside the `with`.
  """
  if isinstance(data, bytes):
    file, head = io.BytesIO(data), data[:8] if data else b""
  else:
    data.seek(0)
    head = data.read(8)
    data.seek(0)
    file = _Nameless(data)
  if not head:
    raise BadSample("empty file")
  try:
    with av.open(
      file,
      # The commonest needs no search, which takes a quarter of opening it.
      format="mp4" if head[4:] == b"ftyp" else None,
      **LENIENT,
      options={"max_pixels": str(MAX_PIXELS)},
      container_options={"format_whitelist": _FORMATS},
    ) as container:
      yield container
  except av.FFmpegError as e:
    raise BadSample(f"not a video ({_reason(e)})") from e


class _Nameless:
  """A file without its name, which PyAV would guess the format from."""

  def __init__(self, file: io.BufferedIOBase):
    self.read, self.seek, self.tell = file.read, file.seek, file.tell


def ends_early(data: bytes | io.BufferedIOBase) -> bool:
  """Whether a Matroska, WebM (RFC 8794 and 9559), AVI, ASF or GIF file is cut short.

  All but GIF state their length; FFmpeg's demuxers end there without an error. A live
  recording states none.
  """
  if isinstance(data, bytes):
    head, size = data[:_HEAD], len(data)
  else:
    data.seek(0)
    head, size = data.read(_HEAD), data.seek(0, io.SEEK_END)
    data.seek(0)
  if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
    stated = int.from_bytes(head[4:8], "little")
    return stated != 0xFFFFFFFF and 8 + stated > size
  if head.startswith(_ASF):
    at = head.find(_ASF_FILE)
    stated, live = _number(head, at + 40, 8), _number(head, at + 88, 4) & 1
    return at > 0 and not live and stated > size
  if head.startswith((b"GIF87a", b"GIF89a")):
    return _gif_ends_early(data if isinstance(data, bytes) else _content(data))
  if not head.startswith(_EBML):
    return False
  at, length = _length(head, len(_EBML))
  at += length or 0
  if head[at : at + 4] != _SEGMENT:
    return False
  at, length = _length(head, at + 4)
  return length is not None and at + length > size


def _number(head: bytes, at: int, size: int) -> int:
  return int.from_bytes(head[at : at + size], "little")


def _content(file: io.BufferedIOBase) -> bytes:
  content = file.read()
  file.seek(0)
  return content


def _gif_ends_early(data: bytes) -> bool:
  """Whether the last block of a GIF (GIF89a, section 12 and on) is cut.

  What follows its trailer, or a missing one after a whole block, is not.
  """
  if data.endswith(_GIF_END):
    return False
  table = lambda flags: 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0
  at = 13 + table(data[10]) if len(data) > 10 else len(data)
  while at < len(data):
    kind = data[at : at + 1]
    if kind == b"\x2c":  # an image
      flags = data[at + 9] if at + 9 < len(data) else 0
      at += 11 + table(flags)
    elif kind == b"\x21":  # an extension
      at += 2
    else:  # the trailer, or none of its blocks
      return False
    while at < len(data) and data[at]:
      at += 1 + data[at]
    at += 1
  return at > len(data)


def _length(head: bytes, at: int) -> tuple[int, int | None]:
  """(where the content of an element begins, its length in bytes if it is known)."""
  if at >= len(head) or not head[at]:
    return at, None
  count = 9 - head[at].bit_length()  # bytes of the number; leading zeros tell
  bits = (1 << 7 * count) - 1
  value = int.from_bytes(head[at : at + count]) & bits
  return at + count, None if value == bits else value


def choose_stream(container: Any) -> Any:
  """The stream that is the video, not a cover, a thumbnail or a tile of a picture.

  Raises:
    BadSample: there is none.
  """
  streams = [s for s in container.streams.video if not s.disposition & _NOT_VIDEO]
  if not streams:
    raise BadSample("no video stream")
  # A cover may come without its mark, before the video.
  picture = lambda s: s.codec_context is not None and s.codec_context.name in _STILL
  return ([s for s in streams if not picture(s)] or streams)[0]


def video_stream(container: Any) -> Any:
  """The video stream, to be decoded by one thread."""
  stream = choose_stream(container)
  codec = stream.codec_context
  if codec is None:
    raise BadSample("unknown codec")
  if codec.width * codec.height > MAX_PIXELS:
    raise BadSample(f"frames of {codec.width} x {codec.height} pixels are too large")
  # Without "explode" a decoder conceals errors and reports none.
  codec.options = {"max_pixels": str(MAX_PIXELS), "err_detect": "explode"}
  stream.thread_type = "SLICE"
  codec.thread_count = 1
  return stream


def _reason(error: av.FFmpegError) -> str:
  return " ".join((error.strerror or str(error)).split())[:80]
