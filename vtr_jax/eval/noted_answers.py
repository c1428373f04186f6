"""Scores of a file of answers: open, among options, or counts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from vtr_jax.core.config import require
from vtr_jax.core.errors import DataError
from vtr_jax.data.notes import Note
from vtr_jax.eval import answers, predictions
from vtr_jax.eval.noted import Row, Scores, Truth
from vtr_jax.eval.protocols import Protocol


def score(path: str, protocol: Protocol, truth: Truth, vocabulary: str = "") -> Scores:
  """Scores a file of answers.

  Args:
    path: of the file; see predictions.py.
    protocol: of task answers.
    truth: questions.
    vocabulary: file with the model's; see `predictions.answer_list`. "" = the
      protocol's, of training answers.

  Raises:
    DataError, NotFiniteError: an entry does not fit, with its line; or the questions do
      not fit the protocol's form.
    ConfigError: a vocabulary is given to what has none.
  """
  if protocol.form == "open":
    words = predictions.answer_list(vocabulary) if vocabulary else []
    # Questions of moving_shapes have options, too, which open ones do not see.
    asked = [note._replace(options=()) for note in truth.notes]
    return of(predictions.answers(path, asked, words), protocol, truth, words)
  require(not vocabulary, "--answers: is for open questions alone; omit it")
  check(protocol, truth)
  form = predictions.counts if protocol.form == "count" else predictions.answers
  return of(form(path, truth.notes), protocol, truth)


def check(protocol: Protocol, truth: Truth) -> None:
  """Raises DataError if a question does not fit the protocol's form."""
  if protocol.form == "count":
    _numbers([*truth.notes, *truth.training])
  if protocol.form == "choice":
    for note in truth.notes:
      if not note.options:
        raise DataError(
          f"question {note.id!r}: has no options; use --set=form=open, "
          "or --set=types= for those that have some"
        )


def of(
  predicted: Sequence[Any], protocol: Protocol, truth: Truth, words: Sequence[str] = ()
) -> Scores:
  """Scores answers.

  Args:
    predicted: of each question, in their order: a text or None for "unknown", or of
      form count a number.
    protocol: of task answers.
    truth: questions.
    words: the model's vocabulary; () = the protocol's, of training answers.

  Raises:
    DataError: the questions do not fit the protocol's form.
  """
  check(protocol, truth)
  if protocol.form == "open":
    return _open(predicted, protocol, truth, words)
  own = _counts if protocol.form == "count" else _choice
  return own(predicted, protocol, truth)


def _open(
  predicted: Sequence[str | None],
  protocol: Protocol,
  truth: Truth,
  words: Sequence[str],
) -> Scores:
  notes = truth.notes
  learned = [note.answer for note in truth.training]
  given = words if not protocol.vocabulary else ()
  known = given or answers.frequent(learned, protocol.vocabulary)
  whose = "the model's list" if given else "training"
  right, groups = [note.answer for note in notes], _groups(protocol, notes)
  remarks, keep = [], np.ones(len(notes), np.bool_)
  rows = dict(predictions=answers.right(predicted, right))
  if truth.training:
    own, asked = ([n.text for n in found] for found in (truth.training, notes))
    rows["blind"] = answers.right(answers.guesses(own, learned, asked), right)
    own, asked = ([n.type for n in found] for found in (truth.training, notes))
    if any(asked):
      usual = answers.guesses(own, learned, asked, group=str)
      rows["blind_type"] = answers.right(usual, right)
  else:
    remarks.append("no training questions: the blind row is left out")
  if known:
    rows["ceiling"] = inside = answers.inside(right, known)
    outside = int((~inside).sum())
    fate = "stay in the denominator"
    if protocol.outside == "dropped":
      keep, fate = inside, "ARE LEFT OUT, which most published figures do not"
    remarks.append(
      f"{outside:,} of {len(notes):,} questions have an answer outside the "
      f"vocabulary, {len(known):,} of {whose}: they {fate}"
    )
    if beyond := int((rows["predictions"].astype(np.bool_) & ~inside & keep).sum()):
      remarks.append(
        f"{beyond:,} of them are answered right: the model has another vocabulary, and "
        "another ceiling"
      )
  elif protocol.outside == "dropped":
    raise DataError("outside: needs a vocabulary; give --answers or training questions")
  else:
    remarks.append("no list of answers and no training: the ceiling is left out")
  if unknown := sum(answer is None for answer in predicted):
    remarks.append(f"{unknown:,} answers are 'unknown': they count as wrong")
  if not keep.any():
    raise DataError("outside: no question is left; use outside=wrong")
  groups = [group for group, kept in zip(groups, keep, strict=True) if kept]
  scored = {name: answers.accuracy(hits[keep], groups) for name, hits in rows.items()}
  return _scores(scored, groups, remarks)


def _choice(
  predicted: Sequence[str | None], protocol: Protocol, truth: Truth
) -> Scores:
  notes = truth.notes
  right = [note.answer for note in notes]
  chance = [note.options.count(note.answer) / len(note.options) for note in notes]
  groups = _groups(protocol, notes)
  rows = {
    "predictions": answers.accuracy(answers.right(predicted, right), groups),
    "blind": answers.accuracy(np.array(chance), groups),
    "ceiling": answers.accuracy(np.ones(len(notes)), groups),
  }
  return _scores(rows, groups, ["blind: any of the options"])


def _counts(predicted: Sequence[float], protocol: Protocol, truth: Truth) -> Scores:
  right = _numbers(truth.notes)
  given = np.array(predicted)
  rows = dict(predictions=answers.counted(given, protocol.counts))
  low, high = protocol.counts
  changed = int((rows["predictions"] != answers.rounded(given)).sum())
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
  return Scores(scored, [list(scored["predictions"])], {}, remarks)


def _numbers(notes: Sequence[Note]) -> Float[np.ndarray, " q"]:
  """The answers of counting questions."""
  counts = np.zeros(len(notes))
  for i, note in enumerate(notes):
    try:
      counts[i] = float(note.answer)
    except ValueError:
      counts[i] = np.nan
    if not np.isfinite(counts[i]):
      raise DataError(
        f"question {note.id!r}: answer {note.answer!r} is no count; use --set=form=open"
      )
  return counts


def _groups(protocol: Protocol, notes: Sequence[Note]) -> list[str]:
  if protocol.by == "type":
    return [note.type for note in notes]
  return [answers.first_word(note.text) for note in notes]


def _scores(rows: dict[str, Row], groups: Sequence[str], remarks: list[str]) -> Scores:
  names, counts = np.unique(np.array(groups, np.str_), return_counts=True)
  found = zip(names.tolist(), counts.tolist(), strict=True)
  sizes = {f"accuracy/{name}": n for name, n in found if name}
  sizes = dict(accuracy=len(groups)) | sizes
  return Scores(rows, [list(rows["predictions"])], sizes, remarks)
