"""Prints the deviation of losses and gradients in microbatches on several meshes.

Arguments: an objective, changes of its section and [[devices, microbatches], ...], as
JSON. Each line has devices, microbatches and the largest deviations of a loss, relative
to it, and of a gradient, relative to the largest of its parameter, from those of one
device in one pass, which predicts words at masked positions and at all others.
"""

import dataclasses
import importlib
import json
import sys

import flax.linen as nn
import jax
import numpy as np

from vtr_jax.core import batch as batch_lib
from vtr_jax.core import sharding
from vtr_jax.core.config import read
from vtr_jax.objectives.contrastive import DENSE
from vtr_jax.train.config import TrainConfig
from vtr_jax.train.loss import Loss

ROWS = 32
name, changes, layouts = (json.loads(arg) for arg in sys.argv[1:])
variant = "moving_shapes,mac,smoke" if name == "finetune_actions" else "smoke"
values = importlib.import_module(f"configs.{name}").get_config(variant)
values.objective.update(changes)
values.batch_size = ROWS
values.mask.update(video_ratio=0.5, text_max=5)  # each term has something to predict
config = read(TrainConfig, values.to_dict())
objective = config.make_objective()
any_number = dataclasses.replace(config.mask, text_max=0)
whole = dataclasses.replace(config, mask=any_number).make_objective()
weights = dict.fromkeys(objective.loss_names, 1.0)
rows = batch_lib.fake(config.clip, config.text, objective.mask, ROWS)
# Unequal numbers of valid rows and masked tokens in each microbatch.
rows |= dict(valid=np.arange(ROWS) % 7 != 5)
rows["text_masked"] &= (np.arange(ROWS) % 3 > 0)[:, None]
rows["label"] = np.arange(ROWS, dtype=np.int32) % 5
rows = {key: rows[key] for key in config.spec()}
params = nn.unbox(jax.jit(objective.init)(jax.random.key(0), rows))
# A teacher that is not the parameters: else there is nothing to predict.
teacher = jax.tree.map(lambda x: x * 0.9, objective.teacher_params(params))


def gradient(objective, devices, micro_batches):
  mesh = sharding.make_mesh(sharding.MeshConfig(devices, 1, 1), jax.devices()[:devices])
  loss = Loss(objective, weights, DENSE, micro_batches, mesh)
  with sharding.scope(mesh):
    run = jax.jit(loss.gradient)
    found = run(params, teacher, sharding.put_batch(rows, mesh), jax.random.key(3))
  return jax.tree.map(np.asarray, found)


losses, grads = gradient(whole, 1, 1)
for layout in layouts:
  more, steps = gradient(objective, *layout)
  assert more.keys() == losses.keys()
  terms = [k for k in losses if k.startswith("loss/")]
  # NumPy's maximum is NaN if one is; Python's may not be.
  loss = np.max([abs(more[k] - losses[k]) / abs(losses[k]) for k in terms])
  pairs = zip(*map(jax.tree.leaves, (steps, grads)), strict=True)
  slope = np.max([np.abs(a - b).max() / (np.abs(b).max() + 1e-12) for a, b in pairs])
  print(*layout, loss, slope)
