"""What the page asks of a searcher: clips, their files, and searches one at a time."""

import math
import threading
import time
from typing import Any, BinaryIO

import numpy as np
from absl import logging

from vtr_jax.core.errors import DataError, VtrError, printable
from vtr_jax.search.searcher import Hit, Searcher
from vtr_jax.search.server import delivery, messages
from vtr_jax.search.server.delivery import Refused

_MAX_FOLDERS = 500  # ours: to choose from
_SAMPLE = 12  # ours: clips that are shown before anything was searched


class Library:
  """A searcher for many threads, whose indexes may be brought up to date meanwhile."""

  def __init__(self, searcher: Searcher):
    self._searcher, self._lock = searcher, threading.Lock()
    self._versions = self._on_disk()
    # Compiles, and fails before the first visitor.
    searcher.query(text="a", top=messages.TOP)

  def info(self) -> dict[str, Any]:
    """What the page shows before a search."""
    with self._lock:
      self._refresh()
      indexes, model = self._searcher.indexes, self._searcher.model
    names = [f.path for index in indexes for f in index.files.values() if f.clips]
    live = [(i, row) for i, x in enumerate(indexes) for row in _spread(x.live)]
    step = max(len(live) // _SAMPLE, 1)
    sample = [self.hit(*place)._replace(score=0.0) for place in live[::step]]
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
        raise Refused(400, "this image cannot be read; try another one") from e
      seconds = time.monotonic() - start
    return dict(
      hits=[messages.hit_json(hit) for hit in hits], seconds=round(seconds, 4)
    )

  def hit(self, index: int, row: int, clip: str = "") -> Hit:
    """The clip at a row of an index.

    Args:
      index: number of the index.
      row: of the clip.
      clip: its `messages.key_of`; "" takes any.

    Raises:
      Refused: there is none, or its key differs.
    """
    try:
      store = self._searcher.indexes[index]
      file = store.owner(row)
    except (IndexError, DataError):
      raise Refused(404, "no such clip any more; search again") from None
    start, end = store.times[row].tolist()
    hit = Hit(math.nan, store.path(file), file.path, start, end, index, row)
    if clip and clip != messages.key_of(hit):
      raise Refused(410, "the index has become another one; search again")
    return hit

  def open(self, hit: Hit) -> BinaryIO:
    """The file that a clip is part of; raises Refused."""
    root = self._searcher.indexes[hit.index].header.root
    return delivery.open_inside(hit.path, root, printable(hit.name))

  def settle(self) -> None:
    """Waits for a search that runs: a device must not be left in the middle."""
    self._lock.acquire(timeout=10)

  def _refresh(self) -> None:
    """Opens the indexes again if one has changed."""
    now = self._on_disk()
    if now == self._versions:
      return
    self._versions, before = now, self._searcher
    places = [index.place for index in before.indexes]
    try:
      self._searcher = type(before)(before.model, places)
    except VtrError as e:
      logging.error("an index cannot be read, the one opened before is used: %s", e)

  def _on_disk(self) -> list[tuple[int, ...]]:
    """Identity of the manifests; differs once an index is written to."""
    found = []
    for index in self._searcher.indexes:
      try:
        stat = (index.place / "manifest.json").stat()
        found.append((stat.st_ino, stat.st_mtime_ns, stat.st_size))
      except OSError:
        found.append(())
    return found


def _spread(live: np.ndarray) -> list[int]:
  """Some of the rows that count, from all over them."""
  rows = np.flatnonzero(live)
  return rows[:: max(len(rows) // _SAMPLE, 1)].tolist()


def _folders(names: list[str]) -> list[str]:
  """Folders that hold files, and those that hold them, each with / at its end."""
  found = set()
  for name in names:
    at = name.rfind("/")
    while at > 0 and name[: at + 1] not in found:
      found.add(name[: at + 1])
      at = name.rfind("/", 0, at)
  return sorted(found)
