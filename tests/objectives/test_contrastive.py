"""The contrastive loss: by hand, by brute force, and in all its forms alike."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import on_eight_devices

from vtr_jax.objectives.contrastive import DENSE, ContrastConfig, contrast


def brute_info_nce(video, text, scale):
  sim = scale * text @ video.T
  way = lambda s: -np.mean(np.diag(s) - np.log(np.exp(s).sum(axis=1)))
  return way(sim) + way(sim.T)


def l2_normalize(rng, rows, width=5):
  x = rng.normal(size=(rows, width))
  return jnp.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), "float32")


def test_two_pairs_by_hand():
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
def test_rows_that_do_not_count(junk):
  """Value and gradient are those of the batch without the row."""
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
  """Each pair a question of its own; the sum over videos, the mean over texts."""
  rng = np.random.default_rng(0)
  video, text = l2_normalize(rng, 7), l2_normalize(rng, 7)
  config = ContrastConfig("sigmoid", "dense", 1, bias=-3.0)
  valid = np.array([True] * 5 + [False] * 2)
  got = contrast(config, video, text, 10.0, valid)
  want = brute_sigmoid(video[:5], text[:5], 10.0, -3.0)
  np.testing.assert_allclose(got, want, rtol=1e-5)


def case(rows):
  rng = np.random.default_rng(rows)
  valid = np.arange(rows) % 5 != 3
  return l2_normalize(rng, rows), l2_normalize(rng, rows), np.float32(12.0), valid


def gradients(config, video, text, scale, valid):
  """(value, gradients of embeddings and scale)."""
  loss = lambda *inputs: contrast(config, *inputs, valid)
  return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(video, text, scale)


@pytest.mark.parametrize("loss", ["info_nce", "sigmoid"])
@pytest.mark.parametrize(("rows", "chunk"), [(7, 3), (8, 4), (8, 100), (5, 1)])
def test_chunks_change_nothing(loss, rows, chunk):
  dense = gradients(ContrastConfig(loss, "dense", 1, -4.0), *case(rows))
  parts = gradients(ContrastConfig(loss, "chunked", chunk, -4.0), *case(rows))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), parts, dense
  )


RING = """
import dataclasses, json, sys
sys.path[:0] = ["tests", "tests/support", "tests/objectives"]
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from test_contrastive import case, gradients
from vtr_jax.core import sharding
from vtr_jax.objectives.contrastive import ContrastConfig
out = []
for sizes in ((8, 1, 1), (2, 2, 2), (1, 4, 2)):
  mesh = sharding.make_mesh(sharding.MeshConfig(*sizes))
  put = lambda x: jax.device_put(x, sharding.batch_sharding(mesh))
  for loss in ("info_nce", "sigmoid"):
    video, text, scale, valid = case(40)
    spread = put(video), put(text), scale, put(valid)
    with sharding.scope(mesh):
      want = gradients(ContrastConfig(loss, "dense", 1, -4.0), *spread)
      for form in ("ring", "chunked"):
        got = gradients(ContrastConfig(loss, form, 6, -4.0), *spread)
        jax.tree.map(
          lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), got, want
        )
mesh = sharding.make_mesh(sharding.MeshConfig(8, 1, 1))
video, text, scale, valid = case(4096)
put = lambda x: jax.device_put(x, sharding.batch_sharding(mesh))
spread = put(video), put(text), scale, put(valid)
sizes = {}
with sharding.scope(mesh):
  for form in ("dense", "ring"):
    config = ContrastConfig("info_nce", form, 256, 0.0)
    step = jax.jit(lambda *inputs: gradients(config, *inputs))
    sizes[form] = step.lower(*spread).compile().memory_analysis().temp_size_in_bytes
print(json.dumps(sizes))
"""


@pytest.mark.nightly
def test_the_ring_on_eight_devices():
  """Same values and gradients on every mesh, and an eighth of the memory or less."""
  sizes = json.loads(on_eight_devices(RING)[-1])
  assert sizes["ring"] < sizes["dense"] / 8
