"""SIGTERM in every phase of a run: it saves, exits with code 85, and resumes."""

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
def reference_run(data_dir, tmp_path_factory):
  """(config, directory of the run that was not interrupted)."""
  from configs import simvtp

  values = simvtp.get_config("smoke").to_dict()
  values["data"]["dir"] = str(data_dir)
  evals = {"validation": values["evals"]["validation"] | dict(every=4)}
  config = without_evals(values, steps=8) | dict(evals=json.loads(json.dumps(evals)))
  workdir = tmp_path_factory.mktemp("reference")
  train_and_evaluate(config, workdir)
  return config, workdir


def start(config, workdir, phase):
  no_cache = dict(JAX_ENABLE_COMPILATION_CACHE="false") if phase == "xla" else {}
  return subprocess.Popen(
    [*program("hold_in_phase"), json.dumps(config), str(workdir), phase],
    cwd=ROOT,
    env=os.environ | no_cache,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def stop(process, phase, repeat=False, number=signal.SIGTERM, delay=0.0):
  """Sends the signal in the phase: (exit code, output)."""
  while process.stdout.readline() != f"now {phase}\n":
    assert process.poll() is None
  time.sleep(delay)
  process.send_signal(number)
  while repeat and process.poll() is None:
    # Python handles two signals as one, if both come before it checks.
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
  text, _ = process.communicate(timeout=HOLD / 2)
  return process.returncode, text


@pytest.mark.parametrize(
  ("phase", "saved"),
  [
    pytest.param("build", [], marks=pytest.mark.nightly),
    pytest.param("begin", [], marks=pytest.mark.nightly),
    pytest.param("compile", [], marks=pytest.mark.nightly),
    pytest.param("wait", [2, 3], marks=pytest.mark.nightly),
    pytest.param("step", [2, 4], marks=pytest.mark.nightly),
    pytest.param("save", [2, 4], marks=pytest.mark.nightly),
    pytest.param("evaluation", [2, 4], marks=pytest.mark.nightly),
  ],
)
def test_a_run_preempted_in_any_phase_resumes_bitwise_the_same(
  phase, saved, reference_run, tmp_path
):
  config, workdir = reference_run
  code, text = stop(start(config, tmp_path, phase), phase)
  assert code == 85, text
  assert "run it again" in text
  kept = [int(p.name) for p in (tmp_path / "checkpoints").glob("*") if p.is_dir()]
  assert sorted(kept) == saved
  train_and_evaluate(config, tmp_path)
  assert_same(params(tmp_path, 8), params(workdir, 8))
  assert losses(tmp_path) == losses(workdir)


@pytest.mark.nightly
def test_a_second_sigterm_ends_the_run_at_once(reference_run, tmp_path):
  config, workdir = reference_run
  code, _ = stop(start(config, tmp_path, "twice"), "twice", repeat=True)
  assert code == -signal.SIGTERM
  train_and_evaluate(config, tmp_path)
  assert_same(params(tmp_path, 8), params(workdir, 8))


@pytest.mark.parametrize(
  ("phase", "delay"),
  [
    pytest.param("twice", 0.0, marks=pytest.mark.nightly),
    # Threads of the compiler, which are still running, must not crash.
    pytest.param("xla", 1.0, marks=pytest.mark.nightly),
    pytest.param("build", 0.0, marks=pytest.mark.nightly),
    pytest.param("evaluation", 0.0, marks=pytest.mark.nightly),
  ],
)
def test_ctrl_c_ends_the_run_at_once_with_one_line(
  phase, delay, reference_run, tmp_path
):
  config, _ = reference_run
  process = start(config, tmp_path, phase)
  code, text = stop(process, phase, number=signal.SIGINT, delay=delay)
  assert code == 130
  assert text == "Interrupted: run it again; saved files are complete\n"
  if phase == "twice":
    assert params(tmp_path, 2)  # whole


@pytest.mark.nightly
def test_a_logged_mean_includes_the_steps_before_a_preemption(reference_run, tmp_path):
  """The preemption came between two log lines."""
  config, _ = reference_run
  seldom = config | dict(log_every=8, checkpoint_every=8, evals={})
  train_and_evaluate(seldom, tmp_path / "reference")
  code, text = stop(start(seldom, tmp_path / "run", "step"), "step")
  assert code == 85, text
  train_and_evaluate(seldom, tmp_path / "run")
  assert losses(tmp_path / "run") == losses(tmp_path / "reference")
