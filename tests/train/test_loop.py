"""The training loop at the smallest size: its outputs, interruptions and sharding."""

import importlib.metadata
import json
import os
import signal
import socket
import subprocess
import sys
import time
from unittest import mock

import jax
import numpy as np
import pytest
from conftest import ROOT, eight_devices, on_eight_devices, run_main
from training import (
  assert_same,
  finish,
  flat,
  loader_pid,
  losses,
  params,
  start,
  without_evals,
  write_damaged_data,
)

from vtr_jax.core import sharding
from vtr_jax.core.errors import (
  CheckpointError,
  ConfigError,
  DataBudgetError,
  DataError,
  DivergedError,
  Preempted,
)
from vtr_jax.data import loader
from vtr_jax.train import loop, setup, writer
from vtr_jax.train import workdir as workdir_lib
from vtr_jax.train.checkpoint import CheckpointPolicy
from vtr_jax.train.loop import train_and_evaluate


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
  """A complete smoke run by the command line: (workdir, output)."""
  workdir = tmp_path_factory.mktemp("runs") / "new" / "smoke"
  flags = ["--config=configs/simvtp.py:smoke", f"--workdir={workdir}"]
  run = run_main(*flags, f"--config.data.dir={data_dir}")
  assert run.returncode == 0, run.stderr
  return workdir, run.stdout


def test_a_run_writes_all_documented_outputs(finished):
  workdir, printed = finished
  results = json.loads((workdir / "results.json").read_text())
  assert set(results) == {
    "step", "results", "protocols", "dtype", "config", "provenance"
  }  # fmt: skip
  assert {"test/t2v/R@1", "test/v2t/MedR", "novel/t2v/R@10"} <= set(results["results"])
  assert "test/rerank_5/t2v/R@1" in results["results"]
  assert results["protocols"]["test"]["ties"] == "average"
  assert len(results["protocols"]["test"]["fingerprint"]) == 16
  assert results["provenance"]["jax"]
  figures = {p.name for p in (workdir / "figures").iterdir()}
  assert {"curves.png", "reconstruction.png", "test_retrievals.png"} <= figures
  assert "test_similarity.png" in figures
  assert list((workdir / "tensorboard").iterdir())
  assert "encoder/block_0/mlp/up/kernel" in (workdir / "parameters.txt").read_text()
  assert set(losses(workdir)) == {2, 4, 6}
  kept = {p.name for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()}
  assert kept == {"4", "6"}
  meta = json.loads((workdir / "checkpoints/6/meta/metadata").read_text())
  assert {"python", "git_revision", *workdir_lib._PACKAGES} == set(meta["provenance"])
  assert meta["provenance"]["orbax-checkpoint"] == importlib.metadata.version(
    "orbax-checkpoint"
  )
  for word in ("clips/s", "waiting for data", "left", "lr ", "R@1"):
    assert word in printed


@pytest.mark.nightly
def test_a_decoder_without_token_predictions_is_evaluated(mac_smoke, tmp_path, capsys):
  """MAC's optional decoder predicts pixels only: no accuracy of tokens is reported."""
  decoder = dict(width=16, depth=1, num_heads=2, mlp_dim=32)
  config = mac_smoke | dict(
    steps=2,
    loss_weights=dict(vtc=1.0, pixels=1.0),
    objective=mac_smoke["objective"] | dict(decoder=decoder),
    evals=dict(reconstruction=dict(kind="reconstruction", split="test")),
  )
  results = train_and_evaluate(config, tmp_path)
  assert results.keys() == {
    f"reconstruction/pixels/{name}" for name in ("rmse", "rmse_mean_colour")
  }
  assert "masked tokens" not in capsys.readouterr().out
  assert (tmp_path / "figures" / "reconstruction.png").exists()


@pytest.mark.nightly
def test_the_same_command_again_only_evaluates(finished, smoke):
  workdir, _ = finished
  before = json.loads((workdir / "results.json").read_text())["results"]
  written = writer.read(workdir / "metrics.jsonl")
  again = train_and_evaluate(smoke, workdir)
  assert again == pytest.approx(before)
  assert set(losses(workdir)) == {2, 4, 6}
  assert [r.keys() for r in writer.read(workdir / "metrics.jsonl")] == [
    r.keys() for r in written
  ]


def test_another_config_in_the_same_workdir_is_rejected(finished, smoke):
  workdir, _ = finished
  smoke["optim"]["lr"] = 0.5
  smoke["log_every"] = 1  # may change
  with pytest.raises(ConfigError) as e:
    train_and_evaluate(smoke, workdir)
  assert "optim.lr: 0.0014 there, 0.5 now" in str(e.value)
  assert "log_every" not in str(e.value)


def test_a_second_run_in_the_same_workdir_is_rejected(
  mac_smoke, tmp_path, monkeypatch, capfd
):
  monkeypatch.setattr(setup, "_LOCK_TIMEOUT", 0.5)
  refused = []

  def another(run):
    with pytest.raises(DataError, match="lock: another run holds it") as e:
      train_and_evaluate(mac_smoke | dict(steps=4), tmp_path)
    refused.append(e)
    return {}

  monkeypatch.setattr(loop, "_finish", another)
  for _ in range(2):  # the lock is free again after the first
    train_and_evaluate(without_evals(mac_smoke, steps=3), tmp_path)
  assert len(refused) == 2
  assert f"{tmp_path}/lock: waiting for another run to end" in capfd.readouterr().err
  assert json.loads((tmp_path / "config.json").read_text())["steps"] == 3


@pytest.mark.nightly
@pytest.mark.parametrize(
  ("stop", "more"),
  [
    (False, ()),
    (True, ()),
    (False, ("--coordinator=127.0.0.1:0", "--num_processes=1", "--process_id=0")),
  ],
)
def test_a_run_finishes_if_its_output_cannot_be_written(
  stop, more, finished, data_dir, tmp_path
):
  """As with `> log` on a full disk, and with `| head`."""
  command = [sys.executable, "-m", "vtr_jax.main", f"--workdir={tmp_path}"]
  command += ["--config=configs/simvtp.py:smoke", f"--config.data.dir={data_dir}"]
  with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
  command += [flag.replace(":0", f":{port}") for flag in more]
  with open("/dev/full", "w") as full:
    out = subprocess.PIPE if stop else full
    run = subprocess.Popen(
      command, cwd=ROOT, stdout=out, stderr=subprocess.PIPE, text=True
    )
    if stop:
      run.stdout.close()
    _, errors = run.communicate(timeout=240)
  assert run.returncode == 0, errors
  assert errors.count("standard output: cannot be written") == 1
  results = lambda place: json.loads((place / "results.json").read_text())["results"]
  assert results(tmp_path) == results(finished[0])


@pytest.mark.nightly
def test_killed_and_resumed_is_bitwise_the_same(mac_smoke, tmp_path):
  """SIGKILL at a random moment after the first step; test_kill.py has all moments."""
  config = without_evals(mac_smoke, steps=14)
  train_and_evaluate(config, tmp_path / "reference")
  rng, killed = np.random.default_rng(), tmp_path / "killed"
  process, line = start(config, killed), ""
  while not line.startswith("step ") and process.poll() is None:
    line = process.stdout.readline()
  time.sleep(rng.uniform(0, 0.4))
  process.send_signal(signal.SIGKILL)
  process.wait()
  process.stdout.close()
  code, text = finish(start(config, killed))
  assert code == 0, text
  assert_same(params(killed, 14), params(tmp_path / "reference", 14))
  assert losses(killed) == losses(tmp_path / "reference")


@pytest.mark.nightly
def test_sigterm_saves_and_asks_for_requeue(smoke, tmp_path):
  config = without_evals(smoke, steps=5000, checkpoint_every=5000)
  process = start(config, tmp_path / "run")
  while not process.stdout.readline().startswith("step 3/"):
    assert process.poll() is None
  process.send_signal(signal.SIGTERM)
  code, text = finish(process)
  assert code == 85, text
  (saved,) = (p for p in (tmp_path / "run" / "checkpoints").iterdir() if p.is_dir())
  assert f"after step {saved.name}, saved" in text
  assert int(saved.name) >= 3


@pytest.mark.nightly
def test_a_killed_loader_ends_the_run_after_a_checkpoint(mac_smoke, tmp_path):
  """As the kernel kills the process with the most memory."""
  config = without_evals(mac_smoke, steps=40, checkpoint_every=100)
  train_and_evaluate(config, tmp_path / "reference")
  config["data"]["num_workers"] = 1
  process = start(config, tmp_path / "run")
  while not process.stdout.readline().startswith("step 2/"):
    assert process.poll() is None
  os.kill(loader_pid(process.pid), signal.SIGKILL)
  code, text = finish(process)
  assert code == 2, text
  assert "a loader process was killed" in text
  assert "lower config.data.num_workers" in text
  (saved,) = (p for p in (tmp_path / "run" / "checkpoints").iterdir() if p.is_dir())
  assert 2 <= int(saved.name) < 40
  code, text = finish(start(config, tmp_path / "run"))
  assert code == 0, text
  assert losses(tmp_path / "run") == losses(tmp_path / "reference")
  assert_same(params(tmp_path / "run", 40), params(tmp_path / "reference", 40))


@pytest.mark.nightly
def test_a_2x2x2_mesh_gives_the_same_losses_as_one_device(smoke, tmp_path):
  config = without_evals(smoke, steps=4)
  train_and_evaluate(config, tmp_path / "one")
  config["mesh"] = dict(data=2, fsdp=2, tensor=2)
  code, text = finish(start(config, tmp_path / "eight", **eight_devices()))
  assert code == 0, text
  assert "data=2 x fsdp=2 x tensor=2" in text
  one, eight = losses(tmp_path / "one"), losses(tmp_path / "eight")
  assert one.keys() == eight.keys() == {1, 2, 3, 4}
  for step, value in one.items():
    assert eight[step] == pytest.approx(value, rel=2e-4), step


def test_kernels_and_optimiser_states_are_sharded(smoke, tmp_path):
  config = without_evals(smoke) | dict(mesh=dict(data=2, fsdp=2, tensor=2))
  found = on_eight_devices("print_shards", json.dumps(config), tmp_path / "run")
  assert set(found[1:]) == {
    "up (32, 128) (16, 64)",
    "down (128, 32) (64, 16)",
    "query (32, 32) (16, 16)",
    "out (32, 32) (16, 16)",
    "words (256, 32) (128, 16)",
    "adam (256, 32) (128, 16)",
    "muon (32, 128) (16, 64)",
    "bias (32,) (32,)",
  }


@pytest.mark.nightly
def test_frozen_parameters_stay_bitwise_the_same(smoke, tmp_path):
  """They have no optimiser state; all other parameters are trained."""
  config = without_evals(smoke, steps=4)
  config["optim"] |= dict(lr_rules=[["^word", 0.0], [".*", 1.0]])
  run = setup.build(config, tmp_path)
  before = dict(flat(jax.tree.map(np.asarray, run.state.params)))
  run.checkpoints.close()
  run.writer.close()
  train_and_evaluate(config, tmp_path)
  saved = params(tmp_path, 4)
  for name, value in before.items():
    same = np.array_equal(saved[f"params/{name}"], value)
    assert same == name.startswith("word"), name
  moments = {k for k in saved if k.startswith("opt_state") and "/word_" in k}
  assert not moments
  train_and_evaluate(config | dict(steps=4), tmp_path)  # can be restored


@pytest.mark.parametrize(
  ("error", "raised"),
  [
    (DivergedError("not finite"), DivergedError),
    (DataBudgetError("too many"), DataBudgetError),
    (Preempted("stopped"), CheckpointError),
    (None, CheckpointError),
  ],
)
def test_what_fails_at_the_end_does_not_replace_an_error(error, raised, capfd):
  """Its exit code decides whether a launcher starts the run again."""
  run = mock.Mock(spec=setup.Run)
  for name in ("profile", "writer", "checkpoints", "mirror"):
    setattr(run, name, mock.Mock())
  run.checkpoints.close.side_effect = CheckpointError("4: not written")
  run.mirror.finish.side_effect = CheckpointError("gs://bucket/run: not written")

  def work():
    with loop._closing(run):
      if error:
        raise error

  with pytest.raises(raised):
    work()
  kept = raised is not CheckpointError
  run.checkpoints.close.assert_called_once_with(not kept)
  warning = "WARNING: gs://bucket/run: not written" in capfd.readouterr().err
  assert warning == kept


def test_a_step_compiles_once(smoke, tmp_path):
  run = setup.build(without_evals(smoke), tmp_path / "run")
  batches = loader.train_batches(
    run.config.data,
    run.config.clip,
    run.config.text,
    run.config.mask,
    run.tokenizer,
    batch_size=run.config.batch_size,
    seed=0,
  )
  state = run.state
  try:
    for _ in range(3):
      batch = next(batches)
      batch = {k: v for k, v in batch.items() if k not in ("record", "problem")}
      state, _ = run.train_step(state, sharding.put_batch(batch, run.mesh))
    assert run.train_step.jitted._cache_size() == 1
  finally:
    batches.close()
    run.checkpoints.close()
    run.writer.close()


@pytest.mark.nightly  # by day: of each term, objectives/; of rows, data/
def test_damaged_records_do_not_contribute_to_the_loss(
  mac_smoke, data_dir, tmp_path, monkeypatch
):
  """Parameters equal those of a run on undamaged data with these rows invalid."""
  spoil = {3: b"", 40: b"<html>not found</html>", 77: b"\0" * 4000}
  for name, damage in (("damaged", spoil), ("undamaged", {})):
    write_damaged_data(data_dir, tmp_path / name, damage)
  config = without_evals(mac_smoke, steps=6)
  config["data"] |= dict(name="clips", max_bad_fraction=0.1)
  config["data"]["dir"] = str(tmp_path / "damaged")
  train_and_evaluate(config, tmp_path / "run-damaged")

  class Masked(loader.Batches):
    def __next__(self):
      batch = super().__next__()
      return batch | dict(valid=~np.isin(batch["record"], list(spoil)))

  config["data"]["dir"] = str(tmp_path / "undamaged")
  monkeypatch.setattr(loader, "Batches", Masked)
  train_and_evaluate(config, tmp_path / "run-undamaged")
  assert_same(
    params(tmp_path / "run-damaged", 6), params(tmp_path / "run-undamaged", 6)
  )
  lines = (tmp_path / "run-damaged" / "quarantine.jsonl").read_text().splitlines()
  assert {json.loads(line)["record"] for line in lines} == set(spoil)


@pytest.mark.nightly
def test_too_many_damaged_records_end_the_run_with_code_3(smoke, data_dir, tmp_path):
  write_damaged_data(data_dir, tmp_path, dict.fromkeys(range(0, 96, 4), b"gone"))
  config = without_evals(smoke, steps=100)
  config["data"] |= dict(name="clips", dir=str(tmp_path))
  with pytest.raises(DataBudgetError, match=r"quarantine\.jsonl") as e:
    train_and_evaluate(config, tmp_path / "run")
  assert e.value.exit_code == 3


def test_resuming_with_other_data_is_rejected(mac_smoke, data_dir, tmp_path):
  for name, damage in (("one", {}), ("two", {5: b"other"})):
    write_damaged_data(data_dir, tmp_path / name, damage)
  config = without_evals(mac_smoke)
  config["data"] |= dict(name="clips", dir=str(tmp_path / "one"))
  train_and_evaluate(config, tmp_path / "run")
  config["data"]["dir"] = str(tmp_path / "two")
  with pytest.raises(CheckpointError, match="not the data of the run"):
    train_and_evaluate(config, tmp_path / "run")
  train_and_evaluate(
    config, tmp_path / "run", policy=CheckpointPolicy(allow_data_change=True)
  )
  incident = json.loads((tmp_path / "run" / "incidents.jsonl").read_text())
  assert "not the data of the run" in incident["what"]


def test_missing_data_names_the_demo(smoke, tmp_path):
  smoke["data"] |= dict(name="webvid2m", dir=str(tmp_path))
  with pytest.raises(DataError, match="--config=simvtp"):
    train_and_evaluate(smoke, tmp_path / "run")
