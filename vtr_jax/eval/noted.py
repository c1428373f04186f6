"""Scores of predictions against notes: questions and moments, with the blind rows.

A result alone says little: always giving one window scores 30.65 on Charades-STA at IoU
0.5, and no model of 1,000 answers exceeds 91.08 on MSVD-QA. Every table therefore has
what needs no video, and the most that the rules allow.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from vtr_jax.core.config import require
from vtr_jax.core.errors import DataError
from vtr_jax.data.notes import Note
from vtr_jax.eval import answers, highlights, moments, predictions
from vtr_jax.eval.protocols import Protocol

Row = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Truth:
  """Notes of one kind, with the ids of their records."""

  notes: list[Note]  # of the protocol's split
  records: list[str]
  training: list[Note]  # of train; empty if there are none


@dataclasses.dataclass
class Scores:
  """What was measured.

  rows: metrics of the predictions, of what needs no video, and of the ceiling.
  sizes: number of queries behind a metric, where it is not all. remarks: a line each of
  what was left out or changed.
  """

  rows: dict[str, Row]
  sizes: dict[str, int]
  remarks: list[str]

  def results(self) -> Row:
    """Metrics of the predictions by name, and of the others as "blind/accuracy"."""
    (_, own), *others = self.rows.items()
    named = ((f"{name}/{key}", x) for name, row in others for key, x in row.items())
    return own | dict(named)


def score(
  path: str, protocol: Protocol, truth: Truth, words: Sequence[str] = ()
) -> Scores:
  """Scores a file of predictions.

  Args:
    path: of the file; see predictions.py.
    protocol: of task answers or moments.
    truth: what is predicted.
    words: the model's vocabulary; () = the protocol's, of training answers.

  Raises:
    DataError, NotFiniteError: an entry does not fit, with its line.
    ConfigError: `words` are given to what has no vocabulary.
  """
  open_ended = protocol.task == "answers" and protocol.form == "open"
  require(open_ended or not words, "--answers: is for open questions alone; omit it")
  if protocol.task == "moments":
    return _moments(path, protocol, truth)
  if protocol.form == "count":
    return _counts(path, protocol, truth)
  if protocol.form == "choice":
    return _choice(path, protocol, truth)
  return _open(path, protocol, truth, words)


def table(
  rows: dict[str, Row], keys: Sequence[str], sizes: dict[str, int]
) -> list[str]:
  """Lines of a table: a column for each key, a line for each row."""
  heads = [key.removeprefix("accuracy/").removeprefix("highlights/") for key in keys]
  lines = [["", *heads]]
  if sizes:
    lines.append(["queries", *(f"{sizes[k]:,}" if k in sizes else "" for k in keys)])
  for name, row in rows.items():
    lines.append([name, *(f"{row[key]:.2f}" if key in row else "" for key in keys)])
  width = max(max(len(cell) for line in lines for cell in line[1:]) + 2, 8)
  return [f"  {n:16}" + "".join(f"{c:>{width}}" for c in cells) for n, *cells in lines]


def report(scores: Scores, protocol: Protocol) -> list[str]:
  """Readable lines: the tables of the metrics, and the remarks."""
  keys = list(scores.rows["predictions"])
  tables = [keys]
  if protocol.task == "moments":
    ranks = [k for k in keys if k[:2] == "R@" and float(k[4:]) in protocol.thresholds]
    brief = [k for k in ("mIoU", "mAP", "mAP@0.5", "mAP@0.75") if k in keys]
    lengths = [k for name in protocol.lengths for k in keys if k == f"{name}/mAP"]
    seen = [k for k in keys if k.startswith("highlights/")]
    tables = [ranks, brief + lengths, seen]
  lines = []
  for columns in filter(None, tables):
    sizes = {k: n for k, n in scores.sizes.items() if k in columns}
    rows = {n: r for n, r in scores.rows.items() if set(columns) & set(r)}
    lines += table(rows, columns, sizes)
  return lines + [f"  {remark}" for remark in scores.remarks]


def _groups(protocol: Protocol, notes: Sequence[Note]) -> list[str]:
  if protocol.by == "type":
    return [note.type for note in notes]
  return [answers.first_word(note.text) for note in notes]


def _sizes(groups: Sequence[str]) -> dict[str, int]:
  names, counts = np.unique(np.array(groups, np.str_), return_counts=True)
  found = zip(names.tolist(), counts.tolist(), strict=True)
  sizes = {f"accuracy/{name}": n for name, n in found if name}
  return dict(accuracy=len(groups)) | sizes


def _open(path: str, protocol: Protocol, truth: Truth, words: Sequence[str]) -> Scores:
  notes = truth.notes
  predicted = predictions.answers(path, notes, words)
  learned = [note.answer for note in truth.training]
  known = words or answers.frequent(learned, protocol.vocabulary)
  whose = "the list given" if words else "training"
  right = [note.answer for note in notes]
  remarks, keep = [], np.ones(len(notes), np.bool_)
  rows, groups = (
    dict(predictions=answers.right(predicted, right)),
    _groups(protocol, notes),
  )
  if truth.training:
    asked = [note.text for note in truth.training]
    blind = answers.guesses(asked, learned, [note.text for note in notes])
    rows["blind"] = answers.right(blind, right)
  else:
    remarks.append("no training questions: the blind row is left out")
  if known:
    rows["ceiling"] = inside = answers.inside(right, known)
    outside = int((~inside).sum())
    fate = "count as wrong"
    if protocol.outside == "dropped":
      keep, fate = inside, "ARE LEFT OUT, which most published figures do not"
    remarks.append(
      f"{outside:,} of {len(notes):,} questions have an answer outside the "
      f"vocabulary, {len(known):,} of {whose}: they {fate}"
    )
  elif protocol.outside == "dropped":
    raise DataError("outside: needs a vocabulary; give --answers or training questions")
  if unknown := sum(answer is None for answer in predicted):
    remarks.append(f"{unknown:,} answers are 'unknown': they count as wrong")
  if not keep.any():
    raise DataError("outside: no question is left; use outside=wrong")
  groups = [group for group, kept in zip(groups, keep, strict=True) if kept]
  scored = {name: answers.accuracy(hits[keep], groups) for name, hits in rows.items()}
  return Scores(scored, _sizes(groups), remarks)


def _choice(path: str, protocol: Protocol, truth: Truth) -> Scores:
  notes = truth.notes
  for note in notes:
    if not note.options:
      raise DataError(f"question {note.id!r}: has no options; use --set=form=open")
  predicted = predictions.answers(path, notes)
  right = [note.answer for note in notes]
  chance = [note.options.count(note.answer) / len(note.options) for note in notes]
  groups = _groups(protocol, notes)
  rows = {
    "predictions": answers.accuracy(answers.right(predicted, right), groups),
    "blind": answers.accuracy(np.array(chance), groups),
    "ceiling": answers.accuracy(np.ones(len(notes)), groups),
  }
  return Scores(rows, _sizes(groups), ["blind: any of the options"])


def _counts(path: str, protocol: Protocol, truth: Truth) -> Scores:
  right = _numbers(truth.notes)
  given = np.array(predictions.counts(path, truth.notes))
  predicted = answers.counted(given, protocol.counts)
  rows = dict(predictions=predicted)
  changed = int(((given < protocol.counts[0]) | (given > protocol.counts[1])).sum())
  low, high = protocol.counts
  remarks = [f"counts are rounded and cut to {low} to {high}, {changed:,} cut"]
  if truth.training:
    usual = answers.counted(_numbers(truth.training).mean(keepdims=True), (low, high))
    rows["blind"] = np.broadcast_to(usual, right.shape)
    remarks.append(f"blind: always {usual[0]:g}, the mean of training")
  else:
    remarks.append("no training questions: the blind row is left out")
  rows["ceiling"] = answers.counted(right, (low, high))
  scored = {
    name: dict(mse=answers.squared_error(values, right))
    | answers.accuracy(values == right, [""] * len(right))
    for name, values in rows.items()
  }
  return Scores(scored, {}, remarks)


def _numbers(notes: Sequence[Note]) -> np.ndarray:
  """The answers of counting questions."""
  try:
    return np.array([float(note.answer) for note in notes])
  except ValueError:
    note = next(n for n in notes if not n.answer.isdecimal())
    raise DataError(
      f"question {note.id!r}: answer {note.answer!r} is no count; use --set=form=open"
    ) from None


def _moments(path: str, protocol: Protocol, truth: Truth) -> Scores:
  notes = truth.notes
  found = predictions.moments(path, notes, protocol.padded)
  duration = np.array([note.duration for note in notes])
  true = moments.pad([note.windows for note in notes])
  remarks, known = [], bool((duration > 0).all())
  inside, cut = moments.clamped(true, duration)
  if protocol.clamp:
    true = inside
  if cut:
    fate = "are cut to it" if protocol.clamp else "are kept as published"
    remarks.append(f"{cut:,} true windows end after their video: they {fate}")
  if found.beyond:
    remarks.append(f"{found.beyond:,} predicted windows end after their video: kept")
  if empty := sum(not windows for windows in found.windows):
    remarks.append(f"{empty:,} queries have no predicted window: they count as missed")
  rows = dict(predictions=_located(moments.pad(found.windows), true, protocol))
  if known:
    whole = moments.constant((0.0, 1.0), duration)
    rows["whole video"] = _located(whole, true, protocol)
    if part := _constant(protocol, truth.training):
      name = f"always {100 * part[0]:.0f}-{100 * part[1]:.0f} %"
      window = moments.constant(part, duration)
      rows[name] = _located(window, true, protocol)
    else:
      remarks.append("no training moments: the row of a constant window is left out")
    rows["ceiling"] = _located(inside, true, protocol)
  else:
    remarks.append("durations are not known: rows without a video are left out")
  sizes = _lengths(true, protocol)
  if found.saliency:
    _highlights(rows, found.saliency, notes, remarks)
  return Scores(rows, sizes, remarks)


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


def _of(true: moments.Windows, limits: tuple[float, float]) -> Bool[np.ndarray, " q"]:
  return moments.of_length(true, *limits).valid.any(axis=1)


def _located(
  predicted: moments.Windows, true: moments.Windows, protocol: Protocol
) -> Row:
  """Metrics of all queries, and of those with true windows of each length."""
  row = _ranked(predicted, true, protocol)
  for name, limits in protocol.lengths.items():
    some = _of(true, limits)
    if not some.any():
      continue
    own = moments.rows(moments.of_length(true, *limits), some)
    found = _ranked(moments.rows(predicted, some), own, protocol)
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


def _highlights(rows: dict[str, Row], saliency, notes, remarks: list[str]) -> None:
  """Adds the metrics of highlights, where raters have scored clips."""
  rated = [i for i, note in enumerate(notes) if note.saliency]
  if not rated:
    remarks.append("pred_saliency_scores are left out: no clip of the truth is rated")
    return
  truth = [highlights.ratings(notes[i].saliency, notes[i].duration) for i in rated]
  given = [np.array(saliency[i], np.float64) for i in rated]
  other = sum(len(s) != len(r) for s, r in zip(given, truth, strict=True))
  if other:
    remarks.append(
      f"{other:,} lists of saliency scores have another number of clips: cut, or "
      "filled with zeros"
    )
  if left := len(notes) - len(rated):
    remarks.append(f"{left:,} queries without ratings are left out of highlights")
  sources = {
    "predictions": given,
    "all clips equal": [np.zeros(len(r)) for r in truth],
    "raters' mean": [r.mean(axis=1) for r in truth],
  }
  for name, scores in sources.items():
    found = highlights.summarize(scores, truth)
    row = {f"highlights/{key}": value for key, value in found.items()}
    rows[name] = rows.get(name, {}) | row
