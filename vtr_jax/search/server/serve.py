"""Serves the search page, with the standard library's HTTP server.

  /  /app.js  /style.css  /icon.svg     the page
  /api/info                             model, number of clips, folders, some clips
  /api/search                           POST: a JSON object, see messages.py
  /poster/INDEX/ROW                     JPEG of a clip's middle
  /media/INDEX/ROW                      the file a clip is part of; ranges
  /preview/INDEX/ROW                    the clip as H.264, if the browser needs it
  /moment/INDEX/ROW?text=               the part of the clip that fits a text best

No request names a file: clips are requested by their row in an index, and `?clip=`
has their key, in case the index has changed.
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
  """Serves the page of a searcher until SIGINT or SIGTERM; prints the address.

  Args:
    searcher: model and indexes; later commits to these are searched too.
    host: name or address to bind to. Any but a local one needs a token.
    port: to bind to; 0 = a free one.
    token: that a browser must pass once, in the address; "" = a random one if needed.

  Raises:
    ConfigError: the address cannot be bound, or the token cannot be used.
  """
  server = Server(searcher, host, port, token)
  with contextlib.suppress(KeyboardInterrupt), server:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.set_wakeup_fd(-1)  # the exit is not limited by core.shutdown's grace period
    info = server.library.info()
    print(
      f"{info['clips']:,} clips of {info['videos']:,} files: {server.url}  "
      "(Ctrl-C ends)",
      flush=True,
    )
    try:
      server.serve_forever()
    finally:
      server.library.finish()


class Server(ThreadingHTTPServer):
  """One thread per connection; `serve_forever` and `shutdown` as in its base class."""

  request_queue_size = _MAX_CLIENTS

  def __init__(self, searcher: Searcher, host: str, port: int, token: str = ""):
    self.access, self.page = Access(host, token), _read_page()
    self._slots = threading.BoundedSemaphore(_MAX_CLIENTS)
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
    """Name of the cookie, by port: cookies are shared by all ports of a host."""
    return f"vtr_search_{self.port}"

  @property
  def url(self) -> str:
    """Address of the page, with the token if it needs one."""
    host = str(self.server_address[0])
    if host in ("0.0.0.0", "::"):
      host = socket.gethostname()
    name = f"[{host}]" if ":" in host else host
    query = f"?token={self.access.token}" if self.access.token else ""
    return f"http://{name}:{self.port}/{query}"

  def server_bind(self) -> None:
    # The base class would look up this machine's full name in the network.
    socketserver.TCPServer.server_bind(self)
    self.server_name, self.server_port = str(self.server_address[0]), self.port

  def process_request(self, request: Any, client_address: Any) -> None:
    # In a burst, some connections are about to close.
    if self._slots.acquire(timeout=1.0):
      super().process_request(request, client_address)
    else:
      self.shutdown_request(request)

  def process_request_thread(self, request: Any, client_address: Any) -> None:
    try:
      super().process_request_thread(request, client_address)
    finally:
      self._slots.release()

  def handle_error(self, request: Any, client_address: Any) -> None:
    pass  # clients that hang up; the handler logs other errors


def _read_page() -> dict[str, tuple[bytes, str, str]]:
  """Path -> (bytes, type, ETag) of the files of the page."""
  folder, page = importlib.resources.files("vtr_jax.search.server") / "page", {}
  for path, (name, kind) in _PAGE.items():
    data = (folder / name).read_bytes()
    tag = delivery.etag(hashlib.blake2b(data, digest_size=8).hexdigest())
    page[path] = data, kind, tag
  return page
