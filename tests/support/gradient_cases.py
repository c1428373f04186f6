"""Random arrays, and values with gradients."""

import jax
import jax.numpy as jnp
import numpy as np


def normal(seed, *shape):
  x = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(x, jnp.float32)


def value_and_gradients(fun, *inputs):
  """Value and gradients, each as float32."""
  value, back = jax.vjp(jax.jit(fun), *inputs)  # compiled whole, not by operation
  # A gradient unlike ones, or softmax's own would vanish.
  grads = back(jnp.asarray(normal(9, *value.shape), value.dtype))
  return [np.asarray(x, np.float32) for x in jax.tree.leaves((value, grads))]
