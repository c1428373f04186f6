"""Searches one or several indexes by text, by an image, or by another clip."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from vtr_jax.core.config import require
from vtr_jax.core.errors import BadSample, ConfigError, DataError
from vtr_jax.eval import rescore
from vtr_jax.inference import windows
from vtr_jax.inference.load import load
from vtr_jax.inference.model import LoadedModel, parallel_map
from vtr_jax.moments import refine
from vtr_jax.moments.refine import Moment
from vtr_jax.search import store, topk
from vtr_jax.search.query import Query


class Hit(NamedTuple):
  """A clip of a result.

  score: cosine with the query; with `rerank`, the score of `rescore.matching`.
  path: of its file, absolute. name: path below the indexed folder, with /.
  start, end: seconds. index, row: its position, as `Query.like` takes it.
  """

  score: float
  path: str
  name: str
  start: float
  end: float
  index: int
  row: int


class Searcher:
  """A model and the indexes built with it.

      searcher = Searcher.open("index")
      for hit in searcher.query(text="a dog jumps over a fence"):
        print(hit.score, hit.path, hit.start)

  An index is searched as it was when it was opened.
  """

  def __init__(self, model: LoadedModel, indexes: Sequence[str | os.PathLike]):
    """Opens the indexes.

    Raises:
      DataError: one cannot be read, or was made with another model.
    """
    require(bool(indexes), "index: none; name one or more")
    self.model = model
    self.indexes = [store.open(directory) for directory in indexes]
    for index in self.indexes:
      if index.header.model != model.id or index.header.dim != model.dim:
        raise DataError(
          f"{index.directory}: was made with the model {index.header.model}, not with "
          f"{model.id}; give that one's --checkpoint, or index again into another --out"
        )
    self._rows = [topk.Rows(index.vectors) for index in self.indexes]

  @classmethod
  def open(cls, *indexes: str | os.PathLike, checkpoint: str = "") -> "Searcher":
    """Opens indexes with the model of the first one, or that of `checkpoint`.

    Raises:
      DataError: as above. CheckpointError: the model cannot be read.
      ConfigError: the index does not name its checkpoint.
    """
    require(bool(indexes), "index: none; name one or more")
    checkpoint = checkpoint or store.header(indexes[0]).checkpoint
    require(bool(checkpoint), "--checkpoint: missing; the index does not name one")
    return cls(load(checkpoint), indexes)

  def query(self, query: Query | None = None, **parameters: Any) -> list[Hit]:
    """The best hits, best first; ties in the order of the index.

    Args:
      query: what to search for.
      **parameters: the fields of a Query, instead of one.

    Raises:
      ConfigError: the query is not a valid one, or `rerank` without a matching head.
      DataError: image or clip cannot be read; `like` is not a clip of the index.
    """
    query = query or Query(**parameters)
    if query.rerank and not self.model.has_match_head:
      raise ConfigError(f"rerank: {self.model.name} has no matching head; use 0")
    vector, count = self._embed(query), max(query.top, query.rerank)
    results = [
      rows.top(vector[None], count, self._allowed(index, query.folder))
      for rows, index in zip(self._rows, self.indexes, strict=True)
    ]
    scores, numbers, rows = topk.best(results, count)
    triples = zip(scores[0], numbers[0], rows[0], strict=True)
    hits = [self._hit(float(s), int(i), int(r)) for s, i, r in triples]
    if query.rerank:
      hits = self._rerank(query.text.strip(), hits)
    return hits[: query.top]

  def moment(self, text: str, hit: Hit) -> Moment | None:
    """The part of a hit, or just outside it, that fits the text best.

    None for an image, and where a clip is shorter than a second.

    Raises:
      DataError: the file cannot be read, or the text is empty.
    """
    vector = self.model.embed_text([text.strip()])[0]
    try:
      return refine.refine(hit.path, hit.start, hit.end, vector, self.model)
    except (BadSample, OSError) as e:
      reason = e.strerror if isinstance(e, OSError) else e
      raise DataError(f"{hit.path}: {reason}; index the folder again") from e

  def _embed(self, query: Query) -> Float[np.ndarray, " e"]:
    if query.like is not None:
      number, row = query.like
      require(0 <= number < len(self.indexes), f"like: there is no index {number}")
      index = self.indexes[number]
      index.owner(row)
      return index.vectors[row].astype(np.float32)
    if query.clip is not None:
      path, start, end = query.clip
      try:
        clip = windows.clip(path, start, end, self.model)
      except (BadSample, OSError) as e:
        reason = e.strerror if isinstance(e, OSError) else e
        raise DataError(f"{path}: {reason}; choose another clip") from e
      return self.model.embed_clips([clip.frames])[0]
    if query.image is not None:
      return self.model.embed_video([query.image])[0]
    return self.model.embed_text([query.text.strip()])[0]

  def _allowed(self, index: store.Index, folder: str) -> Bool[np.ndarray, " n"]:
    return index.under(folder) if folder else index.live

  def _hit(self, score: float, number: int, row: int) -> Hit:
    index = self.indexes[number]
    file = index.owner(row)
    start, end = index.times[row].tolist()
    return Hit(score, index.path(file), file.path, start, end, number, row)

  def _rerank(self, text: str, hits: list[Hit]) -> list[Hit]:
    """Hits ordered by the scores of `rescore.matching`."""
    clips = zip(hits, parallel_map(self._frames, ((hit,) for hit in hits)), strict=True)
    pairs = [(hit, frames) for hit, frames in clips if frames is not None]
    log_odds = self.model.match_logits(
      [text] * len(pairs), (frames for _, frames in pairs)
    )
    cosines = np.array([hit.score for hit, _ in pairs], np.float32)
    weight = self.model.objective.match_weight
    scores = rescore.matching(cosines, log_odds, weight)
    order = np.argsort(-scores, kind="stable")
    return [pairs[i][0]._replace(score=float(scores[i])) for i in order]

  def _frames(self, hit: Hit) -> UInt8[np.ndarray, "t s s 3"] | None:
    try:
      return windows.clip(hit.path, hit.start, hit.end, self.model).frames
    except (BadSample, OSError):
      return None
