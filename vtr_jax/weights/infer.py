"""The config of a model from the shapes of its weights."""

import copy
import importlib.resources
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from vtr_jax.core import config as config_lib
from vtr_jax.core.batch import ClipSpec, MaskSpec, TextSpec
from vtr_jax.objectives import base as objectives
from vtr_jax.weights import match
from vtr_jax.weights.registry import Source

_DEEP = 64  # layers that are looked for
_WORDS = 64  # tokens of a caption; ours: longer ones are rare, and cost as much each
# Heads by width where they are not 64 wide: SigLIP so400m; of towers that see, ViT-H,
# g, bigG and giant; of decoders, VideoMAE-H's.
_HEADS = {1152: 16}
_SEEING = _HEADS | {1280: 16, 1408: 16, 1536: 16, 1664: 16}
_DECODER = _HEADS | {640: 8}


def recipe(source: Source) -> dict[str, Any]:
  """The resolved config of `source.recipe`, as the package carries it.

  configs/ is the user's: an installed package does not have it. A test compares both.
  """
  text = importlib.resources.files("vtr_jax.weights").joinpath("recipes.json")
  return json.loads(text.read_text())[source.recipe]


def infer(
  values: Mapping[str, Any], name: str, source: Source, arrays: Mapping[str, np.ndarray]
) -> dict[str, Any]:
  """`values`, a whole config, with the sizes that a file's arrays have.

  Heads cannot be seen: they are those of the public models of a width, else 64 wide.

  Raises:
    WeightsError: the file is of another kind, or has no such arrays.
  """
  c: dict[str, Any] = copy.deepcopy(dict(values))
  for key, value in source.changes.items():
    *groups, last = key.split(".")
    section = c
    for group in groups:
      section = section[group]
    section[last] = value
  deep = copy.deepcopy(c["objective"])
  for part in ("video", "text", "encoder", "decoder"):
    if deep.get(part):
      deep[part]["depth"] = _DEEP
  if source.archs:
    deep["projection"] = deep["video"]["width"]
  read = lambda cls, key: config_lib.read(cls, c[key], f"config.{key}")
  specs = read(ClipSpec, "clip"), read(TextSpec, "text"), read(MaskSpec, "mask")
  model = objectives.build(deep, *specs).model
  named, _ = match.rename(arrays, source.renames)
  entries = match.choose(source.layouts(name, model), model, named)
  shapes, convs = {}, {}
  for entry in entries:
    if all(key in named for key in entry.theirs if key not in entry.spare):
      try:
        made = entry.load(*map(named.get, entry.theirs))
      except (ValueError, IndexError):
        continue  # `match` tells what is wrong
      if not all(x.size for x in made):
        continue
      shapes |= {p: x.shape for p, x in zip(entry.ours, made, strict=True)}
      convs |= dict.fromkeys(entry.ours, named[entry.theirs[0]].shape)
  o = c["objective"]
  if source.simvtp and not source.archs:
    _tower(o["encoder"], shapes, "encoder", _SEEING)
    _tower(o["decoder"], shapes, "decoder", _DECODER)
    _patches(c["clip"], convs.get("video_embed/proj/kernel"))
    _words(c["text"], shapes, "text_embed")
    return c
  bias = np.ravel(named.get("logit_bias", ()))
  if bias.size and bias.dtype.kind in "fiu":
    c["contrastive"]["bias"] = float(bias[0])
  _tower(o["video"], shapes, "video_tower", _SEEING)
  text = "text_tower/transformer" if o["text_norm"] == "pre" else "text_tower"
  _tower(o["text"], shapes, text, _HEADS)
  _patches(c["clip"], convs.get("video_tower/proj/kernel"))
  _words(c["text"], shapes, "text_tower/embed")
  if space := shapes.get("video_tower/space_positions"):
    cls = int(model.config.parts.class_token)
    c["clip"]["image_size"] = (
      math.isqrt(max(space[0] - cls, 0)) * c["clip"]["tubelet_size"][1]
    )
  if time := shapes.get("video_tower/time_positions"):
    c["clip"]["num_frames"] = time[0] * c["clip"]["tubelet_size"][0]
  for kernel in ("text_proj/kernel", "video_proj/kernel"):
    if len(shapes.get(kernel, ())) == 2:
      o["projection"] = shapes[kernel][1]
  if "none" in model.config.parts.projections:
    o["projection"] = o["video"]["width"]
  return c


def _tower(
  size: dict[str, Any], shapes: Mapping[str, tuple], tower: str, known: dict[int, int]
) -> None:
  up = shapes.get(f"{tower}/block_0/mlp/up/kernel", ())
  if len(up) != 2:
    return
  width, hidden = up
  depth = sum(f"{tower}/block_{i}/mlp/up/kernel" in shapes for i in range(_DEEP))
  heads = known.get(width, max(width // 64, 1))
  size.update(width=width, mlp_dim=hidden, depth=depth, num_heads=heads)


def _patches(clip: dict[str, Any], conv: tuple[int, ...] | None) -> None:
  if conv is not None and len(conv) in (4, 5):
    clip["tubelet_size"] = (conv[2] if len(conv) == 5 else 1, *conv[-2:])
    clip["num_frames"] += -clip["num_frames"] % clip["tubelet_size"][0]


def _words(text: dict[str, Any], shapes: Mapping[str, tuple], embed: str) -> None:
  if words := shapes.get(f"{embed}/words"):
    text["vocab_size"], text["mask_id"] = words[0], min(103, words[0] - 1)  # BERT's
    if f"{embed}/norm/scale" not in shapes:
      # CLIP and SigLIP have no mask token; the table grows by its row.
      text["vocab_size"], text["mask_id"] = words[0] + 1, words[0]
  if positions := shapes.get(f"{embed}/positions"):
    text["max_length"] = positions[0] if positions[0] <= 77 else _WORDS
