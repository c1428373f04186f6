"""Metrics of temporal grounding: IoU, R@n, mIoU, mAP, NMS, and what needs no video.

Windows are (start, end) in seconds. IoU is the overlap over length + length - overlap.
R@n at IoU t: the share of queries of which one of the first n listed windows has an IoU
of at least t with a true window. mAP is that of QVHighlights (Lei et al. 2021,
`standalone_eval` of Moment-DETR), which is ActivityNet's of detection for one query.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

# IoUs over which mAP is averaged, and the windows of a query that it reads.
MAP_THRESHOLDS = tuple(i / 100 for i in range(50, 100, 5))
MAP_WINDOWS = 10


class Windows(NamedTuple):
  """Windows of queries, in the order of their lists, filled up to the longest list.

  times: start and end, seconds. valid: False where a list has ended. score: higher is
  better; the order of the list if it has none.
  """

  times: Float[np.ndarray, "q w 2"]
  valid: Bool[np.ndarray, "q w"]
  score: Float[np.ndarray, "q w"]


def pad(lists: Sequence[Sequence[Sequence[float]]]) -> Windows:
  """The windows of each query, each (start, end) or (start, end, score)."""
  counts = np.array([len(windows) for windows in lists], np.int64)
  valid = np.arange(max(counts.max(initial=0), 1)) < counts[:, None]
  score = np.broadcast_to(-np.arange(valid.shape[1], dtype=np.float64), valid.shape)
  times, score = np.zeros((*valid.shape, 2)), score.copy()
  flat = [window for windows in lists for window in windows]
  if flat:
    times[valid] = [window[:2] for window in flat]
    if len(flat[0]) > 2:
      score[valid] = [window[2] for window in flat]
  return Windows(times, valid, score)


def iou(
  a: Float[np.ndarray, "q p 2"], b: Float[np.ndarray, "q t 2"]
) -> Float[np.ndarray, "q p t"]:
  """IoU of each window of `a` with each of `b`, of the same query; 0 if disjoint."""
  a, b = a[:, :, None], b[:, None]
  overlap = np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0])
  overlap = np.maximum(overlap, 0)
  union = (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0]) - overlap
  return np.divide(overlap, union, out=np.zeros_like(union), where=union > 0)


def best_iou(predicted: Windows, truth: Windows) -> Float[np.ndarray, "q p"]:
  """IoU of each window with the true window that fits best; -1 where there is none."""
  found = np.where(truth.valid[:, None], iou(predicted.times, truth.times), -1)
  return np.where(predicted.valid, found.max(axis=2), -1)


def recall(
  best: Float[np.ndarray, "q p"], count: int, threshold: float, strict: bool = False
) -> float:
  """R@count in percent.

  Args:
    best: of `best_iou`, in the order of the lists.
    count: of the first windows, one of which must fit.
    threshold: IoU.
    strict: whether the IoU must be above the threshold (2D-TAN), not just reach it.
  """
  top = best[:, :count].max(axis=1)
  return 100 * float(np.mean(top > threshold if strict else top >= threshold))


def mean_iou(best: Float[np.ndarray, "q p"]) -> float:
  """Mean IoU of the first listed windows in percent; a query without one counts 0."""
  return 100 * float(np.maximum(best[:, 0], 0).mean())


def average_precision(
  predicted: Windows,
  truth: Windows,
  thresholds: Sequence[float] = MAP_THRESHOLDS,
  strict: bool = False,
) -> Float[np.ndarray, "q i"]:
  """Average precision of each query at each IoU, 0 to 1.

  Of the first `MAP_WINDOWS` listed, each by falling score takes the true window of
  largest IoU that fits and is not taken; equal scores keep the order of the list.
  Precision is made non-increasing from the right and averaged over the true windows.

  Args:
    predicted: of each query.
    truth: at least one a query.
    thresholds: IoUs.
    strict: as for `recall`.
  """
  first = _take(predicted, np.arange(min(MAP_WINDOWS, predicted.valid.shape[1])))
  first = by_score(first)
  overlap = np.where(truth.valid[:, None], iou(first.times, truth.times), -1)
  limits = np.array(thresholds)[:, None]
  free = np.ones((len(overlap), len(thresholds), overlap.shape[2]), np.bool_)
  right = np.zeros((len(overlap), len(thresholds), overlap.shape[1]))
  for p in range(overlap.shape[1]):
    own = np.broadcast_to(overlap[:, None, p], free.shape)
    fits = free & (own > limits if strict else own >= limits)
    fits &= first.valid[:, p, None, None]
    taken = np.where(fits, own, -1).argmax(axis=2)[..., None]
    hit = np.take_along_axis(fits, taken, 2)
    right[..., p] = hit[..., 0]
    np.put_along_axis(free, taken, np.take_along_axis(free, taken, 2) & ~hit, 2)
  precision = right.cumsum(axis=2) / np.arange(1, right.shape[2] + 1)
  monotone = np.maximum.accumulate(precision[..., ::-1], axis=2)[..., ::-1]
  return (right * monotone).sum(axis=2) / truth.valid.sum(axis=1)[:, None]


def by_score(windows: Windows) -> Windows:
  """The windows of each query by falling score; equal ones keep their order."""
  score = np.where(windows.valid, windows.score, -np.inf)
  return _take(windows, np.argsort(-score, axis=1, kind="stable"))


def suppress(windows: Windows, threshold: float) -> Windows:
  """Non-maximum suppression, in the order of the lists.

  A window whose IoU with an earlier one that is kept is above `threshold` is left out.
  """
  keep = windows.valid.copy()
  for p in range(keep.shape[1] - 1):
    later = windows.times[:, p + 1 :]
    close = iou(windows.times[:, p : p + 1], later)[:, 0] > threshold
    keep[:, p + 1 :] &= ~(close & keep[:, p : p + 1])
  order = np.argsort(~keep, axis=1, kind="stable")
  return _take(windows._replace(valid=keep), order)


def clamped(windows: Windows, duration: Float[np.ndarray, " q"]) -> tuple[Windows, int]:
  """Cut to the end of each query's video, and how many windows that are.

  Those that begin at the end or later stay as they are, and fit nothing. A duration of
  0 is not known, and cuts nothing.
  """
  start, end = windows.times[..., 0], windows.times[..., 1]
  limit = duration[:, None]
  cut = windows.valid & (end > limit) & (start < limit)
  times = np.stack([start, np.where(cut, limit, end)], axis=-1)
  return windows._replace(times=times), int(cut.sum())


def after_end(
  windows: Windows, duration: Float[np.ndarray, " q"]
) -> Bool[np.ndarray, "q w"]:
  """Which windows begin at the end of their video or later; see `clamped`."""
  limit = duration[:, None]
  return windows.valid & (limit > 0) & (windows.times[..., 0] >= limit)


def of_length(truth: Windows, low: float, high: float) -> Windows:
  """Only the true windows longer than `low` seconds and at most `high`."""
  length = truth.times[..., 1] - truth.times[..., 0]
  return truth._replace(valid=truth.valid & (length > low) & (length <= high))


def rows(windows: Windows, where: Bool[np.ndarray, " q"]) -> Windows:
  """The windows of some queries."""
  return Windows(*(values[where] for values in windows))


def constant(part: tuple[float, float], duration: Float[np.ndarray, " q"]) -> Windows:
  """The same part of every video; (0, 1) is all of it."""
  times = duration[:, None, None] * np.array(part)
  valid = np.ones((len(duration), 1), np.bool_)
  return Windows(times, valid, np.zeros(valid.shape))


def best_constant(
  truth: Windows, duration: Float[np.ndarray, " q"], threshold: float
) -> tuple[float, float]:
  """The part of the video, in steps of 5 %, that has the highest R@1 at this IoU.

  Of equal ones, that of the highest mean IoU.
  """
  parts = [(a / 20, b / 20) for a in range(20) for b in range(a + 1, 21)]

  def merit(part):
    best = best_iou(constant(part, duration), truth)
    return recall(best, 1, threshold), mean_iou(best)

  return max(parts, key=merit)


def _take(windows: Windows, order: Int[np.ndarray, "*q p"]) -> Windows:
  """The windows of each query at these places."""
  order = np.broadcast_to(order, (len(windows.valid), order.shape[-1]))
  return Windows(
    np.take_along_axis(windows.times, order[..., None], 1),
    np.take_along_axis(windows.valid, order, 1),
    np.take_along_axis(windows.score, order, 1),
  )
