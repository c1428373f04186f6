"""Losses against hand-computed values, and what masked rows may hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtr_jax import losses


def brute_info_nce(video, text, scale):
  sim = scale * text @ video.T
  way = lambda s: -np.mean(np.diag(s) - np.log(np.exp(s).sum(axis=1)))
  return way(sim) + way(sim.T)


def unit(rng, rows, width=5):
  x = rng.normal(size=(rows, width))
  return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype("f4")


def test_info_nce_two_pairs_by_hand():
  # Perfectly aligned, orthogonal pairs: each row is softmax((s, 0)).
  eye = jnp.eye(2)
  want = 2 * np.log(1 + np.exp(-3.0))
  got = losses.info_nce(eye, eye, 3.0, jnp.ones(2, bool))
  np.testing.assert_allclose(got, want, rtol=1e-6)


def test_info_nce_equals_brute_force():
  rng = np.random.default_rng(0)
  video, text = unit(rng, 7), unit(rng, 7)
  got = losses.info_nce(video, text, 20.0, jnp.ones(7, bool))
  np.testing.assert_allclose(got, brute_info_nce(video, text, 20.0), rtol=1e-5)


@pytest.mark.parametrize("junk", [0.0, 1e6, np.nan])
def test_rows_that_do_not_count(junk):
  """Value and gradient are those of the batch without the row."""
  rng = np.random.default_rng(1)
  video, text = unit(rng, 6), unit(rng, 6)
  valid = np.array([True, True, False, True, True, True])
  loss = lambda v: losses.info_nce(v, text, 20.0, valid)
  dirty = np.where(valid[:, None], video, np.float32(junk))
  value, grad = jax.value_and_grad(loss)(dirty)
  want = brute_info_nce(video[valid], text[valid], 20.0)
  if not np.isnan(junk):  # NaN * 0 in the product's gradient cannot be avoided
    assert not np.any(np.asarray(grad)[2])
  np.testing.assert_allclose(value, want, rtol=1e-5)


def test_masked_mean():
  values = jnp.array([[1.0, 2.0], [np.nan, 5.0], [3.0, 6.0]])
  rows = jnp.array([True, False, True])
  np.testing.assert_allclose(losses.masked_mean(values, rows), 3.0)
  assert losses.masked_mean(values, jnp.zeros(3, bool)) == 0


def test_cross_entropy_is_stable():
  logits = jnp.array([[1e4, 0.0, 0.0], [0.0, 0.0, 0.0]])
  got = losses.cross_entropy(logits, jnp.array([0, 2]))
  np.testing.assert_allclose(got, [0.0, np.log(3)], atol=1e-6)
