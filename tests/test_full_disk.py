"""A disk that is full: training stops at the next save, and nothing is lost."""

import json
import subprocess
import sys

import numpy as np
from conftest import ROOT
from test_train import bare, losses, params

# From the second save on, no file can grow beyond what a line of numbers takes.
DRIVER = """
import json, resource, sys
from vtr_jax import command, train
from vtr_jax.checkpoint import Checkpoints

save, saved = Checkpoints.save, []

def full(*args, **kwargs):
  saved.append(args)
  if len(saved) == 2:
    args[0].wait()  # the first one is on disk
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, hard))
  return save(*args, **kwargs)

Checkpoints.save = full
config = json.loads(sys.argv.pop(1))
command.run(lambda: train.train_and_evaluate(config, sys.argv[1]), arguments=False)
"""


def test_it_stops_at_the_next_save_in_one_line(smoke, tmp_path):
  config = bare(smoke, steps=40, checkpoint_keep=3)
  process = subprocess.run(
    [sys.executable, "-c", DRIVER, json.dumps(config), str(tmp_path / "run")],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert process.returncode == 5, process.stderr
  assert "Traceback" not in process.stderr
  (line,) = process.stderr.splitlines()
  assert "not written" in line
  assert "free the disk" in line
  assert max(losses(tmp_path / "run")) <= 6  # and not 40: the save after the failed one
  kept = {p.name for p in (tmp_path / "run" / "checkpoints").iterdir()}
  assert {n for n in kept if n.isdigit()} == {"2"}
  assert all(np.isfinite(v).all() for v in params(tmp_path / "run", 2).values())
