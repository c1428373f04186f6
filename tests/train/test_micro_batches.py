"""Microbatches: the contrastive gradient of the full batch, in less memory."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import mac, miles, simvtp
from vtr_jax.core import batch as batch_lib
from vtr_jax.core import sharding
from vtr_jax.core.config import read
from vtr_jax.objectives.contrastive import DENSE, contrast
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
    (mac, dict(learn_temperature=True)),
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


@pytest.mark.nightly
def test_microbatches_of_simvtp_average_the_terms_but_not_the_contrastive_loss():
  """The contrastive loss is that of the full batch; other terms are averaged."""
  objective, weights, params, batch = case(simvtp)
  alone = dict.fromkeys(weights, 0.0) | dict(vtc=1.0)
  full = gradient(objective, alone, params, batch, 1)
  parts = gradient(objective, alone, params, batch, PARTS)
  assert_close(parts, full)
  numbers, grads = gradient(objective, weights, params, batch, PARTS)

  def by_hand(params):
    split = lambda x: jnp.asarray(x).reshape(PARTS, -1, *x.shape[1:])
    rows = jax.tree.map(split, batch)
    keys = jax.random.split(jax.random.key(3), PARTS)
    outs = [
      objective.forward(params, None, jax.tree.map(lambda x: x[i], rows), keys[i])  # noqa: B023
      for i in range(PARTS)
    ]
    video, text = (
      jnp.concatenate([getattr(o, k) for o in outs]) for k in ("video", "text")
    )
    total = contrast(DENSE, video, text, outs[0].scale, batch["valid"])
    for out in outs:
      total += sum(weights[k] * v for k, v in out.terms.items()) / PARTS
    return total

  total, expected = jax.jit(jax.value_and_grad(by_hand))(params)
  np.testing.assert_allclose(numbers["loss/total"], total, rtol=1e-5)
  assert_close(grads, expected)
