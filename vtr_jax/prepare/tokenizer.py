"""A SentencePiece model of general English, from the training captions."""

import string

from vtr_jax.core.errors import DataError, one_line
from vtr_jax.data.tokenizers import train as trainer

_MAX_CAPTIONS = 1_000_000  # ours; more change the pieces little
_COVERAGE = 0.9995  # SentencePiece's default, for alphabets of letters


def train(captions: list[str], vocab_size: int) -> bytes:
  """A unigram model; see `data.tokenizers.train`.

  Unseen English words are split into letters and digits; they never become <unk>.

  Args:
    captions: in random order; the first million is read.
    vocab_size: max number of pieces; few captions support fewer.

  Raises:
    DataError: SentencePiece finds nothing to learn.
  """
  # SentencePiece's own sampling of sentences is different in every run.
  used = captions[:_MAX_CAPTIONS]
  letters = string.ascii_lowercase + string.digits
  try:
    return trainer.train(used, vocab_size, letters, _COVERAGE)
  except RuntimeError as e:
    raise DataError(
      f"no tokenizer can be trained on {len(used)} captions ({one_line(e)}); "
      "bring one with --tokenizer"
    ) from e
