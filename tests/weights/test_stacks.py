"""Layers stacked in one array and the same layers separately."""

import numpy as np

from vtr_jax.weights import stacks

RNG = np.random.default_rng(0)


def same(one, other):
  assert one.keys() == other.keys()
  for path in one:
    np.testing.assert_array_equal(one[path], other[path])


def test_stack_is_the_inverse_of_split():
  """Of 12 layers: the third is not the one after block_10."""
  params = {
    "tower/blocks/mlp/kernel": RNG.normal(size=(12, 3, 4)),
    "tower/blocks/mlp/bias": RNG.normal(size=(12, 4)),
    "tower/norm/scale": RNG.normal(size=4),
  }
  single = stacks.split(params)
  assert len(single) == 25
  np.testing.assert_array_equal(
    single["tower/block_10/mlp/bias"], params["tower/blocks/mlp/bias"][10]
  )
  same(stacks.stack(single), params)


def test_layers_that_make_no_stack_stay_separate():
  """Of other shapes, or with a gap in their numbers."""
  shapes = {"a/block_0/x": 3, "a/block_1/x": 4, "b/block_0/x": 3, "b/block_2/x": 3}
  single = {path: RNG.normal(size=size) for path, size in shapes.items()}
  same(stacks.stack(single), single)
