"""One idea of an empty caption, from prepare to search."""

import json

import clips
import numpy as np
import pytest
from prepare_cases import make, write_source
from tokenizer_cases import albert, bert, clip, t5

from vtr_jax.core.batch import TextSpec
from vtr_jax.core.errors import DataError
from vtr_jax.data import captions, loader, sources
from vtr_jax.data.tokenizers import base as tokenizers
from vtr_jax.prepare import merge
from vtr_jax.prepare.formats import base

# A soft hyphen, a variation selector, a Hangul filler, the Braille blank, a tag.
UNSEEN = ("", " \t\n", "\u3000", "\u200b", "\xad", "\ufe0f", "\u3164", "\u2800")
# An accent alone, punctuation, a symbol: seen, but some vocabularies have no token.
SEEN = ("\u0301", "?!", "\u2764", "0", "Ω")


def test_blank_is_what_shows_nothing():
  assert all(map(captions.blank, UNSEEN))
  assert captions.blank("".join(UNSEEN))
  assert not any(map(captions.blank, SEEN))
  assert not any(captions.blank(f"{space}a{space}") for space in UNSEEN)


@pytest.mark.parametrize(
  ("vocabulary", "expected"), [(t5, [2]), (albert, [1]), (bert, [1]), (clip, [])]
)
def test_a_vocabulary_may_have_no_token_of_a_text(vocabulary, expected, tmp_path):
  tokenizer = tokenizers.load(vocabulary(tmp_path))
  texts = ["a ball", "\u0301", "?!", "\u2764 ball"]
  found = list(captions.empty(tokenizer, texts))
  assert [number for number, _ in found] == expected
  assert all("no token of it in this vocabulary" in why for _, why in found)
  found = captions.empty(tokenizer, ["a", *UNSEEN, "\ud800"])
  assert [number for number, _ in found] == list(range(1, len(UNSEEN) + 2))


def test_the_first_of_many_are_listed(tmp_path):
  tokenizer = tokenizers.load(t5(tmp_path))
  captions.check(tokenizer, ["a", "b"], "here", str)
  with pytest.raises(DataError) as error:
    captions.check(tokenizer, ["a", *["."] * 4], "here", lambda i: f"clip{i}")
  one = "('.': empty caption: no token of it in this vocabulary)"
  assert str(error.value) == (
    f"here: 4 of 5 texts cannot be used: clip1 {one}, clip2 {one}, clip3 {one} ...; "
    "correct them"
  )


def test_prepare_lists_captions_that_are_empty_to_its_vocabulary(tmp_path, capfd):
  """Blank ones are left out of the records; the others stay, and are reported."""
  source = write_source(tmp_path / "videos")
  items = base.open("csv", base.Request(str(source)))
  items[3] = items[3]._replace(captions=("?!", "\ufe0f", "a ball"))
  items[5] = items[5]._replace(captions=("\u2800",), label="jump")
  final = merge.Final(tokenizer=t5(tmp_path))
  made = make(source, tmp_path / "out", items=items, final=final)
  why = "'?!': empty caption: no token of it in this vocabulary"
  told = f"1 of 18 texts cannot be used: v03.mp4 ({why}); correct them\n"
  err = capfd.readouterr().err
  assert f"WARNING: --tokenizer: {told}" in err  # before any work
  assert f"WARNING: mine: {told}" in err
  manifest = json.loads((made / "manifest.json").read_text())
  assert manifest["warned"] == [
    dict(id="v03.mp4", split="train", reason=f"caption {why}")
  ]
  train = sources.open_split(str(made), "train")
  texts = {a.id: a.captions for a in sources.annotations(train)}
  assert (texts["v03.mp4"], texts["v05.mp4"]) == (["?!", "a ball"], [])


def test_training_replaces_what_evaluation_refuses(tmp_path):
  """Of data that prepare did not make: a blank caption among others is left out."""
  rows = [
    clips.record("good", captions=["\u200b", "a ball", ""]),
    clips.record("blank", captions=["\u2800"]),
    clips.record("marks", captions=["?!"]),
  ]
  data = clips.prepare(tmp_path, dict(train=rows))
  tokenizer = tokenizers.load(t5(tmp_path))
  source = sources.open_split(data, "train")
  assert [source[i]["captions"] for i in range(3)] == [["a ball"], [], ["?!"]]
  problems = {
    0: "",
    1: "blank: no caption",
    2: "marks: empty caption: no token of it in this vocabulary",
  }
  spec = clips.CLIP, TextSpec(16, 64, tokenizer.mask_id), clips.MASK
  data = clips.config(tmp_path)
  with loader.train_batches(data, *spec, tokenizer, batch_size=6, seed=0) as batches:
    batch = next(batches)
  assert {*batch["record"]} == {0, 1, 2}
  assert [problems[i] for i in batch["record"]] == batch["problem"].tolist()
  np.testing.assert_array_equal(batch["valid"], batch["record"] == 0)
  with pytest.raises(DataError, match=r"record 1 .*blank: no caption"):
    loader.captions(source)
