"""The optimiser: schedule, decay, freezing, clipping, and rules by path."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vtr_jax import muon, optim
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
    muon="",
    moments="float32",
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


@pytest.mark.parametrize("shape", [(6, 6), (4, 10), (10, 4), (3, 5, 8)])
def test_orthogonal_has_the_singular_vectors_and_no_small_values(shape):
  x = np.random.default_rng(0).normal(size=shape).astype("f")
  y = np.asarray(muon.orthogonal(jnp.array(x)))
  u, _, vt = np.linalg.svd(x, full_matrices=False)
  # In the basis of x's own singular vectors it is diagonal, and near 1.
  inner = u.swapaxes(-1, -2) @ y @ vt.swapaxes(-1, -2)
  diagonal = np.diagonal(inner, axis1=-2, axis2=-1)
  assert ((diagonal > 0.6) & (diagonal < 1.3)).all()
  rest = inner - np.eye(inner.shape[-1]) * diagonal[..., None, :]
  assert np.abs(rest).max() < 0.05


def test_muon_updates_what_it_is_told_to_and_adam_the_rest():
  rng = np.random.default_rng(0)
  params = dict(
    block=dict(kernel=jnp.ones((4, 6)), bias=jnp.ones(6)), head=jnp.ones((4, 6))
  )
  grads = jax.tree.map(lambda p: jnp.array(rng.normal(size=p.shape), "f"), params)
  flat = dict(schedule="constant", warmup_steps=0)
  new = step(config(muon="block.*kernel$", **flat), grads, params)
  plain = step(config(**flat), grads, params)
  np.testing.assert_array_equal(new["head"], plain["head"])
  np.testing.assert_array_equal(new["block"]["bias"], plain["block"]["bias"])
  # Of the first two means, each 0.05 of the gradient, the scale does not matter.
  change = -0.1 * 0.2 * 6**0.5 * muon.orthogonal(grads["block"]["kernel"])
  np.testing.assert_allclose(new["block"]["kernel"] - 1, change, atol=2e-3)
  # As large as Adam's updates, by design.
  rms = float(jnp.sqrt(jnp.mean(change**2)))
  assert 0.1 * 0.15 < rms < 0.1 * 0.25


def test_moments_of_half_the_bytes_hardly_change_the_steps():
  """Ten of them; what is kept is the mean alone, squares stay as they are."""
  params = dict(block=dict(kernel=jnp.ones((4, 6))), head=jnp.ones((4, 6)))

  def end(moments):
    optimizer = optim.make(config(muon="kernel$", moments=moments), 100, params)
    state, now = optimizer.init(params), params
    for i in range(10):
      rng = np.random.default_rng(i)
      draw = lambda p, rng=rng: jnp.array(1 + rng.normal(size=p.shape), "f")
      updates, state = optimizer.update(jax.tree.map(draw, now), state, now)
      now = optax.apply_updates(now, updates)
    return now, sorted(str(x.dtype) for x in jax.tree.leaves(state))

  exact, wide = end("float32")
  rough, narrow = end("bfloat16")
  assert narrow.count("bfloat16") == 2
  assert wide.count("float32") == 3
  for a, b in zip(*map(jax.tree.leaves, (exact, rough)), strict=True):
    assert np.abs(a - 1).max() > 0.05
    np.testing.assert_allclose(a, b, atol=0.07 * np.abs(a - 1).max())


def test_muon_of_what_is_frozen_or_no_matrix():
  rules = (("^encoder/", 0.0), (".*", 1.0))
  grads = jax.tree.map(jnp.ones_like, PARAMS)
  new = step(config(muon="encoder/kernel", lr_rules=rules), grads)
  assert (new["encoder"]["kernel"] == 1).all()
  with pytest.raises(ConfigError, match="names head/kernel, which is no matrix"):
    step(config(muon="kernel"), grads)
  with pytest.raises(ConfigError, match=r"muon: 'krnel' names no parameter"):
    step(config(muon="krnel"), grads)


def test_warmup_longer_than_training():
  with pytest.raises(ConfigError, match="warmup_steps"):
    optim.schedule(config(warmup_steps=100), 100)
