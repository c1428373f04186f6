"""A searcher without a model, and its server, for tests of the page."""

import contextlib
import io
import math
import threading
from typing import NamedTuple

import clips
from PIL import Image

from vtr_jax.errors import DataError
from vtr_jax.search.serve import Server

SECONDS, FPS = 10, 8  # of each video


class Hit(NamedTuple):
  score: float
  path: str
  name: str
  start: float
  end: float
  index: int
  row: int


class Searcher:
  """Scores a clip by how many of the words its name has; else by its row."""

  name, matches, videos = "fake@1", True, 0

  def __init__(self, folder, names, windows=((0.0, 5.0), (4.0, 6.0))):
    self._folder, self.asked, self.videos = folder, [], len(names)
    self._hits = [
      Hit(math.nan, str(folder / name), name, *window, 0, 2 * i + j)
      for i, name in enumerate(names)
      for j, window in enumerate(windows)
    ]
    self.clips = len(self._hits)
    self.folders = sorted({n.rsplit("/", 1)[0] for n in names if "/" in n})

  def query(self, *, text="", image=None, like=None, top=24, rerank=0, folder=""):
    self.asked.append(dict(text=text, image=image, like=like, rerank=rerank))
    if text == "break":
      raise RuntimeError("secret\nwords")
    if text == "refuse":
      raise DataError("text 0: is refused; ask otherwise")
    if image is not None:
      try:
        Image.open(io.BytesIO(image)).load()
      except OSError as e:
        raise DataError("image: cannot be read") from e

    def score(hit):
      alike = -abs(hit.row - like[1]) if like else 0
      return sum(word in hit.name for word in text.split()) + (alike - hit.row / 9) / 9

    found = [
      h._replace(score=score(h)) for h in self._hits if h.name.startswith(folder)
    ]
    return sorted(found, key=lambda h: -h.score)[:top]

  def hit(self, index, row):
    return [self._hits][index][row]

  def root(self, index):
    return [str(self._folder)][index]

  def sample(self, count):
    return [h._replace(score=0.0) for h in self._hits[:: 2 * self.clips // count or 1]]


def video(seed: int) -> bytes:
  """Ten seconds that a browser plays."""
  return clips.mp4(SECONDS * FPS, fps=FPS, seed=seed, movflags="faststart")


@contextlib.contextmanager
def served(searcher, host="127.0.0.1", token=""):
  """The server, running on a free port."""
  with Server(searcher, host, 0, token) as server:
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
