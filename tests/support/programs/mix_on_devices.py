"""Mixes a batch of which each device has one group; prints the collectives it takes."""

import re

import jax
import numpy as np

from vtr_jax.core import sharding
from vtr_jax.models import mixing


def main():
  config = mixing.MixConfig()
  mesh = sharding.make_mesh(sharding.MeshConfig(4, 2, 1))
  rows = config.group * 8
  rng = np.random.default_rng(0)
  batch = (
    rng.integers(0, 256, (rows, 2, 8, 8, 3), np.uint8),
    np.eye(rows, dtype=np.float32),
    np.arange(rows) != 5,
    np.arange(rows, dtype=np.int32),
  )
  run = lambda key, *batch: mixing.mix(key, *batch, config)
  key, layout = jax.random.key(0), sharding.batch_sharding(mesh)
  spread = jax.jit(run, out_shardings=layout)
  on_devices = jax.device_put(batch, layout)
  for got, want in zip(
    spread(key, *on_devices), jax.jit(run)(key, *batch), strict=True
  ):
    np.testing.assert_allclose(got, want, atol=1e-6)
  program = spread.lower(key, *on_devices).compile().as_text()
  print(*re.findall(r"(?:all|collective)-[a-z-]+\(", program))


if __name__ == "__main__":
  main()
