"""Trains; prints when the run comes to each phase."""

import json
import sys

from vtr_jax.core import cli as command
from vtr_jax.eval.evaluators.retrieval import Evaluator
from vtr_jax.train import loop as train
from vtr_jax.train import memory, progress
from vtr_jax.train import setup as experiment
from vtr_jax.train.checkpoint import Checkpoints


def told(owner, name, phase, after=False):
  call = getattr(owner, name)

  def instead(*args, **kwargs):
    if not after:
      print("now", phase, flush=True)
    result = call(*args, **kwargs)
    if after:
      print("now", phase, flush=True)
    return result

  setattr(owner, name, instead)


told(experiment.workdir, "prepare", "build")
told(Checkpoints, "restore", "restore")
told(memory, "report", "compile")
told(progress.Progress, "timed_next", "wait")
told(progress.Progress, "add", "step")
told(Checkpoints, "save", "save")
told(Checkpoints, "save", "write", after=True)  # in the background; then old ones go
told(Evaluator, "run", "evaluation")
told(train, "_finish", "finish")
config, directory = json.loads(sys.argv[1]), sys.argv[2]
command.run(lambda: train.train_and_evaluate(config, directory))
