"""Cosines of many texts and videos, and their ranks without the whole matrix.

Both work in tiles, each a product of its own in float64 that is rounded to float32:
equal embeddings then have equal scores, wherever they stand in the matrix, and
`ranks` gives exactly what metrics.py gives for the matrix of `cosines`.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int, Real

from vtr_jax.core.errors import DataError, NotFiniteError
from vtr_jax.eval import metrics

TILE = 2048  # texts and videos of one product: 50 MB of scores


def cosines(
  text: Float[np.ndarray, "t e"], video: Float[np.ndarray, "v e"]
) -> Float[np.ndarray, "t v"]:
  """float32 scores of unit-norm embeddings.

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

  Holds one tile at a time. Every tile is made once, those that hold a text's own
  video twice: few, where `owner` ascends.

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
  ahead = np.zeros(len(text), np.int64), np.zeros(len(video), np.int64)
  level = np.zeros(len(text), np.int64), np.zeros(len(video), np.int64)
  for rows, columns in _tiles(len(text), len(video)):
    tile = _product(text, video, rows, columns)
    ahead[0][rows] += np.count_nonzero(tile > own[rows, None], axis=1)
    level[0][rows] += np.count_nonzero(tile == own[rows, None], axis=1)
    ahead[1][columns] += np.count_nonzero(tile > best[columns], axis=0)
    level[1][columns] += np.count_nonzero(tile == best[columns], axis=0)
  videos = np.unique(owner)
  return (
    metrics.ranks_of(ahead[0], level[0], ties),
    metrics.ranks_of(ahead[1][videos], level[1][videos], ties),
  )


def _own_scores(text: np.ndarray, video: np.ndarray, owner: np.ndarray) -> np.ndarray:
  """Score of each text with its own video, to the bit as its tile has it."""
  own = np.empty(len(text), np.float32)
  for rows, columns in _tiles(len(text), len(video)):
    mine = np.arange(len(text))[rows]
    mine = mine[(owner[rows] >= columns.start) & (owner[rows] < columns.stop)]
    if len(mine):
      tile = _product(text, video, rows, columns)
      own[mine] = tile[mine - rows.start, owner[mine] - columns.start]
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
  """Refuses embeddings that cannot be compared; names the first that is not finite."""
  fits = text.ndim == video.ndim == 2 and text.shape[1:] == video.shape[1:]
  if not fits or not text.size or not video.size:
    raise DataError(
      f"embeddings: texts {text.shape} and videos {video.shape} cannot be compared; "
      "give [count, width] of both, of one width"
    )
  for name, values in dict(text=text, video=video).items():
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
      raise NotFiniteError(
        f"embeddings: that of {name} {bad.argmax()} is not finite: the weights have "
        "diverged or did not load, or the input is damaged"
      )
