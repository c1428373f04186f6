"""Trains; before the second save the disk becomes full or read-only."""

import json
import resource
import subprocess
import sys

from vtr_jax.core import cli as command
from vtr_jax.train import loop as train
from vtr_jax.train.checkpoint import Checkpoints

save, saved = Checkpoints.save, []
config, what = json.loads(sys.argv.pop(1)), sys.argv.pop(1)


def full():
  # No file can grow beyond what metrics.jsonl takes.
  hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
  resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, hard))


def read_only():
  workdir = sys.argv[1]
  subprocess.run(["mount", "--bind", workdir, workdir], check=True)
  subprocess.run(["mount", "-o", "remount,bind,ro", workdir], check=True)


def save_with_fault(*args, **kwargs):
  saved.append(args)
  if len(saved) == 2:
    args[0].wait()
    globals()[what]()
  return save(*args, **kwargs)


Checkpoints.save = save_with_fault
command.run(lambda workdir: train.train_and_evaluate(config, workdir), arguments=True)
