"""Small models and random clips for tests of the figures."""

import collections
import dataclasses
import types

import dual_cases
import flax.linen as nn
import jax
import numpy as np
from clips import CLIP, TEXT
from PIL import Image
from weights import draw

from vtr_jax.core import batch as batch_lib
from vtr_jax.core.batch import MaskSpec
from vtr_jax.core.sharding import MeshConfig, make_mesh
from vtr_jax.eval.viz import base
from vtr_jax.objectives import base as objectives

MASK = MaskSpec("tube", 0.5, "replace", 0.5, False)
# The tests' vocabulary cuts words into letters.
LONG_TEXT = dataclasses.replace(TEXT, max_length=40)
SIZES = types.SimpleNamespace(clip=CLIP, text=LONG_TEXT)
CAPTIONS = ["a red ball moves up", "blue box", "a small green box moves slowly"]
SCANNED = dict(scan=True, remat="full")
Model = collections.namedtuple("Model", "config objective params tokenizer mesh")


def small_model(file, tokenizer=None, clip=CLIP, **changes):
  """A model of depth 2 with random parameters, of a config file's smoke variant."""
  values = file.get_config("smoke").objective.to_dict()
  compute = changes.pop("compute", {})
  if "video" in values:
    whole = "name" in changes.get("video", {})  # another backbone has other keys
    values = values | changes if whole else dual_cases.change(values, **changes)
  else:
    values |= changes
  values["compute"] |= compute
  for tower in {"video", "text", "encoder"} & set(values):
    values[tower]["depth"] = 2
  objective = objectives.build(values, clip, LONG_TEXT, MASK)
  fake = batch_lib.fake(clip, LONG_TEXT, MASK, 2)
  params = draw(nn.unbox(jax.eval_shape(objective.init, jax.random.key(0), fake)))
  config = types.SimpleNamespace(clip=clip, text=LONG_TEXT)
  mesh = make_mesh(MeshConfig(-1, 1, 1))
  return Model(config, objective, params, tokenizer, mesh)


def random_clips(count=3, clip=CLIP):
  shape = (count, clip.num_frames, clip.image_size, clip.image_size, 3)
  return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def record_grids(monkeypatch):
  """A list that receives the rows of every `base.frame_grid` instead of drawing it."""
  grids, dot = [], Image.new("RGB", (1, 1))
  record = lambda rows, *_, **__: grids.append(rows) or dot
  monkeypatch.setattr(base, "frame_grid", record)
  return grids
