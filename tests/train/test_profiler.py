"""What a run reports of its speed, memory and steps."""

import sys
import time
import types

import jax
import jax.numpy as jnp
import pytest
from training import without_evals

from configs import mac
from vtr_jax.core.config import read
from vtr_jax.core.errors import ConfigError
from vtr_jax.data import loader
from vtr_jax.train import flops, loop, memory, progress, setup, writer
from vtr_jax.train.config import TrainConfig
from vtr_jax.train.loop import train_and_evaluate
from vtr_jax.train.profiler import MonitorOptions


@pytest.mark.nightly
def test_throughput_mfu_and_goodput_are_logged_over_two_starts(
  smoke, tmp_path, monkeypatch
):
  monkeypatch.setitem(flops.PEAKS, "cpu", 1e9)
  config = without_evals(smoke, steps=6)
  stopping = loop.Progress.add

  def stop_at_4(log, done, numbers):
    stopping(log, done, numbers)
    if done == 4:
      raise KeyboardInterrupt

  monkeypatch.setattr(loop.Progress, "add", stop_at_4)
  with pytest.raises(KeyboardInterrupt):
    train_and_evaluate(config, tmp_path)
  monkeypatch.setattr(loop.Progress, "add", stopping)
  time.sleep(2)  # waiting for a machine, for example
  train_and_evaluate(config, tmp_path)
  records = {r["step"]: r for r in writer.read(tmp_path / "metrics.jsonl")}
  model_flops = read(TrainConfig, config).flops()
  for step in (2, 6):
    record = records[step]
    assert record["tflops_per_device"] == pytest.approx(
      record["clips_per_second_per_device"] / config["batch_size"] * model_flops / 1e12
    )
    assert record["mfu"] == pytest.approx(record["tflops_per_device"] * 1e12 / 1e9)
    assert 0 < record["goodput"] < 1
  # Both starts compiled, and between them nothing happened.
  spent = lambda step: records[step]["goodput"]
  assert spent(6) < 0.5


@pytest.mark.nightly
def test_a_run_that_waits_for_data_warns_once(smoke, tmp_path, monkeypatch, capsys):
  quick = loader.Batches.__next__

  def slow(batches):
    time.sleep(0.2)
    return quick(batches)

  monkeypatch.setattr(loader.Batches, "__next__", slow)
  monkeypatch.setattr(progress, "_LONG", 0.0)
  train_and_evaluate(without_evals(smoke, steps=6), tmp_path)
  output = capsys.readouterr().out.splitlines()
  (warning,) = (line for line in output if line.startswith("WARNING"))
  assert "waiting for data; raise config.data.num_workers" in warning
  shown = [line for line in output if "waiting for data" in line and "step " in line]
  assert len(shown) == 5  # all but the first, which compiles
  records = {r["step"]: r for r in writer.read(tmp_path / "metrics.jsonl")}
  assert max(r["data_wait"] for r in records.values() if "data_wait" in r) > 0.2


def test_model_flops_exclude_recomputation_and_masked_tubelets(smoke):
  model_flops = lambda config: read(TrainConfig, config).flops()
  plain = model_flops(smoke)
  smoke["objective"]["compute"]["remat"] = "full"
  smoke["micro_batches"] = 2
  assert model_flops(smoke) == plain
  config = mac.get_config("smoke").to_dict()
  hidden = model_flops(config)
  config["mask"]["video_ratio"] = 0.0
  assert model_flops(config) > 1.1 * hidden


@pytest.mark.nightly
def test_a_profile_of_the_given_steps_is_written(smoke, tmp_path, capsys):
  train_and_evaluate(
    without_evals(smoke, steps=4), tmp_path, MonitorOptions(profile="2:3")
  )
  (trace,) = (tmp_path / "profile").rglob("*.xplane.pb")
  assert trace.stat().st_size > 1000
  assert (tmp_path / "profile" / "memory-0.prof").stat().st_size > 100
  assert "steps 2 to 3 are traced" in capsys.readouterr().out


@pytest.mark.parametrize("steps", ["3", "5:4", "0:2", "a:b", "1:" + 5000 * "9"])
def test_an_invalid_range_of_profiled_steps_is_rejected(steps):
  with pytest.raises(ConfigError, match="must be FIRST:LAST"):
    MonitorOptions(profile=steps)


@pytest.mark.nightly
def test_metrics_are_logged_to_wandb(smoke, tmp_path, monkeypatch):
  """A resumed run has the same id; a fake package, as the real one needs an account."""
  made, logged = [], []
  run = types.SimpleNamespace(
    log=lambda values, step: logged.append((step, values)),
    finish=lambda: logged.append("finished"),
  )
  fake = types.SimpleNamespace(init=lambda **kwargs: made.append(kwargs) or run)
  monkeypatch.setitem(sys.modules, "wandb", fake)
  for _ in range(2):
    train_and_evaluate(
      without_evals(smoke, steps=3), tmp_path, MonitorOptions(wandb="mine")
    )
  assert [m["project"] for m in made] == ["mine", "mine"]
  assert made[0]["id"] == made[1]["id"]
  assert made[0]["config"]["batch_size"] == smoke["batch_size"]
  assert logged[-1] == "finished"
  step, values = logged[1]
  assert (step, values["loss/total"] > 0) == (2, True)


def test_a_missing_wandb_package_is_named(smoke, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "wandb", None)
  with pytest.raises(ConfigError, match=r"--wandb=mine: .*pip install wandb"):
    train_and_evaluate(without_evals(smoke), tmp_path, MonitorOptions(wandb="mine"))


# --- Memory -----------------------------------------------------------------------


def test_the_memory_of_a_step_is_reported_before_the_first_step():
  square = jax.jit(lambda x: x @ x)
  line = memory.report(square, jax.ShapeDtypeStruct((1000, 1000), jnp.float32))
  assert line.startswith("a step takes 8 MB of a device's memory: 8 MB state and batch")


@pytest.mark.nightly
def test_out_of_memory_errors_list_remedies_in_order(smoke, tmp_path, monkeypatch):
  """The error is real: the step allocates more than any host has."""
  full = lambda *_: jnp.zeros((1 << 50,)).sum()
  config = without_evals(smoke, micro_batches=2, batch_size=16)
  build = setup.build

  def small(*args):
    run = build(*args)
    jitted = run.train_step.jitted
    run.train_step = full
    full.jitted = jitted
    return run

  monkeypatch.setattr(setup, "build", small)
  with pytest.raises(ConfigError, match="out of memory") as e:
    train_and_evaluate(config, tmp_path)
  output = str(e.value)
  ways = ["compute.remat=full", "micro_batches=4", "batch_size=8", "video_ratio"]
  places = [output.index(way) for way in ways]
  assert places == sorted(places)
  assert "fsdp" not in output  # one device
  assert "ring" not in output  # 16 x 16 similarities
