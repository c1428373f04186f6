"""Recipes: what they list; fine-tuning on every data set from every objective."""

import dataclasses
import importlib
import re
import typing

import flax.linen as nn
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from vtr_jax.configs import (
  clip4clip,
  common,
  finetune_actions,
  finetune_answers,
  mac,
  miles,
  simvtp,
)
from vtr_jax.configs import finetune_retrieval as finetune
from vtr_jax.core import config_help
from vtr_jax.core.config import default, flatten, keys, read, section
from vtr_jax.eval.evaluators import base as evaluators
from vtr_jax.models.backbones import base as backbones
from vtr_jax.objectives import base as objectives
from vtr_jax.train import optim, state
from vtr_jax.train.config import TrainConfig


@pytest.mark.parametrize("data", finetune.DATASETS)
@pytest.mark.parametrize(
  "run", ["mac", "miles", "simvtp", "mac,flickr8k", "mac,clip", "mac,videoprism"]
)
def test_every_fine_tuning_masks_nothing_and_has_only_the_contrastive_loss(data, run):
  values = finetune.get_config(f"{data},{run}").to_dict()
  config = read(TrainConfig, values)
  objective = config.make_objective()
  assert set(config.loss_weights) == set(objective.loss_names)
  assert {k for k, v in config.loss_weights.items() if v} == {"vtc"}
  assert config.spec()["video_mask_idx"].shape == (config.batch_size, 0)
  assert config.optim.warmup_steps < config.steps


@pytest.mark.parametrize("data", finetune.DATASETS)
def test_clip4clip_encodes_frames_independently_with_clip_b32(data):
  """Nothing is masked, and the embedding layers are frozen."""
  config = read(TrainConfig, clip4clip.get_config(data).to_dict())
  objective = config.make_objective()
  assert config.spec()["video_mask_idx"].shape == (config.batch_size, 0)
  params = flatten_dict(
    nn.unbox(state.abstract_params(objective, config.spec())), sep="/"
  )
  assert params["video_tower/space_positions"].shape == (50, 768)
  assert "video_tower/time_positions" not in params
  rates = flatten_dict(
    optim.by_rule(unflatten_dict(params, sep="/"), config.optim.lr_rules, "rules"),
    sep="/",
  )
  frozen = {path.split("/")[1] for path, rate in rates.items() if not rate}
  assert frozen == {"proj", "cls_token", "space_positions", "norm_input", "embed"}


# VideoMAE's scripts for ViT-B (arXiv 2203.12602): rate, its end, steps of warm-up (5
# epochs) and in all, layer decay, drop path, dropout of the head, views along time.
ACTIONS = dict(
  ucf101=(5e-4 / 2, 1e-6 / 2, 370, 7400, 0.70, 0.2, 0.5, 5),
  hmdb51=(5e-4 / 2, 1e-6 / 2, 135, 2700, 0.70, 0.2, 0.5, 5),  # as UCF101; ours
  kinetics400=(5e-4 * 1.5, 1e-6 * 1.5, 3125, 46875, 0.75, 0.1, 0.0, 5),
  ssv2=(5e-4 * 1.5, 1e-6 * 1.5, 2195, 13170, 0.75, 0.1, 0.0, 2),
)


@pytest.mark.parametrize("data", ACTIONS)
@pytest.mark.parametrize("run", ["mac", "miles", "simvtp", "videomae"])
def test_action_recognition_is_fine_tuned_as_videomae_is(data, run):
  values = finetune_actions.get_config(f"{data},{run}").to_dict()
  c = read(TrainConfig, values)
  lr, low, warmup, steps, decay, drop, dropout, windows = ACTIONS[data]
  assert c.optim.lr == pytest.approx(lr)
  assert c.optim.min_lr == pytest.approx(low)
  assert (c.optim.warmup_steps, c.steps) == (warmup, steps)
  assert c.optim.layer_decay == decay
  assert (c.optim.b2, c.optim.weight_decay, c.optim.clip_norm) == (0.999, 0.05, 0)
  objective = c.objective
  assert (objective["drop_path"], objective["head_dropout"]) == (drop, dropout)
  assert (objective["smoothing"], objective["head_scale"]) == (0.1, 0.001)
  assert (c.clip.num_frames, c.data.repeats, c.data.erase) == (16, 2, 0.25)
  assert c.data.flip == (data != "ssv2")
  assert c.mask.video_ratio == 0
  assert (values["evals"]["test"]["windows"], values["evals"]["test"]["crops"]) == (
    windows,
    3,
  )
  made = c.make_objective()
  assert made.row_group % (2 * c.data.repeats) == 0
  params = flatten_dict(nn.unbox(state.abstract_params(made, c.spec())), sep="/")
  nested = unflatten_dict(params, sep="/")
  decays = optim.by_rule(nested, c.optim.decay_rules, "rules")
  for path, factor in flatten_dict(decays, sep="/").items():
    assert factor == path.endswith("kernel"), path


# The papers' code (docs/finetuning.md): form, answers, steps, rate.
ANSWERS = dict(
  msvd_qa=("open", 1852, 15 * 161, 5e-5),
  msrvtt_qa=("open", 1500, 10 * 825, 5e-5),
  activitynet_qa=("open", 1654, 12 * 166, 5e-5),
  tgif_frame=("open", 1540, 20 * 205, 2e-5),
  tgif_action=("choice", 1, 56 * 106, 2e-5),
  tgif_transition=("choice", 1, 15 * 274, 2e-5),
  tgif_count=("count", 1, 20 * 139, 2e-5),
)


@pytest.mark.parametrize("data", ANSWERS)
@pytest.mark.parametrize("run", ["mac", "miles", "simvtp"])
def test_questions_are_fine_tuned_on_as_in_the_papers_code(data, run):
  values = finetune_answers.get_config(f"{data},{run}").to_dict()
  c = read(TrainConfig, values)
  form, outputs, steps, lr = ANSWERS[data]
  assert (c.objective["form"], c.steps, c.optim.lr) == (form, steps, lr)
  assert (c.clip.num_frames, c.text.max_length, c.optim.b2) == (16, 40, 0.98)
  assert c.optim.warmup_steps == steps // 10
  assert c.mask.video_ratio == 0
  assert ("validation" in c.evals) == (not data.startswith("tgif"))
  made = c.make_objective()
  params = flatten_dict(nn.unbox(state.abstract_params(made, c.spec())), sep="/")
  assert params["head/out/kernel"].shape[1] == outputs
  assert (c.init_heads == ("head",)) == (run == "simvtp")
  assert any(path.startswith("fusion/block_2") for path in params) == (run != "simvtp")


def test_warm_up_follows_the_number_of_steps():
  values = finetune_actions.get_config("folder,mac,demo")
  values.steps = 300
  assert read(TrainConfig, values.to_dict()).optim.warmup_steps == 50


def test_an_unknown_data_set_or_run_is_rejected():
  with pytest.raises(ValueError, match="'msrvt' is unknown; known: msrvtt"):
    finetune.get_config("msrvt")
  with pytest.raises(ValueError, match="'clip' is unknown; known: mac"):
    finetune.get_config("msvd,clip")


@pytest.mark.parametrize(
  ("file", "variant"),
  [(file, v) for file in (mac, miles, simvtp) for v in ("demo", "smoke", "recipe")]
  + [(mac, "flickr8k"), (mac, "clip"), (mac, "videoprism")],
)
def test_a_recipe_lists_at_most_60_keys(file, variant, monkeypatch):
  """The rest are defaults. An evaluation counts as one key, except the papers'."""
  monkeypatch.setattr(common, "complete", lambda c: c)
  recipe = "webvid2m" if file is simvtp else "webvid2m_cc3m"
  listed = file.get_config(recipe if variant == "recipe" else variant).to_dict()
  if variant != "recipe":
    listed["evals"] = dict.fromkeys(listed["evals"])
  assert len(flatten(listed)) <= 60


def config_classes():
  """Every dataclass that reads a section of a config."""
  names = [f"vtr_jax.objectives.{name}" for name in objectives.names()]
  names += [f"vtr_jax.eval.evaluators.{kind}" for kind in evaluators.kinds()]
  names += [f"vtr_jax.models.backbones.{name}" for name in backbones.names()]
  found = [TrainConfig, *(importlib.import_module(name).Config for name in names)]
  for cls in found:  # grows as it is read
    hints = typing.get_type_hints(cls)
    found += [
      s for name in keys(cls) if (s := section(hints[name])) not in (None, *found)
    ]
  return found


@pytest.mark.parametrize(
  "cls", config_classes(), ids=lambda c: f"{c.__module__}.{c.__name__}"
)
def test_every_default_names_its_source(cls):
  notes, hints = config_help.field_comments(cls), typing.get_type_hints(cls)
  for name, field in keys(cls).items():
    if default(field) is not dataclasses.MISSING and (
      not section(hints[name]) or default(field) is None
    ):
      assert re.search(r"\b(paper|code|ours)\b", notes.get(name, "")), name
