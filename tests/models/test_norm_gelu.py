"""Our GELU and LayerNorm compared with JAX's and flax's: values, gradients, memory."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gradient_cases import normal, value_and_gradients

from vtr_jax.models.norm_gelu import LayerNorm, gelu

CLOSE = dict(float32=2e-6, bfloat16=2e-2)


def assert_close(ours, exact, dtype):
  for a, b in zip(ours, exact, strict=True):
    np.testing.assert_allclose(a, b, atol=CLOSE[dtype] * np.abs(b).max(), rtol=0)


@pytest.mark.parametrize("dtype", CLOSE)
def test_gelu_equals_the_exact_gelu(dtype):
  x = 3 * normal(0, 4, 5, 16)
  exact = value_and_gradients(lambda x: jax.nn.gelu(x, approximate=False), x)
  ours = value_and_gradients(gelu, jnp.asarray(x, dtype))
  assert_close(ours, exact, dtype)


def test_gelu_is_exact_far_from_zero():
  far = jnp.array([-1e4, -40.0, 40.0, 1e4])
  value, grad = (
    value_and_gradients(gelu, far)[0],
    jax.grad(lambda x: gelu(x).sum())(far),
  )
  np.testing.assert_array_equal(value, [0, 0, 40, 1e4])
  np.testing.assert_array_equal(grad, [0, 0, 1, 1])


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("epsilon", [1e-6, 1e-12])
def test_layer_norm_equals_that_of_flax(dtype, epsilon):
  x = 2 * normal(0, 4, 5, 16) + 1
  params = dict(scale=normal(1, 16), bias=normal(2, 16))
  apply = lambda module: lambda p, x: module.apply(dict(params=p), x)
  exact = value_and_gradients(apply(nn.LayerNorm(epsilon=epsilon)), params, x)
  ours = value_and_gradients(
    jax.jit(apply(LayerNorm(epsilon, dtype))), params, jnp.asarray(x, dtype)
  )
  assert_close(ours, exact, dtype)


def test_layer_norm_parameters_equal_those_of_flax():
  x = normal(0, 2, 8)
  made = LayerNorm(1e-6, "float32").init(jax.random.key(0), x)["params"]
  theirs = nn.LayerNorm().init(jax.random.key(0), x)["params"]
  jax.tree.map(np.testing.assert_array_equal, nn.unbox(made), theirs)
  assert nn.get_partition_spec(made)["scale"] == jax.sharding.PartitionSpec("norm")


def test_no_float32_activations_are_saved_for_the_backward_pass():
  x = jnp.zeros((4, 5, 16), "bfloat16")
  norm = LayerNorm(1e-6, "bfloat16")
  params = nn.unbox(norm.init(jax.random.key(0), x))
  back = lambda p, x: jax.vjp(lambda p, x: gelu(norm.apply(p, x)), p, x)[1]
  kept = jax.tree.leaves(jax.eval_shape(back, params, x))
  assert not [k for k in kept if k.dtype == jnp.float32 and k.size >= x.size]
