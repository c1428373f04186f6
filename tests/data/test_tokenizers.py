"""The SentencePiece tokenizer: ids, truncation, word ids, and errors of bad files."""

import pickle

import clips
import numpy as np
import pytest

from vtr_jax.core.batch import TextSpec
from vtr_jax.core.errors import BadSample, DataError
from vtr_jax.data.embedded.build import train_tokenizer
from vtr_jax.data.tokenizers import base as tokenizers


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
  return clips.tokenizer(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
  """A tokenizer like the demo's: a piece for each known word, and letters."""
  captions = ["a box moves left, we see it", "it moves, a box", "see a box we left"]
  path = tmp_path_factory.mktemp("embedded") / "tokenizer.model"
  path.write_bytes(train_tokenizer(captions * 10))
  return tokenizers.SentencePiece(str(path))


def test_encode_starts_with_cls_and_pads(tokenizer):
  ids, valid = tokenizer.encode("a red ball", 16)
  count = valid.sum()
  assert ids.dtype == np.int32
  assert ids.shape == valid.shape == (16,)
  assert ids[0] == tokenizer.cls_id
  assert valid[:count].all()
  assert (ids[count:] == tokenizer.pad_id).all()
  assert tokenizer.decode(ids) == "a red ball"
  assert "".join(tokenizer.pieces(ids[1:count])) == "▁a▁red▁ball"


def test_a_long_caption_is_truncated(tokenizer):
  whole, _ = tokenizer.encode(clips.WORDS, 60)
  ids, valid = tokenizer.encode(clips.WORDS, 5)
  assert valid.all()
  np.testing.assert_array_equal(ids, whole[:5])


def test_unknown_letters_are_unk_and_never_special_pieces(tokenizer):
  ids, valid = tokenizer.encode("日本 <mask>", 32)
  assert tokenizer.unk_id in ids
  # A caption cannot smuggle in a control piece.
  assert tokenizer.mask_id not in ids[valid]


def numbered_words(tokenizer, caption, length=24):
  """(words of a caption by `word_ids`, the word id of every token)."""
  ids, valid = tokenizer.encode(caption, length)
  words, pieces = tokenizer.word_ids(ids), tokenizer.pieces(ids)
  joined = {n: "" for n in words[valid]}
  for n, piece in zip(words[valid], pieces, strict=False):
    joined[n] += piece
  return [*joined.values()], words


def test_word_ids_join_the_pieces_of_a_word(tokenizer):
  found, words = numbered_words(tokenizer, "a slow ball moves", 48)
  assert found == ["<cls>", "▁a", "▁slow", "▁ball", "▁moves"]
  assert len(words) == 48
  assert words[0] == 0
  assert set(np.diff(words)) == {0, 1}
  # Padding belongs to no word.
  assert (
    len(set(words)) == 5 + (tokenizer.encode("a slow ball moves", 48)[1] == 0).sum()
  )


@pytest.mark.parametrize(
  ("caption", "want"),
  [
    ("it zigzags, we see.", ["▁it", "▁zigzags", ",", "▁we", "▁see", "."]),
    ("left,right", ["▁left", ",", "right"]),
    ("dots ... , a", ["▁dots", "▁", ".", ".", ".", "▁", ",", "▁a"]),
    ("x日b box", ["▁x<unk>b", "▁box"]),  # an unknown letter is part of its word
  ],
)
def test_words_of_the_embedded_tokenizer(embedded, caption, want):
  """Punctuation stands alone, as in BERT."""
  assert numbered_words(embedded, caption)[0] == ["<cls>", *want]


def test_a_word_without_a_leading_space_is_not_part_of_cls(tokenizer):
  (i,) = (i for i in range(tokenizer.vocab_size) if tokenizer.pieces([i]) == ["a"])
  ids = [tokenizer.cls_id, i, i, tokenizer.pad_id, tokenizer.pad_id]
  ids = np.array(ids, np.int32)
  np.testing.assert_array_equal(tokenizer.word_ids(ids), [0, 1, 1, 2, 3])


@pytest.mark.parametrize("caption", ["", "  ", "\n\t"])
def test_an_empty_caption_is_a_bad_sample(tokenizer, caption):
  with pytest.raises(BadSample, match="empty caption"):
    tokenizer.encode(caption, 8)


def test_special_ids_come_from_the_model(tmp_path):
  path = clips.train_pieces(tmp_path / "m.model", ("<mask>", "<sep>", "<cls>"))
  tokenizer = tokenizers.SentencePiece(str(path))
  assert tokenizer.special_ids == (0, 1, 4, 2)
  assert tokenizer.encode("a ball", 8)[0][0] == 4


def test_a_tokenizer_survives_pickling_without_its_file(tmp_path):
  tokenizer = clips.tokenizer(tmp_path)
  data = pickle.dumps(tokenizer)
  (tmp_path / "tokenizer.model").unlink()
  copy = pickle.loads(data)
  np.testing.assert_array_equal(copy.encode("a ball", 9), tokenizer.encode("a ball", 9))
  assert copy.special_ids == tokenizer.special_ids
  assert copy.vocab_size == tokenizer.vocab_size


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (None, "cannot read the tokenizer"),
    (b"", "not a SentencePiece model"),
    (b"<html>404</html>", "not a SentencePiece model"),
  ],
)
def test_unusable_model_files_are_rejected(tmp_path, content, message):
  path = tmp_path / "bad.model"
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(DataError, match=message) as e:
    tokenizers.SentencePiece(str(path))
  assert "bad.model" in str(e.value)


def test_a_truncated_model_file_is_rejected(tmp_path):
  path = clips.train_pieces(tmp_path / "cut.model")
  path.write_bytes(path.read_bytes()[:300])
  with pytest.raises(DataError, match=r"cut\.model"):
    tokenizers.SentencePiece(str(path))


def test_a_model_without_a_special_piece_is_rejected(tmp_path):
  path = clips.train_pieces(tmp_path / "m.model", ("<cls>",))
  with pytest.raises(DataError, match="no piece <mask>"):
    tokenizers.SentencePiece(str(path))


def test_check_rejects_another_vocab_size_or_mask_id(tokenizer):
  size = tokenizer.vocab_size
  tokenizers.check(tokenizer, TextSpec(8, size, tokenizer.mask_id))
  with pytest.raises(DataError, match=f"set vocab_size to {size}"):
    tokenizers.check(tokenizer, TextSpec(8, size - 1, tokenizer.mask_id))
  with pytest.raises(DataError, match="set mask_id to 3"):
    tokenizers.check(tokenizer, TextSpec(8, size, 4))
