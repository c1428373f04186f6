"""A SentencePiece model of general English, from the training captions."""

import io
import itertools
import string

import sentencepiece

from vtr_jax.core.errors import DataError, one_line

_MOST = 1_000_000  # ours: captions read; more change the pieces little


def train(captions: list[str], vocab_size: int) -> bytes:
  """A unigram model; text is put in lower case.

  Pieces 0 to 3 are <pad>, <unk>, <cls> and <mask>, as moving_shapes has them; there
  is no begin or end piece. Captions of another training split still fall into
  letters and digits, never all into <unk>.

  Args:
    captions: in an order that says nothing; the first million is read.
    vocab_size: pieces at most; few captions support fewer.

  Raises:
    DataError: SentencePiece finds nothing to learn.
  """
  model = io.BytesIO()
  # SentencePiece's own sampling of sentences is different in every run.
  used = list(itertools.islice(captions, _MOST))
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(used),
      model_writer=model,
      model_type="unigram",
      vocab_size=vocab_size,
      hard_vocab_limit=False,
      normalization_rule_name="nmt_nfkc_cf",
      character_coverage=0.9995,  # SentencePiece's default, for alphabets of letters
      required_chars=string.ascii_lowercase + string.digits,
      pad_id=0,
      unk_id=1,
      bos_id=-1,
      eos_id=-1,
      pad_piece="<pad>",
      unk_piece="<unk>",
      control_symbols=["<cls>", "<mask>"],
      num_threads=1,
      minloglevel=2,
    )
  except RuntimeError as e:
    raise DataError(
      f"no tokenizer can be trained on {len(used)} captions ({one_line(e)}); "
      "bring one with --tokenizer"
    ) from e
  return model.getvalue()
