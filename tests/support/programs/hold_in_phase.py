"""Trains; prints when the run reaches a phase, and pauses it there."""

import json
import sys
import threading

from vtr_jax.core import cli as command
from vtr_jax.data import loader
from vtr_jax.train import loop as train
from vtr_jax.train import memory, progress
from vtr_jax.train import setup as experiment
from vtr_jax.train.checkpoint import Checkpoints

config, directory, phase = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]


def pausing(call, seconds, at, after=False):
  calls = []

  def instead(*args, **kwargs):
    calls.append(1)
    if after:
      result = call(*args, **kwargs)
    if len(calls) == at:
      print("now", phase, flush=True)
      threading.Event().wait(seconds)  # signal handlers run, then it continues
    return result if after else call(*args, **kwargs)

  return instead


if phase == "build":
  experiment.workdir.prepare = pausing(experiment.workdir.prepare, 200, 1)
if phase == "begin":
  loader.train_batches = pausing(loader.train_batches, 1, 1)
if phase in ("compile", "xla"):
  memory.report = pausing(memory.report, 200 if phase == "compile" else 0, 1)
if phase == "wait":
  progress.Progress.timed_next = pausing(progress.Progress.timed_next, 200, 4)
if phase == "save":
  Checkpoints.save = pausing(Checkpoints.save, 1, 2, after=True)
if phase in ("step", "twice"):
  seconds = 200 if phase == "twice" else 1
  progress.Progress.add = pausing(progress.Progress.add, seconds, 4)
if phase == "evaluation":
  from vtr_jax.eval.evaluators.retrieval import Evaluator

  Evaluator.run = pausing(Evaluator.run, 200, 1)

del sys.argv[1:]  # no flags
command.run(lambda: train.train_and_evaluate(config, directory))
