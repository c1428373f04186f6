"""Moments without training: which windows of a video resemble the query most."""

import numpy as np
from jaxtyping import Float

from vtr_jax.eval import highlights, moments, ranks
from vtr_jax.moments.grid import Grid

NMS = 0.5  # IoU above which the lower of two windows is left out; 2D-TAN, ActivityNet
KEPT = 10  # windows of a query: those that mAP reads


def scores(
  vectors: Float[np.ndarray, "w e"], text: Float[np.ndarray, "q e"]
) -> Float[np.ndarray, "q w"]:
  """Cosine of each query and window, less the mean over the windows of the video.

  The mean does not change the order within a video; it makes videos comparable, of
  which one may resemble every query.
  """
  cosines = ranks.cosines(text, np.asarray(vectors, np.float32))
  return cosines - cosines.mean(axis=1, keepdims=True)


def ranked(
  times: Float[np.ndarray, "w 2"], score: Float[np.ndarray, " w"]
) -> list[list[float]]:
  """The best windows [start, end, score], best first, none much like a better one."""
  order = np.argsort(-score, kind="stable")[: 20 * KEPT]
  found = moments.Windows(
    np.asarray(times, np.float64)[order][None],
    np.ones((1, len(order)), np.bool_),
    np.asarray(score, np.float64)[order][None],
  )
  kept = moments.suppress(found, NMS)
  rows = np.concatenate([kept.times, kept.score[..., None]], axis=-1)
  return rows[kept.valid][:KEPT].tolist()


def curve(
  grid: Grid,
  times: Float[np.ndarray, "w 2"],
  score: Float[np.ndarray, " w"],
) -> Float[np.ndarray, " c"]:
  """Of each step of the grid, the mean score of the windows around its middle."""
  cells = grid.cells(times[:, 1].max(), times[:, 0].min())
  return around(cells, times, score)


def around(
  seconds: Float[np.ndarray, " s"],
  times: Float[np.ndarray, "w 2"],
  score: Float[np.ndarray, " w"],
) -> Float[np.ndarray, " s"]:
  """Mean score of the windows around each point in time; the nearest's without one."""
  total, count = np.zeros(len(seconds)), np.zeros(len(seconds), np.int64)
  # Windows that have started, less those that have ended: no array of both sizes.
  for edge, sign in ((times[:, 0], 1), (times[:, 1], -1)):
    order = np.argsort(edge)
    passed = np.searchsorted(edge[order], seconds, "right")
    total += sign * np.concatenate([[0], np.cumsum(score[order])])[passed]
    count += sign * passed
  without = np.flatnonzero(count == 0)
  distance = np.abs(times.mean(axis=1)[:, None] - seconds[without])
  total[without], count[without] = score[distance.argmin(axis=0)], 1
  return total / count


def saliency(
  duration: float, times: Float[np.ndarray, "w 2"], score: Float[np.ndarray, " w"]
) -> Float[np.ndarray, " c"]:
  """Scores of the video's clips of two seconds, as of highlights.

  The score of a clip is the mean of the windows around its middle.
  """
  middles = (np.arange(highlights.clips(duration)) + 0.5) * highlights.SECONDS
  return around(middles, times, score)
