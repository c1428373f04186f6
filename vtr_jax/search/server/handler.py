"""HTTP requests of the search page: routing, checks and responses."""

import contextlib
import io
import json
import re
import socket
import time
import urllib.parse
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

from absl import logging

from vtr_jax.core.errors import BadSample, VtrError, one_line, printable
from vtr_jax.search.server import delivery, media, messages
from vtr_jax.search.server.delivery import HTTPError

# Ours.
_IDLE = 30.0  # seconds that a client may neither send nor receive
_REQUEST_TIMEOUT = 60.0  # seconds until a request must be complete
_MAX_BODY = 16 * 2**20
_MAX_DRAINED = 2**28  # bytes read of a body that is too large

_HEADERS = {
  "Content-Security-Policy": (
    "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; media-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
  ),
  "X-Content-Type-Options": "nosniff",
  "Referrer-Policy": "no-referrer",
  "Cross-Origin-Resource-Policy": "same-origin",
  "Cross-Origin-Opener-Policy": "same-origin",
  # Revalidated each time; the response is mostly "not modified".
  "Cache-Control": "private, no-cache",
}


class Handler(BaseHTTPRequestHandler):
  """Handles the requests of one connection, one after the other."""

  server: Any  # serve.Server
  protocol_version = "HTTP/1.1"
  server_version, sys_version = "vtr_jax", ""
  timeout = _IDLE
  disable_nagle_algorithm = True
  wbufsize = 2**16  # headers and a short body are sent together

  def setup(self) -> None:
    super().setup()
    self._reader = _DeadlineReader(self.connection)
    self.rfile = io.BufferedReader(self._reader)

  def handle_one_request(self) -> None:
    self._reader.until(_REQUEST_TIMEOUT)
    self._headers_sent = False
    super().handle_one_request()

  def do_GET(self) -> None:
    try:
      self._route()
      self.wfile.flush()
    except (ConnectionError, TimeoutError):
      self.close_connection = True
    except HTTPError as e:
      self._error(e.status, str(e), **e.headers)
    except VtrError as e:
      self._error(400, str(e))
    except Exception as e:  # the next request must still be answered
      where = e.__traceback__
      while where and where.tb_next:
        where = where.tb_next
      line = f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}" if where else ""
      path = self.path.split("?")[0]  # the query may contain the token
      logging.error("%a: %s: %s (%s)", path, type(e).__name__, one_line(e), line)
      self._error(500, "internal error; see the server's log")

  do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_GET

  def _route(self) -> None:
    length = self.headers.get("Content-Length", "0")
    encoded = "Transfer-Encoding" in self.headers  # would contradict Content-Length
    if self.command != "POST" and (length != "0" or encoded):
      raise HTTPError(400, f"a {self.command} has no body")
    if encoded:
      raise HTTPError(411, "a body needs a Content-Length; encodings are not supported")
    if not (length.isascii() and length.isdigit()):
      raise HTTPError(400, "the Content-Length is not a valid number")
    try:
      url = urllib.parse.urlsplit(self.path)
      query = dict(urllib.parse.parse_qsl(url.query, max_num_fields=10))
    except ValueError:
      raise HTTPError(400, "this address cannot be read") from None
    if self._log_in(url.path, query):
      return
    if url.path == "/api/search":
      self._only("POST")
      return self._json(self.server.library.search(self._search()))
    self._only("GET", "HEAD")
    if url.path in self.server.page:
      data, kind, tag = self.server.page[url.path]
      return self._file(io.BytesIO(data), len(data), kind, tag, 0)
    if url.path == "/api/info":
      return self._json(self.server.library.info())
    match = re.fullmatch(
      r"/(poster|media|preview|moment)/([0-9]{1,6})/([0-9]{1,12})", url.path
    )
    if not match:
      raise HTTPError(404, "no such page")
    hit = self.server.library.hit(int(match[2]), int(match[3]), query.get("clip", ""))
    if match[1] == "moment":
      return self._json(self.server.library.moment(hit, query.get("text", "")))
    with self.server.library.open(hit) as file:
      self._media(match[1], hit, file)

  def _log_in(self, path: str, query: dict[str, str]) -> bool:
    """Checks access; answers a valid token with a cookie and a redirect to /.

    Returns:
      Whether the request is answered.

    Raises:
      HTTPError: the client has no access.
    """
    access, opens_page = self.server.access, self.command == "GET" and path == "/"
    token = query.get("token", "")
    if opens_page and access.token and token and access.accepts(token):
      cookie = f"{self.server.cookie}={token}; Path=/; HttpOnly; SameSite=Lax"
      self._head(303, {"Location": "/", "Set-Cookie": cookie, "Content-Length": "0"})
      return True
    access.check(self.headers, self.server.cookie, opens_page)
    return False

  def _only(self, *methods: str) -> None:
    if self.command not in methods:
      raise HTTPError(405, f"use {methods[0]}", Allow=", ".join(methods))

  def _search(self) -> messages.Search:
    """The search in the request's body."""
    if self.headers.get_content_type() != "application/json":
      raise HTTPError(415, "send application/json")
    try:
      length = int(self.headers["Content-Length"])
    except (TypeError, ValueError):
      raise HTTPError(411, "send a Content-Length") from None
    if not 0 <= length <= _MAX_BODY:
      # Drained, or the client would see a broken connection instead of the response.
      left = min(max(length, 0), _MAX_DRAINED)
      while left > 0 and (part := self.rfile.read1(min(left, 2**16))):
        left -= len(part)
      raise HTTPError(
        413, f"too large: {_MAX_BODY >> 20} MiB at most; send a smaller image"
      )
    body = self.rfile.read(length)
    if len(body) < length:
      raise ConnectionError("hung up")
    return messages.parsed(body)

  def _media(self, kind: str, hit: Any, file: io.BufferedIOBase) -> None:
    """Responds with a clip's file, its poster or its preview."""
    version = media.version(file)
    size, changed = version[-2], version[-1]
    if kind == "media":
      media_type, tag = delivery.media_type(hit.path), delivery.etag(*version)
      return self._file(file, size, media_type, tag, changed / 1e9)
    try:
      if kind == "poster":
        media_type, data = "image/jpeg", media.poster(file, (hit.start + hit.end) / 2)
      else:
        media_type, data = "video/mp4", media.preview(file, hit.start, hit.end)
    except BadSample as e:
      raise HTTPError(404, f"{printable(hit.name)}: {e}") from e
    tag = delivery.etag(kind, *version, messages.key_of(hit))
    self._file(io.BytesIO(data), len(data), media_type, tag, changed / 1e9)

  def _file(self, file: Any, size: int, kind: str, tag: str, changed: float) -> None:
    response = delivery.file_response(
      self.headers, size, tag, changed, self.command == "GET"
    )
    self._head(response.status, response.headers | {"Content-Type": kind})
    if self.command == "GET" and response.count:
      self.wfile.flush()
      sent = self.connection.sendfile(file, response.start, response.count)
      if sent != response.count:  # truncated meanwhile: the client must not wait
        self.close_connection = True

  def _json(self, value: dict[str, Any]) -> None:
    data = json.dumps(value, allow_nan=False).encode()
    length = {"Content-Type": "application/json", "Content-Length": str(len(data))}
    self._head(200, length)
    if self.command != "HEAD":
      self.wfile.write(data)

  def _error(self, status: int, reason: str, **headers: str) -> None:
    if self._headers_sent:
      self.close_connection = True
      return
    data = f"{reason}\n".encode(errors="replace")
    fields = {"Content-Type": "text/plain; charset=utf-8"}
    # Closed: the rest of a body would be read as the next request.
    fields |= {"Content-Length": str(len(data)), "Connection": "close"}
    with contextlib.suppress(OSError):
      self._head(status, fields | headers)
      if self.command != "HEAD":
        self.wfile.write(data)
      self.wfile.flush()

  def _head(self, status: int, headers: dict[str, str]) -> None:
    self._headers_sent = True
    self.send_response(status)
    for name, value in (_HEADERS | headers).items():
      self.send_header(name, value)
    self.end_headers()

  def send_error(self, code: int, message: str | None = None, explain=None) -> None:
    """Errors of the base class (not HTTP, too long) get the same response."""
    del explain
    self._error(code, message or HTTPStatus(code).phrase)

  def log_message(self, format: str, *args: Any) -> None:
    pass  # requests are not logged; they may contain the token


class _DeadlineReader(io.RawIOBase):
  """Reads a socket with a deadline for the request and a timeout per read."""

  def __init__(self, connection: socket.socket):
    self._socket, self._end = connection, 0.0

  def until(self, seconds: float) -> None:
    self._end = time.monotonic() + seconds

  def readable(self) -> bool:
    return True

  def readinto(self, buffer: Any) -> int:
    left = self._end - time.monotonic()
    if left <= 0:
      raise TimeoutError("the request does not end")
    self._socket.settimeout(min(left, _IDLE))
    try:
      return self._socket.recv_into(buffer)
    finally:
      self._socket.settimeout(_IDLE)
