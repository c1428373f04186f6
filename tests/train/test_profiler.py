"""What a run tells of its speed, its memory and its steps."""

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
def test_speed_and_goodput_over_two_starts(smoke, tmp_path, monkeypatch):
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
  time.sleep(2)  # no machine was to be had
  train_and_evaluate(config, tmp_path)
  records = {r["step"]: r for r in writer.read(tmp_path / "metrics.jsonl")}
  asked = read(TrainConfig, config).flops()
  for step in (2, 6):
    told = records[step]
    assert told["tflops_per_device"] == pytest.approx(
      told["clips_per_second_per_device"] / config["batch_size"] * asked / 1e12
    )
    assert told["mfu"] == pytest.approx(told["tflops_per_device"] * 1e12 / 1e9)
    assert 0 < told["goodput"] < 1
  # Both starts compiled, and between them nothing happened.
  spent = lambda step: records[step]["goodput"]
  assert spent(6) < 0.5


def test_a_run_that_waits_for_data_says_so_once(smoke, tmp_path, monkeypatch, capsys):
  quick = loader.Batches.__next__

  def slow(batches):
    time.sleep(0.2)
    return quick(batches)

  monkeypatch.setattr(loader.Batches, "__next__", slow)
  monkeypatch.setattr(progress, "_LONG", 0.0)
  train_and_evaluate(without_evals(smoke, steps=6), tmp_path)
  said = capsys.readouterr().out.splitlines()
  (warning,) = (line for line in said if line.startswith("WARNING"))
  assert "waiting for data; raise config.data.num_workers" in warning
  shown = [line for line in said if "waiting for data" in line and "step " in line]
  assert len(shown) == 5  # all but the first, which compiles
  records = {r["step"]: r for r in writer.read(tmp_path / "metrics.jsonl")}
  assert max(r["data_wait"] for r in records.values() if "data_wait" in r) > 0.2


def test_what_is_computed_twice_counts_once(smoke):
  asked = lambda config: read(TrainConfig, config).flops()
  plain = asked(smoke)
  smoke["objective"]["compute"]["remat"] = "full"
  smoke["micro_batches"] = 2
  assert asked(smoke) == plain
  config = mac.get_config("smoke").to_dict()
  hidden = asked(config)
  config["mask"]["video_ratio"] = 0.0
  assert asked(config) > 1.1 * hidden


@pytest.mark.nightly
def test_a_profile_of_some_steps(smoke, tmp_path, capsys):
  train_and_evaluate(
    without_evals(smoke, steps=4), tmp_path, MonitorOptions(profile="2:3")
  )
  (trace,) = (tmp_path / "profile").rglob("*.xplane.pb")
  assert trace.stat().st_size > 1000
  assert (tmp_path / "profile" / "memory-0.prof").stat().st_size > 100
  assert "steps 2 to 3 are traced" in capsys.readouterr().out


@pytest.mark.parametrize("steps", ["3", "5:4", "0:2", "a:b", "1:" + 5000 * "9"])
def test_a_profile_of_no_steps(steps):
  with pytest.raises(ConfigError, match="must be FIRST:LAST"):
    MonitorOptions(profile=steps)


@pytest.mark.nightly
def test_numbers_go_to_wandb_too(smoke, tmp_path, monkeypatch):
  """The same run there when it is continued; the package itself needs an account."""
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


def test_wandb_is_missing(smoke, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "wandb", None)
  with pytest.raises(ConfigError, match=r"--wandb=mine: .*pip install wandb"):
    train_and_evaluate(without_evals(smoke), tmp_path, MonitorOptions(wandb="mine"))


# --- Memory -----------------------------------------------------------------------


def test_memory_is_told_before_the_first_step():
  square = jax.jit(lambda x: x @ x)
  line = memory.report(square, jax.ShapeDtypeStruct((1000, 1000), jnp.float32))
  assert line.startswith("a step takes 8 MB of a device's memory: 8 MB state and batch")


def test_out_of_memory_tells_what_helps(smoke, tmp_path, monkeypatch):
  """The error is real: no host has so much."""
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
  said = str(e.value)
  ways = ["compute.remat=full", "micro_batches=4", "batch_size=8", "video_ratio"]
  places = [said.index(way) for way in ways]
  assert places == sorted(places)
  assert "fsdp" not in said  # one device
  assert "ring" not in said  # 16 x 16 similarities
