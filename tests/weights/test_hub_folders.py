"""Folders that `export` writes: they describe the weights, and are loaded again."""

import dataclasses
import json
import pathlib

import hf_cases
import numpy as np
import pytest
import tokenizer_cases
from training import trained_smoke
from weight_cases import (
  HF,
  HUB_CONFIGS,
  assert_close,
  family,
  small_and_exact,
  write_hub,
)

import vtr_jax
from configs import mac
from vtr_jax import convert, export
from vtr_jax.core.config import flatten
from vtr_jax.core.errors import DataError, WeightsError
from vtr_jax.data.tokenizers import base as tokenizers
from vtr_jax.inference import load as load_lib
from vtr_jax.models.layers import l2_normalize
from vtr_jax.weights import hub_write, snapshot

pytest.importorskip("safetensors")

LAYOUTS = dict(
  clip="hf_clip",
  siglip="hf_siglip",
  vit="hf_vit",
  bert="bert",
  distilbert="distilbert",
  videomae="hf_videomae",
)
LATE = pytest.mark.nightly


@pytest.fixture
def small(monkeypatch):
  small_and_exact(monkeypatch)


def exported(case, place, **changes):
  """(original folder, run made of it, folder exported from the run)."""
  hub, run, to = place / "hub", place / "run", place / "exported"
  convert.convert("", str(write_hub(hub, case, **changes)), str(run))
  export.export(str(run), str(to), LAYOUTS[case])
  return hub, run, to


def read(path):
  return json.loads(path.read_text())


@pytest.mark.parametrize(
  "case",
  ["clip", *(pytest.param(c, marks=LATE) for c in LAYOUTS if c != "clip")],
)
def test_an_exported_folder_is_described_as_the_original(case, tmp_path, small, capfd):
  """And loads as the same model; transformers, where it is installed, loads it too."""
  hub, run, to = exported(case, tmp_path)
  stated = flatten(read(to / "config.json"))
  for key, value in flatten(HUB_CONFIGS[case]).items():
    assert stated[key] == value, key
  facts, ours = snapshot.facts(hub), snapshot.facts(to)
  assert ours.towers == facts.towers
  assert ours.clip in (facts.clip, {})
  assert (ours.kind, ours.vocab_size) == (facts.kind, facts.vocab_size)
  one, other = load_lib.load(run, text=False), load_lib.load(to, text=False)
  assert (other.name, other.step) == (one.name, one.step)
  if case in ("clip", "siglip"):
    assert one.id == other.id
    assert "WARNING" not in capfd.readouterr().err
  else:  # has one tower
    assert "not in the weights, so random: " in capfd.readouterr().err
  if hf_cases.LIVE:
    check_outputs(case, to)


def check_outputs(case, folder):
  """transformers, from the folder alone, computes what the original did."""
  import torch
  import transformers

  name = read(folder / "config.json")["architectures"][0]
  model, info = getattr(transformers, name).from_pretrained(
    folder, output_loading_info=True
  )
  unused = {key for key in info["missing_keys"] if "pooler" not in key}
  assert (unused, set(info["unexpected_keys"])) == (set(), set())
  data = {k: torch.from_numpy(v) for k, v in hf_cases.inputs().items()}
  pixels = (data["video"] - 0.5) / 0.5
  _, run = hf_cases.CASES[case]()
  with torch.no_grad():
    found = run(model.eval(), pixels, data["ids"], data["valid"].long())
  for key, value in hf_cases.case(case)[1].items():
    valid = hf_cases.inputs()["valid"]
    rows = valid if case in ("bert", "distilbert") else slice(None)
    np.testing.assert_allclose(found[key].numpy()[rows], value[rows], atol=2e-5)


def test_a_hub_s_folder_is_loaded_as_it_is(tmp_path, small):
  """Without `convert`, and without a config of ours."""
  model = load_lib.load(write_hub(tmp_path / "hub", "clip"), text=False)
  data, (_, out) = hf_cases.inputs(), hf_cases.case("clip")
  video = data["video"].transpose(0, 1, 3, 4, 2)[:, :1]
  embed = model.objective.predict["embed_video"]
  assert_close(embed(model.params, dict(video=video)), l2_normalize(out["image"][:, 0]))
  with pytest.raises(DataError, match="hub: without a vocabulary; copy"):
    vtr_jax.load(tmp_path / "hub")


def test_any_model_is_exported_to_a_folder_of_ours(data_dir, tmp_path):
  run = trained_smoke(mac, data_dir, tmp_path / "run")
  export.export(run, str(tmp_path / "hub"), "vtr_jax")
  names = {path.name for path in (tmp_path / "hub").iterdir()}
  assert names == {"config.json", "model.safetensors", "tokenizer.model"}
  one, other = vtr_jax.load(run), vtr_jax.load(tmp_path / "hub")
  assert one.id == other.id
  texts = ["a red circle rises"]
  np.testing.assert_array_equal(one.embed_text(texts), other.embed_text(texts))
  with pytest.raises(WeightsError, match="'miles' is not of a library that reads fold"):
    export.export(run, str(tmp_path / "other"), "miles")
  weights = tmp_path / "hub" / "model.safetensors"
  weights.write_bytes(weights.read_bytes()[:-4])
  with pytest.raises(WeightsError, match=r"model\.safetensors: damaged"):
    vtr_jax.load(tmp_path / "hub")


def test_a_folder_of_ours_becomes_a_run_again(data_dir, tmp_path):
  """So that training starts from it."""
  run, hub = trained_smoke(mac, data_dir, tmp_path / "run"), tmp_path / "hub"
  export.export(run, str(hub), "vtr_jax")
  convert.convert("", str(hub), str(tmp_path / "again"))
  one, again = vtr_jax.load(run), vtr_jax.load(tmp_path / "again")
  assert one.config == dataclasses.replace(again.config, evals=one.config.evals)
  checksum = lambda model: model.id.rpartition("-")[2]
  assert checksum(one) == checksum(again)


def test_a_sentence_encoder_s_folder_states_its_pooling(tmp_path, small):
  hub = write_hub(tmp_path / "hub", "bert")
  convert.convert("sentence_transformers", str(hub), str(tmp_path / "run"))
  export.export(str(tmp_path / "run"), str(tmp_path / "out"), "bert")
  facts = snapshot.facts(tmp_path / "out")
  assert facts
  assert (facts.kind, facts.pool) == ("sentence_transformers", "mean")
  assert facts.max_length == HF.LENGTH


@pytest.mark.parametrize("kind", ["bert", "clip", "siglip"])
def test_an_exported_vocabulary_is_the_run_s(kind, tmp_path):
  """Found by the names of hubs; transformers, where it is installed, reads it too."""
  to = tmp_path / "to"
  to.mkdir()
  source = pathlib.Path(tokenizer_cases.MAKE[kind](tmp_path))
  source = source.rename(tmp_path / "tokenizer.model")  # as in a run
  ours = tokenizers.load(str(source))
  described = hub_write._vocabulary(source, ours, to)
  (to / "tokenizer_config.json").write_text(json.dumps(described))
  (to / "config.json").write_text(json.dumps(dict(HUB_CONFIGS["bert"])))
  vocabulary = snapshot._described(to)[1]
  assert vocabulary
  again = tokenizers.load(str(vocabulary))
  captions = ["A red ball moves", "don't move, red café"]
  for caption in captions:
    one, other = (t.encode(caption, 24) for t in (ours, again))
    np.testing.assert_array_equal(one, other)
  if kind == "clip":  # padded otherwise by OpenAI's code, and before a mask token
    pieces = json.loads((to / "vocab.json").read_text())
    assert list(pieces) == ours.pieces(range(ours.vocab_size - 1))
    assert list(pieces.values()) == list(range(ours.vocab_size - 1))
  if hf_cases.LIVE and kind != "siglip":
    import transformers

    theirs = getattr(transformers, described["tokenizer_class"]).from_pretrained(to)
    for caption in captions:
      ids, valid = ours.encode(caption, 24)
      assert theirs(caption)["input_ids"] == ids[valid].tolist()


def test_captions_that_clip_s_class_reads_otherwise_are_rejected(data_dir, tmp_path):
  (pieces,) = data_dir.glob("moving_shapes/tiny/*/tokenizer.model")
  model = family("clip").model
  with pytest.raises(WeightsError, match="reads captions at their end token"):
    hub_write.write(tmp_path, "hf_clip", model, pieces)
  assert not list(tmp_path.iterdir())
