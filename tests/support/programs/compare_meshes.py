"""Asserts equal losses and gradients on all meshes; prints the meshes."""

import json
import math

import jax
import numpy as np

from configs import miles
from vtr_jax.core import batch, sharding
from vtr_jax.core.config import read
from vtr_jax.train.config import TrainConfig

values = miles.get_config("smoke").to_dict()
values["objective"]["learn_temperature"] = True
config = read(TrainConfig, values)
parts = config.parts()
rows = batch.fake(config.clip, config.text, config.mask, 16)


def gradient(sizes):
  devices = jax.devices()[: math.prod(sizes)]
  mesh = sharding.make_mesh(sharding.MeshConfig(*sizes), devices)
  now = parts.init(mesh)
  teacher = jax.tree.map(lambda x: x * 0.9, now.teacher)  # something to predict
  loss = parts.loss(mesh)
  with sharding.scope(mesh):
    numbers, grads = jax.jit(loss.gradient)(
      now.params, teacher, sharding.put_batch(rows, mesh), jax.random.key(1)
    )
  return jax.tree.map(np.asarray, (numbers, grads))


expected = gradient((1, 1, 1))
done = []
shapes = [
  (2, 1, 1),
  (1, 2, 1),
  (1, 1, 2),
  (2, 2, 1),
  (2, 1, 2),
  (1, 2, 2),
  (4, 1, 1),
  (2, 2, 2),
  (8, 1, 1),
  (1, 4, 2),
]
for sizes in shapes:
  got = gradient(sizes)
  for a, b in zip(*map(jax.tree.leaves, (got, expected)), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=3e-5 * np.abs(b).max() + 1e-7)
  done.append(sizes)
print(json.dumps(done))
