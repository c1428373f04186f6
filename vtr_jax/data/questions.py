"""Rows of question answering: a clip, a question about it, and the right answer."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from vtr_jax.core import batch as batch_lib
from vtr_jax.core.batch import ClipSpec, MaskSpec, TextSpec
from vtr_jax.core.config import require
from vtr_jax.data import masks, notes
from vtr_jax.data.examples import Reader
from vtr_jax.data.notes import Note
from vtr_jax.data.sources import Split
from vtr_jax.data.tokenizers.base import Tokenizer

FORMS = ("open", "choice", "count")


class _Asked:
  """The questions of a split, each with its record."""

  def __init__(self, source: Split, pairs: Sequence[tuple[int, Note]]):
    self.directory = source.directory
    self._source, self._pairs = source, pairs

  def __len__(self) -> int:
    return len(self._pairs)

  def __getitem__(self, index: int) -> dict:
    record, note = self._pairs[index]
    return self._source[record] | dict(note=note)


@dataclasses.dataclass(frozen=True)
class QuestionRows:
  """A clip, a question about it, and the right answer; fields are `Config`'s."""

  notes: str
  types: tuple[str, ...] = ()
  form: str = "open"
  classes: tuple[str, ...] = ()
  options: int = 5
  counts: tuple[int, int] = (0, 10)

  @functools.cached_property
  def _index(self) -> dict[str, int]:
    return {answer: i for i, answer in enumerate(self.classes)}

  def asked(self, directory: str, split: str) -> list[tuple[int, Note]]:
    """(number of the record, question) of every question of a split, by record.

    Raises:
      DataError: there are none.
    """
    found = notes.read(directory, split, "question", name=self.notes)
    return [
      (record, note)
      for record, own in enumerate(found)
      for note in own
      if not self.types or note.type in self.types
    ]

  def labels(self, directory: str, split: str) -> list[str]:
    """The answers of a split."""
    return [note.answer for _, note in self.asked(directory, split)]

  def label(self, note: Note) -> int:
    """Index of the right answer, or the count; -1 if the form has none."""
    if self.form == "open":
      return self._index.get(note.answer, -1)
    if self.form == "choice":
      fitting = len(note.options) == self.options
      return note.options.index(note.answer) if fitting else -1
    return int(note.answer) if note.answer.isdecimal() else -1

  def examples(self, source: Split) -> _Asked:
    """The questions that can be learned: other answers than `classes` are left out."""
    pairs = self.asked(source.directory, source.name)
    usable = [pair for pair in pairs if self.label(pair[1]) >= 0]
    require(
      len(usable) > 0,
      f"{source.directory}: no question of split {source.name!r} has an answer of form "
      f"{self.form!r}; change config.objective.form, types or classes",
    )
    return _Asked(source, usable)

  def answers(
    self, scores: Float[np.ndarray, "q v"], options: Sequence[Sequence[str]]
  ) -> list[Any]:
    """The answer of each row of scores: a text, or of form count a whole number."""
    if self.form == "count":  # halves up, as eval.answers.counted
      return np.clip(np.floor(scores[:, 0] + 0.5), *self.counts).astype(int).tolist()
    best = scores.argmax(axis=1).tolist()
    if self.form == "open":
      return [self.classes[i] for i in best]
    return [own[i] for own, i in zip(options, best, strict=True)]

  def encode(
    self, question: str, options: Sequence[str], tokenizer: Tokenizer, length: int
  ) -> dict[str, np.ndarray]:
    """A question's ids, of form choice followed by each option; raises BadSample."""
    if self.form != "choice":
      ids, valid = tokenizer.encode(question, length)
      return dict(text_ids=ids, text_valid=valid)
    pairs = [tokenizer.encode(f"{question} {option}", length) for option in options]
    ids, valid = map(np.stack, zip(*pairs, strict=True))
    return dict(option_ids=ids, option_valid=valid)

  def spec(
    self, clip: ClipSpec, text: TextSpec, mask: MaskSpec, batch_size: int
  ) -> dict[str, jax.ShapeDtypeStruct]:
    shapes = batch_lib.spec(clip, text, mask, batch_size)
    keys = ["video", "row", "valid"]
    if mask.num_masked(clip.grid):
      keys.append("video_keep_idx")
    found = {key: shapes[key] for key in keys}
    found["label"] = jax.ShapeDtypeStruct((batch_size,), np.int32)
    choice, size = self.form == "choice", (text.max_length,)
    size = (batch_size, self.options, *size) if choice else (batch_size, *size)
    for key, dtype in (("ids", np.int32), ("valid", np.bool_)):
      name = f"option_{key}" if choice else f"text_{key}"
      found[name] = jax.ShapeDtypeStruct(size, dtype)
    return found

  def row(
    self, record: dict, reader: Reader, rng: np.random.Generator
  ) -> dict[str, np.ndarray]:
    note: Note = record["note"]
    length = reader.text.max_length
    row = self.encode(note.text, note.options, reader.tokenizer, length)
    row["video"] = reader.read(record["video"], rng)
    row["label"] = np.array(self.label(note), np.int32)
    mask, grid = reader.mask, reader.clip.grid
    if mask.num_masked(grid):
      row["video_keep_idx"] = masks.video_mask(mask, grid, rng)[0]
    return row
