"""The contrastive loss: by hand, by brute force, and equal in all its forms."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import on_eight_devices
from contrastive_cases import case, gradients, l2_normalize

from vtr_jax.objectives.contrastive import DENSE, ContrastConfig, contrast


def brute_info_nce(video, text, scale):
  sim = scale * text @ video.T
  way = lambda s: -np.mean(np.diag(s) - np.log(np.exp(s).sum(axis=1)))
  return way(sim) + way(sim.T)


def test_info_nce_of_two_pairs_by_hand():
  # Perfectly aligned, orthogonal pairs: each row is softmax((s, 0)).
  eye = jnp.eye(2)
  want = 2 * np.log(1 + np.exp(-3.0))
  got = contrast(DENSE, eye, eye, 3.0, jnp.ones(2, bool))
  np.testing.assert_allclose(got, want, rtol=1e-6)


def test_info_nce_equals_brute_force():
  rng = np.random.default_rng(0)
  video, text = l2_normalize(rng, 7), l2_normalize(rng, 7)
  got = contrast(DENSE, video, text, 20.0, jnp.ones(7, bool))
  np.testing.assert_allclose(got, brute_info_nce(video, text, 20.0), rtol=1e-5)


@pytest.mark.parametrize("junk", [0.0, 1e6, np.nan])
def test_invalid_rows_do_not_affect_value_or_gradient(junk):
  """The value is that of the batch without the row, whose gradient is zero."""
  rng = np.random.default_rng(1)
  video, text = l2_normalize(rng, 6), l2_normalize(rng, 6)
  valid = np.array([True, True, False, True, True, True])
  loss = lambda v: contrast(DENSE, v, text, 20.0, valid)
  dirty = np.where(valid[:, None], video, np.float32(junk))
  value, grad = jax.value_and_grad(loss)(dirty)
  want = brute_info_nce(video[valid], text[valid], 20.0)
  if not np.isnan(junk):  # NaN * 0 in the product's gradient cannot be avoided
    assert not np.any(np.asarray(grad)[2])
  np.testing.assert_allclose(value, want, rtol=1e-5)


def brute_sigmoid(video, text, scale, bias):
  logits = scale * text @ video.T + bias
  signs = 2 * np.eye(len(video)) - 1
  return np.log1p(np.exp(-signs * logits)).sum(axis=1).mean()


def test_sigmoid_equals_brute_force():
  """Binary cross-entropy of every pair: summed over videos, averaged over texts."""
  rng = np.random.default_rng(0)
  video, text = l2_normalize(rng, 7), l2_normalize(rng, 7)
  config = ContrastConfig("sigmoid", "dense", 1, bias=-3.0)
  valid = np.array([True] * 5 + [False] * 2)
  got = contrast(config, video, text, 10.0, valid)
  want = brute_sigmoid(video[:5], text[:5], 10.0, -3.0)
  np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("loss", ["info_nce", "sigmoid"])
@pytest.mark.parametrize(("rows", "chunk"), [(7, 3), (8, 4), (8, 100), (5, 1)])
def test_the_chunked_loss_equals_the_dense_one(loss, rows, chunk):
  dense = gradients(ContrastConfig(loss, "dense", 1, -4.0), *case(rows))
  parts = gradients(ContrastConfig(loss, "chunked", chunk, -4.0), *case(rows))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), parts, dense
  )


@pytest.mark.nightly
def test_the_ring_loss_on_eight_devices_equals_the_dense_one():
  """Values and gradients on every mesh; it takes at most an eighth of the memory."""
  sizes = json.loads(on_eight_devices("contrast_on_meshes")[-1])
  assert sizes["ring"] < sizes["dense"] / 8
