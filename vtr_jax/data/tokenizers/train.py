"""Training of SentencePiece models in our layout; see `kinds.SentencePiece`."""

import io
from collections.abc import Iterable, Sequence

import sentencepiece


def train(
  captions: Iterable[str],
  vocab_size: int,
  letters: str,
  coverage: float,
  words: Sequence[str] = (),
) -> bytes:
  """A unigram model of lower-case text, deterministic.

  Pieces 0 to 3 are <pad>, <unk>, <cls> and <mask>; there is no begin or end piece.

  Args:
    captions: to learn the pieces from.
    vocab_size: max number of pieces; few captions support fewer.
    letters: characters that are pieces whether or not they occur.
    coverage: fraction of all characters of the captions that become pieces.
    words: pieces that are never split, with U+2581 where they begin a word.

  Raises:
    RuntimeError: SentencePiece cannot learn from these captions.
  """
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(captions),
    model_writer=model,
    model_type="unigram",
    vocab_size=vocab_size,
    hard_vocab_limit=False,
    normalization_rule_name="nmt_nfkc_cf",
    character_coverage=coverage,
    required_chars=letters,
    pad_id=0,
    unk_id=1,
    bos_id=-1,
    eos_id=-1,
    pad_piece="<pad>",
    unk_piece="<unk>",
    control_symbols=["<cls>", "<mask>"],
    user_defined_symbols=list(words),
    num_threads=1,
    minloglevel=2,
  )
  return model.getvalue()
