"""Microbatches: the contrastive gradient of the full batch, in less memory."""

import functools
import json

import flax.linen as nn
import jax
import numpy as np
import pytest
from conftest import on_eight_devices

from configs import mac, miles
from vtr_jax.core import batch as batch_lib
from vtr_jax.core import sharding
from vtr_jax.core.config import read
from vtr_jax.objectives.contrastive import DENSE
from vtr_jax.train.config import TrainConfig
from vtr_jax.train.loss import Loss

ROWS, PARTS = 8, 4


@functools.cache
def case(module, **changes):
  """(objective, weights, parameters, batch) of a smoke config."""
  values = module.get_config("smoke")
  values.objective.update(changes)
  config = read(TrainConfig, values.to_dict())
  shape = config.clip, config.text, config.mask
  objective = config.make_objective()
  batch = batch_lib.fake(*shape, ROWS)
  params = nn.unbox(jax.jit(objective.init)(jax.random.key(0), batch))
  return objective, dict(config.loss_weights), params, batch


def gradient(objective, weights, params, batch, parts):
  mesh = sharding.make_mesh(sharding.MeshConfig(1, 1, 1))
  loss = Loss(objective, weights, DENSE, parts, mesh)
  teacher = objective.teacher_params(params)
  # A teacher that is not the parameters: else there is nothing to predict.
  teacher = jax.tree.map(lambda x: x * 0.9, teacher)
  with sharding.scope(mesh):
    run = jax.jit(loss.gradient)
    return run(params, teacher, batch, jax.random.key(3))


def assert_close(got, expected):
  for path, value in jax.tree_util.tree_leaves_with_path(expected):
    name = jax.tree_util.keystr(path)
    found = dict(jax.tree_util.tree_leaves_with_path(got))[path]
    scale = np.abs(value).max() + 1e-8
    np.testing.assert_allclose(found, value, rtol=0, atol=2e-4 * scale, err_msg=name)


@pytest.mark.parametrize(
  ("module", "changes"),
  [
    pytest.param(mac, dict(learn_temperature=True), marks=pytest.mark.nightly),
    pytest.param(miles, {}, marks=pytest.mark.nightly),
    pytest.param(miles, dict(pool="cls"), marks=pytest.mark.nightly),
  ],
)
def test_microbatches_give_the_same_loss_and_gradient(module, changes):
  """Also if microbatches have unequal numbers of valid rows."""
  objective, weights, params, batch = case(module, **changes)
  for valid in (np.ones(ROWS, bool), np.arange(ROWS) != 5):
    some = batch | dict(valid=valid)
    full = gradient(objective, weights, params, some, 1)
    parts = gradient(objective, weights, params, some, PARTS)
    assert_close(parts, full)


LAYOUTS = [[1, 2], [1, 4], [2, 1], [2, 4], [8, 1], [8, 2], [8, 4]]
SOME = [[8, 4]]


def cases():
  """(objective, changes, layouts), and which of them run by day."""
  for negatives in ("random", "hard"):
    for group in (4, 16, 0):
      changes = dict(negatives=negatives, negatives_group=group)
      yield pytest.param("simvtp", changes, LAYOUTS, marks=pytest.mark.nightly)
  shares = dict(negatives_group=4, joint_one_in=4, pixels_one_in=2)
  whole = [[1, 2], [1, 4], [2, 1], [2, 4], [8, 1]]  # groups that stay together
  yield pytest.param("simvtp", shares, whole, marks=pytest.mark.nightly)
  learned = dict(learn_temperature=True)
  decoder = dict(width=32, depth=1, mlp_dim=32, num_heads=2)
  yield pytest.param("mac", learned, LAYOUTS, marks=pytest.mark.nightly)
  yield pytest.param("mac", dict(decoder=decoder), LAYOUTS, marks=pytest.mark.nightly)
  yield pytest.param("miles", learned, LAYOUTS, marks=pytest.mark.nightly)
  mixed = dict(mix=dict(prob=1.0, group=4), smoothing=0.1)
  yield pytest.param("finetune_actions", mixed, whole, marks=pytest.mark.nightly)
  yield pytest.param("simvtp", dict(negatives="hard", negatives_group=16), SOME)


@pytest.mark.parametrize(("name", "changes", "layouts"), [*cases()])
def test_losses_and_gradients_depend_on_no_microbatch_and_no_mesh(
  name, changes, layouts
):
  """To 1e-5, for each [devices, microbatches], with unequal numbers of valid rows."""
  found = on_eight_devices(
    "micro_batches_on_meshes", *map(json.dumps, (name, changes, layouts))
  )
  shown = [line.split() for line in found if line[:1].isdigit()]
  assert [[int(n) for n in line[:2]] for line in shown] == layouts
  assert all(float(x) < 1e-5 for line in shown for x in line[2:])  # no NaN either
