"""Answers a protocol's questions about a prepared split with a fine-tuned model."""

import json
import os
import pathlib
from typing import Any

import jax
import numpy as np

from vtr_jax.core import io
from vtr_jax.core.config import require
from vtr_jax.core.errors import DataError
from vtr_jax.data import sources
from vtr_jax.data.questions import QuestionRows
from vtr_jax.eval.evaluators import answers as evaluator
from vtr_jax.eval.evaluators.base import Context
from vtr_jax.eval.noted import Truth
from vtr_jax.eval.protocols import Protocol
from vtr_jax.inference import embed_split
from vtr_jax.inference.load import load
from vtr_jax.inference.model import LoadedModel

_CURE = (
  "; fine-tune it by configs/finetune_answers.py, or score a file by --predictions"
)


class Answering:
  """A run that answers questions, and the data that they are about."""

  def __init__(
    self, checkpoint: str, protocol: Protocol, data: str = "", batch_size: int = 0
  ):
    """Opens the run; decodes nothing.

    Args:
      checkpoint: directory of the run.
      protocol: of task "answers".
      data: prepared data, a directory or a name in the run's data.dir; "" = the run's.
      batch_size: questions per batch; 0 = the run's.

    Raises:
      VtrError: the run or the data cannot be used, or do not fit.
    """
    self.model: LoadedModel = load(checkpoint)
    self.model.objective.prediction("answers", "--checkpoint", _CURE)
    self.rows: QuestionRows = self.model.questions
    own, form = self.rows.form, protocol.form
    require(
      own == form,
      f"--checkpoint: {self.model.name} answers questions of form {own!r}, but the "
      f"protocol's are of form {form!r}; give another run or protocol",
    )
    self._checkpoint, self._protocol = checkpoint, protocol
    make = embed_split.make_context
    self._context: Context = make(self.model, protocol, data, batch_size)

  @property
  def directory(self) -> str:
    """Of the prepared data; raises DataError."""
    data = self._context.data
    return sources.find(data.dir, data.name)

  def answers(self, truth: Truth) -> tuple[list[Any], dict[str, Any]]:
    """The answer to each question, and where the answers come from.

    Args:
      truth: the protocol's questions, read from `directory`.

    Returns:
      Texts, or of form count numbers as predicted, in the order of the questions; and
      the provenance.

    Raises:
      DataError: a question does not fit the run, or its record is missing or unusable.
    """
    for note in truth.notes if self.rows.form == "choice" else ():
      if len(note.options) != self.rows.options:
        raise DataError(
          f"{self.directory}: question {note.id!r} has {len(note.options)} options, "
          f"but {self.model.name} chooses among {self.rows.options}; take other types "
          "by --set=types="
        )
    # Annotations may divide videos otherwise than the records.
    split = "+".join(dict.fromkeys(base for base, _ in truth.places))
    numbers = {p: i for i, p in enumerate(sources.places(self.directory, split))}
    for record, place in zip(truth.records, truth.places, strict=True):
      if place not in numbers:
        raise DataError(
          f"{self.directory}: split {place[0]!r} has no record {record!r}, of which "
          "there are questions; prepare it, and add the notes again"
        )
    source = sources.open_split(self.directory, split)
    progress = "answering questions" if jax.process_index() == 0 else ""
    score = evaluator.scorer(self._context, self.rows, source, truth.notes, progress)
    owner = np.array([numbers[place] for place in truth.places])
    scores = score(self.model.params, np.arange(len(owner)), owner)
    origin = embed_split.manifest(
      self._checkpoint, self.model, self._context, source, self._protocol
    )
    return evaluator.given(self.rows, scores, truth.notes), origin


def save(
  directory: str | os.PathLike,
  truth: Truth,
  answers: list[Any],
  classes: tuple[str, ...],
) -> list[pathlib.Path]:
  """Writes what `evaluate --predictions`, and --answers, read; returns the paths.

  predictions.jsonl has a line for each question: {"question_id", "video", "question",
  "answer"}. answers.json has all texts that the model can answer; without `classes` it
  is not written.
  """
  rows = zip(truth.notes, truth.records, answers, strict=True)
  lines = [
    json.dumps(
      dict(question_id=note.id, video=record, question=note.text, answer=answer),
      ensure_ascii=False,
    )
    for note, record, answer in rows
  ]
  paths = [pathlib.Path(directory, "predictions.jsonl")]
  io.atomic_write(paths[0], "".join(f"{line}\n" for line in lines))
  if classes:
    paths.append(pathlib.Path(directory, "answers.json"))
    io.write_json(paths[1], list(classes))
  return paths
