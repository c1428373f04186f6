"""FLOPs counted from the trace, against counts by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from vtr_jax.core import sharding
from vtr_jax.train import flops

A = jax.ShapeDtypeStruct((3, 4), jnp.float32)
B = jax.ShapeDtypeStruct((4, 5), jnp.float32)
ONCE = 2 * 3 * 4 * 5  # a multiplication and an addition for each term
SQUARE = jax.ShapeDtypeStruct((4, 4), jnp.float32)


def test_flops_of_a_matrix_product():
  assert flops.count_flops(jnp.matmul, A, B) == ONCE


def test_flops_of_batched_products_and_several_contracted_axes():
  x = jax.ShapeDtypeStruct((2, 3, 4), jnp.float32)
  y = jax.ShapeDtypeStruct((2, 4, 5), jnp.float32)
  assert (
    flops.count_flops(lambda x, y: jnp.einsum("bij,bjk->bik", x, y), x, y) == 2 * ONCE
  )
  both = lambda x: jnp.einsum("bij,bij->b", x, x)
  assert flops.count_flops(both, x) == 2 * 2 * 3 * 4


def test_operations_other_than_products_count_nothing():
  assert flops.count_flops(lambda x: jnp.tanh(x).sum() + x.max(), A) == 0


def test_a_gradient_counts_two_more_products():
  loss = lambda a, b: jnp.square(a @ b).sum()
  assert flops.count_flops(jax.grad(loss, (0, 1)), A, B) == 3 * ONCE


def test_recomputed_products_count_again():
  layer = lambda x, w: jnp.tanh(x @ w)
  twice = lambda f: lambda x, w: f(f(x, w), w).sum()
  plain = flops.count_flops(jax.grad(twice(layer)), SQUARE, SQUARE)
  again = flops.count_flops(jax.grad(twice(jax.checkpoint(layer))), SQUARE, SQUARE)
  assert again - plain == 2 * 2 * 4**3


def test_a_loop_counts_its_body_once_per_iteration():
  def loop(x):
    return jax.lax.scan(lambda x, _: (x @ x, None), x, length=7)[0]

  assert flops.count_flops(loop, SQUARE) == 7 * 2 * 4**3
  assert flops.count_flops(jax.jit(loop), SQUARE) == 7 * 2 * 4**3
  assert (
    flops.count_flops(jax.vmap(loop), jax.ShapeDtypeStruct((2, 4, 4), "f"))
    == 14 * 2 * 4**3
  )


def test_a_conditional_counts_its_most_expensive_branch():
  def either(x):
    return jax.lax.cond(x.sum() > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

  assert flops.count_flops(either, SQUARE) == 2 * 2 * 4**3


def test_products_inside_shard_map_count_for_all_devices():
  mesh = sharding.make_mesh(sharding.MeshConfig(1, 1, 1))
  whole = PartitionSpec()
  local = jax.shard_map(
    lambda x: x @ x, mesh=mesh, in_specs=whole, out_specs=whole, check_vma=False
  )
  assert flops.count_flops(local, SQUARE) == 2 * 4**3


def test_products_with_a_custom_vjp_are_counted():
  @jax.custom_vjp
  def product(a, b):
    return a @ b

  product.defvjp(
    lambda a, b: (a @ b, (a, b)), lambda saved, g: (g @ saved[1].T, saved[0].T @ g)
  )
  assert flops.count_flops(product, A, B) == ONCE
  loss = lambda a, b: jnp.square(product(a, b)).sum()
  assert flops.count_flops(jax.grad(loss, (0, 1)), A, B) == 3 * ONCE


@pytest.mark.parametrize("kind", ["TPU v4", "TPU v5 lite", "NVIDIA H100 80GB HBM3"])
def test_peaks_are_of_dense_bfloat16(kind):
  assert 1e14 < flops.PEAKS[kind] < 3e15
