"""Retrieval metrics from a similarity matrix; NumPy only, on the host.

`sim[i, j]` is the score of text i and video j, higher is better, and `owner[i]` is the
video that text i describes. A video may own any number of texts, even none. Ranks
count from 1.

The rules are those of Frozen in Time (github.com/m-bain/frozen-in-time,
model/metric.py), which MCQ, MILES and SimVTP copied. Only the default differs: Frozen
breaks text-to-video ties in favour of the right video, so that a collapsed model whose
scores are all equal gets R@1 = 100 %. Here ties are averaged (McSherry and Najork,
ECIR 2008) unless `ties` says otherwise: "optimistic" as Frozen, "pessimistic" as code
that counts competitors by `>=`.
"""

from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int, Real, Shaped

from vtr_jax.core.config import choose
from vtr_jax.core.errors import DataError, NotFiniteError

Ties = Literal["average", "optimistic", "pessimistic"]
TIES = get_args(Ties)

_CHUNK = 1 << 20  # scores compared at once: temporaries fit in the cache


def text_to_video_ranks(
  sim: Shaped[np.ndarray, "t v"], owner: Int[np.ndarray, " t"], ties: Ties = "average"
) -> Real[np.ndarray, " t"]:
  """Rank of each text's own video among all videos; best is 1.

  Args:
    sim: score of every text (row) with every video (column); finite.
    owner: index of the video that each text describes.
    ties: "average" gives all videos of equal score their mean rank; "optimistic"
      ranks the correct one first, as Frozen does for this direction; "pessimistic"
      ranks it last.

  Raises:
    DataError: `sim` is empty, shapes or indices do not fit, or a score is not finite;
      names the first such text or video.
    ConfigError: unknown `ties`.
  """
  sim = matrix(sim)
  owner = check_owner(owner, sim.shape, ties)
  own = sim[np.arange(len(sim)), owner][:, None]
  better = np.empty(len(sim), np.int64)
  equal = np.empty(len(sim), np.int64)
  for rows in _chunks(sim):
    better[rows] = np.count_nonzero(sim[rows] > own[rows], axis=1)
    equal[rows] = np.count_nonzero(sim[rows] == own[rows], axis=1)
  return ranks_of(better, equal, ties)


def video_to_text_ranks(
  sim: Shaped[np.ndarray, "t v"], owner: Int[np.ndarray, " t"], ties: Ties = "average"
) -> Real[np.ndarray, " w"]:
  """Rank, among all texts, of each video's best-ranked text; best is 1.

  Videos without a text are skipped: w is the number of videos with texts, in order.
  A video's other texts count as competitors, as in Frozen.

  Args, Raises: as `text_to_video_ranks`. Frozen averages ties in this direction.
  """
  sim = matrix(sim)
  owner = check_owner(owner, sim.shape, ties)
  videos = np.unique(owner)
  best = np.full(sim.shape[1], sim.min(), sim.dtype)
  np.maximum.at(best, owner, sim[np.arange(len(sim)), owner])
  better = np.zeros(sim.shape[1], np.int64)
  equal = np.zeros(sim.shape[1], np.int64)
  for rows in _chunks(sim):
    better += np.count_nonzero(sim[rows] > best, axis=0)
    equal += np.count_nonzero(sim[rows] == best, axis=0)
  return ranks_of(better[videos], equal[videos], ties)


def summarize(ranks: Real[np.ndarray, " n"]) -> dict[str, float]:
  """R@1, R@5 and R@10 in percent, median rank MedR and mean rank MeanR.

  Averaged ranks can end in .5. As in Frozen, such a rank counts for R@5 and R@10 if
  its integer part is within K, but a tie for first (1.5) does not count for R@1.

  Raises:
    DataError: there are no ranks.
  """
  ranks = np.asarray(ranks)
  if not ranks.size:
    raise DataError("ranks: empty; the split needs at least one text with its video")
  return {
    "R@1": 100 * float(np.mean(ranks == 1)),
    "R@5": 100 * float(np.mean(ranks < 6)),
    "R@10": 100 * float(np.mean(ranks < 11)),
    "MedR": float(np.median(ranks)),
    "MeanR": float(np.mean(ranks)),
  }


def retrieval_metrics(
  sim: Shaped[np.ndarray, "t v"], owner: Int[np.ndarray, " t"], ties: Ties = "average"
) -> dict[str, float]:
  """`summarize` in both directions: "t2v/R@1" ... "t2v/MeanR", "v2t/R@1" ...

  Args, Raises: as `text_to_video_ranks`.
  """
  return both_ways(
    text_to_video_ranks(sim, owner, ties), video_to_text_ranks(sim, owner, ties)
  )


def both_ways(
  t2v: Real[np.ndarray, " t"], v2t: Real[np.ndarray, " w"]
) -> dict[str, float]:
  """`summarize` of ranks in both directions: "t2v/R@1" ... "v2t/MeanR"."""
  return {
    f"{way}/{name}": value
    for way, ranks in dict(t2v=t2v, v2t=v2t).items()
    for name, value in summarize(ranks).items()
  }


def recognition(
  sim: Shaped[np.ndarray, "c v"], label: Int[np.ndarray, " v"]
) -> tuple[dict[str, float], Float[np.ndarray, "c c"]]:
  """Metrics "top1", "top5" and "mean_class_top1" in percent, and the confusion matrix.

  confusion[i, j] counts the videos of class i whose best class is j. Ties count
  fractionally: the expectation over random orders of classes of equal score.

  Args:
    sim: finite score of every class (row) with every video (column).
    label: row of each video's class.

  Raises:
    DataError: `sim` is empty, labels do not fit, or a score is not finite.
  """
  sim, label = matrix(sim), np.asarray(label)
  if label.shape != sim.shape[1:] or not np.isin(label, np.arange(len(sim))).all():
    raise DataError(f"label: does not fit sim {sim.shape}; give row indices")
  own = sim[label, np.arange(len(label))]
  better, equal = (sim > own).sum(axis=0), (sim == own).sum(axis=0)
  hit = {k: np.clip((k - better) / equal, 0, 1) for k in (1, 5)}
  confusion, best = np.zeros((len(sim), len(sim))), sim == sim.max(axis=0)
  np.add.at(confusion, label, (best / best.sum(axis=0)).T)
  by_class = [hit[1][label == i].mean() for i in np.unique(label)]
  values = dict(top1=hit[1], top5=hit[5], mean_class_top1=by_class)
  return {name: 100 * float(np.mean(v)) for name, v in values.items()}, confusion


def ranks_of(better: np.ndarray, equal: np.ndarray, ties: Ties) -> np.ndarray:
  """Ranks of items with `better` higher scores and `equal` ties, itself included."""
  return better + dict(average=(equal + 1) / 2, optimistic=1.0, pessimistic=equal)[ties]


def _chunks(sim: np.ndarray) -> Iterator[slice]:
  """Groups of rows with about `_CHUNK` scores each."""
  size = max(1, _CHUNK // sim.shape[1])
  return (slice(i, i + size) for i in range(0, len(sim), size))


def check_owner(
  owner: np.ndarray, shape: tuple[int, ...], ties: Ties
) -> Int[np.ndarray, " t"]:
  """`owner` as an array; rejects unfit shapes and indices, and unknown `ties`."""
  choose(ties, TIES, "ties")
  owner = np.asarray(owner)
  texts, videos = shape
  if owner.shape != (texts,):
    raise DataError(
      f"owner: shape {owner.shape} does not fit sim {shape}; give the index "
      "of one video for each row of sim"
    )
  check_indices(owner, videos, "owner")
  return owner


def matrix(sim: np.ndarray) -> np.ndarray:
  """`sim` as an array, checked to be a finite, non-empty matrix."""
  sim = np.asarray(sim)
  if sim.ndim != 2 or not sim.size:
    raise DataError(
      f"sim: shape {sim.shape} has no pairs; give [texts, videos], at least one of each"
    )
  _finite(sim)
  return sim


def check_indices(values: np.ndarray, count: int, name: str) -> None:
  """Rejects anything but indices of `count` videos; the first axis is texts."""
  if not np.issubdtype(values.dtype, np.integer):
    raise DataError(f"{name}: {values.dtype} are not indices; give integers")
  invalid = (values < 0) | (values >= count)
  if invalid.any():
    at = tuple(np.argwhere(invalid)[0])
    raise DataError(
      f"{name}: text {at[0]} points to video {values[at]}, but sim has {count} videos "
      f"(0 to {count - 1}); do texts and videos come from the same split?"
    )


def _finite(sim: np.ndarray) -> None:
  """Rejects NaN and infinity; names the text, the video or the pair affected."""
  for rows in _chunks(sim):
    finite = np.isfinite(sim[rows])
    if finite.all():
      continue
    row, j = np.argwhere(~finite)[0]
    i = rows.start + row
    if not np.isfinite(sim[i]).any():
      where = f"text {i} (all its scores)"
    elif not np.isfinite(sim[:, j]).any():
      where = f"video {j} (all its scores)"
    else:
      where = f"text {i}, video {j}"
    raise NotFiniteError(
      f"sim: {sim[i, j]} for {where}; its embedding is not finite: the weights have "
      "diverged or did not load, or the input is damaged"
    )
