"""Configs: mistakes are named before any work, with the nearest valid name."""

import copy
import math

import pytest
from conftest import run_main

from configs import simvtp
from vtr_jax.core.config import read
from vtr_jax.core.errors import ConfigError
from vtr_jax.train import setup, workdir
from vtr_jax.train.config import TrainConfig, with_defaults

VARIANTS = ("demo", "smoke", "webvid2m")


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_a_valid_config(variant):
  config = simvtp.get_config(variant)
  assert read(TrainConfig, config.to_dict()).name == f"simvtp-{variant}"


def test_the_paper_recipe_has_the_numbers_of_the_paper():
  """The numbers of the authors' script, worked out by hand."""
  c = read(TrainConfig, simvtp.get_config("webvid2m").to_dict())
  assert c.clip.grid == (8, 14, 14)
  assert c.mask.num_masked(c.clip.grid) == 1408  # 176 of 196 in each of 8 slices
  assert c.steps == 200 * 2441
  assert c.optim.lr == pytest.approx(1.5e-4 * 1024 / 256)


@pytest.mark.parametrize(
  ("path", "value", "message"),
  [
    ("optim.lrr", 1.0, "config.optim.lrr: unknown key; did you mean 'lr'?"),
    ("stepz", 1, "config.stepz: unknown key; did you mean 'steps'?"),
    ("steps", "many", "config.steps: expected int, got 'many' (str)"),
    ("steps", 0, "config.steps: 0 must be positive"),
    ("clip.image_size", 60, "use 48 or 64"),
    ("mask.video_ratio", 1.0, "config.mask.video_ratio: 1.0 not in [0,1)"),
    ("mask.video", "tubes", "did you mean 'tube'?"),
    ("objective.name", "simvpt", "did you mean 'simvtp'?"),
    ("objective.temprature", 0.1, "did you mean 'temperature'?"),
    ("objective.encoder.num_heads", 5, "does not divide width"),
    (
      "loss_weights.vtcc",
      1.0,
      "config.loss_weights.vtcc: no such term; did you mean 'vtc'?",
    ),
    ("evals.test.kind", "retreival", "did you mean 'retrieval'?"),
    ("evals.test.tie", "average", "did you mean 'ties'?"),
    ("optim.schedule", "cosin", "did you mean 'cosine'?"),
    ("optim.clip_norm", -1.0, "config.optim.clip_norm: -1.0 is negative"),
    ("optim.lr_rules", (("(", 1.0),), "is not a valid regular expression"),
    ("loss_weights.vtc", -1.0, "none may be negative"),
    ("loss_weights.vtc", math.inf, "config.loss_weights.vtc: inf is not finite"),
    ("optim.weight_decay", math.nan, "weight_decay: nan is not finite"),
    ("evals.test", 3, "config.evals.test: expected a group of keys"),
    ("batch_size", 0, "config.batch_size: 0 must be positive"),
    ("mesh.tensor", 3, "does not multiply to the 1 devices"),
  ],
)
def test_invalid_values_are_rejected_before_the_run_directory_is_made(
  smoke, tmp_path, path, value, message
):
  config = copy.deepcopy(smoke)
  *sections, key = path.split(".")
  section = config
  for name in sections:
    section = section[name]
  section[key] = value
  with pytest.raises(ConfigError) as e:
    setup.build(config, tmp_path / "run")
  assert message in str(e.value)
  assert not (tmp_path / "run").exists()  # rejected before anything was made


def test_a_missing_key_is_named(smoke):
  del smoke["optim"]["lr"]
  with pytest.raises(ConfigError, match=r"config\.optim\.lr: missing"):
    read(TrainConfig, smoke)


def test_a_key_with_a_default_may_be_left_out(smoke):
  """In every kind of section; the complete config has the defaults filled in."""
  brief = copy.deepcopy(smoke)
  del brief["guard"], brief["optim"]["b1"], brief["objective"]["compute"]["remat"]
  del brief["evals"]["validation"]["ties"]
  assert with_defaults(brief) == smoke
  assert read(TrainConfig, brief).optim.b1 == 0.9


def test_an_older_run_resumes_with_the_defaults_of_newer_keys(smoke, tmp_path):
  (tmp_path / "checkpoints" / "1").mkdir(parents=True)
  old = copy.deepcopy(smoke)
  del old["optim"]["b1"]
  workdir.write_json(tmp_path / "config.json", workdir.plain(old))
  smoke["optim"]["b1"] = 0.8
  with pytest.raises(ConfigError, match=r"optim\.b1: 0\.9 there, 0\.8 now"):
    workdir.prepare(tmp_path, smoke)
  smoke["optim"]["b1"] = 0.9
  workdir.prepare(tmp_path, smoke)


def test_defaults_leave_unknown_keys_for_the_reader_to_reject():
  strange = dict(objective=dict(name="none"), evals=dict(a=3, b=dict(kind=[])), clip=1)
  full = with_defaults(strange)
  assert {key: full[key] for key in strange} == strange


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (
      ["--config=configs/simvtp.py", "--config.optim.lrr=1"],
      "config.optim.lrr: unknown key; did you mean 'lr'?",
    ),
    (
      ["--config=configs/mac.py", "--config.objective.compute.rematt=full"],
      "config.objective.compute.rematt: unknown key; did you mean 'remat'?",
    ),
    (["--config=configs/mac.py", "--config.optim.b1=high"], "optim.b1=high"),
    (["--config=configs/simvtp.py:dmo"], "known: demo, smoke, webvid2m"),
    (["--config=configs/nothing.py"], "--config: configs/nothing.py: no such file"),
    (["--config=configs/simvtp.py:smoke", "config.steps=1"], "flags start with --"),
    ([], "the demo is --config=simvtp"),
    (["--config=configs/simvtp.py:webvid2m", "--workdir={}/run"], "the demo, --config"),
    (["--config=configs/simvtp.py:smoke", "--workdir=/proc/nowhere"], "--workdir"),
  ],
)
def test_mistakes_on_the_command_line_are_one_line_with_exit_code_2(
  flags, message, tmp_path
):
  """One line on stderr, exit code 2, no traceback."""
  assert_rejected(run_main(*(f.format(tmp_path) for f in flags)), message)


def test_mistakes_in_keys_of_a_default_config_are_one_line_too():
  """`study` has a default for --config."""
  run = run_main("--config.seed=1", module="vtr_jax.study")
  assert_rejected(run, "config.seed: unknown key; did you mean 'seeds'?")


def assert_rejected(run, message):
  assert run.returncode == 2, run.stderr
  assert message in run.stderr
  assert "Traceback" not in run.stderr
  assert len(run.stderr.strip().splitlines()) == 1
