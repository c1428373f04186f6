"""Files over HTTP: in full, by range, or "not modified"."""

import email.utils
import io
import os
import re
import stat
from collections.abc import Mapping
from email.message import Message
from typing import NamedTuple

from vtr_jax.search.files import boundary

# Files are served with one of these types or none: never as HTML.
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


class HTTPError(Exception):
  """An error response: a status and one line."""

  def __init__(self, status: int, reason: str, **headers: str):
    super().__init__(reason)
    self.status, self.headers = status, headers


class Response(NamedTuple):
  """Status and headers of a response, and the range of bytes in its body."""

  status: int
  headers: dict[str, str]
  start: int = 0
  count: int = 0


def media_type(name: str) -> str:
  """The media type of a file, by its ending."""
  return TYPES.get(os.path.splitext(name)[1].lower(), "application/octet-stream")


def open_inside(path: str, root: str, name: str) -> io.BufferedIOBase:
  """Opens a regular file that lies in the folder `root`, symbolic links followed.

  Raises:
    HTTPError: it is missing, unreadable, not a regular file, or outside of `root`; the
      message contains `name`.
  """
  real = os.path.realpath(path)
  top = boundary(root)
  if os.path.commonpath([real, top]) != top:
    raise HTTPError(403, f"{name}: lies outside the indexed folder")
  try:
    # Without O_NONBLOCK, a pipe instead of the file would block `open` forever.
    fd = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
  except FileNotFoundError as e:
    raise HTTPError(404, f"{name}: removed since it was indexed; index again") from e
  except OSError as e:
    raise HTTPError(404, f"{name}: {e.strerror}") from e
  if not stat.S_ISREG(os.fstat(fd).st_mode):
    os.close(fd)
    raise HTTPError(404, f"{name}: no longer a file; index again")
  return open(fd, "rb")


def etag(*parts: object) -> str:
  """A validator that changes if any of `parts` does."""
  texts = (format(part, "x") if isinstance(part, int) else str(part) for part in parts)
  return f'"{"-".join(texts)}"'


def file_response(
  request: Message | Mapping[str, str],
  size: int,
  tag: str,
  modified: float,
  get: bool = True,
) -> Response:
  """The response to a request for a file (RFC 9110, sections 13 and 14).

  A request for several ranges gets the full file, as that RFC allows.

  Args:
    request: its headers; the keys of a Message ignore case.
    size: of the file, bytes.
    tag: its ETag.
    modified: when it was changed, seconds since 1970.
    get: whether it is a GET; ranges of other requests are ignored.
  """
  date = email.utils.formatdate(int(modified), usegmt=True)
  headers = {"ETag": tag, "Last-Modified": date, "Accept-Ranges": "bytes"}
  if _unchanged(request, tag, modified):
    return Response(304, headers)
  start, count = 0, size
  if get and request.get("Range") and request.get("If-Range", tag) in (tag, date):
    selected = byte_range(request["Range"], size)
    if selected is not None:
      start, count = selected
      if not count:
        headers |= {"Content-Range": f"bytes */{size}", "Content-Length": "0"}
        return Response(416, headers)
      headers["Content-Range"] = f"bytes {start}-{start + count - 1}/{size}"
      headers["Content-Length"] = str(count)
      return Response(206, headers, start, count)
  return Response(200, headers | {"Content-Length": str(size)}, start, count)


def byte_range(header: str, size: int) -> tuple[int, int] | None:
  """(start, count) of one range; count 0 if it cannot be satisfied; None: ignore it."""
  match = re.fullmatch(r"bytes=([0-9]{0,18})-([0-9]{0,18})", header.strip())
  if not match or match.groups() == ("", ""):
    return None
  first, last = match.groups()
  if not first:
    count = min(int(last), size)
    return size - count, count
  start, end = int(first), min(int(last or size), size - 1)
  if last and int(last) < start:
    return None
  return start, max(end - start + 1, 0)


def _unchanged(request: Message | Mapping[str, str], tag: str, modified: float) -> bool:
  tags = request.get("If-None-Match")
  if tags is not None:
    return tags.strip() == "*" or tag in [t.strip() for t in tags.split(",")]
  since = request.get("If-Modified-Since")
  if since is None:
    return False
  try:
    return email.utils.parsedate_to_datetime(since).timestamp() >= int(modified)
  except (ValueError, TypeError):
    return False
