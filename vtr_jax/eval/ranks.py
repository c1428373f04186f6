"""Cosine similarities, and retrieval ranks without the full similarity matrix.

Both work in tiles, computed in float64 and rounded to float32: equal embeddings then
have equal scores wherever they are in the matrix, and `ranks` agrees exactly with
metrics.py on the matrix of `cosines`.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int, Real

from vtr_jax.core.errors import DataError, NotFiniteError
from vtr_jax.eval import metrics

SIMILARITY = "cosine, products in float64, rounded to float32"  # in protocols
TILE = 2048  # texts and videos per tile: 50 MB of scores


def cosines(
  text: Float[np.ndarray, "t e"], video: Float[np.ndarray, "v e"]
) -> Float[np.ndarray, "t v"]:
  """Cosine similarities of unit-norm embeddings, float32.

  Raises:
    DataError: the embeddings do not fit each other.
  """
  _check(text, video)
  result = np.empty((len(text), len(video)), np.float32)
  for rows, columns in _tiles(len(text), len(video)):
    result[rows, columns] = _product(text, video, rows, columns)
  return result


def ranks(
  text: Float[np.ndarray, "t e"],
  video: Float[np.ndarray, "v e"],
  owner: Int[np.ndarray, " t"],
  ties: metrics.Ties = "average",
) -> tuple[Real[np.ndarray, " t"], Real[np.ndarray, " w"]]:
  """`metrics.text_to_video_ranks` and `video_to_text_ranks` of `cosines`.

  Holds one tile at a time. Tiles with a text's own video are computed twice: few if
  `owner` ascends.

  Raises:
    DataError: the embeddings do not fit each other or are not finite, or `owner` does
      not fit them.
    ConfigError: unknown `ties`.
  """
  _check(text, video)
  owner = metrics.check_owner(owner, (len(text), len(video)), ties)
  own = _own_scores(text, video, owner)
  best = np.full(len(video), -np.inf, np.float32)
  np.maximum.at(best, owner, own)
  better = np.zeros(len(text), np.int64), np.zeros(len(video), np.int64)
  equal = np.zeros(len(text), np.int64), np.zeros(len(video), np.int64)
  for rows, columns in _tiles(len(text), len(video)):
    tile = _product(text, video, rows, columns)
    better[0][rows] += np.count_nonzero(tile > own[rows, None], axis=1)
    equal[0][rows] += np.count_nonzero(tile == own[rows, None], axis=1)
    better[1][columns] += np.count_nonzero(tile > best[columns], axis=0)
    equal[1][columns] += np.count_nonzero(tile == best[columns], axis=0)
  videos = np.unique(owner)
  return (
    metrics.ranks_of(better[0], equal[0], ties),
    metrics.ranks_of(better[1][videos], equal[1][videos], ties),
  )


def _own_scores(text: np.ndarray, video: np.ndarray, owner: np.ndarray) -> np.ndarray:
  """Score of each text with its own video, bitwise identical to its tile's."""
  own = np.empty(len(text), np.float32)
  for rows, columns in _tiles(len(text), len(video)):
    inside = np.arange(len(text))[rows]
    inside = inside[(owner[rows] >= columns.start) & (owner[rows] < columns.stop)]
    if len(inside):
      tile = _product(text, video, rows, columns)
      own[inside] = tile[inside - rows.start, owner[inside] - columns.start]
  return own


def _tiles(texts: int, videos: int) -> Iterator[tuple[slice, slice]]:
  for row in range(0, texts, TILE):
    for column in range(0, videos, TILE):
      yield slice(row, row + TILE), slice(column, column + TILE)


def _product(
  text: np.ndarray, video: np.ndarray, rows: slice, columns: slice
) -> np.ndarray:
  wide = text[rows].astype(np.float64) @ video[columns].astype(np.float64).T
  return wide.astype(np.float32)


def _check(text: np.ndarray, video: np.ndarray) -> None:
  """Rejects embeddings of unfit shapes; names the first that is not finite."""
  fits = text.ndim == video.ndim == 2 and text.shape[1:] == video.shape[1:]
  if not fits or not text.size or not video.size:
    raise DataError(
      f"embeddings: texts {text.shape} and videos {video.shape} cannot be compared; "
      "give [count, width] of equal width"
    )
  for name, values in dict(text=text, video=video).items():
    invalid = ~np.isfinite(values).all(axis=1)
    if invalid.any():
      raise NotFiniteError(
        f"embeddings: {name} {invalid.argmax()} is not finite: the weights have "
        "diverged or did not load, or the input is damaged"
      )
