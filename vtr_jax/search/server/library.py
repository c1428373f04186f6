"""The searcher behind the page: clips, their files, and one search at a time."""

import io
import math
import threading
import time
from typing import Any

import numpy as np
from absl import logging

from vtr_jax.core.errors import DataError, VtrError, printable
from vtr_jax.search.searcher import Hit, Searcher
from vtr_jax.search.server import delivery, messages
from vtr_jax.search.server.delivery import HTTPError

_MAX_FOLDERS = 500  # ours: in the list of folders
_SAMPLE = 12  # ours: clips shown before the first search


class Library:
  """A searcher for many threads, whose indexes may be updated meanwhile."""

  def __init__(self, searcher: Searcher):
    self._searcher, self._lock = searcher, threading.Lock()
    self._versions = self._on_disk()
    # Compiles, and fails before the first request.
    searcher.query(text="a", top=messages.TOP)

  def info(self) -> dict[str, Any]:
    """The information that the page shows before a search."""
    with self._lock:
      self._refresh()
      indexes, model = self._searcher.indexes, self._searcher.model
    names = [f.path for index in indexes for f in index.files.values() if f.clips]
    live = [(i, row) for i, x in enumerate(indexes) for row in _sample(x.live)]
    step = max(len(live) // _SAMPLE, 1)
    sample = [self.hit(*position)._replace(score=0.0) for position in live[::step]]
    return dict(
      model=model.name,
      clips=int(sum(index.live.sum() for index in indexes)),
      videos=len(names),
      folders=_folders(names)[:_MAX_FOLDERS],
      rerank=model.has_match_head,
      sample=[messages.hit_json(hit) for hit in sample[:_SAMPLE]],
    )

  def search(self, search: messages.Search) -> dict[str, Any]:
    """The best hits and the seconds of the search."""
    with self._lock:  # a query uses all cores
      self._refresh()
      if search.query.like:
        self.hit(*search.query.like, search.clip)
      start = time.monotonic()
      try:
        hits = self._searcher.query(search.query)
      except DataError as e:
        if search.query.image is None:
          raise
        raise HTTPError(400, "this image cannot be read; try another one") from e
      seconds = time.monotonic() - start
    return dict(
      hits=[messages.hit_json(hit) for hit in hits], seconds=round(seconds, 4)
    )

  def moment(self, hit: Hit, text: str) -> dict[str, Any]:
    """The moment of a text in a clip, as JSON; {} if the clip is too short to be cut.

    Raises:
      HTTPError: there is no text, or the file cannot be read.
    """
    messages.check_text(text)
    with self._lock:
      try:
        found = self._searcher.moment(text, hit)
      except DataError as e:
        raise HTTPError(404, f"{printable(hit.name)}: cannot be read") from e
    return found._asdict() if found else {}

  def hit(self, index: int, row: int, clip: str = "") -> Hit:
    """The clip at a row of an index.

    Args:
      index: number of the index.
      row: of the clip.
      clip: its `messages.key_of`; "" = not checked.

    Raises:
      HTTPError: there is no such clip, or its key differs.
    """
    try:
      store = self._searcher.indexes[index]
      file = store.owner(row)
    except (IndexError, DataError):
      raise HTTPError(404, "no such clip any more; search again") from None
    start, end = store.times[row].tolist()
    hit = Hit(math.nan, store.path(file), file.path, start, end, index, row)
    if clip and clip != messages.key_of(hit):
      raise HTTPError(410, "the index has changed; search again")
    return hit

  def open(self, hit: Hit) -> io.BufferedIOBase:
    """The file that a clip is part of; raises HTTPError."""
    root = self._searcher.indexes[hit.index].header.root
    return delivery.open_inside(hit.path, root, printable(hit.name))

  def finish(self) -> None:
    """Waits for a running search, so that no device computation is cut off."""
    self._lock.acquire(timeout=10)

  def _refresh(self) -> None:
    """Reopens the indexes if one has changed."""
    now = self._on_disk()
    if now == self._versions:
      return
    self._versions, before = now, self._searcher
    directories = [index.directory for index in before.indexes]
    try:
      self._searcher = type(before)(before.model, directories)
    except VtrError as e:
      logging.error("an index cannot be read, the previous one is used: %s", e)

  def _on_disk(self) -> list[tuple[int, ...]]:
    """Identity of the manifests; differs once an index is written to."""
    versions = []
    for index in self._searcher.indexes:
      try:
        stat = (index.directory / "manifest.json").stat()
        versions.append((stat.st_ino, stat.st_mtime_ns, stat.st_size))
      except OSError:
        versions.append(())
    return versions


def _sample(live: np.ndarray) -> list[int]:
  """Evenly spaced live rows."""
  rows = np.flatnonzero(live)
  return rows[:: max(len(rows) // _SAMPLE, 1)].tolist()


def _folders(names: list[str]) -> list[str]:
  """Folders with files, and their parents, each with / at its end."""
  folders = set()
  for name in names:
    end = name.rfind("/")
    while end > 0 and name[: end + 1] not in folders:
      folders.add(name[: end + 1])
      end = name.rfind("/", 0, end)
  return sorted(folders)
