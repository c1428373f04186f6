"""The optimiser: schedule, decay, freezing, clipping, and rules by path."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vtr_jax import optim
from vtr_jax.errors import ConfigError

PARAMS = dict(
  encoder=dict(kernel=jnp.ones((2, 2)), bias=jnp.ones(2)), head=dict(kernel=jnp.ones(2))
)
ALL = ((".*", 1.0),)


def config(**changes):
  values = dict(
    lr=0.1,
    min_lr=0.01,
    schedule="cosine",
    warmup_steps=4,
    b1=0.9,
    b2=0.95,
    eps=1e-8,
    weight_decay=0.0,
    decay_rules=ALL,
    lr_rules=ALL,
    clip_norm=0.0,
  )
  return optim.OptimConfig(**values | changes)


def step(config, grads, params=PARAMS):
  """Parameters after one step at the peak learning rate."""
  optimizer = optim.make(config, 100, params)
  state = optimizer.init(params)
  updates, _ = optimizer.update(grads, state, params)
  return optax.apply_updates(params, updates)


def test_schedule():
  rate = optim.schedule(config(), 100)
  got = [float(rate(s)) for s in (0, 2, 4, 52, 100)]
  np.testing.assert_allclose(got, [0, 0.05, 0.1, 0.055, 0.01], rtol=1e-5)
  flat = optim.schedule(config(schedule="constant"), 100)
  np.testing.assert_allclose([float(flat(s)) for s in (2, 4, 99)], [0.05, 0.1, 0.1])


def test_first_step_is_adamw():
  """Adam's first update is the gradient's sign; decay is added to it."""
  grads = dict(
    encoder=dict(kernel=jnp.full((2, 2), 3.0), bias=jnp.full(2, -2.0)),
    head=dict(kernel=jnp.full(2, 0.5)),
  )
  rules = ((r"kernel$", 1.0), (".*", 0.0))
  c = config(schedule="constant", warmup_steps=0, weight_decay=0.2, decay_rules=rules)
  new = step(c, grads)
  np.testing.assert_allclose(new["encoder"]["kernel"], 1 - 0.1 * 1.2, rtol=1e-5)
  np.testing.assert_allclose(new["encoder"]["bias"], 1 + 0.1, rtol=1e-5)


def test_frozen_parameters_stay_and_count_in_no_norm():
  grads = dict(
    encoder=dict(kernel=jnp.full((2, 2), 1e9), bias=jnp.full(2, 1e9)),
    head=dict(kernel=jnp.full(2, 1e-6)),
  )
  rules = (("^encoder/", 0.0), (".*", 1.0))
  c = config(
    schedule="constant", warmup_steps=0, lr_rules=rules, clip_norm=1.0, weight_decay=1.0
  )
  new = step(c, grads)
  assert (new["encoder"]["kernel"] == 1).all()
  # Were the frozen gradients in the norm, the head's would vanish below eps.
  assert (new["head"]["kernel"] < 0.85).all()


def test_layer_rate():
  grads = dict(
    encoder=dict(kernel=jnp.ones((2, 2)), bias=jnp.ones(2)),
    head=dict(kernel=jnp.ones(2)),
  )
  rules = (("^encoder/", 0.5), (".*", 1.0))
  new = step(config(schedule="constant", warmup_steps=0, lr_rules=rules), grads)
  np.testing.assert_allclose(new["encoder"]["bias"], 0.95, rtol=1e-5)
  np.testing.assert_allclose(new["head"]["kernel"], 0.9, rtol=1e-5)


@pytest.mark.parametrize(
  ("rules", "says"),
  [
    ((("^encoder/", 1.0),), "no rule covers head/kernel"),
    ((("^encodr/", 1.0), (".*", 1.0)), "'^encodr/' matches no parameter"),
  ],
)
def test_rules_must_cover_and_match(rules, says):
  with pytest.raises(ConfigError) as e:
    optim.make(config(lr_rules=rules), 100, PARAMS)
  assert says in str(e.value)
  assert "config.optim.lr_rules" in str(e.value)


def test_warmup_longer_than_training():
  with pytest.raises(ConfigError, match="warmup_steps"):
    optim.schedule(config(warmup_steps=100), 100)
