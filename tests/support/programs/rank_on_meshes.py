"""Ranks a split on 1, 4 and 8 devices."""

import json
import sys

import jax
import numpy as np

from vtr_jax.core import sharding
from vtr_jax.eval import metrics
from vtr_jax.eval.evaluators import base, retrieval
from vtr_jax.train import setup as experiment

run = experiment.build(json.loads(sys.argv[1]), sys.argv[2])
c, ranks = run.config, []
for n in (1, 4, 8):
  mesh = sharding.make_mesh(sharding.MeshConfig(n, 1, 1), jax.devices()[:n])
  rows = 8  # of 32 clips, so that each mesh groups the rows differently
  context = base.Context(
    run.objective, c.clip, c.text, c.data, run.tokenizer, mesh, rows, lambda: None
  )
  section = dict(split="test", every=0, captions="all", ties="average")
  evaluator = retrieval.Evaluator(
    retrieval.Config(**section, dual_softmax=0.0, rerank=0), context
  )
  params = jax.device_put(jax.device_get(run.state.params), sharding.replicated(mesh))
  evaluator.run(params)
  sim, owner = evaluator._sim, evaluator._owner
  ways = (metrics.text_to_video_ranks, metrics.video_to_text_ranks)
  ranks.append(np.concatenate([way(sim, owner, "average") for way in ways]))
  print("ranks", n, np.array_equal(ranks[0], ranks[-1]), len(ranks[0]), ranks[0].max())
run.checkpoints.close()
run.writer.close()
