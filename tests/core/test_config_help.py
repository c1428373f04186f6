"""`--help`: exit code 0, and with a config its keys with their comments."""

import dataclasses

import pytest
from conftest import run_main

from configs import mac, miles, simvtp
from vtr_jax.core import config_help
from vtr_jax.core.config import flatten
from vtr_jax.train.config import comments


def test_help_lists_the_keys_of_a_config():
  given = ("--config.optim.b1=0.8", "--config.objective.compute.remat=full")
  done = run_main("--help", "--config=configs/mac.py:smoke", *given)
  assert done.returncode == 0, done.stderr
  # Neither key is written in the recipe.
  assert "--config.optim.b1=0.8  # " in done.stdout
  assert "--config.objective.compute.remat='full'  # " in done.stdout
  assert "--config.clip.num_frames=4  # paper\n" in done.stdout
  for key in flatten(mac.get_config("smoke").to_dict()):
    assert f"--config.{key}=" in done.stdout, key


def test_help_without_a_config_explains_how_to_list_its_keys():
  done = run_main("--help")
  assert done.returncode == 0, done.stderr
  assert "With --config=FILE" in done.stdout
  for flag in ("config", "workdir", "coordinator", "heartbeat", "strict_restore"):
    assert f"  --{flag}: " in done.stdout.replace("--[no]", "--"), flag


@pytest.mark.parametrize("file", [mac, miles, simvtp])
def test_every_key_has_a_comment(file):
  """The recipe's, or that of the dataclass field which has the default."""
  values = file.get_config("webvid2m" if file is simvtp else "webvid2m_cc3m").to_dict()
  lines = config_help.text(file.__file__, values, comments(values)).splitlines()[1:]
  assert len(lines) == len(flatten(values))
  assert not [line for line in lines if "  # " not in line]


def test_a_comment_gives_the_source_of_the_shown_value():
  """Of a variant, not of the recipe or the default that it replaces."""

  def notes(variant):
    values = mac.get_config(variant).to_dict()
    lines = config_help.text(mac.__file__, values, comments(values)).splitlines()[1:]
    pairs = (line.strip().split("=", 1) for line in lines)
    return {key: value.partition("  # ")[2] for key, value in pairs}

  recipe, demo, clip = map(notes, ("webvid2m_cc3m", "demo", "clip"))
  lr = "--config.optim.lr"
  assert [x[lr] for x in (recipe, demo, clip)] == ["Frozen", "ours", "ours"]
  schedule = "--config.optim.schedule"
  assert [x[schedule] for x in (recipe, demo, clip)] == ["Frozen", "ours", "CLIP"]
  crop = "--config.data.crop"
  assert recipe[crop].endswith("; code: Frozen, MCQ")
  assert demo[crop].endswith("crops.random_view")
  assert recipe["--config.steps"] == "ours: 10 epochs"
  assert "retrieval" in demo["--config.evals.test.kind"]


def test_comments_of_dataclass_fields_are_found():
  @dataclasses.dataclass(frozen=True)
  class Inner:
    first: int  # one

  @dataclasses.dataclass(frozen=True)
  class Outer(Inner):
    uncommented: int
    # above, and
    # longer
    second: int = 2
    inner: Inner | None = None  # a section

  assert config_help.field_comments(Outer, "x.") == {
    "x.first": "one",
    "x.second": "above, and longer",
    "x.inner": "a section",
    "x.inner.first": "one",
  }


def test_help_works_for_a_config_outside_the_project(tmp_path):
  """It imports a file next to it, whose comments are shown; `--config FILE` works."""
  folder = tmp_path / "mine"
  folder.mkdir()
  (folder / "base.py").write_text(
    "def values():\n  return dict(\n    steps=3,  # from my base\n  )\n"
  )
  (folder / "own.py").write_text(
    "from ml_collections import ConfigDict\nfrom mine import base\n"
    "def get_config():\n  return ConfigDict(base.values())\n"
  )
  done = run_main("--help", "--config", folder / "own.py")
  assert done.returncode == 0, done.stderr
  assert "--config.steps=3  # from my base\n" in done.stdout
