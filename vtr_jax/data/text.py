"""Captions to token ids."""

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import sentencepiece
from jaxtyping import Bool, Int32, Int64

from vtr_jax.batch import TextSpec
from vtr_jax.errors import BadSample, DataError


class Tokenizer(Protocol):
  """What the loader, the objectives and the evaluators need of a tokenizer.

  It must survive pickling: the loader's workers get a copy.
  """

  vocab_size: int
  pad_id: int
  unk_id: int
  cls_id: int
  mask_id: int

  @property
  def special_ids(self) -> tuple[int, ...]:
    """Ids that are never hidden: there is nothing to learn from them."""
    ...

  def encode(
    self, caption: str, length: int
  ) -> tuple[Int32[np.ndarray, "l"], Bool[np.ndarray, "l"]]:
    """Ids and their validity, `length` long; see `SentencePiece.encode`."""
    ...

  def decode(self, ids: Iterable[int]) -> str:
    """Text of the ids, special tokens left out."""
    ...

  def pieces(self, ids: Iterable[int]) -> list[str]:
    """The vocabulary's own spelling of each id."""
    ...

  def word_ids(self, ids: Int32[np.ndarray, "l"]) -> Int64[np.ndarray, "l"]:
    """A number in [0, l) for each id, the same for the pieces of one word.

    What marks a word is the vocabulary's affair: a piece may begin one
    (SentencePiece), continue one (WordPiece) or end one (BPE as in CLIP).
    """
    ...


class SentencePiece:
  """A SentencePiece model with the pieces <pad>, <unk>, <cls> and <mask>."""

  def __init__(self, path: str):
    """Reads the model file.

    Raises:
      DataError: the file is missing, is no model, or lacks one of the pieces.
    """
    self._path = path
    self._model = sentencepiece.SentencePieceProcessor()
    try:
      with open(path, "rb") as f:
        data = f.read()
    except OSError as e:
      raise DataError(f"{path}: cannot read the tokenizer ({e.strerror})") from e
    try:
      # An empty string would be taken for "no model given" and accepted.
      self._model.LoadFromSerializedProto(data or b"?")
    except RuntimeError as e:
      raise DataError(
        f"{path}: not a SentencePiece model; copy or train it again"
      ) from e
    self.vocab_size = self._model.GetPieceSize()
    self.pad_id = self._find("<pad>")
    self.unk_id = self._find("<unk>")
    self.cls_id = self._find("<cls>")
    self.mask_id = self._find("<mask>")
    pieces = self.pieces(range(self.vocab_size))
    self._begins = np.array([piece.startswith("\u2581") for piece in pieces])
    self._alone = np.array(
      [self._model.IsControl(i) or _is_punctuation(p) for i, p in enumerate(pieces)]
    )

  @property
  def special_ids(self) -> tuple[int, ...]:
    return self.pad_id, self.unk_id, self.cls_id, self.mask_id

  def encode(
    self, caption: str, length: int
  ) -> tuple[Int32[np.ndarray, "l"], Bool[np.ndarray, "l"]]:
    """<cls>, the caption's pieces, then <pad>; a long caption loses its end.

    Raises:
      BadSample: nothing of the caption is left after normalisation.
    """
    words = self._model.EncodeAsIds(caption)
    if not words:
      raise BadSample("empty caption")
    used = [self.cls_id, *words][:length]
    ids = np.full(length, self.pad_id, np.int32)
    ids[: len(used)] = used
    return ids, np.arange(length) < len(used)

  def decode(self, ids: Iterable[int]) -> str:
    """Text of the ids, special tokens left out."""
    silent = {self.pad_id, self.cls_id, self.mask_id}
    return self._model.DecodeIds([int(i) for i in ids if int(i) not in silent])

  def pieces(self, ids: Iterable[int]) -> list[str]:
    """The vocabulary's own spelling of each id."""
    return [self._model.IdToPiece(int(i)) for i in ids]

  def word_ids(self, ids: Int32[np.ndarray, "l"]) -> Int64[np.ndarray, "l"]:
    """Numbers the words from 0.

    A piece with a leading U+2581 begins a word. Special tokens are words of their
    own, and so are punctuation marks, as BERT's tokenizer has them: in "ball," the
    comma is not part of the word, "don't" is three.
    """
    alone = self._alone[ids]
    begins = self._begins[ids] | alone
    begins[1:] |= alone[:-1]
    begins[:1] = False  # else the count would start at 1
    return np.cumsum(begins)

  def _find(self, piece: str) -> int:
    found = self._model.PieceToId(piece)
    if self._model.IdToPiece(found) != piece:
      raise DataError(
        f"{self._path}: the vocabulary has no piece {piece}; train it with "
        "<pad>, <unk>, <cls> and <mask>"
      )
    return found


def _is_punctuation(piece: str) -> bool:
  """Whether a piece has marks and symbols only, perhaps behind a space."""
  marks = piece.lstrip("\u2581")
  return bool(marks) and all(unicodedata.category(mark)[0] in "PS" for mark in marks)


def check(tokenizer: Tokenizer, text: TextSpec) -> None:
  """Refuses a tokenizer that the model does not fit.

  Raises:
    DataError: ids would fall outside the word embedding of `text.vocab_size`
      rows, or `text.mask_id` is not the tokenizer's mask token.
  """
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
