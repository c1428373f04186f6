"""A file over HTTP: whole, in parts, or not at all if it has not changed."""

import email.utils
import os
import re
import stat
from collections.abc import Mapping
from email.message import Message
from typing import BinaryIO, NamedTuple

# What is served has one of these types or none: a page never comes from a folder.
TYPES = {
  ".mp4": "video/mp4",
  ".m4v": "video/mp4",
  ".mov": "video/quicktime",
  ".webm": "video/webm",
  ".mkv": "video/x-matroska",
  ".avi": "video/x-msvideo",
  ".ogv": "video/ogg",
  ".mpg": "video/mpeg",
  ".mpeg": "video/mpeg",
  ".ts": "video/mp2t",
  ".flv": "video/x-flv",
  ".3gp": "video/3gpp",
  ".wmv": "video/x-ms-wmv",
  ".gif": "image/gif",
  ".jpg": "image/jpeg",
  ".jpeg": "image/jpeg",
  ".png": "image/png",
  ".webp": "image/webp",
  ".bmp": "image/bmp",
}


class Refused(Exception):
  """A request that gets one line and a status instead of what it asked for."""

  def __init__(self, status: int, reason: str, **headers: str):
    super().__init__(reason)
    self.status, self.headers = status, headers


class Answer(NamedTuple):
  """Status and headers of a response, and which bytes make its body."""

  status: int
  headers: dict[str, str]
  start: int = 0
  count: int = 0


def media_type(name: str) -> str:
  """The type that a file's ending stands for."""
  return TYPES.get(os.path.splitext(name)[1].lower(), "application/octet-stream")


def open_inside(path: str, root: str, name: str) -> BinaryIO:
  """Opens a regular file that lies in the folder `root`, symbolic links followed.

  Raises:
    Refused: it is gone, unreadable, no file, or lies elsewhere; `name` is told.
  """
  real = os.path.realpath(path)
  if os.path.commonpath([real, os.path.realpath(root)]) != os.path.realpath(root):
    raise Refused(403, f"{name}: lies outside the indexed folder")
  try:
    # A pipe put in a file's place would make `open` wait for ever.
    fd = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
  except FileNotFoundError as e:
    raise Refused(404, f"{name}: gone since it was indexed; index again") from e
  except OSError as e:
    raise Refused(404, f"{name}: {e.strerror}") from e
  if not stat.S_ISREG(os.fstat(fd).st_mode):
    os.close(fd)
    raise Refused(404, f"{name}: no longer a file; index again")
  return open(fd, "rb")


def etag(*parts: object) -> str:
  """A validator that is another one when any of `parts` is."""
  texts = (format(part, "x") if isinstance(part, int) else str(part) for part in parts)
  return f'"{"-".join(texts)}"'


def answer(
  asked: Message | Mapping[str, str],
  size: int,
  tag: str,
  modified: float,
  get: bool = True,
) -> Answer:
  """What a request for a file gets (RFC 9110, sections 13 and 14).

  Several ranges at once get the whole file, as that RFC allows.

  Args:
    asked: the request's headers; keys in any case if it is a Message.
    size: of the file, bytes.
    tag: its ETag.
    modified: when it was changed, seconds since 1970.
    get: whether it is a GET; ranges are for these alone.
  """
  date = email.utils.formatdate(int(modified), usegmt=True)
  headers = {"ETag": tag, "Last-Modified": date, "Accept-Ranges": "bytes"}
  if _unchanged(asked, tag, modified):
    return Answer(304, headers)
  start, count = 0, size
  if get and asked.get("Range") and asked.get("If-Range", tag) in (tag, date):
    part = byte_range(asked["Range"], size)
    if part is not None:
      start, count = part
      if not count:
        headers |= {"Content-Range": f"bytes */{size}", "Content-Length": "0"}
        return Answer(416, headers)
      headers["Content-Range"] = f"bytes {start}-{start + count - 1}/{size}"
      headers["Content-Length"] = str(count)
      return Answer(206, headers, start, count)
  return Answer(200, headers | {"Content-Length": str(size)}, start, count)


def byte_range(header: str, size: int) -> tuple[int, int] | None:
  """(start, count) of one range; count 0 where there is none such; None: ignore it."""
  found = re.fullmatch(r"bytes=([0-9]{0,18})-([0-9]{0,18})", header.strip())
  if not found or found.groups() == ("", ""):
    return None
  first, last = found.groups()
  if not first:
    count = min(int(last), size)
    return size - count, count
  start, end = int(first), min(int(last or size), size - 1)
  if last and int(last) < start:
    return None
  return start, max(end - start + 1, 0)


def _unchanged(asked: Message | Mapping[str, str], tag: str, modified: float) -> bool:
  tags = asked.get("If-None-Match")
  if tags is not None:
    return tags.strip() == "*" or tag in [t.strip() for t in tags.split(",")]
  since = asked.get("If-Modified-Since")
  if since is None:
    return False
  try:
    return email.utils.parsedate_to_datetime(since).timestamp() >= int(modified)
  except (ValueError, TypeError):
    return False
