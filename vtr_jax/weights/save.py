"""Saves a model's parameters in a public layout, or under their own names."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from vtr_jax.core.config import flatten, nearest, to_dict
from vtr_jax.core.errors import WeightsError
from vtr_jax.weights import stacks
from vtr_jax.weights.layouts import reads_text
from vtr_jax.weights.registry import SOURCES

OWN = "vtr_jax"

# The architecture of a layout's own code: values of config.objective, and of
# clip.tubelet_size[0] as "frames".
_FROZEN = {"video.name": "divided", "pool": "cls", "text_norm": "post"}
_TUBES: dict[str, Any] = {"video.name": "vit", "video.pos_embed": "flat"}
_REQUIRED: dict[str, dict[str, Any]] = dict(
  frozen=_FROZEN | dict(frames=1),
  miles=_FROZEN | dict(frames=1),
  mcq=_FROZEN | dict(frames=1),
  timm_vit=dict(frames=1),
  hf_vit=dict(frames=1),
  distilbert=dict(text_norm="post"),
  bert=dict(text_norm="post"),
  openai_clip=dict(pool="cls", frames=1),
  hf_clip=dict(pool="cls", frames=1),
  viclip=dict(pool="cls", frames=1),
  hf_siglip=dict(pool="cls", frames=1),
  simvtp_finetuned=_TUBES,
  videomae_tower=_TUBES,
  videomae_finetuned=_TUBES,
  hf_videomae_tower=_TUBES,
  hf_videomae_finetuned=_TUBES,
  videomae=dict(pos_embed="flat"),
  hf_videomae=dict(pos_embed="flat"),
  simvtp=dict(pos_embed="flat"),
  videoprism={"video.name": "videoprism", "video.auxiliary_depth": 0},
  videoprism_lvt={"video.name": "videoprism", "arch": "videoprism", "pool": "cls"},
)
# Layouts that are stored as .npz; all others are .safetensors.
NPZ = ("videoprism", "videoprism_lvt")


def layouts() -> dict[str, str]:
  """Layout -> the kind of public weights that has it."""
  return {
    layout.__name__: kind
    for kind, source in reversed(SOURCES.items())  # of several, the first one
    for layout in (*source.dual, *source.simvtp)
  }


def save(
  layout: str,
  model: nn.Module,
  params: Mapping[str, np.ndarray],
  contrastive_bias: float = 0.0,
) -> tuple[dict[str, np.ndarray], list[str]]:
  """(arrays by the names of `layout`, parameter paths that it does not have).

  Args:
    layout: one of `layouts()`; or OWN: paths with dots, layers not stacked.
    model: linen module of the objective.
    params: all its parameters by path.
    contrastive_bias: `config.contrastive.bias`, which SigLIP stores as a weight.

  Raises:
    WeightsError: the model's architecture is not that of the layout: it lacks a
      parameter, or has one that changes its outputs and that the layout lacks.
  """
  single = stacks.split(params)
  if layout == OWN:
    return {path.replace("/", "."): np.asarray(x) for path, x in single.items()}, []
  kinds = layouts()
  if layout not in kinds:
    raise WeightsError(
      f"--as: {layout!r} is not a layout; {nearest(layout, [OWN, *kinds])}"
    )
  fitting = SOURCES[kinds[layout]].layouts(kinds[layout], model)
  chosen = [function for function in fitting if function.__name__ == layout]
  if not chosen:
    raise WeightsError(f"--as: {layout!r} is not a layout of this objective")
  _check_architecture(layout, model)
  entries = list(chosen[0](model))
  covered = {path for entry in entries for path in entry.paths}
  if lacking := sorted(covered - set(single)):
    raise WeightsError(f"--as: {layout!r} has {lacking[0]}, which this model lacks")
  omitted = sorted(set(single) - covered)
  groups = {path.partition("/")[0] for path in covered}
  for path in omitted:
    # A mask token is only used in training; parameters that are 0 have no effect.
    no_effect = path.endswith("mask_token") or not np.any(single[path])
    if path.partition("/")[0] in groups and not no_effect:
      raise WeightsError(
        f"--as: {layout!r} does not have {path}, without which the outputs change"
      )
  arrays = {}
  for entry in entries:
    saved = entry.save(*(np.asarray(single[path]) for path in entry.paths))
    pairs = zip(entry.keys, saved, strict=True)
    arrays |= {key: np.array(x, order="C") for key, x in pairs}
  return arrays | _constants(layout, model, contrastive_bias), omitted


def _check_architecture(layout: str, model: Any) -> None:
  """Raises WeightsError if the layout's own code would compute other outputs."""
  has = flatten(to_dict(model.config)) | dict(frames=model.clip.tubelet_size[0])
  for key, value in _REQUIRED.get(layout, {}).items():
    if has.get(key) != value:
      name = "clip.tubelet_size[0]" if key == "frames" else f"objective.{key}"
      raise WeightsError(
        f"--as: {layout!r} needs config.{name} = {value!r}, this model has "
        f"{has.get(key)!r}"
      )


def _constants(layout: str, model: Any, bias: float) -> dict[str, np.ndarray]:
  """Arrays of the layout that are constants of the config in this model."""
  arrays = {}
  shape = (1,) if layout == "hf_siglip" else ()
  if layout in ("openai_clip", "hf_clip", "hf_siglip"):
    if reads_text(model) and not model.config.learn_temperature:
      scale = -np.log(model.config.temperature)
      arrays["logit_scale"] = np.full(shape, scale, np.float32)
    if layout == "hf_siglip":
      arrays["logit_bias"] = np.full(shape, bias, np.float32)
  if layout == "viclip" and reads_text(model) and not model.config.learn_temperature:
    arrays["temp"] = np.full((), model.config.temperature, np.float32)
  return arrays
