"""Killed anywhere, at any time: the same command goes on, and all ends bit for bit."""

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
  """MILES at the smallest size, with a teacher, a running mean and a history."""
  c = release.config() | dict(steps=STEPS, checkpoint_every=3, checkpoint_keep=2)
  c["data"] |= dict(dir=str(data_dir), num_workers=1)
  c["evals"] = dict(validation=common.retrieval("validation", every=6))
  return json.loads(json.dumps(c | dict(log_every=1)))


def kill(config, workdir, phase, number, delay, own):
  """Starts, and kills a while after the phase has begun for the n-th time.

  Returns:
    Whether it was killed there, and all it printed; it may have come to its end.
    A checkpoint that is not whole then has another name.
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
  """Steps of the checkpoints that have a name of their own."""
  return {int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()}


def left_behind(place):
  """Processes that killed runs in there have left, and what they do."""
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
def test_killed_anywhere(data_dir, tmp_path, record_property):
  config = config_of(data_dir)
  calm = tmp_path / "calm"
  train_and_evaluate(config, calm)
  own, prefix = private_shared_memory(tmp_path)
  rng = np.random.default_rng(0)
  survived, runs, torn = collections.Counter(), 0, 0
  while survived.total() < KILLS:
    runs += 1
    workdir = tmp_path / f"wild-{runs}"
    while True:
      phase = str(rng.choice(list(PHASES)))
      before = committed(workdir)
      number = 1 if phase in ONCE else rng.integers(1, 5)
      delay = rng.uniform(0, PHASES[phase])
      killed, lines = kill(config, workdir, phase, number, delay, own)
      went_on = [x for x in lines if x.startswith("training from step ")]
      if before and went_on:  # no step of a checkpoint is done again
        assert int(went_on[0].split()[3]) == max(before), lines
      assert not any("cannot be restored" in x for x in lines), lines
      if not killed:
        assert lines[-1].startswith("text to video R@1"), lines
        break
      survived[phase] += 1
      torn += any((workdir / "checkpoints").glob("*tmp*"))
    assert_same(params(workdir, STEPS), params(calm, STEPS))
    assert losses(workdir) == losses(calm)
    results = [json.loads((w / "results.json").read_text()) for w in (calm, workdir)]
    assert results[0]["results"] == results[1]["results"]
    names = {p.name for p in (workdir / "checkpoints").iterdir()}
    assert names == {p.name for p in (calm / "checkpoints").iterdir()}
  assert torn > 0  # of the checkpoints that were being written
  assert not leftover_shared_memory(prefix)
  assert not left_behind(tmp_path)
  told = ", ".join(f"{phase} {n}" for phase, n in sorted(survived.items()))
  record_property("kills survived", f"{survived.total()} of {survived.total()}: {told}")
  record_property("of them in the writing of a checkpoint", torn)
  record_property("runs that ended the same", runs)
