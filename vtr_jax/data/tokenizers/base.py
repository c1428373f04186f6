"""Captions to token ids."""

from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int, Int32, Int64

from vtr_jax.core.batch import TextSpec
from vtr_jax.core.errors import DataError
from vtr_jax.data.tokenizers import kinds
from vtr_jax.data.tokenizers.kinds import (
  Albert,
  Bert,
  Clip,
  SentencePiece,
  Siglip,
  Siglip2,
  VideoPrism,
)


@runtime_checkable
class Tokenizer(Protocol):
  """The tokenizer of the loader, the objectives and the evaluators.

  It must be picklable: each worker of the loader gets a copy.
  """

  vocab_size: int
  pad_id: int
  unk_id: int
  mask_id: int

  @property
  def special_ids(self) -> tuple[int, ...]:
    """Ids that are never masked."""
    ...

  def encode(
    self, caption: str, length: int
  ) -> tuple[Int32[np.ndarray, " l"], Bool[np.ndarray, " l"]]:
    """`length` ids, at least 2, and whether each is valid; see `kinds`."""
    ...

  def decode(self, ids: Iterable[int] | Int[np.ndarray, " n"]) -> str:
    """Text of the ids, special tokens left out."""
    ...

  def pieces(self, ids: Iterable[int] | Int[np.ndarray, " n"]) -> list[str]:
    """The vocabulary's own spelling of each id."""
    ...

  def word_ids(self, ids: Int32[np.ndarray, " l"]) -> Int64[np.ndarray, " l"]:
    """A number in [0, l) for each id, the same for the pieces of one word.

    Each vocabulary marks words in its own way: a piece may begin a word
    (SentencePiece), continue one (WordPiece) or end one (CLIP's BPE).
    """
    ...


class NoText:
  """Stands for the tokenizer of a model of clips alone: it reads no text."""

  vocab_size = 0
  pad_id = unk_id = mask_id = -1
  special_ids: tuple[int, ...] = ()

  def encode(self, caption: str, length: int) -> NoReturn:
    raise DataError(f"text {caption[:60]!r}: this model reads clips alone")

  def decode(self, ids: Iterable[int] | Int[np.ndarray, " n"]) -> str:
    return ""

  def pieces(self, ids: Iterable[int] | Int[np.ndarray, " n"]) -> list[str]:
    return ["" for _ in ids]

  def word_ids(self, ids: Int32[np.ndarray, " l"]) -> Int64[np.ndarray, " l"]:
    return np.arange(len(ids))


def load(path: str, t5_rules: str = "siglip") -> Tokenizer:
  """Loads a vocabulary file, whose content determines its kind.

  Args:
    path: a SentencePiece model in our layout (with <cls>), ALBERT's, T5's or Gemma's;
      BERT's vocab.txt, which has lines such as [CLS] and [SEP]; CLIP's merges, whose
      first line contains #version; or the tokenizer.json of BERT or CLIP. Files may be
      compressed with gzip.
    t5_rules: `TextSpec.t5_rules`; a T5 file does not tell whose it is.

  Raises:
    DataError: the file cannot be read, is damaged or of an unknown kind, or its kind
      requires the package `tokenizers`, which is missing.
  """
  return _kind(path, t5_rules)(path)


def _kind(path: str, t5_rules: str) -> Callable[[str], Tokenizer]:
  data = kinds.read(path)
  if model := kinds.parse(data):
    first = tuple(model.IdToPiece(i) for i in range(min(5, model.GetPieceSize())))
    if model.IdToPiece(model.PieceToId("<cls>")) == "<cls>":
      return SentencePiece
    t5 = VideoPrism if t5_rules == "videoprism" else Siglip
    for kind in (Albert, Siglip2, t5):
      if first[: len(kind.LAYOUT)] == kind.LAYOUT:
        return kind
    raise DataError(
      f"{path}: a SentencePiece model of another layout, it begins with "
      f"{' '.join(first)}; give ours (<pad> <unk> <cls> <mask>), ALBERT's, T5's or "
      "Gemma's"
    )
  try:
    lines = kinds.lines(path, data)
  except DataError:
    lines = []
  if lines and "#version" in lines[0]:
    return Clip
  if set(Bert.SPECIAL) & {line.strip() for line in lines}:
    return Bert
  raise DataError(
    f"{path}: not a SentencePiece model, nor BERT's vocab.txt, nor CLIP's merges; "
    "copy or train it again"
  )


def check(tokenizer: Tokenizer, text: TextSpec) -> None:
  """Rejects a tokenizer that does not fit the model.

  Raises:
    DataError: the tokenizer has more than `text.vocab_size` pieces, or `text.mask_id`
      is not its mask token.
  """
  if isinstance(tokenizer, NoText):
    return
  if tokenizer.vocab_size > text.vocab_size:
    raise DataError(
      f"the tokenizer knows {tokenizer.vocab_size} pieces, the model has room for "
      f"{text.vocab_size}; set vocab_size to {tokenizer.vocab_size} or more"
    )
  if tokenizer.mask_id != text.mask_id:
    raise DataError(
      f"the tokenizer's mask token is {tokenizer.mask_id}, the model's "
      f"{text.mask_id}; set mask_id to {tokenizer.mask_id}"
    )


def encode_all(
  tokenizer: Tokenizer, captions: Sequence[str], length: int
) -> tuple[Int32[np.ndarray, "b l"], Bool[np.ndarray, "b l"]]:
  """`encode` over many captions, stacked."""
  pairs = [tokenizer.encode(caption, length) for caption in captions]
  ids, valid = zip(*pairs, strict=True)
  return np.stack(ids), np.stack(valid)
