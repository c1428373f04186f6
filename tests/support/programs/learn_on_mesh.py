"""Trains on one batch; prints losses, norms of embeddings and shardings as JSON."""

import dataclasses
import json
import sys

import batches
import jax
import numpy as np

from vtr_jax.core import batch, sharding
from vtr_jax.train import setup as experiment

config = json.loads(sys.argv[1])
run = experiment.build(config, sys.argv[2])
c, state = run.config, run.state
fake = batches.fake(c)
on_device, losses = sharding.put_batch(fake, run.mesh), []
for _ in range(c.steps):
  state, numbers = run.train_step(state, on_device)
  losses.append({k: float(v) for k, v in numbers.items()})
norms = {}
whole = dataclasses.replace(run.objective.mask, visible_only=False)
given = batch.fake(c.clip, c.text, whole, 16)  # whole clips, as in evaluation
full_batch = sharding.put_batch(given, run.mesh)
with sharding.scope(run.mesh):
  for name, embed in run.objective.predict.items():
    if name in ("embed_video", "embed_text"):
      embeddings = jax.jit(embed)(state.params, full_batch)
      norms[name] = np.linalg.norm(embeddings, axis=1).tolist()
leaves = jax.tree_util.tree_leaves_with_path
layout = lambda tree: {str(keys): str(x.sharding.spec) for keys, x in leaves(tree)}
print(
  json.dumps(
    dict(
      losses=losses,
      norms=norms,
      steps=int(state.step),
      params=layout(state.params),
      teacher=layout(state.teacher),
    )
  )
)
