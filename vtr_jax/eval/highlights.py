"""Metrics of highlights by QVHighlights (Lei et al. 2021): mAP and Hit@1.

A query's video is cut into clips of two seconds; three raters gave those of its moments
a score of 0 to 4, and others have 0. A clip is a highlight for a rater whose score is
at least 2 (Fair), 3 (Good) or 4 (VeryGood).
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

SECONDS = 2.0  # of a clip
LEVELS = dict(Fair=2, Good=3, VeryGood=4)


def clips(duration: float) -> int:
  """Number of clips of a video of `duration` seconds; a shorter rest is none."""
  return max(int(duration / SECONDS), 1)


def ratings(
  saliency: Sequence[Sequence[int]], duration: float
) -> Int[np.ndarray, "c r"]:
  """Scores of all clips of a video by each rater.

  Args:
    saliency: (number of a clip, score of each rater) of the clips with scores.
    duration: of the video, seconds.
  """
  given = np.array(saliency, np.int64)
  count = max(clips(duration), int(given[:, 0].max()) + 1)
  scores = np.zeros((count, given.shape[1] - 1), np.int64)
  scores[given[:, 0]] = given[:, 1:]
  return scores


def average_precision(
  positive: Bool[np.ndarray, " c"], score: Float[np.ndarray, " c"]
) -> float:
  """Mean of the monotone precision over the steps of recall; equal scores are a step.

  0 without a highlight, 1 if all clips are highlights.
  """
  if positive.all() or not positive.any():
    return float(positive.any())
  order = np.argsort(-score, kind="stable")
  right = positive[order].cumsum()
  last = np.append(np.diff(score[order]) != 0, True)  # of those with equal scores
  right, seen = right[last], np.arange(1, len(order) + 1)[last]
  precision = np.maximum.accumulate((right / seen)[::-1])[::-1]
  return float(precision[np.diff(right, prepend=0) > 0].mean())


def fitted(score: Float[np.ndarray, " n"], count: int) -> Float[np.ndarray, " c"]:
  """Scores cut or filled with zeros to the number of clips, as in `standalone_eval`."""
  return np.append(score, np.zeros(max(count - len(score), 0)))[:count]


def summarize(
  scores: Sequence[Float[np.ndarray, " _"]], rated: Sequence[Int[np.ndarray, "_ r"]]
) -> dict[str, float]:
  """ "Fair/mAP" and "Fair/Hit@1" and so on, in percent.

  mAP is the mean over queries and raters. Hit@1: the clip of the highest score, the
  first of equal ones, is a highlight for some rater.

  Args:
    scores: predicted for each query's clips.
    rated: of `ratings`.
  """
  results = {}
  full = [fitted(s, len(r)) for s, r in zip(scores, rated, strict=True)]
  top = [int(s.argmax()) if len(s) else 0 for s in scores]
  for level, least in LEVELS.items():
    precision = [
      average_precision(r[:, i] >= least, s)
      for s, r in zip(full, rated, strict=True)
      for i in range(r.shape[1])
    ]
    hits = [i < len(r) and r[i].max() >= least for i, r in zip(top, rated, strict=True)]
    results[f"{level}/mAP"] = 100 * float(np.mean(precision))
    results[f"{level}/Hit@1"] = 100 * float(np.mean(hits))
  return results
