"""Queries of one or several indexes: by words, by an image, by another clip."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from vtr_jax.core.config import require
from vtr_jax.core.errors import BadSample, ConfigError, DataError
from vtr_jax.inference.model import Model, ahead, load
from vtr_jax.search import store, topk, windows


class Hit(NamedTuple):
  """A clip that was found.

  score: cosine with the query; log-odds of the matching head if ranked again by it.
  path: of its file, absolute. name: the same below the folder that was indexed, with /.
  start, end: seconds. index, row: which one it is, as `like` takes it.
  """

  score: float
  path: str
  name: str
  start: float
  end: float
  index: int
  row: int


class Searcher:
  """A model, and indexes that were made with it.

      searcher = Searcher.open("index")
      for hit in searcher.query(text="a dog jumps over a fence"):
        print(hit.score, hit.path, hit.start)

  An index is searched as it was when it was opened.
  """

  def __init__(self, model: Model, indexes: Sequence[str | os.PathLike]):
    """Opens the indexes.

    Raises:
      DataError: one cannot be read, or was made with another model.
    """
    require(bool(indexes), "index: none; name one or more")
    self.model = model
    self.indexes = [store.open(place) for place in indexes]
    for index in self.indexes:
      if index.header.model != model.id or index.header.dim != model.dim:
        raise DataError(
          f"{index.place}: was made with the model {index.header.model}, not with "
          f"{model.id}; give that one's --checkpoint, or index anew into another --out"
        )
    self._rows = [topk.Rows(index.vectors) for index in self.indexes]

  @classmethod
  def open(cls, *indexes: str | os.PathLike, checkpoint: str = "") -> "Searcher":
    """The same, of the model that made the first index, or that is in `checkpoint`.

    Raises:
      DataError: as above. CheckpointError: the model cannot be read.
      ConfigError: the index does not tell where its model is.
    """
    require(bool(indexes), "index: none; name one or more")
    checkpoint = checkpoint or store.header(indexes[0]).checkpoint
    require(bool(checkpoint), "--checkpoint: missing; the index does not name one")
    return cls(load(checkpoint), indexes)

  def query(
    self,
    *,
    text: str = "",
    image: str | os.PathLike | bytes | None = None,
    clip: tuple[str | os.PathLike, float, float] | None = None,
    like: tuple[int, int] | None = None,
    top: int = 10,
    rerank: int = 0,
    folder: str = "",
  ) -> list[Hit]:
    """The clips that fit best, best first; of equal ones the first that was indexed.

    Args:
      text: words; as of a caption, what exceeds the model's length is cut off.
      image: a file, or the bytes of one. This and the next are not left out of what is
        found where they are in the index.
      clip: of any video: path, start and end in seconds.
      like: a clip of an index: `index` and `row` of a Hit.
      top: how many.
      rerank: so many of the best, `top` or more, are ranked again by the matching head,
        which reads text and clip together; 0 = none. Files that are gone are left out.
      folder: the path below the indexed folder begins with it; "cats/" is a folder.

    Raises:
      ConfigError: no query, or more than one; `top` or `rerank` cannot be.
      DataError: image or clip cannot be read; `like` is no clip.
    """
    text = text.strip()
    given = [bool(text), image is not None, clip is not None, like is not None]
    require(any(given), "query: empty; give words, an image or a clip")
    require(sum(given) == 1, "query: give one of words, image, clip and like")
    require(top >= 1, f"top: {top}; must be 1 or more")
    require(rerank >= 0, f"rerank: {rerank}; must be 0 or more")
    if rerank:
      require(bool(text), "rerank: is for words; leave it out")
      if not self.model.has_match_head:
        raise ConfigError(f"rerank: {self.model.name} has no matching head; use 0")
    vector = self._vector(text, image, clip, like)
    found = [
      rows.top(vector[None], max(top, rerank), self._allowed(index, folder))
      for rows, index in zip(self._rows, self.indexes, strict=True)
    ]
    scores, numbers, rows = topk.best(found, max(top, rerank))
    triples = zip(scores[0], numbers[0], rows[0], strict=True)
    hits = [self._hit(float(s), int(i), int(r)) for s, i, r in triples]
    return (self._again(text, hits) if rerank else hits)[:top]

  def _vector(self, text, image, clip, like) -> Float[np.ndarray, " e"]:
    if like is not None:
      number, row = like
      require(0 <= number < len(self.indexes), f"like: there is no index {number}")
      index = self.indexes[number]
      index.owner(row)
      return index.vectors[row].astype(np.float32)
    if text:
      return self.model.embed_text([text])[0]
    if clip is None:
      return self.model.embed_video([image])[0]
    path, start, end = clip
    try:
      found = windows.clip(path, start, end, self.model)
    except (BadSample, OSError) as e:
      reason = e.strerror if isinstance(e, OSError) else e
      raise DataError(f"{path}: {reason}; choose another clip") from e
    return self.model.embed_clips([found.frames])[0]

  def _allowed(self, index: store.Index, folder: str) -> Bool[np.ndarray, " n"]:
    return index.under(folder) if folder else index.live

  def _hit(self, score: float, number: int, row: int) -> Hit:
    index = self.indexes[number]
    file = index.owner(row)
    start, end = index.times[row].tolist()
    return Hit(score, index.path(file), file.path, start, end, number, row)

  def _again(self, text: str, hits: list[Hit]) -> list[Hit]:
    """Hits by what the matching head says of them."""
    found = zip(hits, ahead(self._seen, ((hit,) for hit in hits)), strict=True)
    pairs = [(hit, frames) for hit, frames in found if frames is not None]
    scores = self.model.match_logits(
      [text] * len(pairs), (frames for _, frames in pairs)
    )
    order = np.argsort(-scores, kind="stable")
    return [pairs[i][0]._replace(score=float(scores[i])) for i in order]

  def _seen(self, hit: Hit) -> UInt8[np.ndarray, "t s s 3"] | None:
    try:
      return windows.clip(hit.path, hit.start, hit.end, self.model).frames
    except (BadSample, OSError):
      return None
