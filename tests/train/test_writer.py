"""metrics.jsonl and the run's directory."""

import json
import sys
import types

import pytest

from vtr_jax.core.errors import ConfigError, DataError
from vtr_jax.train import workdir, writer


def test_steps_repeated_after_a_kill_are_logged_once(tmp_path):
  """A run that saved step 4, wrote 6, was killed, and does 5 and 6 again."""
  first = writer.Writer(tmp_path, 0)
  for step in (2, 4, 6):
    first.scalars(step, {"loss/total": float(step)})
    first.scalars(step, {"test/t2v/R@1": 0.0})
  first.close()
  with (tmp_path / "metrics.jsonl").open("a") as f:
    f.write('{"step": 8, "loss/to')  # cut by the kill
  second = writer.Writer(tmp_path, 4)
  second.scalars(6, {"loss/total": 60.0})
  second.close()
  records = writer.read(tmp_path / "metrics.jsonl")
  assert records == [
    {"step": 2, "loss/total": 2.0},
    {"step": 2, "test/t2v/R@1": 0.0},
    {"step": 4, "loss/total": 4.0},  # its evaluation comes after its checkpoint
    {"step": 6, "loss/total": 60.0},
  ]


def test_metrics_are_logged_without_tensorboardx(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorboardX", None)
  out = writer.Writer(tmp_path, 0)
  out.scalars(1, {"a": 1.0})
  out.close()
  assert not (tmp_path / "tensorboard").exists()
  assert writer.read(tmp_path / "metrics.jsonl") == [{"step": 1, "a": 1.0}]


def tensorboard_events(directory):
  """(step, name, value) of all events."""
  from tensorboardX.proto.event_pb2 import Event

  found = []
  for path in sorted((directory / "tensorboard").iterdir()):
    data = path.read_bytes()
    while data:
      size = int.from_bytes(data[:8], "little")
      event = Event.FromString(data[12 : 12 + size])
      found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
      data = data[16 + size :]
  return found


def test_tensorboard_has_the_metrics(tmp_path):
  out = writer.Writer(tmp_path, 0)
  out.scalars(1, {"loss/total": 0.5, "lr": 1.0})
  out.scalars(2, {"loss/total": 0.25})
  out.close()
  events = [(1, "loss/total", 0.5), (1, "lr", 1.0), (2, "loss/total", 0.25)]
  assert tensorboard_events(tmp_path) == events


def test_a_logger_that_fails_does_not_end_the_run(tmp_path, monkeypatch, capsys):
  """One raises, another's disk is full; each is reported once."""

  def fail(*_, **__):
    raise ConnectionError("no network")

  run = types.SimpleNamespace(log=fail, finish=fail)
  monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda **_: run))
  out = writer.Writer(tmp_path, 0, project="mine")
  file = out._others["TensorBoard"]._events._py_recordio_writer
  file.close()
  with open("/dev/full", "wb", buffering=0) as file._writer:
    for step in range(1, 31):  # a queue of any length would be full by then
      out.scalars(step, {"loss/total": float(step)})
    out.close()
  assert len(writer.read(tmp_path / "metrics.jsonl")) == 30
  warnings = sorted(capsys.readouterr().err.splitlines())
  assert len(warnings) == 2
  assert (
    "TensorBoard: cannot be written ([Errno 28] No space left on dev" in warnings[0]
  )
  assert "Weights & Biases: cannot be written (no network)" in warnings[1]


def test_a_logger_that_cannot_be_opened_does_not_end_the_run(
  tmp_path, monkeypatch, capsys
):
  def fail(**_):
    raise RuntimeError("no account")

  monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=fail))
  (tmp_path / "tensorboard").write_text("no directory")
  out = writer.Writer(tmp_path, 0, project="mine")
  out.scalars(1, {"a": 1.0})
  out.close()
  assert writer.read(tmp_path / "metrics.jsonl") == [{"step": 1, "a": 1.0}]
  assert capsys.readouterr().err.count("WARNING: ") == 2


def test_metrics_that_could_not_be_written_are_written_later(tmp_path, capsys):
  first = writer.Writer(tmp_path, 0)
  lines, good = first._lines, first._lines._file

  class Full:
    """A file whose disk is full at first."""

    def __init__(self):
      self.left = 3

    def write(self, text):
      return good.write(text)

    def flush(self):
      self.left -= 1
      if self.left >= 0:
        raise OSError(28, "No space left on device")
      good.flush()

    close = good.close

  lines._file = Full()
  for step in range(1, 6):
    first.scalars(step, {"a": 1.0})
  first.close()
  assert [r["step"] for r in writer.read(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5]
  assert capsys.readouterr().err.count("metrics.jsonl: cannot be written ([Err") == 1


def test_other_processes_write_nothing(tmp_path, capsys):
  out = writer.Writer(tmp_path, 0, active=False)
  out.log("hello")
  out.scalars(1, {"a": 1.0})
  out.close()
  assert not list(tmp_path.iterdir())
  assert not capsys.readouterr().out


def test_free_keys_may_change_and_others_may_not(tmp_path):
  config = dict(log_every=1, mesh=dict(data=1), batch_size=8, data=dict(num_workers=1))
  config |= dict(optim=dict(lr=1.0, betas=(0.9, 0.95)))
  workdir.prepare(tmp_path / "run", config)
  free = dict(log_every=5, mesh=dict(data=4), data=dict(num_workers=8))
  workdir.prepare(tmp_path / "run", config | free)
  other = config | dict(optim=dict(lr=2.0))
  (tmp_path / "run" / "checkpoints" / "10").mkdir(parents=True)
  with pytest.raises(ConfigError) as e:
    workdir.prepare(tmp_path / "run", other)
  assert "optim.lr: 1.0 there, 2.0 now" in str(e.value)
  assert "optim.betas: (0.9, 0.95) there, 'absent' now" in str(e.value)
  # Another global batch would have other records in every step from here on.
  with pytest.raises(ConfigError, match="batch_size: 8 there, 16 now"):
    workdir.prepare(tmp_path / "run", config | dict(batch_size=16))
  stored = json.loads((tmp_path / "run" / "config.json").read_text())
  assert stored["optim"]["lr"] == 1.0


def test_another_model_is_rejected_with_every_key_that_differs(tmp_path):
  encoder = dict(width=192, depth=4, mlp_dim=768)
  config = dict(clip=dict(tubelet_size=(2, 16, 16)), objective=dict(encoder=encoder))
  workdir.prepare(tmp_path, config)
  (tmp_path / "checkpoints" / "10").mkdir(parents=True)
  other = dict(
    clip=dict(tubelet_size=(2, 8, 8)),
    objective=dict(encoder=dict(width=256, depth=6, heads=4)),
  )
  with pytest.raises(ConfigError) as e:
    workdir.prepare(tmp_path, other)
  assert e.value.exit_code == 2
  changes = str(e.value).split("undo: ")[1].split("; ")
  assert changes == [
    "clip.tubelet_size: (2, 16, 16) there, (2, 8, 8) now",
    "objective.encoder.depth: 4 there, 6 now",
    "objective.encoder.heads: 'absent' there, 4 now",
    "objective.encoder.mlp_dim: 768 there, 'absent' now",
    "objective.encoder.width: 192 there, 256 now",
  ]


def test_a_workdir_without_a_checkpoint_accepts_another_config(tmp_path):
  workdir.prepare(tmp_path / "run", dict(steps=1))
  workdir.prepare(tmp_path / "run", dict(steps=2))  # no checkpoint was made


def test_a_damaged_config_is_named(tmp_path):
  workdir.prepare(tmp_path / "run", dict(steps=1))
  (tmp_path / "run" / "checkpoints" / "10").mkdir(parents=True)
  (tmp_path / "run" / "config.json").write_text("")
  with pytest.raises(DataError, match=r"config\.json: damaged"):
    workdir.prepare(tmp_path / "run", dict(steps=1))


def test_an_unwritable_workdir_is_rejected(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(DataError, match="--workdir"):
    workdir.prepare(tmp_path / "file" / "run", {})
