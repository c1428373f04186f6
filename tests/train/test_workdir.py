"""A run's directory, its provenance, and warnings before the first step."""

import dataclasses
import subprocess

import numpy as np
import pytest

from configs import finetune_actions
from vtr_jax.core.config import read
from vtr_jax.core.errors import ConfigError
from vtr_jax.data import loader, sources
from vtr_jax.train import inputs, loop, setup, workdir
from vtr_jax.train.config import TrainConfig


def revision():
  """That of a process which starts now."""
  workdir._revision.cache_clear()
  return workdir.provenance()["git_revision"]


@pytest.fixture
def repository(tmp_path, monkeypatch):
  """A repository with one commit; `workdir` believes that it lies in there."""

  def git(*words):
    own = ("-c", "user.name=a", "-c", "user.email=a@b")
    run = ["git", "-C", str(tmp_path), *own, *words]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    return done.stdout.strip()

  git("init", "-q")
  (tmp_path / "workdir.py").write_text("1")
  (tmp_path / "other.py").write_text("1")
  monkeypatch.setattr(workdir, "__file__", str(tmp_path / "workdir.py"))
  return git


def test_the_revision_is_that_of_this_package_and_tells_of_changes(
  repository, tmp_path
):
  """A package that is installed within another repository has none."""
  repository("add", "other.py")
  repository("commit", "-qm", "of something else")
  assert revision() == "unknown"
  repository("add", "workdir.py")
  repository("commit", "-qm", "ours")
  head = repository("rev-parse", "HEAD")
  assert revision() == head
  (tmp_path / "untracked").touch()
  assert revision() == head
  (tmp_path / "other.py").write_text("2")
  assert revision() == f"{head} with local changes"


def test_the_revision_is_unknown_without_a_repository(tmp_path, monkeypatch):
  monkeypatch.setattr(workdir, "__file__", str(tmp_path / "workdir.py"))
  assert revision() == "unknown"


def test_a_run_with_more_steps_is_told_how_to_train_longer(mac_smoke, tmp_path):
  workdir.prepare(tmp_path, mac_smoke)
  (tmp_path / "checkpoints" / "6").mkdir(parents=True)
  longer = rf"another config; to train longer, .* init_from={tmp_path}; or undo: steps"
  with pytest.raises(ConfigError, match=longer):
    workdir.prepare(tmp_path, mac_smoke | dict(steps=mac_smoke["steps"] + 1))
  with pytest.raises(ConfigError, match="another config; use another --workdir, or un"):
    workdir.prepare(tmp_path, mac_smoke | dict(steps=1))


def test_data_that_are_smaller_than_a_batch_are_warned_of(mac_smoke):
  config = read(TrainConfig, mac_smoke)
  count = len(config.data.open())
  sized = lambda size: read(TrainConfig, mac_smoke | dict(batch_size=size))
  pairs = config.make_objective()
  assert inputs.few_clips(sized(count), pairs) == []
  (line,) = inputs.few_clips(sized(count + 1), pairs)
  assert f"{count} clips are fewer than config.batch_size = {count + 1}" in line
  assert "negatives" in line
  classifier = dataclasses.replace(pairs, pairs=())
  (line,) = inputs.few_clips(sized(count + 1), classifier)
  assert "they repeat" in line
  assert "negatives" not in line


def test_batches_that_groups_of_rows_do_not_fit_are_rejected(data_dir, tmp_path):
  values = finetune_actions.get_config("moving_shapes,mac,smoke").to_dict()
  values["data"]["dir"] = str(data_dir)
  values["objective"]["mix"] |= dict(prob=1.0, group=4)
  with pytest.raises(
    ConfigError, match=r"batch_size: 18 rows .* of 4 .*; use 16 or 20"
  ):
    setup.build(values | dict(batch_size=18), tmp_path)
  values["data"]["repeats"] = 4
  with pytest.raises(ConfigError, match=r"mix\.group: 4 is not .* of 8, .*use 8"):
    setup.build(values | dict(batch_size=16), tmp_path)


def test_classes_without_clips_and_clips_without_class_are_told(mac_smoke, monkeypatch):
  config = read(TrainConfig, mac_smoke)
  objective = dataclasses.replace(config.make_objective(), classes=("a", "b"))
  monkeypatch.setattr(inputs, "_labels", lambda *_: ["a", "", "a", ""])
  first, second = inputs.label_warnings(config, objective)
  assert "no training example of 'b'; they are never learned" in first
  assert (
    second
    == "2 training examples have none of config.objective.classes and are left out"
  )


def test_captions_that_are_all_equal_are_warned_of(data_dir, monkeypatch, capfd):
  """In training and in evaluation."""
  ids = np.tile(np.arange(5), (4, 1))
  assert "captions of the first batch are equal" in loop._equal_texts({"text_ids": ids})
  assert not loop._equal_texts({"text_ids": ids[:1]})
  assert not loop._equal_texts({"video": ids})
  ids[2, 3] = 9
  assert not loop._equal_texts({"text_ids": ids})
  source = sources.open_split(sources.find(str(data_dir), "moving_shapes/tiny"), "test")
  loader.captions(source)
  assert "equal" not in capfd.readouterr().err
  same = [sources.Annotation(captions=("a box",), label="", id="") for _ in range(3)]
  monkeypatch.setattr(sources, "annotations", lambda source: iter(same))
  loader.captions(source)
  assert "all 3 captions are equal, 'a box'" in capfd.readouterr().err
