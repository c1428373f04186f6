"""Config keys of 0.1.0 are read under their current names, and each is reported."""

import subprocess

import pytest
from conftest import ROOT, program

from vtr_jax.core import renames
from vtr_jax.core.errors import ConfigError


def parse(*arguments: str, file: str = "mac") -> subprocess.CompletedProcess:
  return subprocess.run(
    [*program("print_config"), f"--config=configs/{file}.py:smoke", *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )


def test_a_config_of_0_1_0_gets_the_current_key_names():
  old = dict(
    clip=dict(frames=4, size=32, tubelet=(2, 16, 16), mean=(0.5,)),
    text=dict(length=16),
    data=dict(deadline=30.0, bad_budget=0.01, workers=2, name="a"),
    objective=dict(
      hidden="blank",
      longer_clips="zeros",
      positions="flat",
      teacher=dict(follow="step", every=1),
    ),
    optim=dict(ema=0.9),
    weights=dict(words=1.0, vtc=1.0),
    contrast=dict(form="dense"),
  )
  new, lines = renames.upgrade(old)
  assert new == dict(
    clip=dict(num_frames=4, image_size=32, tubelet_size=(2, 16, 16), mean=(0.5,)),
    text=dict(max_length=16),
    data=dict(decode_timeout=30.0, max_bad_fraction=0.01, num_workers=2, name="a"),
    objective=dict(
      masked_tokens="mask_token",
      time_pos_embed_resize="zeros",
      pos_embed="flat",
      teacher=dict(update="step", update_every=1),
    ),
    optim=dict(ema_decay=0.9),
    loss_weights=dict(mlm=1.0, vtc=1.0),
    contrastive=dict(form="dense"),
  )
  assert "config.clip.size: is called config.clip.image_size now" in lines
  assert "config.weights.words: is called config.loss_weights.mlm now" in lines
  assert "config.contrast: is called config.contrastive now" in lines
  assert len(lines) == 16


def test_keys_of_the_video_tower_move_into_the_section_of_its_backbone():
  tower = dict(attention="joint", time_init="output", longer_clips="linear")
  old = dict(objective=tower | dict(positions="flat", video=dict(width=8)))
  new, lines = renames.upgrade(old)
  video = dict(
    width=8,
    name="vit",
    time_init="output",
    time_pos_embed_resize="linear",
    pos_embed="flat",
  )
  assert new == dict(objective=dict(video=video))
  assert "config.objective.attention: is called config.objective.video.name now" in (
    lines
  )
  # SimVTP has no such section, and its own positions.
  simvtp = dict(objective=dict(pos_embed="flat", encoder=dict(width=8)))
  assert renames.upgrade(simvtp) == (simvtp, [])


def test_a_removed_value_is_replaced():
  old = dict(objective=dict(compute=dict(attention="splash", scan=True)))
  new, lines = renames.upgrade(old)
  assert new == dict(objective=dict(compute=dict(attention="auto", scan=True)))
  assert lines == [
    "config.objective.compute.attention: 'splash' was removed; 'auto' replaces it"
  ]
  assert renames.upgrade(new) == (new, [])


def test_upgrading_does_not_modify_the_old_config():
  old = dict(clip=dict(size=32), data=dict(mix=[dict(frames=1)]))
  renames.upgrade(old)
  assert old == dict(clip=dict(size=32), data=dict(mix=[dict(frames=1)]))


def test_a_current_config_is_unchanged():
  today = dict(clip=dict(image_size=32), objective=dict(masked_tokens="drop"))
  assert renames.upgrade(today) == (today, [])


def test_entries_of_a_mixture_are_upgraded():
  entry = dict(name="a", split="train", weight=1.0, frames=1)
  new, lines = renames.upgrade(dict(data=dict(mix=(entry,))))
  assert new["data"]["mixture"] == (
    dict(name="a", split="train", weight=1.0, num_frames=1),
  )
  assert lines == [
    "config.data.mix: is called config.data.mixture now",
    "config.data.mixture: frames is called num_frames now",
  ]


@pytest.mark.parametrize(("old", "new"), [("drop", "drop"), ("blank", "mask_token")])
def test_objective_hidden_becomes_masked_tokens(old, new):
  config, _ = renames.upgrade(dict(objective=dict(hidden=old)))
  assert config == dict(objective=dict(masked_tokens=new))


def test_mask_send_is_dropped_with_a_message():
  new, lines = renames.upgrade(dict(mask=dict(send="visible", video="tube")))
  assert new == dict(mask=dict(video="tube"))
  (line,) = lines
  assert line.startswith("config.mask.send: no longer a key")


def test_a_key_under_both_names_is_left_for_the_reader_to_reject():
  both = dict(clip=dict(size=32, image_size=64))
  assert renames.upgrade(both) == (both, [])


@pytest.mark.parametrize(
  ("old", "new"),
  [
    ("--config.clip.size=32", "--config.clip.image_size=32"),
    ("-config.text.length=8", "-config.text.max_length=8"),
    ("--config.contrast.chunk=8", "--config.contrastive.chunk=8"),
    ("--config.weights.words=2", "--config.loss_weights.mlm=2"),
    ("--config.weights.vtc=2", "--config.loss_weights.vtc=2"),
    ("--config.objective.hidden=blank", "--config.objective.masked_tokens=mask_token"),
    ("--config.clip.image_size=32", "--config.clip.image_size=32"),
    ("--config=configs/mac.py:smoke", "--config=configs/mac.py:smoke"),
    ("--workdir=config.clip.size", "--workdir=config.clip.size"),
    ("clip.size=3", "clip.size=3"),
  ],
)
def test_command_line_arguments_get_the_current_key_names(old, new):
  assert renames.argument(old) == new


def test_the_command_line_accepts_an_old_key_and_reports_the_new_one():
  done = parse("--config.steps=3", "--config.clip.size=48", "--config.contrast.chunk=7")
  assert done.returncode == 0, done.stderr
  assert done.stdout.split() == ["48", "7"]
  assert "--config.clip.size: is called --config.clip.image_size now" in done.stderr
  assert "--config.contrast.chunk: is called --config.contrastive" in done.stderr


def test_the_command_line_moves_only_keys_that_the_config_lacks():
  old = ("--config.objective.attention=divided", "--config.objective.positions=flat")
  done = parse(*old, "--print=objective.video.name,objective.video.pos_embed")
  assert done.returncode == 0, done.stderr
  assert done.stdout.split() == ["divided", "flat"]
  now = "--config.objective.video."
  assert f"--config.objective.attention: is called {now}name now" in done.stderr
  assert f"{now}pos_embed now" in done.stderr
  own = "--config.objective.pos_embed=space_time"
  keys = "--print=objective.pos_embed,clip.image_size"
  done = parse(own, "--config.clip.size=48", keys, file="simvtp")
  assert done.stdout.split() == ["space_time", "48"], done.stderr


def test_an_unknown_key_is_rejected_with_the_nearest_name():
  done = parse("--config.clip.image_sise=48")
  assert done.returncode == 2
  assert "ConfigError: config.clip.image_sise: unknown key" in done.stderr
  assert "image_size" in done.stderr
  assert "Traceback" not in done.stderr
  assert "is called" not in done.stderr


@pytest.mark.parametrize(
  ("key", "kept", "removed"),
  [("residual", "frozen", "timesformer"), ("target", "tower", "projected")],
)
def test_a_removed_key_is_accepted_where_it_changes_nothing(key, kept, removed):
  new, (line,) = renames.upgrade(dict(objective={key: kept}))
  assert new == dict(objective={})
  assert line.startswith(f"config.objective.{key}: no longer a key")
  assert renames.argument(f"--config.objective.{key}={kept}") == ""
  with pytest.raises(ConfigError, match=f"objective.{key}: '{removed}' was removed"):
    renames.upgrade(dict(objective={key: removed}))
