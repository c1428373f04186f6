"""Infers the config of a model from the shapes in a weights file."""

import copy
import importlib.resources
import json
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from vtr_jax.core import config as config_lib
from vtr_jax.core.batch import ClipSpec, MaskSpec, TextSpec
from vtr_jax.core.config import choose, require
from vtr_jax.core.errors import WeightsError
from vtr_jax.models.config import ARCHS
from vtr_jax.objectives import base as objectives
from vtr_jax.weights import match
from vtr_jax.weights.entries import Entry
from vtr_jax.weights.registry import Source

Shapes = dict[str, tuple[int, ...]]
_MAX_DEPTH = 64  # layers of a tower
_MAX_TOKENS = 64  # per caption (ours): longer ones are rare and cost as much each
# Number of heads by width if the head size is not 64. Text towers: SigLIP so400m;
# vision towers: also ViT-H, g, bigG and giant; decoders: also VideoMAE-H's.
_TEXT_HEADS = {1152: 16}
_VISION_HEADS = _TEXT_HEADS | {1280: 16, 1408: 16, 1536: 16, 1664: 16}
_DECODER_HEADS = _TEXT_HEADS | {640: 8}
# Other widths of public models, whose heads are width / 64. Of BERT's, 384 is not one:
# MiniLM has 12 heads.
_BERT_WIDTHS = (128, 256, 512, 768, 1024)
_WIDTHS = (192, 256, 384, 512, 640, 768, 896, 1024, 1280)


def recipe(source: Source) -> dict[str, Any]:
  """The resolved config of `source.recipe`, as stored next to this file.

  configs/ imports this package, never the reverse. A test compares the two.
  """
  text = importlib.resources.files("vtr_jax.weights").joinpath("recipes.json")
  return json.loads(text.read_text())[source.recipe]


def infer(
  values: Mapping[str, Any], name: str, source: Source, arrays: Mapping[str, np.ndarray]
) -> dict[str, Any]:
  """`values`, a complete config, with the sizes of a file's arrays.

  The number of heads is not in the file: it is that of the public models of the same
  width, otherwise width / 64; see `set_heads`.

  Raises:
    WeightsError: the file is of another kind.
  """
  c: dict[str, Any] = copy.deepcopy(dict(values))
  for key, value in source.changes.items():
    *groups, last = key.split(".")
    section = c
    for group in groups:
      section = section[group]
    section[last] = value
  if source.infer:
    source.infer(c, match.rename(arrays, source.renames)[0])
    return c
  model = _deepest_model(c)
  named, _ = match.rename(arrays, source.renames)
  entries = match.choose(source.layouts(name, model), model, named)
  shapes, kernels = _shapes(entries, named)
  if "encoder" in c["objective"]:
    _infer_simvtp(c, shapes, kernels)
  else:
    _infer_dual_encoder(c, model, shapes, kernels)
    bias = np.ravel(named.get("logit_bias", ()))
    if bias.size and bias.dtype.kind in "fiu":
      c["contrastive"]["bias"] = float(bias[0])
  return c


def set_heads(
  config: dict[str, Any],
  before: Mapping[str, Any],
  given: Mapping[str, int],
  stated: Mapping[str, Mapping[str, Any]],
  file: str,
) -> None:
  """Sets numbers of heads in an inferred config; its current values may be guesses.

  Args:
    config: of `infer`.
    before: what it was inferred from; towers unchanged from it are not in the file.
    given: tower -> heads, by the user.
    stated: `Facts.towers`; "video" may be an encoder.
    file: for messages.

  Raises:
    ConfigError: a tower is not one of the config, cannot have that many heads, or has
      other ones by its config.
    WeightsError: there are public models of a tower's width with other numbers of
      heads, or none.
  """
  o = config["objective"]
  towers = [k for k in ("video", "text", "encoder", "decoder") if o.get(k)]
  for tower, count in given.items():
    choose(tower, towers, "--heads")
    width = o[tower]["width"]
    require(width % count == 0, f"--heads: {count} does not divide {tower} {width}")
    known = stated.get("video" if tower == "encoder" else tower, {}).get("num_heads")
    require(
      known in (None, count),
      f"--heads: {tower}:{count}, but the config of {file} states {known}; omit it",
    )
    o[tower]["num_heads"] = count
  named = [k for k in towers if ("video" if k == "encoder" else k) in stated]
  unsure = []
  same = [k for k in towers if o[k] == before["objective"].get(k)]
  for tower in [k for k in towers if k not in (*given, *named, *same)]:
    width = o[tower]["width"]
    bert = tower == "text" and o["text_norm"] == "post"
    others = dict(text=_TEXT_HEADS, decoder=_DECODER_HEADS).get(tower, _VISION_HEADS)
    if width not in ([*_BERT_WIDTHS] if bert else [*_WIDTHS, *others]):
      unsure.append((tower, width))
  if unsure:
    widths = ", ".join(f"{tower} of width {width}" for tower, width in unsure)
    flag = ",".join(f"{tower}:N" for tower, _ in unsure)
    raise WeightsError(
      f"{file}: no file states the number of attention heads ({widths}); give the "
      f"folder with its config.json, or --heads={flag}"
    )


def _deepest_model(c: dict[str, Any]) -> nn.Module:
  """The model of `c` with the maximal depth, whose layouts have all keys of a file."""
  values = copy.deepcopy(c["objective"])
  for tower in ("video", "text", "encoder", "decoder"):
    if values.get(tower):
      values[tower]["depth"] = _MAX_DEPTH
  if "video" in values:
    values["projection"] = values[_unprojected(values["arch"])]["width"]
  read = lambda cls, key: config_lib.read(cls, c[key], f"config.{key}")
  specs = read(ClipSpec, "clip"), read(TextSpec, "text"), read(MaskSpec, "mask")
  return objectives.build(values, *specs).model


def _unprojected(arch: str) -> str:
  """The tower whose width is that of the joint space, if only one is projected."""
  return "text" if ARCHS[arch].projections == ("affine", "none") else "video"


def _shapes(
  entries: list[Entry], named: Mapping[str, np.ndarray]
) -> tuple[Shapes, Shapes]:
  """(path -> shape of the parameter, path -> shape of its first array in the file)."""
  shapes, originals = {}, {}
  for entry in entries:
    if all(key in named for key in entry.keys if key not in entry.optional):
      try:
        loaded = entry.load(*map(named.get, entry.keys))
      except (ValueError, IndexError):
        continue  # `match` reports the problem
      if not all(x.size for x in loaded):
        continue
      shapes |= {p: x.shape for p, x in zip(entry.paths, loaded, strict=True)}
      originals |= dict.fromkeys(entry.paths, named[entry.keys[0]].shape)
  return shapes, originals


def _infer_simvtp(c: dict[str, Any], shapes: Shapes, kernels: Shapes) -> None:
  o = c["objective"]
  _infer_tower(o["encoder"], shapes, "encoder", _VISION_HEADS)
  _infer_tower(o["decoder"], shapes, "decoder", _DECODER_HEADS)
  _infer_tubelets(c["clip"], kernels.get("video_embed/proj/kernel"))
  _infer_text(c["text"], shapes, "text_embed")


def _infer_dual_encoder(
  c: dict[str, Any], model: Any, shapes: Shapes, kernels: Shapes
) -> None:
  o, clip, parts = c["objective"], c["clip"], model.config.parts
  _infer_tower(o["video"], shapes, "video_tower", _VISION_HEADS)
  text = "text_tower/transformer" if o["text_norm"] == "pre" else "text_tower"
  _infer_tower(o["text"], shapes, text, _TEXT_HEADS)
  _infer_tubelets(clip, kernels.get("video_tower/proj/kernel"))
  _infer_text(c["text"], shapes, "text_tower/embed")
  if space := shapes.get("video_tower/space_positions"):
    side = math.isqrt(max(space[0] - int(parts.class_token), 0))
    clip["image_size"] = side * clip["tubelet_size"][1]
  if time := shapes.get("video_tower/time_positions"):
    clip["num_frames"] = time[0] * clip["tubelet_size"][0]
  for kernel in ("text_proj/kernel", "video_proj/kernel"):
    if len(shapes.get(kernel, ())) == 2:
      o["projection"] = shapes[kernel][1]
  if "none" in parts.projections:
    o["projection"] = o[_unprojected(o["arch"])]["width"]


def _infer_tower(
  config: dict[str, Any], shapes: Shapes, tower: str, heads: dict[int, int]
) -> None:
  up = shapes.get(f"{tower}/block_0/mlp/up/kernel", ())
  if len(up) != 2:
    return
  width, mlp_dim = up
  depth = sum(f"{tower}/block_{i}/mlp/up/kernel" in shapes for i in range(_MAX_DEPTH))
  num_heads = heads.get(width, max(width // 64, 1))
  config.update(width=width, mlp_dim=mlp_dim, depth=depth, num_heads=num_heads)


def _infer_tubelets(clip: dict[str, Any], kernel: tuple[int, ...] | None) -> None:
  if kernel is not None and len(kernel) in (4, 5):
    clip["tubelet_size"] = (kernel[2] if len(kernel) == 5 else 1, *kernel[-2:])
    clip["num_frames"] += -clip["num_frames"] % clip["tubelet_size"][0]


def _infer_text(text: dict[str, Any], shapes: Shapes, embed: str) -> None:
  if table := shapes.get(f"{embed}/words"):
    text["vocab_size"], text["mask_id"] = table[0], min(103, table[0] - 1)  # BERT's
    if f"{embed}/norm/scale" not in shapes:
      # CLIP and SigLIP have no mask token: the model has one more row for it.
      text["vocab_size"], text["mask_id"] = table[0] + 1, table[0]
  if positions := shapes.get(f"{embed}/positions"):
    text["max_length"] = positions[0] if positions[0] <= 77 else _MAX_TOKENS
