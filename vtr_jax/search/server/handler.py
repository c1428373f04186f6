"""One connection to the page: what is asked, and what it gets."""

import contextlib
import io
import json
import re
import socket
import time
import urllib.parse
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, BinaryIO

from absl import logging

from vtr_jax.core.errors import BadSample, VtrError, one_line, printable
from vtr_jax.search.server import delivery, media, messages
from vtr_jax.search.server.delivery import Refused

# All ours.
_IDLE = 30.0  # seconds that a client may send or take nothing
_PATIENCE = 60.0  # seconds for a whole request to arrive
_MAX_BODY = 16 * 2**20
_MAX_DRAINED = 2**28  # of a body that is too large

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
  # Asked for again each time; mostly answered by "not modified".
  "Cache-Control": "private, no-cache",
}


class Handler(BaseHTTPRequestHandler):
  """One connection: requests one after the other."""

  server: Any  # serve.Server
  protocol_version = "HTTP/1.1"
  server_version, sys_version = "vtr_jax", ""
  timeout = _IDLE
  disable_nagle_algorithm = True
  wbufsize = 2**16  # headers and a short body leave together

  def setup(self) -> None:
    super().setup()
    self._reader = _Patient(self.connection)
    self.rfile = io.BufferedReader(self._reader)

  def handle_one_request(self) -> None:
    self._reader.until(_PATIENCE)
    self._begun = False
    super().handle_one_request()

  def do_GET(self) -> None:
    try:
      self._route()
      self.wfile.flush()
    except (ConnectionError, TimeoutError):
      self.close_connection = True
    except Refused as e:
      self._refuse(e.status, str(e), **e.headers)
    except VtrError as e:
      self._refuse(400, str(e))
    except Exception as e:  # whatever it is, the next request is to be answered
      where = e.__traceback__
      while where and where.tb_next:
        where = where.tb_next
      line = f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}" if where else ""
      path = self.path.split("?")[0]  # behind it, the token may be
      logging.error("%a: %s: %s (%s)", path, type(e).__name__, one_line(e), line)
      self._refuse(500, "this went wrong; the server's log says what")

  do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_GET

  def _route(self) -> None:
    length = self.headers.get("Content-Length", "0")
    encoded = "Transfer-Encoding" in self.headers  # two lengths, and no one's right
    if self.command != "POST" and (length != "0" or encoded):
      raise Refused(400, f"a {self.command} has no body")
    if encoded:
      raise Refused(411, "a body needs its Content-Length; no encoding is taken")
    if not (length.isascii() and length.isdigit()):
      raise Refused(400, "the Content-Length is not a valid number")
    try:
      url = urllib.parse.urlsplit(self.path)
      query = dict(urllib.parse.parse_qsl(url.query, max_num_fields=10))
    except ValueError:
      raise Refused(400, "this address cannot be read") from None
    if self._enters(url.path, query):
      return
    if url.path == "/api/search":
      self._only("POST")
      return self._json(self.server.library.search(self._asked()))
    self._only("GET", "HEAD")
    if url.path in self.server.page:
      data, kind, tag = self.server.page[url.path]
      return self._file(io.BytesIO(data), len(data), kind, tag, 0)
    if url.path == "/api/info":
      return self._json(self.server.library.info())
    found = re.fullmatch(
      r"/(poster|media|preview)/([0-9]{1,6})/([0-9]{1,12})", url.path
    )
    if not found:
      raise Refused(404, "no such page")
    hit = self.server.library.hit(int(found[2]), int(found[3]), query.get("clip", ""))
    with self.server.library.open(hit) as file:
      self._picture(found[1], hit, file)

  def _enters(self, path: str, query: dict[str, str]) -> bool:
    """Lets in who may; one who brings the token gets a cookie and a clean address."""
    access, entering = self.server.access, self.command == "GET" and path == "/"
    given = query.get("token", "")
    if entering and access.token and given and access.knows(given):
      cookie = f"{self.server.cookie}={given}; Path=/; HttpOnly; SameSite=Lax"
      self._head(303, {"Location": "/", "Set-Cookie": cookie, "Content-Length": "0"})
      return True
    access.check(self.headers, self.server.cookie, entering)
    return False

  def _only(self, *methods: str) -> None:
    if self.command not in methods:
      raise Refused(405, f"use {methods[0]}", Allow=", ".join(methods))

  def _asked(self) -> messages.Search:
    """The search that the body asks for."""
    if self.headers.get_content_type() != "application/json":
      raise Refused(415, "send application/json")
    try:
      length = int(self.headers["Content-Length"])
    except (TypeError, ValueError):
      raise Refused(411, "send a Content-Length") from None
    if not 0 <= length <= _MAX_BODY:
      # A client that still sends would see a broken connection, and not the answer.
      left = min(max(length, 0), _MAX_DRAINED)
      while left > 0 and (part := self.rfile.read1(min(left, 2**16))):
        left -= len(part)
      raise Refused(
        413, f"too large: {_MAX_BODY >> 20} MiB at most; send a smaller image"
      )
    body = self.rfile.read(length)
    if len(body) < length:
      raise ConnectionError("hung up")
    return messages.parsed(body)

  def _picture(self, what: str, hit: Any, file: BinaryIO) -> None:
    """Answers with a clip's file, or with what is made of it."""
    version = media.version(file)
    size, changed = version[-2], version[-1]
    if what == "media":
      kind, tag = delivery.media_type(hit.path), delivery.etag(*version)
      return self._file(file, size, kind, tag, changed / 1e9)
    try:
      if what == "poster":
        kind, data = "image/jpeg", media.poster(file, (hit.start + hit.end) / 2)
      else:
        kind, data = "video/mp4", media.preview(file, hit.start, hit.end)
    except BadSample as e:
      raise Refused(404, f"{printable(hit.name)}: {e}") from e
    tag = delivery.etag(what, *version, messages.key_of(hit))
    self._file(io.BytesIO(data), len(data), kind, tag, changed / 1e9)

  def _file(self, file: Any, size: int, kind: str, tag: str, changed: float) -> None:
    answer = delivery.answer(self.headers, size, tag, changed, self.command == "GET")
    self._head(answer.status, answer.headers | {"Content-Type": kind})
    if self.command == "GET" and answer.count:
      self.wfile.flush()
      sent = self.connection.sendfile(file, answer.start, answer.count)
      if sent != answer.count:  # cut short since: the client must not wait for more
        self.close_connection = True

  def _json(self, value: dict[str, Any]) -> None:
    data = json.dumps(value, allow_nan=False).encode()
    length = {"Content-Type": "application/json", "Content-Length": str(len(data))}
    self._head(200, length)
    if self.command != "HEAD":
      self.wfile.write(data)

  def _refuse(self, status: int, reason: str, **headers: str) -> None:
    if self._begun:
      self.close_connection = True
      return
    data = f"{reason}\n".encode(errors="replace")
    told = {"Content-Type": "text/plain; charset=utf-8"}
    # What is left of a body would be read as the next request.
    told |= {"Content-Length": str(len(data)), "Connection": "close"}
    with contextlib.suppress(OSError):
      self._head(status, told | headers)
      if self.command != "HEAD":
        self.wfile.write(data)
      self.wfile.flush()

  def _head(self, status: int, headers: dict[str, str]) -> None:
    self._begun = True
    self.send_response(status)
    for name, value in (_HEADERS | headers).items():
      self.send_header(name, value)
    self.end_headers()

  def send_error(self, code: int, message: str | None = None, explain=None) -> None:
    """What the base refuses (no HTTP, too long): as all that we refuse."""
    del explain
    self._refuse(code, message or HTTPStatus(code).phrase)

  def log_message(self, format: str, *args: Any) -> None:
    pass  # requests are no news; they may hold the token


class _Patient(io.RawIOBase):
  """A socket to read from that has an end to its patience, not only between bytes."""

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
