"""Answers to questions: accuracy by type, next to answers without a video.

The tables and rules are those of `evaluate --predictions` (eval/noted_answers.py): a
question whose answer is outside the model's vocabulary counts, as wrong.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from vtr_jax.core.config import choose, require
from vtr_jax.core.errors import BadSample, DataError, NotFiniteError
from vtr_jax.data import sources
from vtr_jax.data.notes import Note
from vtr_jax.data.questions import QuestionRows
from vtr_jax.data.sources import Split
from vtr_jax.eval import noted_answers
from vtr_jax.eval.evaluators.base import Context, PairScores
from vtr_jax.eval.noted import Truth
from vtr_jax.eval.protocols import Protocol
from vtr_jax.objectives.base import Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """One section of `evals` with kind = "answers"."""

  split: str  # of the data set
  every: int = 0  # steps between runs; 0 = at the end only; ours
  by: str = "type"  # groups of the report: type | first_word; ours

  needs = ("answers",)  # predictions of the objective

  def __post_init__(self):
    choose(self.by, ("type", "first_word"), "by")


class Evaluator:
  """See base.Evaluator."""

  def __init__(self, config: Config, context: Context):
    self.every = config.every
    self._config, self._context = config, context
    rows = context.objective.rows
    require(
      isinstance(rows, QuestionRows),
      "config.evals: kind 'answers' is for objective 'answers'; remove it",
    )
    assert isinstance(rows, QuestionRows)
    self._rows = rows
    self._source = context.data.open(config.split)
    asked = rows.asked(self._source.directory, self._source.name)
    require(
      len(asked) > 0,
      f"{self._source.place}: no question of types {rows.types}; change "
      "config.objective.types",
    )
    fitting = [p for p in asked if rows.form != "choice" or rows.label(p[1]) >= 0]
    self._left_out = len(asked) - len(fitting)
    require(
      len(fitting) > 0,
      f"{self._source.place}: no question has {rows.options} options; change "
      "config.objective.options or form",
    )
    owner, questions = zip(*fitting, strict=True)
    self._owner = np.array(owner)
    self._truth = Truth(
      list(questions), [str(i) for i in owner], training(context, rows)
    )
    self._protocol = Protocol(
      task="answers",
      split=config.split,
      form=rows.form,
      by=config.by,
      counts=rows.counts,
    )
    noted_answers.check(self._protocol, self._truth)
    self._scores_of = scorer(context, rows, self._source, self._truth.notes)

  def run(self, params: Params) -> dict[str, float]:
    count = len(self._truth.notes)
    scores = self._scores_of(params, np.arange(count), self._owner)
    predicted, words = given(self._rows, scores, self._truth.notes), self._rows.classes
    self._scores = noted_answers.of(predicted, self._protocol, self._truth, words)
    return self._scores.results()

  def report(self) -> str:
    count, clips = len(self._truth.notes), len(set(self._owner.tolist()))
    lines = [f"{self._config.split}: {count:,} questions, {clips:,} clips"]
    if self._left_out:
      lines.append(
        f"  {self._left_out:,} questions without {self._rows.options} options are "
        "left out"
      )
    return "\n".join([*lines, *self._scores.report()])

  def protocol(self) -> dict[str, Any]:
    rules = (
      ("form", "outside", "counts")
      if self._rows.form == "count"
      else (
        "form",
        "outside",
      )
    )
    return dataclasses.asdict(self._config) | dict(
      fingerprint=sources.fingerprint(self._source.directory, self._config.split),
      notes=self._rows.notes,
      types=self._rows.types,
      questions=len(self._truth.notes),
      left_out=self._left_out,
      clips=len(set(self._owner.tolist())),
      vocabulary=len(self._rows.classes),
      data=self._context.data.name,
      frames=self._context.clip.num_frames,
      sampling=f"{self._context.data.sampling}, deterministic, one centred clip",
      **{name: getattr(self._protocol, name) for name in rules},
    )

  def draw(self, directory: pathlib.Path, name: str) -> None:
    del directory, name  # the tables say it


def scorer(
  context: Context,
  rows: QuestionRows,
  source: Split,
  notes: Sequence[Note],
  progress: str = "",
) -> PairScores:
  """Scores the answers to pairs of `notes` and records of `source`.

  Args:
    context: of the run.
    rows: how it reads questions.
    source: the videos.
    notes: the questions, not empty.
    progress: what a progress bar is called; "" = no bar.

  Raises:
    DataError: a question has no token in the vocabulary.
  """
  found = []
  for note in notes:
    try:
      length = context.text.max_length
      row = rows.encode(note.text, note.options, context.tokenizer, length)
    except BadSample as e:
      raise DataError(f"{source.place}: question {note.id!r}: {e}; correct it") from e
    found.append(row)
  texts = {key: np.stack([row[key] for row in found]) for key in found[0]}
  return PairScores(context, source, "answers", texts, progress)


def given(
  rows: QuestionRows, scores: Float[np.ndarray, "q v"], notes: Sequence[Note]
) -> list[Any]:
  """The answer to each question, a text; of form count the number as predicted.

  Raises:
    NotFiniteError: a score is not a number; the largest would answer by chance.
  """
  bad = np.flatnonzero(~np.isfinite(scores).all(axis=1))
  if len(bad):
    raise NotFiniteError(
      f"question {notes[bad[0]].id!r}: scores are not finite, as of {len(bad):,} of "
      f"{len(notes):,} questions; the run has diverged, take an earlier checkpoint"
    )
  if rows.form == "count":
    return scores[:, 0].tolist()
  return rows.answers(scores, [note.options for note in notes])


def training(context: Context, rows: QuestionRows) -> list[Note]:
  """The questions of the training split, whose usual answers are the blind rows."""
  source = context.data.open()
  return [note for _, note in rows.asked(source.directory, source.name)]
