"""A searcher without a model, and its server, for tests of the page."""

import contextlib
import io
import os
import threading
import types

import clips
import numpy as np
from PIL import Image

from vtr_jax.core.errors import DataError
from vtr_jax.moments.refine import Moment
from vtr_jax.search import store
from vtr_jax.search.query import Query
from vtr_jax.search.searcher import Hit, Searcher
from vtr_jax.search.server.serve import Server
from vtr_jax.search.writer import Writer

SECONDS, FPS = 10, 8  # of each video
MODEL = types.SimpleNamespace(name="fake", id="fake@1", dim=2, has_match_head=True)


class FakeSearcher(Searcher):
  """Scores a clip by how many words of the query its name has, then by its row."""

  def __init__(self, model, places):
    self.model, self.indexes = model, [store.open(place) for place in places]
    self.asked: list[dict] = []

  def query(self, query=None, **parameters):
    query = query or Query(**parameters)
    text, image, like, top = query.text, query.image, query.like, query.top
    rerank, folder = query.rerank, query.folder
    self.asked.append(dict(text=text, image=image, like=like, rerank=rerank))
    if text == "break":
      raise RuntimeError("secret\nwords")
    if text == "refuse":
      raise DataError("text 0: is refused; ask otherwise")
    if image is not None:
      try:
        Image.open(io.BytesIO(image)).load()
      except OSError as e:
        raise DataError("video 0: not a video") from e
    found = []
    for number, index in enumerate(self.indexes):
      for row in np.flatnonzero(index.under(folder)).tolist():
        name = index.owner(row).path
        score = sum(word in name for word in text.split()) - row / 100
        score -= abs(row - like[1]) if like else 0
        path = index.path(index.owner(row))
        found.append(Hit(score, path, name, *index.times[row], number, row))
    return sorted(found, key=lambda hit: -hit.score)[:top]

  def moment(self, text, hit):
    if not os.path.exists(hit.path):
      raise DataError(f"{hit.path}: No such file or directory; index the folder again")
    return moment_of(hit) if text.startswith("cut") and hit.end else None


def moment_of(hit):
  """The second tenth of a clip."""
  length = hit.end - hit.start
  start, curve = hit.start + length / 10, (0.0, 0.25, *[-0.05] * 8)
  return Moment(start, start + length / 10, 0.25, hit.start, hit.end, curve)


def index(folder, names, out, windows=((0.0, 5.0), (4.0, 6.0))):
  """Writes or updates an index: two clips per video, one per image."""
  header = store.Header(MODEL.id, "", MODEL.dim, str(folder), 5.0, 1.0, False)
  with Writer(out, header) as writer:
    for name in writer.files.keys() - set(names):
      writer.drop(name)
    for name in names:
      if name not in writer.files:
        times = ((0.0, 0.0),) if name.endswith(".png") else windows
        file = store.File(name, 1, 1, name, 0, 0)
        writer.add(file, np.ones((len(times), MODEL.dim)), np.array(times))


def searcher(folder, names):
  """A searcher of an index next to the folder."""
  out = folder.parent / f"{folder.name}-index"
  index(folder, names, out)
  return FakeSearcher(MODEL, [out])


def video(seed: int) -> bytes:
  """A video of ten seconds that a browser can play."""
  return clips.mp4(SECONDS * FPS, fps=FPS, seed=seed, movflags="faststart")


@contextlib.contextmanager
def served(searcher, host="127.0.0.1", token=""):
  """The server, running on a free port."""
  with Server(searcher, host, 0, token) as server:
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
      yield server
    finally:
      server.shutdown()
      thread.join()
