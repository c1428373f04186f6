"""Scores of a file of moments, and of highlights where clips are rated."""

import collections
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool

from vtr_jax.data.notes import Note
from vtr_jax.eval import highlights, moments, predictions
from vtr_jax.eval.noted import Row, Scores, Truth
from vtr_jax.eval.protocols import Protocol


def score(
  path: str,
  protocol: Protocol,
  truth: Truth,
  others: Mapping[str, predictions.Moments] | None = None,
) -> Scores:
  """Scores a file of moments.

  Args:
    path: of the file; see predictions.py.
    protocol: of task moments.
    truth: moments.
    others: more rows by name.

  Raises:
    DataError, NotFiniteError: an entry does not fit, with its line.
  """
  notes = truth.notes
  found = predictions.moments(path, notes, protocol.padded)
  duration = np.array([note.duration for note in notes])
  true = moments.pad([note.windows for note in notes])
  remarks, unknown = [], int((duration == 0).sum())
  inside, cut = moments.clamped(true, duration)
  if protocol.clamp:
    true = inside
  if cut:
    fate = "are cut to it" if protocol.clamp else "are kept as published"
    remarks.append(f"{cut:,} true windows end after their video: they {fate}")
  longest = np.where(duration > 0, np.maximum(duration, protocol.padded), 0)
  after = moments.after_end(true, longest)
  if after.any():
    remarks.append(
      f"{int(after.sum()):,} true windows begin after their video: they are kept, and "
      "no window inside the video fits them"
    )
  if found.beyond:
    remarks.append(f"{found.beyond:,} predicted windows end after their video: kept")
  if empty := sum(not windows for windows in found.windows):
    remarks.append(f"{empty:,} queries have no predicted window: they count as missed")
  types = [note.type for note in notes]
  locate = lambda windows: _located(windows, true, protocol, types)
  rows = dict(predictions=locate(moments.pad(found.windows)))
  if not unknown:
    whole = moments.constant((0.0, 1.0), duration)
    rows["whole video"] = locate(whole)
    if part := _constant(protocol, truth.training):
      name = f"always {100 * part[0]:.0f}-{100 * part[1]:.0f} %"
      window = moments.constant((part[0], part[1]), duration)
      rows[name] = locate(window)
    else:
      remarks.append("no training moments: the row of a constant window is left out")
    possible = inside._replace(valid=inside.valid & ~after)
    rows["ceiling"] = _ranked(possible, true, protocol)
  else:
    remarks.append(
      f"durations are not known of {unknown:,} of {len(notes):,} queries: rows without "
      "a video are left out, and windows of these queries are neither cut to the end "
      "of the video nor checked against it"
    )
  for name, other in (others or {}).items():
    rows[name] = locate(moments.pad(other.windows))
  sizes = _lengths(true, protocol) | _typed(types, protocol)
  if found.saliency:
    named = dict(predictions=found) | dict(others or {})
    scored = {name: m.saliency for name, m in named.items() if m.saliency}
    _highlights(rows, scored, notes, remarks)
  tables = [*_tables(rows["predictions"], protocol), list(_typed(types, protocol))]
  return Scores(rows, tables, sizes, remarks)


def _tables(row: Row, protocol: Protocol) -> list[list[str]]:
  """The metrics to print: R@n, the means, highlights."""
  at = [f"R@{n},{t:g}" for n in (1, 5) for t in protocol.thresholds]
  means = ["mIoU", "mAP", "mAP@0.5", "mAP@0.75"]
  means += [f"{name}/mAP" for name in protocol.lengths]
  seen = [key for key in row if key.startswith("highlights/")]
  return [[key for key in keys if key in row] for keys in (at, means, seen)]


def _constant(protocol: Protocol, training: Sequence[Note]) -> tuple[float, ...]:
  """The part of the video that is the blind window; () if none is known."""
  timed = [note for note in training if note.duration]
  if protocol.constant or not timed:
    return protocol.constant
  true = moments.pad([note.windows for note in timed])
  duration = np.array([note.duration for note in timed])
  middle = protocol.thresholds[(len(protocol.thresholds) - 1) // 2]
  return moments.best_constant(true, duration, middle)


def _lengths(true: moments.Windows, protocol: Protocol) -> dict[str, int]:
  """Number of queries with true windows of each length."""
  return {
    f"{name}/mAP": int(_of(true, limits).sum())
    for name, limits in protocol.lengths.items()
  }


def _typed(types: Sequence[str], protocol: Protocol) -> dict[str, int]:
  """Number of queries of each type, by its metrics, if there are several types."""
  counts = collections.Counter(types)
  return {
    f"{name}/R@1,{t:g}": counts[name]
    for name in sorted(counts)
    for t in protocol.thresholds
    if len(counts) > 1
  }


def _of(true: moments.Windows, limits: tuple[float, float]) -> Bool[np.ndarray, " q"]:
  return np.asarray(moments.of_length(true, *limits).valid.any(axis=1))


def _located(
  predicted: moments.Windows,
  true: moments.Windows,
  protocol: Protocol,
  types: Sequence[str],
) -> Row:
  """Metrics of all queries, of those of each length of true windows, and each type."""
  row = _ranked(predicted, true, protocol)
  for name, limits in protocol.lengths.items():
    some = _of(true, limits)
    if not some.any():
      continue
    own = moments.rows(moments.of_length(true, *limits), some)
    found = _ranked(moments.rows(predicted, some), own, protocol)
    row |= {f"{name}/{key}": value for key, value in found.items()}
  for name in sorted(set(types)) if len(set(types)) > 1 else ():
    some = np.array([kind == name for kind in types])
    found = _ranked(moments.rows(predicted, some), moments.rows(true, some), protocol)
    row |= {f"{name}/{key}": value for key, value in found.items()}
  return row


def _ranked(
  predicted: moments.Windows, true: moments.Windows, protocol: Protocol
) -> Row:
  """R@1 and R@5 at each IoU, mIoU, mAP, and mAP at each IoU."""
  strict, row = protocol.strict, {}
  best = moments.best_iou(predicted, true)
  for threshold in sorted({*protocol.thresholds, *moments.MAP_THRESHOLDS}):
    row[f"R@1,{threshold:g}"] = moments.recall(best, 1, threshold, strict)
  if protocol.nms:
    kept = moments.best_iou(moments.suppress(predicted, protocol.nms), true)
    for threshold in protocol.thresholds:
      row[f"R@5,{threshold:g}"] = moments.recall(kept, 5, threshold, strict)
  row["mIoU"] = moments.mean_iou(best)
  precision = 100 * moments.average_precision(predicted, true, strict=strict)
  row["mAP"] = float(precision.mean())
  for threshold, values in zip(moments.MAP_THRESHOLDS, precision.T, strict=True):
    row[f"mAP@{threshold:g}"] = float(values.mean())
  return row


def _highlights(
  rows: dict[str, Row],
  saliency: Mapping[str, list[list[float]]],
  notes: Sequence[Note],
  remarks: list[str],
) -> None:
  """Adds the metrics of highlights to each row, where raters have scored clips."""
  rated = [i for i, note in enumerate(notes) if note.saliency]
  if not rated:
    remarks.append("pred_saliency_scores are not scored: no clip of the truth is rated")
    return
  truth = [highlights.ratings(notes[i].saliency, notes[i].duration) for i in rated]
  given = {
    name: [np.array(own[i], np.float64) for i in rated]
    for name, own in saliency.items()
  }
  pairs = zip(given["predictions"], truth, strict=True)
  other = sum(len(s) != len(r) for s, r in pairs)
  if other:
    remarks.append(
      f"{other:,} lists of saliency scores have another number of clips: cut, or "
      "filled with zeros"
    )
  if left := len(notes) - len(rated):
    remarks.append(f"{left:,} queries without ratings are left out of highlights")
  sources = given | {
    "all clips equal": [np.zeros(len(r)) for r in truth],
    "raters' mean": [r.mean(axis=1) for r in truth],
  }
  for name, scores in sources.items():
    found = highlights.summarize(scores, truth)
    row = {f"highlights/{key}": value for key, value in found.items()}
    rows[name] = rows.get(name, {}) | row
