"""The same losses and gradients on meshes of one, two, four and eight devices."""

import json

import pytest
from conftest import on_eight_devices

GRADIENTS = """
import json, math
import flax.linen as nn, jax, numpy as np
from configs import miles
from vtr_jax import batch, optim, sharding, state, step
from vtr_jax.config import read
from vtr_jax.experiment import TrainConfig
from vtr_jax.objectives import base

values = miles.get_config("smoke").to_dict()
values["objective"]["learn_temperature"] = True
config = read(TrainConfig, values)
shape = config.clip, config.text, config.mask
objective = base.build(config.objective, *shape)
spec, rows = batch.spec(*shape, 16), batch.fake(*shape, 16)
params = nn.unbox(state.abstract_params(objective, spec))
optimizer = optim.make(config.optim, 10, params)

def gradient(sizes):
  devices = jax.devices()[: math.prod(sizes)]
  mesh = sharding.make_mesh(sharding.MeshConfig(*sizes), devices)
  now, _ = state.init(objective, optimizer, spec, mesh, 0)
  teacher = jax.tree.map(lambda x: x * 0.9, now.teacher)  # something to predict
  loss = config.loss(objective, mesh)
  with sharding.scope(mesh):
    numbers, grads = jax.jit(loss.gradient)(
      now.params, teacher, sharding.put_batch(rows, mesh), jax.random.key(1)
    )
  return jax.tree.map(np.asarray, (numbers, grads))

want = gradient((1, 1, 1))
done = []
shapes = [
  (2, 1, 1), (1, 2, 1), (1, 1, 2), (2, 2, 1), (2, 1, 2), (1, 2, 2), (4, 1, 1),
  (2, 2, 2), (8, 1, 1), (1, 4, 2),
]
for sizes in shapes:
  got = gradient(sizes)
  for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=3e-5 * np.abs(b).max() + 1e-7)
  done.append(sizes)
print(json.dumps(done))
"""


@pytest.mark.nightly
def test_every_mesh_computes_the_same():
  """MILES: two towers, a teacher, and terms of both kinds."""
  assert len(json.loads(on_eight_devices(GRADIENTS)[-1])) == 10
