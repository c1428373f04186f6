"""`--help`: exit code 0, and with a config its keys with their comments."""

from conftest import ROOT, run_main

from configs import mac
from vtr_jax.core import config_help
from vtr_jax.core.config import flatten


def test_help_lists_the_keys_of_a_config():
  done = run_main("--help", "--config=configs/mac.py:smoke")
  assert done.returncode == 0, done.stderr
  assert "--config.clip.num_frames=4  # paper\n" in done.stdout
  for key in flatten(mac.get_config("smoke").to_dict()):
    assert f"--config.{key}=" in done.stdout, key


def test_help_without_a_config_says_how_to_see_its_keys():
  done = run_main("--help")
  assert done.returncode == 0, done.stderr
  assert "With --config=FILE" in done.stdout


def test_every_key_of_a_recipe_has_a_comment():
  notes = config_help.comments(str(ROOT / "configs" / "mac.py"))
  keys = flatten(mac.get_config("webvid2m_cc3m").to_dict())
  # Sizes of towers and evaluations come from functions that have docstrings.
  bare = ("clip.mean", "clip.std", "evals.", "objective.video.", "objective.text.")
  missing = [
    k
    for k in keys
    if k not in notes and not k.startswith((*bare, "name", "objective.name"))
  ]
  assert not [k for k in missing if not k.startswith(("guard.", "mesh."))]
