"""Trains; prints each phase when the run reaches it."""

import json
import sys

from vtr_jax.core import cli as command
from vtr_jax.eval.evaluators.retrieval import Evaluator
from vtr_jax.train import loop as train
from vtr_jax.train import memory, progress
from vtr_jax.train import setup as experiment
from vtr_jax.train.checkpoint import Checkpoints


def printing(owner, name, phase, after=False):
  call = getattr(owner, name)

  def instead(*args, **kwargs):
    if not after:
      print("now", phase, flush=True)
    result = call(*args, **kwargs)
    if after:
      print("now", phase, flush=True)
    return result

  setattr(owner, name, instead)


printing(experiment.workdir, "prepare", "build")
printing(Checkpoints, "restore", "restore")
printing(memory, "report", "compile")
printing(progress.Progress, "timed_next", "wait")
printing(progress.Progress, "add", "step")
printing(Checkpoints, "save", "save")
# Written in the background; then old checkpoints are deleted.
printing(Checkpoints, "save", "write", after=True)
printing(Evaluator, "run", "evaluation")
printing(train, "_finish", "finish")
config, directory = json.loads(sys.argv[1]), sys.argv[2]
del sys.argv[1:]  # no flags
command.run(lambda: train.train_and_evaluate(config, directory))
