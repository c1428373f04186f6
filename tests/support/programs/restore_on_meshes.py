"""Saves a random state on eight devices and restores it on 1, 2, 4 and 8."""

import json
import sys

import jax
import numpy as np

from vtr_jax.core import sharding
from vtr_jax.train import setup as experiment
from vtr_jax.train import state as state_lib
from vtr_jax.train.checkpoint import Checkpoints

run = experiment.build(json.loads(sys.argv[1]), sys.argv[2])
rng = np.random.default_rng(0)


def drawn(array):
  values = rng.integers(0, 100, array.shape)
  return jax.device_put(np.asarray(values, array.dtype), array.sharding)


state = jax.tree.map(drawn, run.state)
run.checkpoints.save(3, state, dict(step=3))
run.checkpoints.wait()
parts = run.config.parts()
for sizes in ((1, 1, 1), (1, 2, 1), (2, 1, 2), (4, 2, 1)):
  wanted = sharding.MeshConfig(*sizes)
  mesh = sharding.make_mesh(wanted, jax.devices()[: int(np.prod(sizes))])
  like = state_lib.with_shardings(*parts.abstract(mesh))
  found, meta, _ = Checkpoints(run.checkpoints._directory, 1).restore(like)
  assert meta["step"] == 3
  theirs, ours = jax.tree.leaves(found), jax.tree.leaves(state)
  same = [np.array_equal(a, b) for a, b in zip(theirs, ours, strict=True)]
  devices = {d for leaf in theirs for d in leaf.sharding.device_set}
  print(len(devices), all(same), len(same))
run.checkpoints.close()
run.writer.close()
