"""Killed at any moment: the same command resumes, and ends bitwise identical."""

import collections
import json
import os
import pathlib
import signal
import subprocess
import time

import numpy as np
import pytest
import release
from conftest import ROOT, leftover_shared_memory, private_shared_memory, program
from training import assert_same, losses, params

from configs import common
from vtr_jax.train.loop import train_and_evaluate

KILLS = 60
STEPS = 120

# Seconds after the phase's beginning within which the signal comes.
PHASES = dict(
  start=3.0,  # of the process: imports, and what comes then
  build=0.5,
  restore=0.3,
  compile=1.0,
  wait=0.05,
  step=0.05,
  save=0.05,
  write=0.1,
  evaluation=0.5,
)
ONCE = ("start", "build", "restore", "compile")  # in a process


def config_of(data_dir):
  """MILES at the smallest size, with a teacher, an EMA and a loss history."""
  c = release.config() | dict(steps=STEPS, checkpoint_every=3, checkpoint_keep=2)
  c["data"] |= dict(dir=str(data_dir), num_workers=1)
  c["evals"] = dict(validation=common.retrieval("validation", every=6))
  return json.loads(json.dumps(c | dict(log_every=1)))


def kill(config, workdir, phase, number, delay, own):
  """Starts a run, and kills it `delay` s after the phase began for the n-th time.

  Returns:
    Whether it was killed, else it had ended before; the lines that it printed.
  """
  lines, seen = [], 0
  with subprocess.Popen(
    [*program("report_phases"), json.dumps(config), str(workdir)],
    cwd=ROOT,
    env=os.environ | own | dict(VTR_KILL_TEST=str(workdir)),
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  ) as process:
    while phase != "start" and (line := process.stdout.readline()):
      lines.append(line)
      seen += line == f"now {phase}\n"
      if seen == number:
        break
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.readlines()
  return process.returncode == -signal.SIGKILL, lines


def committed(workdir):
  """Steps of the complete checkpoints; an incomplete one has a temporary name."""
  return {int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()}


def left_behind(place):
  """Command lines of processes that killed runs in this directory have left."""
  mark, found = f"VTR_KILL_TEST={place}/".encode(), []
  for process in pathlib.Path("/proc").glob("[0-9]*"):
    try:
      if mark in (process / "environ").read_bytes():
        found.append((process / "cmdline").read_text().replace("\0", " "))
    except OSError:
      continue
  return found


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_runs_killed_at_random_moments_end_bitwise_the_same(
  data_dir, tmp_path, record_property
):
  config = config_of(data_dir)
  reference = tmp_path / "reference"
  train_and_evaluate(config, reference)
  own, prefix = private_shared_memory(tmp_path)
  rng = np.random.default_rng(0)
  kills, num_runs, torn = collections.Counter(), 0, 0
  while kills.total() < KILLS:
    num_runs += 1
    workdir = tmp_path / f"killed-{num_runs}"
    while True:
      phase = str(rng.choice(list(PHASES)))
      before = committed(workdir)
      number = 1 if phase in ONCE else rng.integers(1, 5)
      delay = rng.uniform(0, PHASES[phase])
      killed, lines = kill(config, workdir, phase, number, delay, own)
      resumed = [x for x in lines if x.startswith("training from step ")]
      if before and resumed:  # no step of a checkpoint is done again
        assert int(resumed[0].split()[3]) == max(before), lines
      assert not any("cannot be restored" in x for x in lines), lines
      if not killed:
        assert lines[-1].startswith("text to video R@1"), lines
        break
      kills[phase] += 1
      torn += any((workdir / "checkpoints").glob("*tmp*"))
    assert_same(params(workdir, STEPS), params(reference, STEPS))
    assert losses(workdir) == losses(reference)
    results = [
      json.loads((w / "results.json").read_text()) for w in (reference, workdir)
    ]
    assert results[0]["results"] == results[1]["results"]
    names = {p.name for p in (workdir / "checkpoints").iterdir()}
    assert names == {p.name for p in (reference / "checkpoints").iterdir()}
  assert torn > 0  # of the checkpoints that were being written
  assert not leftover_shared_memory(prefix)
  assert not left_behind(tmp_path)
  counts = ", ".join(f"{phase} {n}" for phase, n in sorted(kills.items()))
  record_property("kills survived", f"{kills.total()} of {kills.total()}: {counts}")
  record_property("of them in the writing of a checkpoint", torn)
  record_property("runs that ended the same", num_runs)
