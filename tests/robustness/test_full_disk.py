"""A disk that is full or read-only: it stops at the next save, and nothing is lost."""

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from test_loop import bare, losses, params

# At the second save, when the first is on disk, it gets full or read-only.
DRIVER = """
import json, resource, subprocess, sys
from vtr_jax.core import cli as command; from vtr_jax.train import loop as train
from vtr_jax.train.checkpoint import Checkpoints

save, saved = Checkpoints.save, []
config, what = json.loads(sys.argv.pop(1)), sys.argv.pop(1)

def full():
  # No file can grow beyond what a line of numbers takes.
  hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
  resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, hard))

def read_only():
  place = sys.argv[1]
  subprocess.run(["mount", "--bind", place, place], check=True)
  subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)

def spoiled(*args, **kwargs):
  saved.append(args)
  if len(saved) == 2:
    args[0].wait()
    globals()[what]()
  return save(*args, **kwargs)

Checkpoints.save = spoiled
command.run(lambda: train.train_and_evaluate(config, sys.argv[1]), arguments=False)
"""


@pytest.mark.parametrize(
  "what", ["full", pytest.param("read_only", marks=pytest.mark.nightly)]
)
def test_it_stops_at_the_next_save_in_one_line(smoke, tmp_path, what):
  command = [sys.executable, "-c", DRIVER]
  if what == "read_only":  # mounts of its own, which go with it
    command = ["unshare", "--map-root-user", "--mount", *command]
    if subprocess.run([*command[:3], "true"], capture_output=True).returncode:
      pytest.skip("this system lets nobody mount")
  config = bare(smoke, steps=40, checkpoint_keep=3)
  process = subprocess.run(
    [*command, json.dumps(config), what, str(tmp_path / "run")],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert process.returncode == 5, process.stderr
  assert "Traceback" not in process.stderr
  *others, line = process.stderr.splitlines()
  # Of numbers and TensorBoard, which end no run.
  assert all("Read-only file system" in other for other in others), process.stderr
  assert what == "read_only" or not others
  assert "not written" in line
  assert "free disk space" in line
  assert max(losses(tmp_path / "run")) <= 6  # and not 40: the save after the failed one
  kept = {p.name for p in (tmp_path / "run" / "checkpoints").iterdir()}
  assert {n for n in kept if n.isdigit()} == {"2"}
  assert all(np.isfinite(v).all() for v in params(tmp_path / "run", 2).values())
