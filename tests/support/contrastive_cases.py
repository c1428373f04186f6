"""Embeddings for the contrastive loss, and its gradients."""

import jax
import jax.numpy as jnp
import numpy as np

from vtr_jax.objectives.contrastive import contrast


def l2_normalize(rng, rows, width=5):
  x = rng.normal(size=(rows, width))
  return jnp.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), "float32")


def case(rows):
  rng = np.random.default_rng(rows)
  valid = np.arange(rows) % 5 != 3
  return l2_normalize(rng, rows), l2_normalize(rng, rows), np.float32(12.0), valid


def gradients(config, video, text, scale, valid):
  """(value, gradients of embeddings and scale)."""
  loss = lambda *inputs: contrast(config, *inputs, valid)
  return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(video, text, scale)
