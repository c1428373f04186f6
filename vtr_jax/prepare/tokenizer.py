"""The vocabulary of a data set: a copy, or one trained on the training captions."""

import os
import pathlib
import shutil
import string
from typing import Any

from vtr_jax.core.errors import DataError, one_line
from vtr_jax.core.shutdown import warn
from vtr_jax.data import captions
from vtr_jax.data.tokenizers import train as trainer

_MAX_CAPTIONS = 1_000_000  # ours; more change the pieces little
_COVERAGE = 0.9995  # SentencePiece's default, for alphabets of letters


def write(
  path: str | os.PathLike, train: list[dict], given: str, vocab_size: int
) -> Any:
  """Writes the vocabulary and returns it as a tokenizer; None without any text.

  Args:
    path: of the file to write.
    train: reports of the training split's shards.
    given: file to copy; empty trains one on the captions, else on the notes.
    vocab_size: max number of its pieces.

  Raises:
    DataError: the file cannot be read, or SentencePiece finds nothing to learn.
  """
  from vtr_jax.data.tokenizers.base import load  # imports JAX, which takes a second

  texts = [text for made in train for row in made["captions"] for text in row]
  if not texts:
    of_notes = (note for made in train for row in made["notes"] for note in row)
    texts = [t for n in of_notes for t in (n["text"], *n.get("options", ()))]
  if given:
    shutil.copyfile(given, path)
  elif texts:
    pathlib.Path(path).write_bytes(trained(texts, vocab_size))
  else:
    return None
  return load(given or os.fspath(path))


def without_tokens(
  name: str, vocabulary: Any, reports: dict[str, list[dict]]
) -> list[dict]:
  """Warns of the captions that are empty to a vocabulary.

  Args:
    name: of the data set.
    vocabulary: a tokenizer.
    reports: of the shards by split.

  Returns:
    id, split and reason for each of them.
  """
  rows = [
    (row, text)
    for shards in reports.values()
    for made in shards
    for row, texts in zip(made["rows"], made["captions"], strict=True)
    for text in texts
  ]
  found = list(captions.empty(vocabulary, [text for _, text in rows]))
  if found:
    warn(f"{name}: {captions.told(found, len(rows), lambda i: rows[i][0]['id'])}")
  return [
    dict(id=rows[i][0]["id"], split=rows[i][0]["split"], reason=f"caption {why}")
    for i, why in found
  ]


def trained(texts: list[str], vocab_size: int) -> bytes:
  """A unigram model of general English; see `data.tokenizers.train`.

  Unseen English words are split into letters and digits; they never become <unk>.

  Args:
    texts: in random order; the first million is read.
    vocab_size: max number of pieces; few captions support fewer.

  Raises:
    DataError: SentencePiece finds nothing to learn.
  """
  # SentencePiece's own sampling of sentences is different in every run.
  used = texts[:_MAX_CAPTIONS]
  letters = string.ascii_lowercase + string.digits
  try:
    return trainer.train(used, vocab_size, letters, _COVERAGE)
  except RuntimeError as e:
    raise DataError(
      f"no tokenizer can be trained on {len(used)} captions ({one_line(e)}); "
      "bring one with --tokenizer"
    ) from e
