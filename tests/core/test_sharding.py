"""Meshes and divisibility of the batch; real sharded runs are in test_loop.py."""

import numpy as np
import pytest
from jax.sharding import AbstractMesh

from vtr_jax.core import sharding
from vtr_jax.core.errors import ConfigError

MESH = AbstractMesh((2, 2, 2), sharding.AXES)


@pytest.mark.parametrize(
  ("size", "suggestion"), [(6, "use 4 or 8"), (3, "use 4"), (130, "use 128 or 132")]
)
def test_an_indivisible_batch_size_names_the_nearest_valid_ones(size, suggestion):
  with pytest.raises(ConfigError) as e:
    sharding.check_batch_size(size, MESH, "config.batch_size")
  assert str(e.value).startswith("config.batch_size: ")
  assert str(e.value).endswith(suggestion)


def test_suggested_batch_sizes_satisfy_every_rule_at_once():
  """4 devices in two microbatches of groups of 3, and whole groups of 9 rows: 72."""
  cut = (2, 3, (9, "config.objective.negatives_group"))
  message = (
    r"config\.batch_size: 99 rows do not divide over data x fsdp = 4 devices and "
    r"micro_batches = 2 in groups of 3 into whole groups of 9 "
    r"\(config\.objective\.negatives_group\); use 72 or 144"
  )
  with pytest.raises(ConfigError, match=message):
    sharding.check_batch_size(99, MESH, "config.batch_size", *cut)
  for size in (72, 144):
    sharding.check_batch_size(size, MESH, "config.batch_size", *cut)


def test_a_divisible_batch_size_is_accepted():
  sharding.check_batch_size(8, MESH, "config.batch_size")


@pytest.mark.parametrize("sizes", [(0, 1, 1), (-2, 1, 1), (-1, -1, 1)])
def test_invalid_mesh_sizes_are_rejected(sizes):
  with pytest.raises(ConfigError):
    sharding.MeshConfig(*sizes)


def test_an_axis_of_minus_1_gets_the_remaining_devices():
  mesh = sharding.make_mesh(sharding.MeshConfig(1, -1, 1))
  assert dict(mesh.shape) == dict(data=1, fsdp=1, tensor=1)


def test_put_batch_keeps_the_order_of_rows():
  mesh = sharding.make_mesh(sharding.MeshConfig(-1, 1, 1))
  rows = np.arange(12).reshape(4, 3)
  (array,) = sharding.put_batch(dict(x=rows), mesh).values()
  np.testing.assert_array_equal(array, rows)
