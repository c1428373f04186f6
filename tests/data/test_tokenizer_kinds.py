"""Public vocabularies: the ids of transformers, and which files are rejected.

Real files are looked for in VTR_SHARED_DIR, or in ../shared next to the repository.
"""

import gzip
import json
import os
import pathlib
import pickle
import re
import subprocess
import sys

import clips
import numpy as np
import pytest
import reference_tokenizers as reference
import sentencepiece
from conftest import ROOT
from tokenizer_cases import (
  MAKE,
  MERGES,
  WORDPIECES,
  albert,
  bert,
  clip,
  t5,
  trained_model,
  write,
)

from vtr_jax.core.errors import BadSample, DataError
from vtr_jax.data.tokenizers import base as tokenizers
from vtr_jax.data.tokenizers import kinds
from vtr_jax.inference import load as load_lib
from vtr_jax.train.loop import train_and_evaluate

SHARED = pathlib.Path(os.environ.get("VTR_SHARED_DIR", ROOT.parent / "shared"))
REAL = SHARED / "data" / "vocab"
KINDS = dict(
  bert=kinds.Bert,
  clip=kinds.Clip,
  albert=kinds.Albert,
  siglip=kinds.Siglip,
)


def real(kind):
  path = REAL / reference.FILES[kind]
  if not path.is_file():
    pytest.skip(f"{path}: the real vocabulary is not here")
  return path


# --- The real files, against transformers -----------------------------------------


@pytest.fixture(scope="module")
def golden():
  return json.loads(reference.GOLDEN.read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_transformers(golden, kind):
  """Full, padded and truncated, by a pickled copy; empty captions are bad samples."""
  tokenizer = pickle.loads(pickle.dumps(tokenizers.load(str(real(kind)))))
  assert type(tokenizer) is KINDS[kind]
  empty = 0
  for caption, want in zip(golden["captions"], golden["ids"][kind], strict=True):
    if len(want) == (1 if kind == "siglip" else 2):  # special tokens alone
      empty += 1
      with pytest.raises(BadSample):
        tokenizer.encode(caption, 8)
      continue
    for length in (*reference.LENGTHS, 600):
      ids, valid = tokenizer.encode(caption, length)
      cut = want if len(want) <= length else [*want[: length - 1], want[-1]]
      assert ids[: len(cut)].tolist() == cut, caption
      assert (ids[len(cut) :] == tokenizer.pad_id).all()
      count = length if kind == "siglip" else len(cut)
      assert valid.tolist() == [i < count for i in range(length)]
  assert 4 <= empty < 20


def test_the_golden_ids_equal_those_of_the_installed_transformers(golden):
  """It also truncates as `test_ids_are_those_of_transformers` assumes."""
  pytest.importorskip("transformers", "5", reason="needs transformers 5")
  for kind in KINDS:
    real(kind)
  assert golden["captions"] == reference.captions()
  for kind, made in reference.reference(REAL).items():
    assert made["whole"] == golden["ids"][kind]
    for length in reference.LENGTHS:
      for whole, cut in zip(made["whole"], made["cut"][str(length)], strict=True):
        long = len(whole) > length
        assert cut == ([*whole[: length - 1], whole[-1]] if long else whole)


def test_hf_merges_give_the_same_ids_as_openai_s_file(tmp_path):
  path = tmp_path / "merges.txt"
  lines = gzip.decompress(real("clip").read_bytes()).decode().split("\n")
  path.write_text("\n".join(["#version: 0.2", *lines[1:48895], ""]))
  ours, openai = tokenizers.load(str(path)), tokenizers.load(str(real("clip")))
  assert ours.vocab_size == openai.vocab_size == 49409
  assert ours.mask_id == openai.mask_id == 49408
  assert ours.pieces(range(49409)) == openai.pieces(range(49409))
  for caption in reference.HARD[:20]:
    np.testing.assert_array_equal(ours.encode(caption, 77), openai.encode(caption, 77))


@pytest.mark.parametrize(
  ("kind", "mask_id", "size", "special"),
  [
    ("bert", 103, 30522, (0, 100, 101, 102, 103)),
    ("clip", 49408, 49409, (49406, 49407, 49408)),
    ("albert", 4, 30000, (0, 1, 2, 3, 4)),
    ("siglip", 32000, 32001, (1, 2, 32000)),
  ],
)
def test_special_ids_of_the_real_files(kind, mask_id, size, special):
  tokenizer = tokenizers.load(str(real(kind)))
  assert (tokenizer.mask_id, tokenizer.vocab_size) == (mask_id, size)
  assert tokenizer.special_ids == special


@pytest.mark.parametrize(
  ("kind", "words", "decoded"),
  [
    (
      "bert",
      "[CLS] don ' t jug+##gle 2 pine+##apple+##s . it ' s 5+##€ [SEP]",
      "don ' t juggle 2 pineapples. it ' s 5€",  # as HF's
    ),
    (
      "clip",
      "<|startoftext|> don</w> 't</w> ju+ggle</w> 2</w> pine+apples</w> .</w> it</w> "
      "'s</w> 5</w> âĤ¬</w> <|endoftext|>",
      "don 't juggle 2 pineapples . it 's 5 €",
    ),
    (
      "albert",
      "[CLS] ▁don ' t ▁j+uggle ▁2 ▁pineapple+s . ▁it ' s ▁5 € [SEP]",
      "don't juggle 2 pineapples. it's 5€",
    ),
    (
      "siglip",
      "▁dont ▁ju+gg+le ▁2 ▁p+ine+app+les ▁its ▁5+<unk> </s> </s>",
      "dont juggle 2 pineapples its 5 ⁇",
    ),
  ],
)
def test_word_ids_of_the_real_files(kind, words, decoded):
  tokenizer = tokenizers.load(str(real(kind)))
  length = 14 if kind == "siglip" else 24  # its padding is valid
  found, ids = pieces_by_word(tokenizer, "Don't juggle 2 pineapples. It's 5€", length)
  assert found == words.split()
  assert tokenizer.decode(ids).strip() == decoded


def pieces_by_word(tokenizer, caption, length):
  """(valid pieces, joined by "+" if `word_ids` puts them in one word; all ids)."""
  ids, valid = tokenizer.encode(caption, length)
  joined = {}
  words = tokenizer.word_ids(ids)
  assert words.shape == (length,)
  assert words[0] == 0
  assert words.max() < length
  for n, piece in zip(words[valid], tokenizer.pieces(ids[valid]), strict=True):
    joined.setdefault(n, []).append(piece)
  return ["+".join(pieces) for pieces in joined.values()], ids


# --- Small files, made here ---------------------------------------------------------


@pytest.fixture(params=MAKE)
def kind(request):
  return request.param


@pytest.fixture
def small(kind, tmp_path):
  return tokenizers.load(MAKE[kind](tmp_path))


def test_the_kind_of_a_file_is_detected_from_its_content(kind, tmp_path):
  """Whatever its name; text may be gzipped or have Windows line endings."""
  path = pathlib.Path(MAKE[kind](tmp_path))
  other = path.rename(tmp_path / "tokenizer.model")
  assert type(tokenizers.load(str(other))) is KINDS[kind]
  if kind in ("bert", "clip"):
    plain = tokenizers.load(str(other))
    data = other.read_bytes().replace(b"\n", b"\r\n")
    again = tokenizers.load(write(other, gzip.compress(data)))
    assert again.pieces(range(again.vocab_size)) == plain.pieces(
      range(plain.vocab_size)
    )
    np.testing.assert_array_equal(
      again.encode("a red ball", 9), plain.encode("a red ball", 9)
    )


def test_our_own_sentencepiece_models_load_as_sentencepiece(tmp_path):
  path = str(clips.train_pieces(tmp_path / "m.model"))
  loaded = tokenizers.load(path)
  assert type(loaded) is tokenizers.SentencePiece
  model = sentencepiece.SentencePieceProcessor(model_file=path)
  ids, valid = loaded.encode("a red ball, a box", 40)
  assert ids[valid].tolist() == [2, *model.EncodeAsIds("a red ball, a box")]
  assert loaded.special_ids == (0, 1, 2, 3)


@pytest.mark.parametrize(
  ("kind", "before", "after", "pads"),
  [
    ("bert", ["[CLS]"], ["[SEP]"], "[PAD]"),
    ("clip", ["<|startoftext|>"], ["<|endoftext|>"], "!"),
    ("albert", ["[CLS]"], ["[SEP]"], "<pad>"),
    ("siglip", [], ["</s>"], "</s>"),
  ],
)
def test_captions_get_special_tokens_truncation_and_padding(
  small, kind, before, after, pads
):
  caption = "a red ball a red ball"
  ids, valid = small.encode(caption, 60)
  assert ids.dtype == np.int32
  assert valid.dtype == np.bool_
  pieces = small.pieces(ids)
  count = len(pieces) - pieces[::-1].index(after[-1]) if kind != "siglip" else 60
  assert valid.tolist() == [i < count for i in range(60)]
  first = pieces.index(after[-1]) + 1
  assert pieces[: len(before)] == before
  assert set(pieces[first:]) == {pads}
  assert small.decode(ids) == caption
  for length in range(2, first):
    cut, valid = small.encode(caption, length)
    assert valid.all()
    assert cut.tolist() == [*ids[: length - 1], ids[first - 1]]


def test_an_empty_caption_is_a_bad_sample(small):
  for caption in ("", " \t\n", "\u3000"):
    with pytest.raises(BadSample, match="empty caption"):
      small.encode(caption, 8)


def test_a_siglip_caption_of_punctuation_alone_is_a_bad_sample(tmp_path):
  with pytest.raises(BadSample, match="empty caption: no token of it in this voc"):
    tokenizers.load(t5(tmp_path)).encode("?!", 8)


def test_captions_cannot_contain_special_tokens(small):
  for piece in small.pieces(small.special_ids):
    ids, _ = small.encode(f"a {piece} a", 40)
    framed, _ = small.encode("a", 40)
    for i in {*small.special_ids} - {small.unk_id}:
      assert (ids == i).sum() <= (framed == i).sum(), piece


def test_clip_s_padding_id_is_also_the_exclamation_mark(tmp_path):
  """So it is not one of the special ids, and decoding stops at the end token."""
  tokenizer = tokenizers.load(clip(tmp_path, MERGES + "! !</w>\n"))
  start, end, _ = tokenizer.special_ids
  ids, valid = tokenizer.encode("a !!", 6)
  assert ids.tolist() == [start, 256 + ord("a") - ord("!"), 519, end, 0, 0]
  assert valid.tolist() == [True] * 4 + [False] * 2
  assert tokenizer.decode(ids) == "a !!"
  assert tokenizer.decode([start, 0, 256, end, 0, 0]) == "!!"


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_mask_token_is_added_where_there_is_none(small, kind, tmp_path):
  assert small.mask_id == small.vocab_size - 1
  if kind == "siglip":
    model = sentencepiece.SentencePieceProcessor(
      model_file=str(tmp_path / "spiece.model")
    )
    assert small.mask_id == model.GetPieceSize()
  else:
    assert small.mask_id == 512 + MERGES.count(" ") - 1 + 2
  ids, _ = small.encode("a red ball", 30)
  ids[1] = small.mask_id
  assert "mask" in small.pieces(ids)[1]
  small.decode(ids)
  words = small.word_ids(ids)
  assert words[0] < words[1] < words[2]  # a word of its own


@pytest.mark.parametrize(
  ("kind", "caption", "words"),
  [
    ("bert", "A red ball moves, 5€", "[CLS] a red ball move+##s , 5+##€ [SEP]"),
    ("bert", "don't x café", "[CLS] don ' t [UNK] cafe [SEP]"),
    ("clip", "red ball, no", "<|startoftext|> red</w> ball</w> ,</w> n+o</w>"),
    ("clip", "don't ?!", "<|startoftext|> d+o+n</w> '+t</w> ?+!</w>"),
  ],
)
def test_word_ids_group_the_pieces_of_a_word(small, kind, caption, words):
  found, _ = pieces_by_word(small, caption, 30)
  end = ["<|endoftext|>"] if kind == "clip" else []
  assert found == words.split() + end


def test_a_truncated_word_does_not_join_the_end_token(tmp_path):
  tokenizer = tokenizers.load(clip(tmp_path))
  found, _ = pieces_by_word(tokenizer, "move", 3)
  assert found == ["<|startoftext|>", "mov", "<|endoftext|>"]


def test_a_vocabulary_with_capitals_keeps_case_and_accents(tmp_path):
  uncased = tokenizers.load(bert(tmp_path))
  cased = tokenizers.load(bert(tmp_path, WORDPIECES + " Red é"))
  for tokenizer, caption, want in [
    (uncased, "Red RED é", ["red", "red", "[UNK]"]),
    (cased, "Red RED é", ["Red", "[UNK]", "é"]),
    (uncased, "à", ["a"]),
    (cased, "à", ["[UNK]"]),
  ]:
    ids, valid = tokenizer.encode(caption, 12)
    assert tokenizer.pieces(ids[valid])[1:-1] == want


def test_albert_lowercases_and_siglip_also_strips_punctuation(tmp_path):
  albert_, siglip = tokenizers.load(albert(tmp_path)), tokenizers.load(t5(tmp_path))
  for tokenizer in (albert_, siglip):
    np.testing.assert_array_equal(
      tokenizer.encode("A  RED Ball", 20), tokenizer.encode("a red ball", 20)
    )
  np.testing.assert_array_equal(
    siglip.encode("(a) 'red', ball!", 20), siglip.encode("a red ball", 20)
  )
  np.testing.assert_array_equal(
    albert_.encode("à ``réd'' ball", 20), albert_.encode('a "red" ball', 20)
  )
  ids, valid = albert_.encode("a ball, (a box)", 30)
  assert {",", "(", ")"} <= {p.lstrip("▁") for p in albert_.pieces(ids[valid])}


def test_siglip_2_ends_captions_with_eos_and_reads_its_padding(tmp_path):
  """By Gemma's layout: big_vision lower-cases, adds no <bos>, and keeps <eos>."""
  spelled = dict(eos_piece="<eos>", bos_piece="<bos>")
  path = trained_model(tmp_path, pad_id=0, eos_id=1, bos_id=2, unk_id=3, **spelled)
  tokenizer = tokenizers.load(path)
  assert type(tokenizer) is kinds.Siglip2
  model = sentencepiece.SentencePieceProcessor(model_file=path)
  words = model.EncodeAsIds("a red ball, (a box)")
  ids, valid = tokenizer.encode("A RED ball, (a box)", 40)
  assert ids.tolist() == [*words, 1, *[0] * (39 - len(words))]
  assert valid.all()
  assert tokenizer.encode("A RED ball, (a box)", 4)[0].tolist() == [*words[:3], 1]
  assert tokenizer.mask_id == model.GetPieceSize() == tokenizer.vocab_size - 1
  assert tokenizer.decode(ids) == "a red ball, (a box)"


@pytest.mark.parametrize("make", [bert, clip])
def test_a_tokenizer_json_gives_the_ids_of_its_vocabulary_file(make, tmp_path):
  plain = tokenizers.load(make(tmp_path))
  path = tmp_path / "tokenizer.json"
  plain._model.save(str(path))  # as the package tokenizers writes it
  loaded = tokenizers.load(str(path))
  assert type(loaded) is type(plain)
  assert loaded.vocab_size == plain.vocab_size
  for caption in ("a red ball moves, 5", "don't ?! café"):
    assert (
      loaded.encode(caption, 12)[0].tolist() == plain.encode(caption, 12)[0].tolist()
    )


def test_a_tokenizer_json_that_cannot_be_kept_to_is_rejected(tmp_path):
  path = tmp_path / "tokenizer.json"
  tokenizers.load(bert(tmp_path))._model.save(str(path))
  good = json.loads(path.read_text())
  cased = good | dict(normalizer=good["normalizer"] | dict(lowercase=False))
  gaps = dict(good["model"]["vocab"], more=900)
  for content, words in (
    (cased, "lowercase is False, but the vocabulary is uncased"),
    (
      good | dict(model=good["model"] | dict(vocab=gaps)),
      "have gaps; give its vocab.txt",
    ),
    (dict(model=dict(type="Unigram")), "of kind 'Unigram'; give its SentencePiece"),
    (dict(model=dict(type="BPE", merges=[])), "of kind 'BPE'"),
    (dict(model=[]), "not a tokenizer.json"),
  ):
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=re.escape(words)):
      tokenizers.load(str(path))


def test_clip_fixes_neither_html_entities_nor_mojibake(tmp_path):
  """Like HF; OpenAI's code would turn &amp; into &."""
  tokenizer = tokenizers.load(clip(tmp_path))
  ids, _ = tokenizer.encode("a &amp; b", 20)
  assert tokenizer.decode(ids) == "a & amp ; b"


def test_tokenizers_survive_pickling_without_their_file(small, tmp_path):
  data = pickle.dumps(small)
  for path in tmp_path.iterdir():
    path.unlink()
  copy = pickle.loads(data)
  assert copy.special_ids == small.special_ids
  assert copy.mask_id == small.mask_id
  for caption in reference.HARD[:20]:
    np.testing.assert_array_equal(copy.encode(caption, 40), small.encode(caption, 40))
  ids, _ = small.encode("a red ball", 20)
  np.testing.assert_array_equal(copy.word_ids(ids), small.word_ids(ids))
  assert copy.decode(ids) == small.decode(ids)


def test_forked_and_spawned_workers_encode_without_a_warning(tmp_path):
  """Forking after use makes the tokenizers package warn by default."""
  code = """
import multiprocessing, sys
from vtr_jax.data.tokenizers import base as text
if __name__ == "__main__":
  tokenizer = text.load(sys.argv[1])
  want = tokenizer.encode("a red ball", 9)[0].tolist()
  text.encode_all(tokenizer, ["a red ball"] * 99, 9)
  for method in ("fork", "spawn"):
    with multiprocessing.get_context(method).Pool(2) as pool:
      (ids, _), *_ = pool.starmap(tokenizer.encode, [("a red ball", 9)] * 4)
      assert ids.tolist() == want
"""
  script = write(tmp_path / "script.py", code)
  env = {k: v for k, v in os.environ.items() if k != "TOKENIZERS_PARALLELISM"}
  run = subprocess.run(
    [sys.executable, "-W", "error", script, bert(tmp_path)],
    env=env | dict(PYTHONPATH=str(ROOT)),
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.nightly
def test_a_run_keeps_a_copy_of_its_vocabulary_and_loads_it(smoke, tmp_path):
  """Gzipped merges stay gzipped, under the name tokenizer.model."""
  path = write(tmp_path / "bpe.txt.gz", gzip.compress(MERGES.encode()))
  tokenizer = tokenizers.load(path)
  smoke |= dict(steps=2, evals={}, tokenizer=path)
  smoke["optim"]["warmup_steps"] = 1
  smoke["text"] |= dict(vocab_size=tokenizer.vocab_size, mask_id=tokenizer.mask_id)
  train_and_evaluate(smoke, tmp_path / "run")
  copy = tmp_path / "run" / "tokenizer.model"
  assert copy.read_bytes() == pathlib.Path(path).read_bytes()
  assert type(load_lib.load(tmp_path / "run").tokenizer) is kinds.Clip


# --- Files that are refused ---------------------------------------------------------


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"", "not a SentencePiece model, nor"),
    (b"once upon a time\n", "not a SentencePiece model, nor"),
    (b'{"model": {"vocab": {}}}', "not a tokenizer.json"),
    (b"\x80\x04\x95\x00\xff\xfe", "not a SentencePiece model, nor"),
    (gzip.compress(MERGES.encode(), mtime=0)[:-12], "a damaged gzip file"),
    (b"\x1f\x8b\x08 not gzip at all", "a damaged gzip file"),
    (gzip.compress(b"\x80\x04\x95", mtime=0), "not a SentencePiece model, nor"),
    (WORDPIECES.replace("[MASK] ", ""), r"has no \[MASK\]; copy it again"),
    (WORDPIECES.replace("[SEP] ", ""), r"has no \[SEP\]; copy it again"),
    (WORDPIECES + " red", "lines 7 and 18 are both 'red'"),
    (MERGES + "mo v\n", "line 9 is not a valid merge: 'mo v'"),
    (MERGES + "ball s</w>\n", "line 9 is not a valid merge: 'ball s</w>'"),
    (MERGES[:-2], "line 8 is not a valid merge: 'mo '"),
    (MERGES + "\n", "line 9 is not a valid merge: ''"),
    ("#version: 0.2\nĠ t\nh e\n", "no merge ends a word"),  # GPT-2's
    ("#version: 0.2\n", "no merge ends a word"),
  ],
)
def test_unusable_vocabulary_files_are_rejected(tmp_path, content, message):
  if isinstance(content, str):
    content = content.replace(" ", "\n") if content.startswith("[") else content
  with pytest.raises(DataError, match=message) as caught:
    tokenizers.load(write(tmp_path / "some.file", content))
  assert "some.file: " in str(caught.value)
  assert "\n" not in str(caught.value)


def test_unreadable_paths_are_rejected(tmp_path):
  with pytest.raises(DataError, match=r"cannot read the tokenizer .Is a directory"):
    tokenizers.load(str(tmp_path))
  with pytest.raises(DataError, match=r"cannot read the tokenizer .No such file"):
    tokenizers.load(str(tmp_path / "none.model"))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (dict(), "another layout, it begins with <unk> <s> </s> "),  # as Llama's
    (dict(pad_id=0, eos_id=1, bos_id=2, unk_id=3), "with <pad> </s> <s> <unk> "),
    (dict(pad_id=3, control_symbols=["<cls>"]), "no piece <mask>; train it with"),
  ],
)
def test_sentencepiece_models_with_other_special_ids_are_rejected(
  tmp_path, options, message
):
  with pytest.raises(DataError, match=message) as caught:
    tokenizers.load(trained_model(tmp_path, **options))
  assert "spiece.model: " in str(caught.value)


def test_a_truncated_model_is_rejected(tmp_path):
  path = pathlib.Path(albert(tmp_path))
  with pytest.raises(DataError, match=r"spiece\.model: "):
    tokenizers.load(write(path, path.read_bytes()[:300]))


@pytest.mark.parametrize("kind", ["bert", "clip"])
def test_a_missing_tokenizers_package_is_named(kind, tmp_path, monkeypatch):
  path = MAKE[kind](tmp_path)
  monkeypatch.setitem(sys.modules, "tokenizers", None)
  with pytest.raises(DataError, match="pip install 'tokenizers'"):
    tokenizers.load(path)
