"""The page: a searcher behind HTTP, on the standard library's server alone.

  /  /app.js  /style.css  /icon.svg     the page
  /api/info                             model, number of clips, folders, some clips
  /api/search                           POST: a JSON object, see api.py
  /poster/INDEX/ROW                     JPEG of a clip's middle
  /media/INDEX/ROW                      the file a clip is part of; ranges
  /preview/INDEX/ROW                    the clip as H.264, for what no browser plays

No request names a file: clips are asked for by their place in an index, and `?clip=`
says which one was meant, should the index have become another one.
"""

import contextlib
import hashlib
import importlib.resources
import signal
import socket
import socketserver
import threading
from collections.abc import Sequence
from http.server import ThreadingHTTPServer
from typing import Any

from vtr_jax.core.errors import ConfigError
from vtr_jax.search.searcher import Searcher
from vtr_jax.search.server import delivery
from vtr_jax.search.server.access import Access
from vtr_jax.search.server.handler import Handler
from vtr_jax.search.server.library import Library

_MAX_CLIENTS = 64  # ours: connections at once; a browser opens six

_PAGE = {
  "/": ("index.html", "text/html; charset=utf-8"),
  "/app.js": ("app.js", "text/javascript; charset=utf-8"),
  "/style.css": ("style.css", "text/css; charset=utf-8"),
  "/icon.svg": ("icon.svg", "image/svg+xml"),
}


def main(
  indexes: Sequence[str], checkpoint: str, host: str, port: int, token: str
) -> None:
  """Serves indexes until SIGINT or SIGTERM; prints the address.

  Raises:
    VtrError: as `Searcher.open` and `serve`.
  """
  serve(Searcher.open(*indexes, checkpoint=checkpoint), host, port, token)


def serve(
  searcher: Searcher, host: str = "127.0.0.1", port: int = 8000, token: str = ""
) -> None:
  """The same of a searcher.

  Args:
    searcher: model and indexes; what is written to these later is found too.
    host: name or address to bind to. Any but this machine's own needs a token.
    port: to bind to; 0 takes a free one.
    token: that a browser must bring once, in the address; "" makes one if needed.

  Raises:
    ConfigError: the address cannot be bound, or the token cannot be used.
  """
  server = Server(searcher, host, port, token)
  with contextlib.suppress(KeyboardInterrupt), server:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.set_wakeup_fd(-1)  # the end takes what it takes: nothing cuts it short
    info = server.library.info()
    print(
      f"{info['clips']:,} clips of {info['videos']:,} files: {server.url}  "
      "(Ctrl-C ends)",
      flush=True,
    )
    try:
      server.serve_forever()
    finally:
      server.library.settle()


class Server(ThreadingHTTPServer):
  """One thread a connection; `serve_forever` and `shutdown` as in its base."""

  request_queue_size = _MAX_CLIENTS

  def __init__(self, searcher: Searcher, host: str, port: int, token: str = ""):
    self.access, self.page = Access(host, token), _read_page()
    self._room = threading.BoundedSemaphore(_MAX_CLIENTS)
    self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
      super().__init__((host, port), Handler)
    except (OSError, OverflowError) as e:
      reason = getattr(e, "strerror", None) or e
      raise ConfigError(
        f"--host={host} --port={port}: {reason}; give another one"
      ) from e
    try:
      self.library = Library(searcher)
    except BaseException:
      self.server_close()
      raise

  @property
  def port(self) -> int:
    return self.server_address[1]

  @property
  def cookie(self) -> str:
    """Cookies are for all ports of a host; two servers must not share one."""
    return f"vtr_search_{self.port}"

  @property
  def url(self) -> str:
    """Where the page is, with the token if it needs one."""
    host = str(self.server_address[0])
    if host in ("0.0.0.0", "::"):
      host = socket.gethostname()
    name = f"[{host}]" if ":" in host else host
    query = f"?token={self.access.token}" if self.access.token else ""
    return f"http://{name}:{self.port}/{query}"

  def server_bind(self) -> None:
    # The base would ask the network for this machine's full name.
    socketserver.TCPServer.server_bind(self)
    self.server_name, self.server_port = str(self.server_address[0]), self.port

  def process_request(self, request: Any, client_address: Any) -> None:
    # In a burst, some are about to leave; whoever does not is not waited for long.
    if self._room.acquire(timeout=1.0):
      super().process_request(request, client_address)
    else:
      self.shutdown_request(request)

  def process_request_thread(self, request: Any, client_address: Any) -> None:
    try:
      super().process_request_thread(request, client_address)
    finally:
      self._room.release()

  def handle_error(self, request: Any, client_address: Any) -> None:
    pass  # clients that hang up; what fails in an answer is reported by the handler


def _read_page() -> dict[str, tuple[bytes, str, str]]:
  """Path -> (bytes, type, ETag) of the files that make the page."""
  folder, page = importlib.resources.files("vtr_jax.search.server") / "page", {}
  for path, (name, kind) in _PAGE.items():
    data = (folder / name).read_bytes()
    tag = delivery.etag(hashlib.blake2b(data, digest_size=8).hexdigest())
    page[path] = data, kind, tag
  return page
