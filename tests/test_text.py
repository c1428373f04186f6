"""The tokenizer: its ids, its limits, and what it says about bad files."""

import pickle

import clips
import numpy as np
import pytest

from vtr_jax.batch import TextSpec
from vtr_jax.data import text
from vtr_jax.errors import BadSample, DataError


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
  return clips.tokenizer(tmp_path_factory.mktemp("text"))


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


def test_long_caption_loses_its_end(tokenizer):
  whole, _ = tokenizer.encode(clips.WORDS, 60)
  ids, valid = tokenizer.encode(clips.WORDS, 5)
  assert valid.all()
  np.testing.assert_array_equal(ids, whole[:5])


def test_unknown_letters_are_unk_and_never_special_pieces(tokenizer):
  ids, valid = tokenizer.encode("日本 <mask>", 32)
  assert tokenizer.unk_id in ids
  # A caption cannot smuggle in a control piece.
  assert tokenizer.mask_id not in ids[valid]


@pytest.mark.parametrize("caption", ["", "  ", "\n\t"])
def test_empty_caption_is_bad(tokenizer, caption):
  with pytest.raises(BadSample, match="empty caption"):
    tokenizer.encode(caption, 8)


def test_special_ids_come_from_the_model(tmp_path):
  path = clips.train_pieces(tmp_path / "m.model", ("<mask>", "<sep>", "<cls>"))
  tokenizer = text.SentencePiece(str(path))
  assert tokenizer.special_ids == (0, 1, 4, 2)
  assert tokenizer.encode("a ball", 8)[0][0] == 4


def test_survives_pickling_without_its_file(tmp_path):
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
def test_unusable_model_files(tmp_path, content, message):
  path = tmp_path / "bad.model"
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(DataError, match=message) as e:
    text.SentencePiece(str(path))
  assert "bad.model" in str(e.value)


def test_cut_model_file(tmp_path):
  path = clips.train_pieces(tmp_path / "cut.model")
  path.write_bytes(path.read_bytes()[:300])
  with pytest.raises(DataError, match=r"cut\.model"):
    text.SentencePiece(str(path))


def test_model_without_a_piece(tmp_path):
  path = clips.train_pieces(tmp_path / "m.model", ("<cls>",))
  with pytest.raises(DataError, match="no piece <mask>"):
    text.SentencePiece(str(path))


def test_check_compares_with_the_model(tokenizer):
  size = tokenizer.vocab_size
  text.check(tokenizer, TextSpec(8, size, tokenizer.mask_id))
  with pytest.raises(DataError, match=f"set vocab_size to {size}"):
    text.check(tokenizer, TextSpec(8, size - 1, tokenizer.mask_id))
  with pytest.raises(DataError, match="set mask_id to 3"):
    text.check(tokenizer, TextSpec(8, size, 4))
