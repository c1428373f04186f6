"""SIGTERM, whatever the run is doing: saved and asked for again, and nothing lost."""

import json
import os
import signal
import subprocess
import time

import pytest
from conftest import ROOT, program
from training import assert_same, losses, params, without_evals

from vtr_jax.train.loop import train_and_evaluate

# Seconds in which a held process must end: the hold itself is longer. The bounds that
# the docs promise are of an idle machine; here it is the order that counts.
HOLD = 200


@pytest.fixture(scope="module")
def calm(data_dir, tmp_path_factory):
  """(config, the run that nothing stopped)"""
  from configs import simvtp

  values = simvtp.get_config("smoke").to_dict()
  values["data"]["dir"] = str(data_dir)
  evals = {"validation": values["evals"]["validation"] | dict(every=4)}
  config = without_evals(values, steps=8) | dict(evals=json.loads(json.dumps(evals)))
  workdir = tmp_path_factory.mktemp("calm")
  train_and_evaluate(config, workdir)
  return config, workdir


def start(config, workdir, phase):
  fresh = dict(JAX_ENABLE_COMPILATION_CACHE="false") if phase == "xla" else {}
  return subprocess.Popen(
    [*program("hold_in_phase"), json.dumps(config), str(workdir), phase],
    cwd=ROOT,
    env=os.environ | fresh,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def stop(process, phase, again=False, number=signal.SIGTERM, later=0.0):
  """Sends the signal in the phase: (exit code, output)."""
  while process.stdout.readline() != f"now {phase}\n":
    assert process.poll() is None
  time.sleep(later)
  process.send_signal(number)
  while again and process.poll() is None:
    # Python sees two signals as one, if they come before it has looked.
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
  text, _ = process.communicate(timeout=HOLD / 2)
  return process.returncode, text


@pytest.mark.parametrize(
  ("phase", "saved"),
  [
    pytest.param("build", [], marks=pytest.mark.nightly),
    pytest.param("begin", [], marks=pytest.mark.nightly),
    ("compile", []),
    pytest.param("wait", [2, 3], marks=pytest.mark.nightly),
    ("step", [2, 4]),
    pytest.param("save", [2, 4], marks=pytest.mark.nightly),
    pytest.param("evaluation", [2, 4], marks=pytest.mark.nightly),
  ],
)
def test_stopped_in(phase, saved, calm, tmp_path):
  config, workdir = calm
  code, text = stop(start(config, tmp_path, phase), phase)
  assert code == 85, text
  assert "run it again" in text
  kept = [int(p.name) for p in (tmp_path / "checkpoints").glob("*") if p.is_dir()]
  assert sorted(kept) == saved
  train_and_evaluate(config, tmp_path)
  assert_same(params(tmp_path, 8), params(workdir, 8))
  assert losses(tmp_path) == losses(workdir)


@pytest.mark.nightly
def test_a_second_signal_ends_it_at_once(calm, tmp_path):
  config, workdir = calm
  code, _ = stop(start(config, tmp_path, "twice"), "twice", again=True)
  assert code == -signal.SIGTERM
  train_and_evaluate(config, tmp_path)
  assert_same(params(tmp_path, 8), params(workdir, 8))


@pytest.mark.parametrize(
  ("phase", "later"),
  [
    ("twice", 0.0),
    # What goes on then, in threads of the compiler, must not crash.
    ("xla", 1.0),
    pytest.param("build", 0.0, marks=pytest.mark.nightly),
    pytest.param("evaluation", 0.0, marks=pytest.mark.nightly),
  ],
)
def test_ctrl_c_ends_it_at_once_in_one_line(phase, later, calm, tmp_path):
  config, _ = calm
  process = start(config, tmp_path, phase)
  code, text = stop(process, phase, number=signal.SIGINT, later=later)
  assert code == 130
  assert text == "Interrupted: run it again; saved files are complete\n"
  if phase == "twice":
    assert params(tmp_path, 2)  # whole


@pytest.mark.nightly
def test_a_line_of_several_steps_is_of_all_of_them(calm, tmp_path):
  """Also of those before the stop, which came in the middle of it."""
  config, _ = calm
  seldom = config | dict(log_every=8, checkpoint_every=8, evals={})
  train_and_evaluate(seldom, tmp_path / "calm")
  code, _, text = stop(start(seldom, tmp_path / "run", "step"), "step")
  assert code == 85, text
  train_and_evaluate(seldom, tmp_path / "run")
  assert losses(tmp_path / "run") == losses(tmp_path / "calm")
