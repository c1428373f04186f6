"""The EMA of all parameters (`optim.ema_decay`), which evaluations use."""

import json
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from conftest import on_eight_devices

from configs import common, mac, miles, simvtp
from vtr_jax import evaluate
from vtr_jax.core import batch, sharding
from vtr_jax.core.config import read
from vtr_jax.core.errors import ConfigError
from vtr_jax.inference import load as load_lib
from vtr_jax.plan import chips, problem
from vtr_jax.train import setup
from vtr_jax.train.config import TrainConfig
from vtr_jax.train.loop import train_and_evaluate

EMA = 0.3


def config(data_dir, module=mac, **changes):
  c = module.get_config("smoke").to_dict()
  c["data"]["dir"] = str(data_dir)
  c |= dict(evals={}, steps=4, checkpoint_every=2, log_every=1)
  c["optim"] |= dict(warmup_steps=0, ema_decay=EMA)
  for key, value in changes.items():
    c[key] = c[key] | value if isinstance(value, dict) else value
  return json.loads(json.dumps(c))


def build(c, place):
  run = setup.build(c, place)
  run.writer.close()
  run.checkpoints.close()
  return run


def stored(place, step):
  """The state of a checkpoint."""
  path = (place / "checkpoints" / str(step) / "state").absolute()
  with ocp.StandardCheckpointer() as reader:
    return jax.tree.map(np.asarray, reader.restore(path))


same = lambda a, b: jax.tree.map(np.testing.assert_array_equal, a, b)


def test_the_ema_is_the_moving_average_of_the_parameters(data_dir, tmp_path):
  """Step by step against NumPy, with the smaller decay of the first steps."""
  run = build(config(data_dir, micro_batches=2, optim=dict(ema_decay=0.15)), tmp_path)
  c, state = run.config, run.state
  fake = sharding.put_batch(batch.fake(c.clip, c.text, c.mask, c.batch_size), run.mesh)
  host = lambda tree: np.asarray(tree["video_proj"]["kernel"], np.float64)
  expected = host(state.params)
  np.testing.assert_array_equal(host(state.ema_params), expected)
  for keep in (1 / 10, 0.15, 0.15):  # then 2 / 11, 3 / 12
    state, _ = run.train_step(state, fake)
    expected = keep * expected + (1 - keep) * host(state.params)
    np.testing.assert_allclose(host(state.ema_params), expected, rtol=1e-4, atol=1e-6)
  assert np.abs(host(state.params) - expected).max() > 1e-4


@pytest.mark.nightly
def test_the_ema_of_a_resumed_run_is_bitwise_the_same(data_dir, tmp_path):
  """In a run that has a teacher too."""
  c = config(data_dir, miles)
  train_and_evaluate(c, tmp_path)
  reference = stored(tmp_path, 4)
  shutil.rmtree(tmp_path / "checkpoints" / "4")
  train_and_evaluate(c, tmp_path)
  same(stored(tmp_path, 4), reference)
  with pytest.raises(ConfigError, match=r"optim.ema_decay: 0.3 there, 0.0 now"):
    train_and_evaluate(config(data_dir, miles, optim=dict(ema_decay=0.0)), tmp_path)


@pytest.mark.nightly
def test_the_ema_is_what_is_evaluated_loaded_and_used_by_init_from(data_dir, tmp_path):
  evals = dict(test=common.retrieval("test"))
  source = tmp_path / "a"
  numbers = train_and_evaluate(config(data_dir, evals=evals), source)
  state = stored(source, 4)
  found = load_lib.load(source)
  same(found.params, state["mean"])
  assert not np.array_equal(
    state["mean"]["video_proj"]["kernel"], state["params"]["video_proj"]["kernel"]
  )
  request = evaluate.Request("custom", {}, checkpoint=str(source))
  own = {k.removeprefix("test/"): v for k, v in numbers.items()}
  assert evaluate.evaluate(request) == pytest.approx(own)
  # A run that starts from it, with an EMA of its own or without.
  for ema in (0.0, 0.9):
    changes = dict(init_from=str(source), seed=7, optim=dict(ema_decay=ema))
    fresh = build(config(data_dir, **changes), tmp_path / f"b{ema}").state
    same(fresh.params, state["mean"])
    assert (fresh.ema_params is None) == (ema == 0)
    same(fresh.eval_params, state["mean"])


@pytest.mark.nightly
def test_without_an_ema_checkpoints_and_older_configs_have_no_trace_of_it(
  data_dir, tmp_path
):
  """An older run's config, which has no such key, is accepted."""
  c = config(data_dir, optim=dict(ema_decay=0.0))
  train_and_evaluate(c, tmp_path)
  assert set(stored(tmp_path, 4)) == {"step", "params", "opt_state", "teacher"}
  reference = stored(tmp_path, 4)
  shutil.rmtree(tmp_path / "checkpoints" / "4")
  older = json.loads((tmp_path / "config.json").read_text())
  for key in ("ema_decay", "layer_decay"):
    del older["optim"][key]
  del older["init_allow"], older["objective"]["arch"]
  (tmp_path / "config.json").write_text(json.dumps(older))
  same(load_lib.load(tmp_path).params, stored(tmp_path, 2)["params"])
  train_and_evaluate(c, tmp_path)
  same(stored(tmp_path, 4), reference)


@pytest.mark.nightly
def test_the_ema_is_sharded_like_the_parameters(data_dir, tmp_path):
  """Its values equal those of one device, within rounding."""
  c = config(data_dir, simvtp, steps=2)
  train_and_evaluate(c, tmp_path / "one")
  c["mesh"] = dict(data=2, fsdp=2, tensor=2)
  found = on_eight_devices("compare_ema_shardings", json.dumps(c), tmp_path / "eight")
  assert int(found[-1]) > 10
  one, eight = (load_lib.load(tmp_path / name).params for name in ("one", "eight"))
  same(one, stored(tmp_path / "one", 2)["mean"])
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), one, eight)


def test_a_plan_counts_the_bytes_of_the_ema():
  target = chips.find("v5e:2x2", compiler=False)
  for ema in (0.0, EMA):
    values = mac.get_config("smoke").to_dict()
    values["optim"]["ema_decay"] = ema
    c = read(TrainConfig, values)
    held = problem.make(c, target).held()
    assert held["ema"] == (held["parameters"] if ema else 0)
