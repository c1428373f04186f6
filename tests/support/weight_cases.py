"""Small models for weights of public layouts; sizes are those of `hf_cases`."""

import json

import flax.linen as nn
import hf_cases
import jax
import numpy as np
from dual_cases import change

from configs import mac, simvtp
from vtr_jax.core import precision
from vtr_jax.core.batch import ClipSpec, MaskSpec, TextSpec
from vtr_jax.objectives import base as objectives
from vtr_jax.weights import infer

HF = hf_cases


SIZE = dict(width=HF.WIDTH, depth=HF.LAYERS, mlp_dim=HF.HIDDEN, num_heads=HF.HEADS)


HALF = dict(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


NOTHING = MaskSpec("tube", 0.0, "replace", 0.0, False)


COMPUTE = dict(dtype="float32", attention="xla", scan=False, remat="none")


TEXT = TextSpec(HF.LENGTH, HF.WORDS, 3)


def small_and_exact(monkeypatch):
  """Makes converted runs float32, and small where a file has no video tower."""
  monkeypatch.setattr(precision, "fastest", lambda: "float32")
  recipe = infer.recipe

  def small(source):
    values = recipe(source)
    if values["objective"].get("video"):
      values["objective"]["video"] |= SIZE
    return values

  monkeypatch.setattr(infer, "recipe", small)


def clip_of(frames, pt=1):
  return ClipSpec(frames, HF.SIZE, (pt, HF.PATCH, HF.PATCH), **HALF)


def dual(frames=1, **changes):
  """A tiny dual encoder by MAC's config; the sizes are those of `hf_cases`."""
  values = mac.webvid2m_cc3m()["objective"] | dict(text_dropout=0.0)
  sizes = dict(video=SIZE, text=SIZE, compute=COMPUTE, projection=12)
  values = change(values, **sizes | changes)
  return objectives.build(values, clip_of(frames), TEXT, NOTHING)


def family(name, frames=1, **changes):
  return dual(
    frames,
    **dict(arch=name, text_norm="pre", learn_temperature=True, temperature=0.1),
    **changes,
  )


def small_simvtp():
  values = simvtp.webvid2m()["objective"]
  decoder = dict(width=8, depth=1, mlp_dim=12, num_heads=HF.HEADS)
  values |= dict(encoder=SIZE, decoder=decoder, compute=COMPUTE, text_dropout=0.0)
  values |= dict(negatives_group=0)
  return objectives.build(values, clip_of(HF.FRAMES, 2), TEXT, NOTHING)


def shapes(objective, model_clip):
  spec = objective.rows.spec(model_clip, TEXT, NOTHING, 2)
  boxed = jax.eval_shape(objective.init, jax.random.key(0), spec)
  return nn.unbox(boxed)


def assert_close(ours, theirs):
  np.testing.assert_allclose(ours, theirs, atol=2e-5, rtol=1e-4)


# Kind of weights of each list of keys.
LIST_KINDS = dict(
  frozen_in_time="frozen",
  miles="miles",
  mcq="mcq",
  bert_base="bert",
  distilbert_base="distilbert",
  videomae_hf="videomae",
  videomae_official="videomae",
  clip_vit_b16_hf="clip",
  vit_base_patch16_224_hf="vit",
  timm_vit_base_patch16_224="vit",
  simvtp_pretrain="simvtp",
)
KEY_LISTS = json.loads((hf_cases.FILE.parent / "state_dict_keys.json").read_text())


_TOWER = dict(
  hidden_size=HF.WIDTH,
  num_hidden_layers=HF.LAYERS,
  num_attention_heads=HF.HEADS,
  intermediate_size=HF.HIDDEN,
)
_IMAGE = _TOWER | dict(image_size=HF.SIZE, patch_size=HF.PATCH)
_WORDS = _TOWER | dict(vocab_size=HF.WORDS, max_position_embeddings=HF.LENGTH)
# config.json of `hf_cases`.
HUB_CONFIGS = dict(
  vit=dict(model_type="vit", **_IMAGE),
  bert=dict(model_type="bert", **_WORDS),
  distilbert=dict(
    model_type="distilbert",
    vocab_size=HF.WORDS,
    dim=HF.WIDTH,
    n_layers=HF.LAYERS,
    n_heads=HF.HEADS,
    hidden_dim=HF.HIDDEN,
  ),
  videomae=dict(
    model_type="videomae",
    architectures=["VideoMAEForPreTraining"],
    num_frames=HF.FRAMES,
    tubelet_size=2,
    decoder_num_attention_heads=HF.HEADS,
    decoder_hidden_size=8,
    decoder_num_hidden_layers=1,
    decoder_intermediate_size=12,
    **_IMAGE,
  ),
  clip=dict(model_type="clip", text_config=_WORDS, vision_config=_IMAGE),
  siglip=dict(model_type="siglip", text_config=_WORDS, vision_config=_IMAGE),
)
_COLOURS = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3)


def write(path, value):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(value))


def write_hub(folder, case, **changes):
  """A case of `hf_cases` as a hub stores it; `changes` of its config.json."""
  from safetensors.numpy import save_file

  write(folder / "config.json", HUB_CONFIGS[case] | changes)
  write(folder / "preprocessor_config.json", _COLOURS)
  save_file(hf_cases.case(case)[0], folder / "model.safetensors")
  return folder
