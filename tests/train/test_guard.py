"""Non-finite steps, spikes and collapse: skipped, rolled back, dumped or reported."""

import importlib
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import eight_devices, run_main
from training import assert_same, flat, losses, params, without_evals

from configs import mac, miles
from vtr_jax import replay
from vtr_jax.core import sharding
from vtr_jax.core.batch import HOST_KEYS
from vtr_jax.core.errors import CheckpointError, DivergedError, VtrError
from vtr_jax.data import loader
from vtr_jax.train import guard, setup
from vtr_jax.train.config import Parts
from vtr_jax.train.loop import train_and_evaluate
from vtr_jax.train.loss import Loss

NIGHTLY = pytest.mark.nightly


@pytest.fixture
def smoke(data_dir, request):
  """MAC's smoke config, the fastest to compile; or MILES', by its `teacher.update`."""
  follow = getattr(request, "param", "")
  config = (miles if follow else mac).get_config("smoke").to_dict()
  if follow:
    config["objective"]["teacher"] |= dict(update=follow, update_every=1)
  config["data"]["dir"] = str(data_dir)
  return config


def first_batches(config, tmp_path, count):
  """(run, its first `count` batches on the device)."""
  run = setup.build(config, tmp_path)
  c, found = run.config, []
  with loader.train_batches(
    c.data, c.clip, c.text, c.mask, run.tokenizer, batch_size=c.batch_size, seed=c.seed
  ) as batches:
    for _ in range(count):
      batch = next(batches)
      batch = {k: v for k, v in batch.items() if k not in HOST_KEYS}
      found.append(sharding.put_batch(batch, run.mesh))
  run.checkpoints.close()
  run.writer.close()
  return run, found


@pytest.fixture
def spoil(monkeypatch, smoke, tmp_path):
  """Multiplies loss and gradient of the batches of these numbers by `factor`."""
  _, batches = first_batches(without_evals(smoke), tmp_path / "look", 12)
  plain = Loss.gradient

  def with_damage(numbers, factor=jnp.nan, patch=monkeypatch):
    marks = jnp.stack([batches[n]["text_ids"].sum() for n in numbers])
    assert len(set(marks.tolist())) == len(numbers)

    def gradient(self, params, teacher, batch, key):
      metrics, grads = plain(self, params, teacher, batch, key)
      hit = (marks == batch["text_ids"].sum()).any()
      damage = lambda x: jnp.where(hit, x * factor, x)
      metrics = {
        k: damage(v) if k.startswith("loss") else v for k, v in metrics.items()
      }
      return metrics, jax.tree.map(damage, grads)

    patch.setattr(Loss, "gradient", gradient)

  return with_damage


def read_dump(place):
  return json.loads((place / "dump.json").read_text())


def incidents(workdir):
  lines = (workdir / "incidents.jsonl").read_text().splitlines()
  return [json.loads(line)["what"] for line in lines]


@pytest.mark.parametrize(
  "smoke",
  ["", pytest.param("ema", marks=NIGHTLY), pytest.param("copy", marks=NIGHTLY)],
  indirect=True,
)
def test_a_step_that_is_not_finite_does_not_change_the_state(smoke, tmp_path, spoil):
  """All but the step's number: optimiser state and EMA too.

  A teacher that is a copy of the parameters is still updated before the step.
  """
  config = without_evals(smoke)
  config["optim"] |= dict(ema_decay=0.9, moments="bfloat16")
  spoil([1])
  run, batches = first_batches(config, tmp_path / "run", 3)
  states = [run.state]
  for batch in batches:
    copy = jax.tree.map(jnp.copy, states[-1])
    state, numbers = run.train_step(copy, batch)
    states.append(state)
    assert numbers["skipped"] == (len(states) == 3)
  before, after = (s.replace(step=0) for s in states[1:3])
  if smoke["objective"].get("teacher", {}).get("update") == "copy":
    before = before.replace(teacher=run.objective.teacher_params(before.params))
  jax.tree.map(np.testing.assert_array_equal, before, after)
  assert [int(s.step) for s in states] == [0, 1, 2, 3]
  moved = [
    not np.array_equal(a, b)
    for a, b in zip(
      jax.tree.leaves(states[2].params), jax.tree.leaves(states[3].params), strict=True
    )
  ]
  assert any(moved)


@pytest.mark.nightly
def test_a_few_bad_steps_are_skipped(smoke, tmp_path, spoil):
  spoil([2, 4])
  train_and_evaluate(without_evals(smoke, steps=8), tmp_path / "run")
  assert sorted(losses(tmp_path / "run")) == [1, 2, 4, 6, 7, 8]
  reported = incidents(tmp_path / "run")
  assert [t.split(":")[0] for t in reported] == [
    "step 3 is skipped",
    "step 5 is skipped",
  ]
  assert "loss/total = nan, grad_norm = nan" in reported[0]
  assert "(2 in 100 steps, guard.budget is 3)" in reported[1]


@pytest.mark.nightly  # by day: a bad step, and the guard's own decisions
def test_too_many_bad_steps_roll_back_and_skip_their_data(smoke, tmp_path, spoil):
  """The result is that of a run from the checkpoint that never had that data."""
  config = without_evals(smoke, steps=8) | dict(checkpoint_keep=9)
  config["guard"] |= dict(budget=1)
  spoil([4, 6])  # of steps 5 and 7
  workdir = tmp_path / "run"
  train_and_evaluate(config, workdir)
  assert (
    "rolled back to checkpoint 4; resuming with the data after step 7"
    in incidents(workdir)[-1]
  )
  assert sorted(losses(workdir)) == list(range(1, 9))
  meta = json.loads((workdir / "checkpoints/8/meta/metadata").read_text())
  assert meta["next_batch"] == 11
  assert meta["guard"] == dict(bad=[], rolled_to=4)
  shutil.copytree(workdir, tmp_path / "again")
  for later in (6, 8):
    shutil.rmtree(tmp_path / "again" / "checkpoints" / str(later))
  run, batches = first_batches(config, tmp_path / "again", 11)
  state = run.state
  for batch in batches[7:]:
    state, _ = run.train_step(state, batch)
  saved = params(workdir, 8)
  for name, value in flat(state.params):
    np.testing.assert_array_equal(saved[f"params/{name}"], value, err_msg=name)


@pytest.mark.nightly
def test_a_roll_back_uses_the_oldest_checkpoint_if_none_is_old_enough(
  smoke, tmp_path, spoil
):
  """Checkpoints contain no bad step, so any is valid; training never restarts."""
  config = without_evals(smoke, steps=10) | dict(checkpoint_keep=2)
  config["guard"] |= dict(budget=1)
  spoil([2, 8])  # of steps 3 and 9: 6 and 8 are kept then
  train_and_evaluate(config, tmp_path)
  assert (
    "rolled back to checkpoint 6; resuming with the data after step 9"
    in incidents(tmp_path)[-1]
  )
  assert sorted(losses(tmp_path)) == [1, 2, 4, 5, 6, 7, 8, 9, 10]


@pytest.mark.nightly
def test_a_roll_back_that_was_killed_is_repeated_bitwise_the_same(
  smoke, tmp_path, spoil
):
  """It is first recorded in the next checkpoint; killed before that, it is repeated."""
  config = without_evals(smoke, steps=8)
  config["guard"] |= dict(budget=1)
  spoil([4, 6])
  train_and_evaluate(config, tmp_path / "reference")
  for step_left in (4, 6):  # what a kill leaves, before and after that checkpoint
    workdir = tmp_path / f"killed-{step_left}"
    train_and_evaluate(config | dict(checkpoint_keep=9), workdir)
    for later in (s for s in (6, 8) if s > step_left):
      shutil.rmtree(workdir / "checkpoints" / str(later))
    train_and_evaluate(config | dict(checkpoint_keep=9), workdir)
    assert_same(params(workdir, 8), params(tmp_path / "reference", 8))
    assert losses(workdir) == losses(tmp_path / "reference")


DAMAGE = [
  (lambda d: d["records"].pop(), "batch_size: 16, but there are 15 records"),
  (lambda d: d["config"].update(micro_batches=3), "micro_batches: 3 does not divide"),
  (
    lambda d: d["config"]["loss_weights"].update(x=1.0),
    r"loss_weights\.x: no such term",
  ),
  (lambda d: d.pop("step"), r"dump\.json\.step: missing"),
  (lambda d: d["sums"].append(d["sums"].pop() + 1), "values differ from those saved"),
]


@pytest.mark.nightly
def test_a_second_roll_back_ends_the_run_with_a_dump_of_the_step(
  smoke, tmp_path, spoil, capsys
):
  """Its replay gives the same metrics, and finite ones once the cause is removed."""
  config = without_evals(smoke, steps=8)
  config["guard"] |= dict(budget=0)
  with pytest.MonkeyPatch.context() as patch:
    spoil(range(3, 12), patch=patch)
    with pytest.raises(DivergedError) as e:
      train_and_evaluate(config, tmp_path / "run")
    place = tmp_path / "run" / "dumps" / "3"
    assert e.value.exit_code == 4
    assert f"again after rolling back to step 2; the step is in {place}" in str(e.value)
    with pytest.raises(DivergedError, match="not finite here either: grad_norm, loss/"):
      replay.replay(place)
  dump = read_dump(place)
  assert len(dump["records"]) == config["batch_size"]
  assert all(name.startswith("train-") for name in dump["records"])
  assert np.isnan(dump["numbers"]["loss/total"])
  capsys.readouterr()
  replay.replay(place)
  lines = capsys.readouterr().out.splitlines()
  assert lines[-1] == "all is finite here"
  # Nothing but the losses was spoiled: the rest is as it was, to the last digit.
  (line,) = (line for line in lines if line.startswith("anisotropy/video"))
  assert line.split()[1] == line.split()[2]
  for change, message in DAMAGE:  # one line that names the dump
    dump = read_dump(place)
    change(dump)
    shutil.copytree(place, damaged := tmp_path / "damaged", dirs_exist_ok=True)
    (damaged / "dump.json").write_text(json.dumps(dump))
    with pytest.raises(VtrError, match=rf"^{damaged}[^\n]*{message}"):
      replay.replay(damaged)


@pytest.mark.nightly
@pytest.mark.parametrize("objective", ["mac", "miles"])
def test_the_dump_of_a_spike_replays_the_same_step(
  objective, data_dir, tmp_path, capsys
):
  """With the loss history and the teacher of that step; also with 8 devices visible."""
  module = importlib.import_module(f"configs.{objective}")
  config = without_evals(module.get_config("smoke").to_dict(), steps=12, batch_size=12)
  config["data"]["dir"], config["micro_batches"] = str(data_dir), 3
  config["guard"] |= dict(spike=1e-3, on_spike="roll_back", window=3, budget=0)
  if objective == "miles":  # due in every step
    config["objective"]["teacher"] |= dict(update="copy", update_every=1)
  with pytest.raises(DivergedError) as e:
    train_and_evaluate(config, tmp_path)
  (place,) = (tmp_path / "dumps").iterdir()
  assert str(place) in str(e.value)
  capsys.readouterr()
  replay.replay(place)
  lines = capsys.readouterr().out.splitlines()
  rows = {line.split()[0]: line.split()[1:] for line in lines if "/" in line}
  (spike,) = (line.split()[1:] for line in lines if line.startswith("spike "))
  assert spike[0] == spike[1]
  assert float(spike[0]) > 1e-3
  assert all(here == there for here, there in rows.values()), rows
  assert lines[-1].startswith("all is finite, as in the run: it was a spike of")
  eight = run_main(place, module="vtr_jax.replay", **eight_devices())
  assert eight.returncode == 0, eight.stderr
  assert "12 records, 4 device(s)" in eight.stdout


@pytest.mark.nightly
def test_an_evaluation_of_a_diverged_run_raises_diverged_error(data_dir, tmp_path):
  """With the exit code of a diverged training."""
  config = mac.get_config("smoke").to_dict()
  config["data"]["dir"] = str(data_dir)
  config["optim"] |= dict(lr=1e30, clip_norm=0.0)
  config["evals"] = dict(validation=config["evals"]["validation"] | dict(every=3))
  with pytest.raises(DivergedError, match="evaluation validation after step 3: "):
    train_and_evaluate(config, tmp_path)


@pytest.mark.nightly
def test_a_diverging_run_and_its_replay_exit_with_code_4(data_dir, tmp_path):
  """By the commands, at a learning rate that is too high."""
  flags = ["--config=configs/simvtp.py:smoke", f"--workdir={tmp_path / 'run'}"]
  flags += [f"--config.data.dir={data_dir}", "--config.optim.lr=1e30"]
  flags += ["--config.evals.validation.every=0"]
  run = run_main(*flags, "--config.optim.clip_norm=0.0")
  assert run.returncode == 4, run.stderr
  (line,) = (x for x in run.stderr.splitlines() if x.startswith("DivergedError: "))
  assert "again after rolling back to step 2" in line
  again = run_main(tmp_path / "run" / "dumps" / "6", module="vtr_jax.replay")
  assert again.returncode == 4, again.stderr
  assert "not finite here either" in again.stderr
  assert "embeddings are not finite for 16 of 16 records" in again.stdout


def test_replay_rejects_a_directory_that_is_not_a_dump(tmp_path):
  with pytest.raises(CheckpointError, match="not a dump of a step"):
    replay.replay(tmp_path)


@pytest.mark.parametrize(
  "action",
  [
    pytest.param("roll_back", marks=NIGHTLY),  # by day: of steps that are not finite
    pytest.param("skip", marks=NIGHTLY),
    pytest.param("warn", marks=NIGHTLY),
  ],
)
def test_a_spike_is_reported_and_on_spike_decides_what_follows(
  action, smoke, tmp_path, spoil
):
  config = without_evals(smoke, steps=10)
  config["guard"] |= dict(spike=20.0, on_spike=action, window=5, budget=0)
  spoil([7], factor=1e3)
  workdir = tmp_path / "run"
  train_and_evaluate(config, workdir)
  (reported,) = incidents(workdir)
  assert reported.startswith("step 8")
  assert "spike of" in reported
  assert (8 in losses(workdir)) == (action != "skip")
  assert ("is skipped" in reported) == (action != "warn")
  assert ("rolled back to checkpoint 6" in reported) == (action == "roll_back")


def test_the_spike_score_by_hand():
  rng = np.random.default_rng(0)
  recent = rng.normal(5, 1, (2, 31)).astype(np.float32)
  numbers = {"loss/total": jnp.float32(9.0), "grad_norm": jnp.float32(8.0)}
  middle = np.median(recent, axis=1)
  spread = 1.4826 * np.median(abs(recent - middle[:, None]), axis=1)
  expected = max((9 - middle[0]) / spread[0], (8 - middle[1]) / spread[1])
  sound, after, more = guard.accept(numbers, jnp.asarray(recent), 2.0)
  assert more["spike"] == pytest.approx(expected, rel=1e-5)
  assert not sound
  assert more["skipped"] == 1
  np.testing.assert_array_equal(after, np.c_[recent[:, 1:], [9, 8]])
  nan = numbers | {"loss/total": jnp.float32(jnp.nan)}
  sound, after, more = guard.accept(nan, jnp.asarray(recent), np.inf)
  assert not sound
  np.testing.assert_array_equal(after, recent)


def test_there_is_no_spike_before_the_history_is_full():
  history = guard.new_history(3)
  for loss in (1.0, 1e9, 1.0):
    numbers = {"loss/total": jnp.float32(loss), "grad_norm": jnp.float32(1.0)}
    sound, history, _ = guard.accept(numbers, history, 5.0)
    assert sound
  numbers = {"loss/total": jnp.float32(1e9), "grad_norm": jnp.float32(1.0)}
  assert not guard.accept(numbers, history, 5.0)[0]


def test_anisotropy_by_hand():
  x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
  x /= np.linalg.norm(x, axis=1, keepdims=True)
  valid = np.array([1, 1, 0, 1, 1, 1], bool)
  kept = x[valid] @ x[valid].T
  expected = kept[~np.eye(5, dtype=bool)].mean()
  found = guard.anisotropy(jnp.asarray(x), jnp.asarray(valid))
  assert found == pytest.approx(expected, abs=1e-6)
  same = jnp.ones((4, 1), jnp.float32)
  assert guard.anisotropy(same, jnp.ones(4, bool)) == pytest.approx(1)


@pytest.mark.nightly
def test_a_collapsed_encoder_is_reported_once(smoke, tmp_path, monkeypatch):
  """Its mean cosine is above `guard.collapse`; an untrained one's is not."""
  config = without_evals(smoke, steps=4)
  config["optim"] |= dict(lr_rules=[[".*", 0.0]])  # so it stays as it is
  train_and_evaluate(config, tmp_path / "usual")
  assert not (tmp_path / "usual" / "incidents.jsonl").exists()
  init = Parts.init

  def collapsed(parts, mesh):
    state = init(parts, mesh)
    norm = state.params["video_tower"]["norm"]
    norm["scale"], norm["bias"] = 0 * norm["scale"], 1 + norm["bias"]
    return state

  monkeypatch.setattr(Parts, "init", collapsed)
  train_and_evaluate(config, tmp_path / "collapsed")
  (reported,) = incidents(tmp_path / "collapsed")
  assert "mean cosine of different ones is video 1.0000, above guard.coll" in reported
