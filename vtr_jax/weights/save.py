"""A model's parameters under the names of a public layout, or under its own."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vtr_jax.core.config import nearest
from vtr_jax.core.errors import WeightsError
from vtr_jax.weights import stacks
from vtr_jax.weights.registry import SOURCES

OWN = "vtr_jax"

# What a layout's own code computes: values of config.objective, and frames of a token.
_FROZEN = dict(attention="divided", pool="cls", text_norm="post")
_NEEDS: dict[str, dict[str, Any]] = dict(
  frozen=_FROZEN | dict(frames=1),
  miles=_FROZEN | dict(frames=1),
  mcq=_FROZEN | dict(frames=1),
  timm_vit=dict(frames=1),
  hf_vit=dict(frames=1),
  distilbert=dict(text_norm="post"),
  bert=dict(text_norm="post"),
  openai_clip=dict(pool="cls", frames=1),
  hf_clip=dict(pool="cls", frames=1),
  hf_siglip=dict(pool="cls", frames=1),
  simvtp_finetuned=dict(attention="joint", pos_embed="flat"),
  videomae=dict(pos_embed="flat"),
  hf_videomae=dict(pos_embed="flat"),
  simvtp=dict(pos_embed="flat"),
)


def layouts() -> dict[str, str]:
  """Layout -> the kind of public file that has it."""
  return {
    layout.__name__: kind
    for kind, source in SOURCES.items()
    for layout in (*source.dual, *source.simvtp)
  }


def save(
  layout: str,
  model: Any,
  params: Mapping[str, np.ndarray],
  contrast_bias: float = 0.0,
) -> tuple[dict[str, np.ndarray], list[str]]:
  """Arrays by the names of `layout`, and our paths that it has no place for.

  Args:
    layout: one of `layouts()`; or OWN: our paths with dots, layers one by one.
    model: linen module of the objective.
    params: all its parameters by path, as the model has them.
    contrast_bias: `config.contrastive.bias`, which SigLIP has among its weights.

  Raises:
    WeightsError: the model's architecture is not the layout's: it lacks a part, or
      would not be the same without one that is left out.
  """
  single = stacks.split(params)
  if layout == OWN:
    return {path.replace("/", "."): np.asarray(x) for path, x in single.items()}, []
  known = layouts()
  if layout not in known:
    raise WeightsError(f"--as: {layout!r} is unknown; {nearest(layout, [OWN, *known])}")
  fitting = SOURCES[known[layout]].layouts(known[layout], model)
  chosen = [made for made in fitting if made.__name__ == layout]
  if not chosen:
    raise WeightsError(f"--as: {layout!r} is not of this objective")
  _check_needs(layout, model)
  entries = list(chosen[0](model))
  given = {path for entry in entries for path in entry.ours}
  if lacking := sorted(given - set(single)):
    raise WeightsError(f"--as: {layout!r} has {lacking[0]}, which this model has not")
  left = sorted(set(single) - given)
  groups = {path.partition("/")[0] for path in given}
  for path in left:
    # A mask token is for training; what is 0 changes nothing.
    silent = path.endswith("mask_token") or not np.any(single[path])
    if path.partition("/")[0] in groups and not silent:
      raise WeightsError(
        f"--as: {layout!r} has no place for {path}, and without it the numbers change"
      )
  arrays = {}
  for entry in entries:
    made = entry.save(*(np.asarray(single[path]) for path in entry.ours))
    pairs = zip(entry.theirs, made, strict=True)
    arrays |= {key: np.array(x, order="C") for key, x in pairs}
  return arrays | _fixed(layout, model, contrast_bias), left


def _check_needs(layout: str, model: Any) -> None:
  """Refuses a model that the layout's own code would compute otherwise."""
  has = vars(model.config) | dict(frames=model.clip.tubelet_size[0])
  for key, value in _NEEDS.get(layout, {}).items():
    if has[key] != value:
      name = "clip.tubelet_size[0]" if key == "frames" else f"objective.{key}"
      raise WeightsError(
        f"--as: {layout!r} means config.{name} = {value!r}, this model has {has[key]!r}"
      )


def _fixed(layout: str, model: Any, bias: float) -> dict[str, np.ndarray]:
  """What is no parameter here, and is one there."""
  found = {}
  shape = (1,) if layout == "hf_siglip" else ()
  if layout in ("openai_clip", "hf_clip", "hf_siglip"):
    if not model.config.learn_temperature:
      scale = -np.log(model.config.temperature)
      found["logit_scale"] = np.full(shape, scale, np.float32)
    if layout == "hf_siglip":
      found["logit_bias"] = np.full(shape, bias, np.float32)
  return found
