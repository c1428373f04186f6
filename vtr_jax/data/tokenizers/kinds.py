"""Vocabularies that `base.load` reads; each is a `base.Tokenizer`.

Ids agree with the public weights of each vocabulary; the reference is transformers 5
(`BertTokenizer`, `CLIPTokenizer`, `AlbertTokenizer`, `SiglipTokenizer`). One difference
is deliberate: a special token spelled out in a caption is ordinary text and never
becomes the special id.

Captions are encoded one at a time: batch encoding in the `tokenizers` package starts
threads, which do not survive the fork of a worker.
"""

import gzip
import string
import unicodedata
import zlib
from collections.abc import Iterable

import numpy as np
import sentencepiece
from jaxtyping import Bool, Int, Int32, Int64
from numpy.typing import ArrayLike

from vtr_jax.core import io
from vtr_jax.core.errors import BadSample, DataError, one_line
from vtr_jax.core.paths import near

# Merges that CLIP's code reads; OpenAI's file has five times as many.
_MERGES = 49152 - 256 - 2


def read(path: str) -> bytes:
  """The content of a vocabulary file.

  Decompressed if it is gzip; a tokenizer.json of BERT's or CLIP's kind as the vocab.txt
  or the merges that it contains.

  Raises:
    DataError: the file is missing, a directory, truncated or damaged gzip, or a
      tokenizer.json of another kind.
  """
  try:
    with open(path, "rb") as f:
      data = f.read()
  except OSError as e:
    hint = near(path) if isinstance(e, FileNotFoundError) else ""
    raise DataError(f"{path}: cannot read the tokenizer ({e.strerror}){hint}") from e
  if data.startswith(b"\x1f\x8b"):
    try:
      data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as e:
      raise DataError(f"{path}: a damaged gzip file; copy it again") from e
  return _from_json(path, data) if data[:1] == b"{" else data


def _from_json(path: str, data: bytes) -> bytes:
  """The vocab.txt or the merges that a tokenizer.json of the tokenizers package has."""
  try:
    found = io.mapping(data)
    model, normal = found["model"], found.get("normalizer") or {}
    kind = model["type"]
    if kind == "WordPiece":
      pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
      if [model["vocab"][piece] for piece in pieces] != [*range(len(pieces))]:
        raise DataError(f"{path}: ids of the vocabulary have gaps; give its vocab.txt")
      lower = normal.get("lowercase")
      if lower is not None and lower != _is_uncased(pieces):
        raise DataError(
          f"{path}: lowercase is {lower}, but the vocabulary is "
          f"{'uncased' if _is_uncased(pieces) else 'cased'}; that is not supported"
        )
      return "\n".join(pieces).encode()
    if kind == "BPE" and model.get("end_of_word_suffix") == "</w>":
      merges = (x if isinstance(x, str) else " ".join(x) for x in model["merges"])
      return "\n".join(["#version: of tokenizer.json", *merges]).encode()
  except (ValueError, KeyError, TypeError, AttributeError) as e:
    raise DataError(f"{path}: not a tokenizer.json ({one_line(e)})") from e
  raise DataError(
    f"{path}: a vocabulary of kind {kind!r}; give its SentencePiece model instead, "
    "spiece.model or tokenizer.model"
  )


class _Vocabulary:
  """The common part of all kinds, which works on the list of pieces.

  A subclass sets the ids, among them those before and after a caption (`_before`,
  `_after`), and implements `_encode` and `_decode`.
  """

  pad_id: int
  unk_id: int
  mask_id: int
  special_ids: tuple[int, ...]
  _before: tuple[int, ...] = ()
  _after: tuple[int, ...] = ()

  def __init__(self, pieces: list[str], begins: ArrayLike, ends: ArrayLike):
    """Takes the spelling of each id, and whether it begins or ends a word."""
    self.vocab_size = len(pieces)
    self._pieces = pieces
    self._begins, self._ends = np.array(begins), np.array(ends)

  def encode(
    self, caption: str, length: int
  ) -> tuple[Int32[np.ndarray, " l"], Bool[np.ndarray, " l"]]:
    """The caption between the special tokens of its kind, then padding.

    A long caption is truncated; the special tokens stay.

    Args:
      caption: any text.
      length: of the result, 2 or more as in `TextSpec`.

    Raises:
      BadSample: the caption has no token after normalisation, or contains a lone
        surrogate, as JSON may.
    """
    try:
      words = self._encode(caption)
    except (RuntimeError, TypeError, UnicodeEncodeError) as e:  # varies with library
      raise BadSample("caption with half a character") from e
    if not words:
      raise BadSample("empty caption: no token of it in this vocabulary")
    room = length - len(self._before) - len(self._after)
    used = [*self._before, *words[:room], *self._after]
    ids = np.full(length, self.pad_id, np.int32)
    ids[: len(used)] = used
    return ids, np.arange(length) < len(used)

  def decode(self, ids: Iterable[int] | Int[np.ndarray, " n"]) -> str:
    """Text of the ids without special tokens except the unknown token."""
    silent = {*self.special_ids} - {self.unk_id}
    return self._decode([int(i) for i in ids if int(i) not in silent])

  def pieces(self, ids: Iterable[int] | Int[np.ndarray, " n"]) -> list[str]:
    """The vocabulary's own spelling of each id."""
    return [self._pieces[int(i)] for i in ids]

  def word_ids(self, ids: Int32[np.ndarray, " l"]) -> Int64[np.ndarray, " l"]:
    """Numbers the words from 0; special tokens are words of their own."""
    begins = self._begins[ids]
    begins[1:] |= self._ends[ids[:-1]]
    begins[:1] = False  # otherwise the numbers would start at 1
    return np.cumsum(begins)

  def _encode(self, caption: str) -> list[int]:
    raise NotImplementedError

  def _decode(self, ids: list[int]) -> str:
    raise NotImplementedError


class SentencePiece(_Vocabulary):
  """Our layout: <pad>, <unk>, <cls> and <mask>, whatever their ids.

  <cls>, the caption's pieces, then <pad>.

  A piece with a leading U+2581 begins a word. Each punctuation mark is a word of its
  own, as in BERT's tokenizer: "ball," is two words, "don't" three.
  """

  LAYOUT = ("<pad>", "<unk>", "<cls>", "<mask>")

  def __init__(self, path: str):
    """Reads the model file.

    Raises:
      DataError: the file is missing, is not a SentencePiece model, or lacks one of the
        special pieces.
    """
    self._path = path
    model = parse(read(path))
    if model is None:
      raise DataError(f"{path}: not a SentencePiece model; copy or train it again")
    self._model = model
    pieces = [model.IdToPiece(i) for i in range(model.GetPieceSize())]
    alone = [model.IsControl(i) or _is_punctuation(p) for i, p in enumerate(pieces)]
    self._set_ids()
    if self.mask_id == len(pieces):
      pieces.append("<mask>")
      alone.append(True)
    begins = [piece.startswith("\u2581") for piece in pieces]
    super().__init__(pieces, np.logical_or(begins, alone), alone)

  def _set_ids(self) -> None:
    self.special_ids = tuple(map(self._find, self.LAYOUT))
    self.pad_id, self.unk_id, self.cls_id, self.mask_id = self.special_ids
    self._before = (self.cls_id,)

  def _find(self, piece: str) -> int:
    piece_id = self._model.PieceToId(piece)
    if self._model.IdToPiece(piece_id) != piece:
      raise DataError(
        f"{self._path}: the vocabulary has no piece {piece}; train it with "
        f"{', '.join(self.LAYOUT)}"
      )
    return piece_id

  def _encode(self, caption: str) -> list[int]:
    return self._model.EncodeAsIds(caption)

  def _decode(self, ids: list[int]) -> str:
    return self._model.DecodeIds(ids)


class Albert(SentencePiece):
  """ALBERT's SentencePiece models: [CLS] caption [SEP] <pad> ...

  Text is lower-cased, loses its accents, and is split by SentencePiece, as in ALBERT's
  training. HF's tokenizer differs in two cases: loaded from the model file, it begins a
  word after each of the model's user-defined pieces, such as ( and -, and it uses
  another version of Unicode. ALBERT's own code also splits a comma from the digit
  before it; this class and HF's fast tokenizer do not.
  """

  LAYOUT = ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")  # the first pieces

  def _set_ids(self) -> None:
    self.special_ids = tuple(map(self._find, self.LAYOUT))
    self.pad_id, self.unk_id, self.cls_id, sep_id, self.mask_id = self.special_ids
    self._before, self._after = (self.cls_id,), (sep_id,)

  def _encode(self, caption: str) -> list[int]:
    text = caption.replace("``", '"').replace("''", '"')
    text = text.replace("\x85", " ")  # the one space unknown to SentencePiece
    text = unicodedata.normalize("NFKD", text)
    text = "".join(c.lower() for c in text if unicodedata.category(c)[0] != "M")
    return super()._encode(text)


class Siglip(SentencePiece):
  """T5's SentencePiece models as SigLIP uses them: caption </s> </s> ...

  Text is lower-cased and loses ASCII punctuation. All positions are valid: SigLIP's
  text tower attends to its padding, which is </s>, and pools the last position.

  The vocabulary has no mask token: `mask_id` is its size, which adds a row to the token
  embedding.
  """

  LAYOUT = ("<pad>", "</s>", "<unk>")  # the first pieces

  def encode(
    self, caption: str, length: int
  ) -> tuple[Int32[np.ndarray, " l"], Bool[np.ndarray, " l"]]:
    """As for the other kinds, but every position is valid."""
    ids, valid = super().encode(caption, length)
    return ids, np.ones_like(valid)

  def _set_ids(self) -> None:
    _, self.pad_id, self.unk_id = map(self._find, self.LAYOUT)
    self.mask_id = self._model.GetPieceSize()
    self.special_ids = self.pad_id, self.unk_id, self.mask_id
    self._after = (self.pad_id,)

  def _encode(self, caption: str) -> list[int]:
    text = caption.lower().translate(str.maketrans("", "", string.punctuation))
    return super()._encode(" ".join(text.split()))


class Siglip2(Siglip):
  """Gemma's SentencePiece model as SigLIP 2 uses it: caption <eos> <pad> ...

  Text is lower-cased and keeps its punctuation; a truncated caption keeps <eos>. All
  positions are valid, and `mask_id` is one beyond the vocabulary, as for SigLIP:
  Gemma's own <mask> is never trained.
  """

  LAYOUT = ("<pad>", "<eos>", "<bos>", "<unk>")  # the first pieces

  def _set_ids(self) -> None:
    self.pad_id, end_id, start_id, self.unk_id = map(self._find, self.LAYOUT)
    self.mask_id = self._model.GetPieceSize()
    self.special_ids = self.pad_id, end_id, start_id, self.unk_id, self.mask_id
    self._after = (end_id,)

  def _encode(self, caption: str) -> list[int]:
    return SentencePiece._encode(self, caption.lower())


class VideoPrism(SentencePiece):
  """T5's SentencePiece models as VideoPrism's code uses them: caption . <pad> ...

  ASCII punctuation becomes space, text is lower-cased, and one full stop is put at the
  end of every caption, even of an empty one; a truncated caption loses it.

  The vocabulary has no mask token: `mask_id` is its size, which adds a row to the token
  embedding.
  """

  LAYOUT = Siglip.LAYOUT
  _SPACES = str.maketrans(dict.fromkeys(string.punctuation, " "))

  def _set_ids(self) -> None:
    self.pad_id, end_id, self.unk_id = map(self._find, self.LAYOUT)
    self.mask_id = self._model.GetPieceSize()
    self.special_ids = self.pad_id, end_id, self.unk_id, self.mask_id

  def _encode(self, caption: str) -> list[int]:
    return super()._encode(
      " ".join(caption.translate(self._SPACES).lower().split()) + "."
    )


class Bert(_Vocabulary):
  """BERT's WordPiece, a vocab.txt: [CLS] caption [SEP] [PAD] ...

  Captions are lower-cased and lose their accents if the vocabulary is uncased, that is,
  has no capital letter. A piece with a leading ## continues a word; every other piece,
  punctuation included, begins one.
  """

  SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

  def __init__(self, path: str):
    """Reads the vocabulary file.

    Raises:
      DataError: the file cannot be read, lacks a special token, or has duplicate
        lines; the package `tokenizers` is missing.
    """
    pieces = [line.rstrip("\r") for line in lines(path, read(path))]
    ids = {piece: i for i, piece in enumerate(pieces)}
    if len(ids) < len(pieces):
      (i, piece), *_ = ((i, p) for i, p in enumerate(pieces) if ids[p] != i)
      raise DataError(
        f"{path}: lines {i + 1} and {ids[piece] + 1} are both {piece!r}; ids would "
        "shift, copy it again"
      )
    for piece in self.SPECIAL:
      if piece not in ids:
        raise DataError(f"{path}: the vocabulary has no {piece}; copy it again")
    self.special_ids = tuple(ids[piece] for piece in self.SPECIAL)
    self.pad_id, self.unk_id, self.cls_id, sep_id, self.mask_id = self.special_ids
    self._before, self._after = (self.cls_id,), (sep_id,)
    special = np.isin(np.arange(len(pieces)), self.special_ids)
    super().__init__(pieces, [not p.startswith("##") for p in pieces], special)
    hf = _tokenizers(path)
    tokenizer = hf.Tokenizer(hf.models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = hf.normalizers.BertNormalizer(lowercase=_is_uncased(pieces))
    tokenizer.pre_tokenizer = hf.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = hf.decoders.WordPiece()
    self._model = tokenizer

  def _encode(self, caption: str) -> list[int]:
    return self._model.encode(caption).ids

  def _decode(self, ids: list[int]) -> str:
    return self._model.decode(ids)


class Clip(_Vocabulary):
  """CLIP's byte pairs, OpenAI's or HF's list of merges.

  <|startoftext|> caption <|endoftext|>, then id 0 as in OpenAI's code; HF pads with
  <|endoftext|>. Padding is not valid either way. As in HF's tokenizer, text is not
  repaired; OpenAI's code first fixes mojibake and HTML entities.

  Id 0 is also "!", so that padding is not among the special ids. Every byte has a
  piece: `unk_id`, which is <|endoftext|> as in HF's, never occurs in a caption. CLIP
  has no mask token: `mask_id` is its vocabulary size, 49408, which adds a row to the
  token embedding.

  A piece with a trailing </w> ends a word; consecutive punctuation marks are one word.
  """

  # As in HF's; OpenAI's pattern without the special tokens.
  _WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"

  def __init__(self, path: str):
    """Reads the list of merges, which may be gzipped.

    Raises:
      DataError: the file cannot be read, or a line is not a merge of two earlier
        pieces; the package `tokenizers` is missing.
    """
    hf = _tokenizers(path)
    letters = sorted(hf.pre_tokenizers.ByteLevel.alphabet())
    ids = {p: i for i, p in enumerate([*letters, *(c + "</w>" for c in letters)])}
    merges = []
    for number, line in enumerate(lines(path, read(path))[1 : 1 + _MERGES], 2):
      pair = line.split()
      if len(pair) != 2 or not ids.keys() >= set(pair) or "".join(pair) in ids:
        raise DataError(
          f"{path}: line {number} is not a valid merge: {line[:40]!r}; copy it again"
        )
      merges.append((pair[0], pair[1]))
      ids["".join(pair)] = len(ids)
    if not any(b.endswith("</w>") for _, b in merges):
      raise DataError(f"{path}: no merge ends a word (</w>); give CLIP's merges")
    start, end = len(ids), len(ids) + 1
    self.pad_id, self.unk_id, self.cls_id, self.mask_id = 0, end, start, end + 1
    self.special_ids = start, end, self.mask_id
    self._before, self._after, self._end = (start,), (end,), end
    pieces = [*ids, "<|startoftext|>", "<|endoftext|>", "<|mask|>"]
    special = [i >= start for i in range(len(pieces))]
    super().__init__(pieces, special, [p.endswith("</w>") for p in ids] + [True] * 3)
    model = hf.models.BPE(ids, merges, end_of_word_suffix="</w>")
    tokenizer = hf.Tokenizer(model)
    normal, split = hf.normalizers, hf.pre_tokenizers
    tokenizer.normalizer = normal.Sequence(
      [normal.NFC(), normal.Replace(hf.Regex(r"\s+"), " "), normal.Lowercase()]
    )
    words = split.Split(hf.Regex(self._WORDS), behavior="removed", invert=True)
    bytes_of = split.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = split.Sequence([words, bytes_of])
    tokenizer.decoder = hf.decoders.ByteLevel()
    self._model = tokenizer

  def decode(self, ids: Iterable[int] | Int[np.ndarray, " n"]) -> str:
    """Text of the ids up to the end token, special tokens left out."""
    ids = [int(i) for i in ids]
    return super().decode(ids[: ids.index(self._end)] if self._end in ids else ids)

  def _encode(self, caption: str) -> list[int]:
    return self._model.encode(caption).ids

  def _decode(self, ids: list[int]) -> str:
    return self._model.decode(ids).replace("</w>", " ").strip()


def parse(data: bytes) -> sentencepiece.SentencePieceProcessor | None:
  """The SentencePiece model; None if the data are something else."""
  model = sentencepiece.SentencePieceProcessor()
  try:
    # An empty string would be accepted as "no model given".
    model.LoadFromSerializedProto(data or b"?")
  except RuntimeError:
    return None
  return model


def lines(path: str, data: bytes) -> list[str]:
  """The lines of a text file.

  Raises:
    DataError: it is not UTF-8.
  """
  try:
    # Not splitlines: U+2028 and similar characters are tokens.
    return data.decode().removesuffix("\n").split("\n")
  except UnicodeDecodeError:
    raise DataError(f"{path}: not text in UTF-8; copy it again") from None


def _tokenizers(path: str):
  try:
    import tokenizers
  except ImportError:
    raise DataError(
      f"{path}: requires a package that is missing; pip install 'tokenizers'"
    ) from None
  return tokenizers


def _is_uncased(pieces: list[str]) -> bool:
  """Whether no piece has a capital letter, except those in brackets such as [CLS]."""
  plain = "".join(p for p in pieces if not (p[:1] == "[" and p[-1:] == "]"))
  return not any("A" <= c <= "Z" for c in plain)


def _is_punctuation(piece: str) -> bool:
  """Whether a piece consists of punctuation and symbols, after an optional space."""
  marks = piece.lstrip("\u2581")
  return bool(marks) and all(unicodedata.category(mark)[0] in "PS" for mark in marks)
