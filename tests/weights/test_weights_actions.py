"""Public weights as the start of a classifier: the video side of every kind of file."""

import json
import re

import clips
import hf_cases
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict
from weight_cases import (
  COMPUTE,
  HF,
  KEY_LISTS,
  LIST_KINDS,
  NOTHING,
  SIZE,
  TEXT,
  assert_close,
  clip_of,
  family,
  shapes,
  small_simvtp,
)
from weights import convert

from configs import finetune_actions
from vtr_jax import convert as convert_command
from vtr_jax.core import config as config_lib
from vtr_jax.core.errors import WeightsError
from vtr_jax.objectives import base as objectives
from vtr_jax.train import setup
from vtr_jax.train.config import TrainConfig
from vtr_jax.train.loop import train_and_evaluate
from vtr_jax.weights import (
  hub_write,
  infer,
  match,
  registry,
  save,
  snapshot,
  stacks,
)

HEAD = ("head",)


def actions(arch="simvtp", classes=3, frames=HF.FRAMES, pt=2, pool="mean"):
  """A classifier of the sizes of `hf_cases`."""
  pos_embed = "flat" if arch == "simvtp" else "frozen"
  video = SIZE | dict(name="vit", pos_embed=pos_embed)
  values = dict(name="actions", arch=arch, video=video, compute=COMPUTE, pool=pool)
  values["num_classes"] = classes
  return objectives.build(values, clip_of(frames, pt), TEXT, NOTHING)


def converted(kind, state, objective, heads=HEAD):
  wanted = shapes(objective, objective.model.clip)
  return convert(kind, state, objective.model, wanted, heads=heads)


def unused(report):
  return {line.key for line in report.lines if line.status == "unused"}


@pytest.fixture(scope="module")
def pretrained():
  """VideoMAE's pre-training: files of both layouts, and the SimVTP model's tokens."""
  state, _ = hf_cases.case("videomae")
  objective = small_simvtp()
  params, _ = convert(
    "videomae", state, objective.model, shapes(objective, objective.model.clip)
  )
  flat = {k: np.asarray(v) for k, v in flatten_dict(params, sep="/").items()}
  authors, _ = save.save("videomae", objective.model, flat)
  call = lambda m: m.encoder(m.embed_visible(clip(), None))
  tokens = objective.model.apply({"params": params}, method=call)
  return dict(hf=dict(state), authors=authors), np.asarray(tokens)


def clip():
  return hf_cases.inputs()["video"].transpose(0, 1, 3, 4, 2)


@pytest.mark.parametrize("layout", ["hf", "authors"])
def test_tokens_of_a_videomae_file_equal_those_of_simvtps_model(layout, pretrained):
  files, tokens = pretrained
  objective = actions()
  params, report = converted("videomae", files[layout], objective)
  call = lambda m: m.video_norm(m.video_tower(clip()).patches)
  assert_close(objective.model.apply({"params": params}, method=call), tokens)
  assert set(report.initialised) == {"head/kernel", "head/bias"}
  parts = {key.split(".")[0] for key in unused(report)}
  assert parts == {"decoder", "encoder_to_decoder", "mask_token"}
  assert "unused (decoder, encoder_to_decoder, mask_token)" in report.summary()
  assert report.summary().endswith("2 parameters not in the file (head)")


def finetuned(files, layout):
  """The file after fine-tuning: other names of the encoder, a norm and a head."""
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.normal(size=shape).astype("f")
  state = {"fc_norm.weight": draw(HF.WIDTH), "fc_norm.bias": draw(HF.WIDTH)}
  name = dict(hf="classifier", authors="head")[layout]
  state |= {f"{name}.weight": draw(3, HF.WIDTH), f"{name}.bias": draw(3)}
  for key, x in files[layout].items():
    part, _, rest = key.partition(".")
    if part == "encoder" and not rest.startswith("norm."):
      state[rest] = x
    if part == "videomae" and not rest.startswith("layernorm"):
      state[key] = x
  return state, state[f"{name}.weight"], state[f"{name}.bias"]


@pytest.mark.parametrize("layout", ["hf", "authors"])
def test_logits_of_a_fine_tuned_videomae_file_are_those_by_hand(
  layout, pretrained, tmp_path
):
  state, kernel, bias = finetuned(pretrained[0], layout)
  objective = actions()
  params, report = converted("videomae", state, objective, heads=())
  assert not report.initialised
  assert not unused(report)
  call = lambda m: m.video_tower(clip()).patches
  x = np.asarray(objective.model.apply({"params": params}, method=call)).mean(axis=1)
  x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
  x = x * state["fc_norm.weight"][None] + state["fc_norm.bias"][None]
  found = objective.predict["logits"](params, dict(video=clip()))
  assert_close(found, x @ kernel.T + bias[None])
  flat = {k: np.asarray(v) for k, v in flatten_dict(params, sep="/").items()}
  name = dict(hf="hf_videomae_finetuned", authors="videomae_finetuned")[layout]
  again, left = save.save(name, objective.model, flat)
  assert not left
  assert again.keys() == state.keys()
  for key, x in again.items():
    np.testing.assert_array_equal(x, state[key], err_msg=key)
  if layout == "hf":
    check_folder(tmp_path, objective.model, again, found)


def check_folder(folder, model, arrays, logits):
  """The folder that `export` writes; transformers, where it is installed, loads it."""
  from safetensors.numpy import save_file

  hub_write.write(folder, "hf_videomae_finetuned", model, None)
  save_file(arrays, folder / "model.safetensors", metadata=dict(format="pt"))
  stated = json.loads((folder / "config.json").read_text())
  assert stated["use_mean_pooling"]
  assert stated["id2label"] == {str(i): f"LABEL_{i}" for i in range(3)}
  facts = snapshot.facts(folder)
  assert facts
  assert (facts.kind, facts.clip["num_frames"]) == ("videomae", HF.FRAMES)
  if hf_cases.LIVE:
    import torch
    import transformers

    theirs = transformers.VideoMAEForVideoClassification.from_pretrained(folder).eval()
    pixels = torch.from_numpy((hf_cases.inputs()["video"] - 0.5) / 0.5)
    with torch.no_grad():
      made = theirs(pixels).logits.numpy()
    np.testing.assert_allclose(made, logits, atol=1e-3)  # its epsilon is 1e-5


def test_a_head_of_other_classes_is_new_or_refused(pretrained):
  state, _, _ = finetuned(pretrained[0], "authors")
  with pytest.raises(
    WeightsError,
    match=r"head\.weight \(3, 16\) does not fit.*heads: config\.init_heads",
  ):
    converted("videomae", state, actions(classes=5), heads=())
  _, report = converted("videomae", state, actions(classes=5))
  assert unused(report) == {"head.weight", "head.bias"}
  assert set(report.initialised) == {"head/kernel", "head/bias"}
  # One that would fit is new as well, as its classes may be others.
  _, report = converted("videomae", state, actions())
  assert unused(report) == {"head.weight", "head.bias"}


@pytest.mark.parametrize(
  ("name", "kind", "arch"),
  [
    ("clip", "clip", "clip"),
    ("openai", "clip", "clip"),
    ("open_clip", "open_clip", "open_clip"),
    ("siglip", "siglip", "siglip"),
  ],
)
def test_the_video_side_of_a_dual_encoders_file(name, kind, arch):
  """Features equal those of the dual encoder; the text side is listed as not used."""
  state, _ = hf_cases.case(name)
  objective = actions(arch, frames=2, pt=1, pool="cls")
  params, report = converted(kind, state, objective)
  projection = dict(projection=HF.WIDTH) if arch == "siglip" else {}
  dual = family(arch, frames=2, backbone="vit", **projection)
  whole, _ = convert(kind, state, dual.model, shapes(dual, dual.model.clip))
  batch = dict(video=clip()[:, :2])
  features = lambda o, p: o.predict["video_features"](p, batch).pooled
  assert_close(features(objective, params), features(dual, whole))
  assert {path.split("/")[0] for path in report.initialised} == {"head", "video_tower"}
  vision = [k for k in state if k.startswith(("vision_model.", "visual."))]
  assert set(state) - unused(report) == {k for k in vision if k != "visual.proj"}
  broken = {k.replace("layer_norm1", "norm").replace("ln_1", "norm"): v
            for k, v in state.items()}  # fmt: skip
  with pytest.raises(WeightsError, match="is missing"):
    converted(kind, broken, objective)


def test_images_start_a_classifier_and_text_files_are_refused():
  state, _ = hf_cases.case("vit")
  params, report = converted("vit", state, actions("frozen", frames=2, pt=1))
  query = state["layers.1.attention.q_proj.weight"].T
  tower = params["video_tower"]["block_1"]
  np.testing.assert_array_equal(tower["attention"]["query"]["kernel"], query)
  assert {path.split("/")[0] for path in report.initialised} == {"head", "video_tower"}
  with pytest.raises(WeightsError, match=r"'distilbert' weights: .*; omit them"):
    converted("distilbert", hf_cases.case("distilbert")[0], actions("frozen"))


# Those with a video tower, of every layout.
VIDEO_LISTS = (
  "frozen_in_time",
  "miles",
  "videomae_hf",
  "videomae_official",
  "clip_vit_b16_hf",
  "timm_vit_base_patch16_224",
  "simvtp_pretrain",
)
NIGHTLY = pytest.mark.nightly
SOME = [
  n if n == "videomae_hf" else pytest.param(n, marks=NIGHTLY) for n in VIDEO_LISTS
]


@pytest.mark.parametrize("name", SOME)
def test_every_video_key_of_the_real_files_starts_a_classifier(name):
  """By lists of the keys and shapes of the full-size files."""
  kind, keys = LIST_KINDS[name], KEY_LISTS[name]["keys"]
  source = registry.find(kind)
  state = {k: np.broadcast_to(np.float32(0.5), shape) for k, shape in keys.items()}
  values = infer.infer(infer.recipe(source), kind, source, state)
  recipe = finetune_actions.RECIPES["ucf101"]
  pretrained = ConfigDict(values["objective"])
  values["objective"] = finetune_actions._objective(pretrained, recipe, False)
  values["mask"] |= dict(video_ratio=0.0)
  c = config_lib.read(TrainConfig, values | dict(evals={}, loss_weights={}))
  objective = c.make_objective()
  wanted = flatten_dict(shapes(objective, c.clip), sep="/")
  expected = stacks.shapes(wanted)
  _, report = match.match(
    name, kind, source, state, objective.model, expected, (), HEAD
  )
  report.check()
  parts = {key.split(".")[0] for key in unused(report)}
  assert parts <= {
    "decoder", "encoder_to_decoder", "mask_token",  # VideoMAE, SimVTP
    "text_embeddings", "text_cls", "vtm_head",  # SimVTP
    "text_model", "txt_proj", "text_proj", "vid_proj",  # Frozen, MILES, CLIP
    "visual_projection", "text_projection", "logit_scale",  # CLIP
    "head",  # of ImageNet
  }  # fmt: skip
  starts = [path for path in report.initialised if not path.startswith("head/")]
  # transformers' file ends in no norm.
  assert all(re.search("time|mask_token|video_norm", path) for path in starts)


@pytest.mark.nightly
def test_training_starts_from_a_file_without_a_tokenizer(pretrained, tmp_path):
  """The recipe's config at a tiny size, on labelled clips without captions."""
  files = pytest.importorskip("safetensors.numpy")
  files.save_file(pretrained[0]["authors"], tmp_path / "vm.safetensors")
  rows = [
    clips.record(f"c{i}", clips.mp4(12, 32, 32, seed=i), ()) | dict(label="ab"[i % 2])
    for i in range(4)
  ]
  clips.prepare(tmp_path, dict(train=rows, test=rows[:2]))
  c = finetune_actions.get_config("ucf101,videomae").to_dict()
  c["clip"] |= dict(
    num_frames=HF.FRAMES, image_size=HF.SIZE, tubelet_size=(2, HF.PATCH, HF.PATCH)
  )
  c["data"] |= dict(name=clips.NAME, dir=str(tmp_path), num_workers=0)
  c["objective"] |= dict(compute=COMPUTE, num_classes=0)
  c["objective"]["video"] |= SIZE
  c |= dict(steps=1, batch_size=4, eval_batch_size=4, checkpoint_every=1)
  c["evals"]["test"] |= dict(windows=1, crops=1)
  c |= dict(init_from=f"videomae:{tmp_path}/vm.safetensors")
  results = train_and_evaluate(c, tmp_path / "run")
  assert set(results) == {"test/top1", "test/top5", "test/mean_class_top1"}
  assert not (tmp_path / "run/tokenizer.model").exists()
  report = (tmp_path / "run/weights.txt").read_text()
  assert "initialised head/kernel" in report
  assert "unused      decoder.head.weight" in report
  c["objective"] |= dict(num_classes=5)
  with pytest.raises(
    config_lib.ConfigError, match=r"num_classes: 5, but .* has 2 classes, as 'a'; set 0"
  ):
    setup.build(c, tmp_path / "other")


@pytest.mark.parametrize(
  ("text", "names"),
  [
    ("1 Apply Make\n2 run\n", ("Apply Make", "run")),
    ("0 a\n1 b\n", ("a", "b")),
    ("\ufeffjump high\n\nrun\n", ("jump high", "run")),
    ("1 km run\n3 km run\n", ("1 km run", "3 km run")),
  ],
)
def test_names_of_classes_are_read_with_and_without_numbers(text, names, tmp_path):
  (tmp_path / "names.txt").write_text(text, encoding="utf-8")
  assert convert_command._classes(str(tmp_path / "names.txt")) == names


@pytest.mark.parametrize(("text", "says"), [(b"", "no names"), (b"\xff\xfe", "cannot")])
def test_files_without_names_of_classes_are_rejected(text, says, tmp_path):
  (tmp_path / "names.txt").write_bytes(text)
  with pytest.raises(config_lib.ConfigError, match=f"--classes: .*{says}"):
    convert_command._classes(str(tmp_path / "names.txt"))
