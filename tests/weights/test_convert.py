"""The commands that import and export public weights, and `init_from`."""

import json
import subprocess
import sys

import hf_cases
import jax
import numpy as np
import pytest
import recipes
from dual_cases import change
from golden_cases import golden
from weight_cases import HF, SIZE, assert_close

from configs import mac
from vtr_jax import convert, export
from vtr_jax.core.errors import CheckpointError, ConfigError, DataError, WeightsError
from vtr_jax.inference import load as load_lib
from vtr_jax.models.layers import l2_normalize
from vtr_jax.train import setup
from vtr_jax.train.loop import train_and_evaluate
from vtr_jax.weights import files

safetensors = pytest.importorskip("safetensors.numpy")


def small(data_dir, **objective):
  """MAC's recipe at the size of `hf_cases`, on the embedded data."""
  c = mac.get_config("smoke").to_dict()
  c["data"]["dir"] = str(data_dir)
  c |= dict(evals={}, steps=2, checkpoint_every=2, batch_size=8)
  c["clip"] |= dict(
    num_frames=1, image_size=HF.SIZE, tubelet_size=(1, HF.PATCH, HF.PATCH)
  )
  c["clip"] |= dict(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
  c["text"] |= dict(max_length=HF.LENGTH)
  c["mask"] |= dict(video_ratio=0.5)
  c["optim"] |= dict(warmup_steps=0)
  sizes = dict(video=SIZE, text=SIZE, pool="cls", projection=12, pos_embed="frozen")
  c["objective"] = change(c["objective"], **sizes | objective)
  return json.loads(json.dumps(c))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Files of `hf_cases`."""
  place = tmp_path_factory.mktemp("files")
  for name in ("vit", "distilbert", "clip"):
    state = hf_cases.case(name)[0]
    safetensors.save_file(state, place / f"{name}.safetensors")
  return place


def run(module, *args):
  command = [sys.executable, "-m", f"vtr_jax.{module}", *args]
  return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_verbose_report_lists_every_key(folder, tmp_path):
  """The model's sizes are inferred; a misnamed key is reported, with exit code 2."""
  path = folder / "distilbert.safetensors"
  known = ("--from=distilbert", "--heads=text:2")
  done = run("convert", *known, f"--checkpoint={path}", "--verbose")
  assert done.returncode == 0, done.stderr
  state = files.read(path)
  assert f"{len(state)} of {len(state)} keys used (0 renamed" in done.stdout
  rows = [line.split()[1] for line in done.stdout.splitlines() if line[:5] == "used "]
  assert sorted(rows) == sorted(state)
  key = "transformer.layer.0.sa_layer_norm.weight"
  state["transformer.layer.0.sa_norm.weight"] = state.pop(key)
  safetensors.save_file(dict(state), tmp_path / "bad.safetensors")
  done = run("convert", *known, f"--checkpoint={tmp_path}/bad.safetensors")
  assert done.returncode == 2
  (line,) = done.stderr.splitlines()
  assert f"{key} is missing, the closest unused key is " in line
  assert "transformer.layer.0.sa_norm.weight is not used" in line


def test_a_report_counts_keys_by_group_and_ends_in_warnings(folder, capsys):
  """Without `--verbose`: all of a file's keys are counted; none is listed."""
  path = folder / "vit.safetensors"
  convert.convert("vit", str(path), heads=dict(video=2))
  lines = capsys.readouterr().out.splitlines()
  rows = {row[0]: row[1:] for row in map(str.split, lines) if len(row) == 4}
  assert rows.pop("group") == ["used", "ignored", "initialised"]
  assert rows["pooler"] == ["0", "2", "0"]
  counts = [[int(n) for n in row] for row in rows.values()]
  used, ignored, initialised = (sum(column) for column in zip(*counts, strict=True))
  assert used + ignored == len(files.read(path))
  assert f"; {initialised} parameters not in the file" in lines[0]
  assert "layernorm.weight" not in "".join(lines)
  assert [line.startswith("warning: ") for line in lines[-2:]] == [False, True]
  assert "kind of GELU is not in the file, assumed exact (arch 'frozen')" in lines[-1]


def test_a_converted_run_embeds_like_the_original_and_exports_the_same_weights(
  folder, data_dir, tmp_path
):
  values = small(
    data_dir,
    arch="clip",
    backbone="frame",
    learn_temperature=True,
    temperature=0.1,
  )
  values["text"] |= dict(vocab_size=256)
  path, to = folder / "clip.safetensors", tmp_path / "run"
  (pieces,) = data_dir.glob("moving_shapes/tiny/*/tokenizer.model")
  convert.convert("clip", str(path), str(to), values, str(pieces))
  assert "keys used" in (to / "weights.txt").read_text()
  model = load_lib.load(to)
  data = hf_cases.inputs()
  video = data["video"].transpose(0, 1, 3, 4, 2)
  out = hf_cases.case("clip")[1]
  embed = jax.jit(model.objective.predict["embed_video"])
  mean = l2_normalize(l2_normalize(out["image"]).mean(axis=1))
  assert_close(embed(model.params, dict(video=video)), mean)
  with pytest.raises(ConfigError, match="not empty"):
    convert.convert("clip", str(path), str(to), values, str(pieces))
  export.export(str(to), str(tmp_path / "out.safetensors"), "hf_clip")
  again = files.read(tmp_path / "out.safetensors")
  assert again.keys() == hf_cases.case("clip")[0].keys()
  for place, words in (("out", "exists"), ("absent/x", "no such directory")):
    with pytest.raises(ConfigError, match=words):
      export.export(str(to), str(tmp_path / f"{place}.safetensors"), "hf_clip")
  # It is not a training that can resume.
  with pytest.raises(CheckpointError, match=f"config.init_from={to}"):
    train_and_evaluate(values, to)


def test_a_videoprism_file_becomes_a_run_and_is_exported_bitwise(tmp_path):
  """By the commands; sizes are those of the file, layers are stacked in the file."""
  arrays, _ = golden("videoprism_lvt")
  state = {k[6:]: v for k, v in arrays.items() if k.startswith("state/")}
  path, to = tmp_path / "lvt.npz", tmp_path / "run"
  np.savez(path, **state)
  convert.convert("videoprism", str(path), str(to))
  config = json.loads((to / "config.json").read_text())
  assert config["objective"]["video"]["name"] == "videoprism"
  assert config["text"]["t5_rules"] == "videoprism"
  with pytest.raises(ConfigError, match=r"out\.safetensors: videoprism_lvt is an .npz"):
    export.export(str(to), str(tmp_path / "out.safetensors"), "videoprism_lvt")
  export.export(str(to), str(tmp_path / "out.npz"), "videoprism_lvt")
  again = files.read(tmp_path / "out.npz")
  assert again.keys() == state.keys()
  for key, x in again.items():
    np.testing.assert_array_equal(x, state[key], err_msg=key)


@pytest.mark.nightly
def test_training_starts_from_weights_of_two_files(folder, data_dir, tmp_path):
  values = small(data_dir, text_norm="post")
  both = f"vit:{folder}/vit.safetensors,distilbert:{folder}/distilbert.safetensors"
  values |= dict(init_from=both)
  with pytest.raises(ConfigError, match=r"tokenizer: missing; give the voc.* 'distilb"):
    setup.build(values, tmp_path / "wrong")
  (pieces,) = data_dir.glob("moving_shapes/tiny/*/tokenizer.model")
  values |= dict(tokenizer=str(pieces))
  built = setup.build(values, tmp_path / "built")
  built.writer.close()
  built.checkpoints.close()
  tower = built.state.params["video_tower"]
  state = hf_cases.case("vit")[0]
  query = state["layers.1.attention.q_proj.weight"].T
  np.testing.assert_array_equal(tower["block_1"]["attention"]["query"]["kernel"], query)
  words = built.state.params["text_tower"]["embed"]["words"]
  first = hf_cases.case("distilbert")[0]["embeddings.word_embeddings.weight"]
  np.testing.assert_array_equal(words[: HF.WORDS], first)
  report = (tmp_path / "built" / "weights.txt").read_text()
  assert report.count(" keys used (") == 2
  assert "resized: 40 to 256 rows" in report
  train_and_evaluate(values, tmp_path / "trained")
  model = load_lib.load(tmp_path / "trained")
  assert model.step == 2


@pytest.mark.nightly
def test_a_converted_run_without_a_tokenizer_exports_and_initialises_others(
  folder, data_dir, tmp_path
):
  """Another run can start from it if it names a vocabulary."""
  values = small(data_dir, text_norm="post")
  to = tmp_path / "run"
  convert.convert("vit", str(folder / "vit.safetensors"), str(to), values)
  export.export(str(to), str(tmp_path / "out.safetensors"), "hf_vit")
  with pytest.raises(DataError, match=r"without a vocabulary; copy"):
    load_lib.load(to)
  values |= dict(init_from=str(to))
  with pytest.raises(ConfigError, match=r"tokenizer: missing, and .*run has none"):
    setup.build(values, tmp_path / "a")
  values |= dict(
    tokenizer=str(next(data_dir.glob("moving_shapes/tiny/*/tokenizer.model")))
  )
  run = setup.build(values, tmp_path / "a")
  run.writer.close()
  run.checkpoints.close()
  found = load_lib.load(to, text=False).params["video_tower"]["cls_token"]
  np.testing.assert_array_equal(run.state.params["video_tower"]["cls_token"], found)


@pytest.mark.parametrize("named", ["absent", "vitt:file.pth"])
def test_init_from_rejects_paths_that_are_neither_a_run_nor_weights(
  named, data_dir, tmp_path
):
  values = small(data_dir) | dict(init_from=named)
  hint = "'vitt' is not a kind.*'vit'" if ":" in named else "there is no such folder"
  message = f"is not a run; {hint}"
  with pytest.raises(CheckpointError, match=message):
    setup.build(values, tmp_path)


@pytest.mark.parametrize(
  ("init_from", "words"),
  [
    ("vit:", "vit: no file"),
    ("vit:absent.pth", "absent.pth: no such file or folder"),
    ("vit:{0}/vit.safetensors,vitt:x", "did you mean 'vit'"),
    ("vit:{0}/vit.safetensors,vit:{0}/vit.safetensors", "in an earlier file"),
    ("clip:{0}/clip.safetensors", "arch 'frozen'"),
    ("vit:{0}/distilbert.safetensors", "hardly a file of kind 'vit'"),
  ],
)
def test_weights_that_do_not_fit_are_rejected(
  init_from, words, folder, data_dir, tmp_path
):
  values = small(data_dir, text_norm="post")
  values["tokenizer"] = str(next(data_dir.glob("moving_shapes/tiny/*/tokenizer.model")))
  with pytest.raises(WeightsError, match=words):
    setup.build(values | dict(init_from=init_from.format(folder)), tmp_path)


def test_the_packaged_recipes_equal_those_of_configs():
  """To update them: PYTHONPATH=. python tests/support/recipes.py."""
  assert json.loads(recipes.FILE.read_text()) == recipes.resolved()
