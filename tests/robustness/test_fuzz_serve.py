"""Damaged requests to the page's server: an answer, never an error of its own."""

import json
import socket
import types

import clips
import fuzz
import page
import pytest
from absl import logging
from mutations import edited_bytes, mutate, text

from vtr_jax.search.server import serve
from vtr_jax.search.server.access import Access
from vtr_jax.search.server.handler import Handler
from vtr_jax.search.server.library import Library

ASKED = dict(text="red", like=[0, 1], clip="ab", top=5, rerank=0, folder="a/")
PATHS = (
  *("/", "/app.js", "/api/info", "/poster/0/0", "/media/0/1?clip=x", "/preview/0/0"),
  *("/api/search", "/media/0/0", "/media/../../etc/passwd", "/?token=ab", "*"),
)
HEADERS = (
  *("Host: localhost", "Range: bytes=0-9", "Range: bytes=-5", "Range: bytes=9-2,3-"),
  *('If-None-Match: "x", *', "If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT"),
  *("If-Range: x", "Content-Length: 5", "Transfer-Encoding: chunked", "Cookie: a=b; c"),
  *("Sec-Fetch-Site: none", "Expect: 100-continue", "Connection: keep-alive"),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
  """What a handler needs of a server, without one."""
  place = tmp_path_factory.mktemp("videos")
  for name in ("a/red.mp4", "b.mp4"):
    (place / name).parent.mkdir(exist_ok=True)
    (place / name).write_bytes(clips.mp4(8, 32, 32))
  library = Library(page.searcher(place, ("a/red.mp4", "b.mp4")))
  return types.SimpleNamespace(
    place=place,
    access=Access("127.0.0.1"),
    cookie="c",
    library=library,
    page=serve._read_page(),
  )


class _Handler(Handler):
  disable_nagle_algorithm = False  # which these sockets do not know


def answers(server, data):
  """What comes back for bytes; the handler runs in this thread."""
  ours, theirs = socket.socketpair()
  with ours, theirs:
    for end in (ours, theirs):
      end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    ours.sendall(data)
    ours.shutdown(socket.SHUT_WR)
    with fuzz.bounded():
      _Handler(theirs, ("127.0.0.1", 1), server)
    theirs.shutdown(socket.SHUT_WR)
    return b"".join(iter(lambda: ours.recv(1 << 16), b""))


def request(rng):
  """One or two requests, mutated."""
  body = b""
  method, path = rng.choice(("GET", "GET", "HEAD", "POST", "PUT")), rng.choice(PATHS)
  headers = ["Host: localhost", *rng.sample(HEADERS, rng.randrange(4))]
  if method == "POST":
    path = rng.choice(("/api/search", "/api/search", path))
    body = mutate(ASKED, rng) if rng.random() < 0.8 else b'{"text": "red"}'
    headers += [f"Content-Length: {len(body)}", "Content-Type: application/json"]
  if rng.random() < 0.5:
    headers[rng.randrange(len(headers))] += text(rng)
  if rng.random() < 0.4:
    path += rng.choice(("?", "/", "")) + text(rng)
  head = "\r\n".join((f"{method} {path} HTTP/1.1", *headers))
  head = head.encode(errors="replace")
  if rng.random() < 0.5:
    head = edited_bytes(head, rng, rng.randint(1, 2))
  return head + b"\r\n\r\n" + body


@fuzz.sized(30, 6000)
def test_damaged_request_is_answered(record_property, monkeypatch, server, count):
  told = []
  monkeypatch.setattr(logging, "error", lambda text, *args: told.append(text % args))

  def check(data):
    told.clear()
    got = answers(server, data)
    assert not told
    assert str(server.place).encode() not in got
    got = got.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    if got.startswith(b"HTTP/"):  # else as before there were headers
      line, _, rest = got.partition(b"\r\n")
      version, status, _ = line.split(b" ", 2)
      assert version == b"HTTP/1.1"
      assert 200 <= int(status) < 500 or int(status) in (501, 505)
      assert b"\r\nX-Content-Type-Options: nosniff\r\n" in b"\r\n" + rest

  surrogate = json.dumps(dict(text="\ud800")).encode()
  post = b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
  post += b"application/json\r\nContent-Length: %d\r\n\r\n" % len(surrogate)
  fuzz.explore(record_property, "requests", count, request, check, post + surrogate)
