"""A data set with one file in twenty damaged, one of each kind, from end to end."""

import csv
import json
import math

import clips
import damage
import numpy as np
import pytest
from conftest import run_main
from training import assert_same, params, without_evals

from vtr_jax.data import sources
from vtr_jax.data.video import decode
from vtr_jax.train.loop import train_and_evaluate

KINDS = damage.damaged(at=0.1)
GOOD = 19 * len(KINDS)
REASONS = dict(
  empty="empty file",
  page="not a video",
  playlist="not a video",
  cut_95="not a video",
  cut_50="not a video",
  zero_tail="not a video",
  pieces_cut="can be decoded",
  flipped="can be decoded",
)


@pytest.fixture(scope="module")
def files():
  """id -> bytes; damaged ones are scattered among good ones."""
  good = [clips.mp4(12, 48, 64, seed=i) for i in range(5)]
  found = {f"good{i:03d}": good[i % len(good)] for i in range(GOOD)} | KINDS
  order = np.random.default_rng(0).permutation(sorted(found))
  return {str(name): found[name] for name in order}


def test_prepare_lists_exactly_the_damaged_files(files, tmp_path):
  rows = [("path", "caption")]
  for name, data in files.items():
    (tmp_path / f"{name}.mp4").write_bytes(data)
    rows.append((f"{name}.mp4", "a red ball moves left"))
  with (tmp_path / "all.csv").open("w", newline="") as f:
    csv.writer(f).writerows(rows)
  flags = [f"--source={tmp_path}", f"--out={tmp_path / 'out'}", "--format=csv"]
  flags += ["--name=mine", "--workers=2", "--vocab_size=64", "--bad_budget=0.05"]
  made = run_main(*flags, module="vtr_jax.prepare")
  assert made.returncode == 0, made.stderr
  whole = tmp_path / "out" / "mine" / "1.0.0"
  manifest = json.loads((whole / "manifest.json").read_text())
  assert {n["id"].removesuffix(".mp4") for n in manifest["refused"]} == set(KINDS)
  assert len(sources.open_split(str(whole), "train")) == GOOD
  checked = run_main(f"--check={whole}", module="vtr_jax.prepare")
  assert checked.returncode == 0, checked.stderr


@pytest.fixture(scope="module")
def unprepared(files, tmp_path_factory):
  """The same files as records, unchecked."""
  root = tmp_path_factory.mktemp("unprepared")
  clips.prepare(root, dict(train=[clips.record(n, d) for n, d in files.items()]))
  return root


@pytest.mark.nightly
def test_training_replaces_exactly_the_damaged_records(
  files, unprepared, smoke, tmp_path
):
  """One for one; bitwise the same with and without worker processes."""
  clips.train_pieces(tmp_path / "words.model")
  config = without_evals(smoke, steps=math.ceil(len(files) / 16), checkpoint_every=100)
  config["tokenizer"] = str(tmp_path / "words.model")
  config["data"] |= dict(name=clips.NAME, dir=str(unprepared), max_bad_fraction=0.06)
  for name, workers in (("one", 0), ("two", 1)):
    config["data"]["num_workers"] = workers
    train_and_evaluate(config, tmp_path / name)
  lines, again = (
    (tmp_path / name / "quarantine.jsonl").read_text() for name in ("one", "two")
  )
  assert lines == again
  listed = dict(json.loads(x)["problem"].split(": ", 1) for x in lines.splitlines())
  assert listed.keys() == set(KINDS)
  for kind, reason in REASONS.items():
    assert reason in listed[kind]
  assert_same(*(params(tmp_path / n, config["steps"]) for n in ("one", "two")))


@pytest.mark.parametrize(
  ("kind", "flags"), [("pieces_cut", dict(movflags="frag_keyframe")), ("flipped", {})]
)
def test_frames_before_the_damage_are_used(kind, flags):
  """If there are enough of them, the clip is complete and the record not replaced."""
  indices = lambda n: decode.frame_indices(n, 4, "segments", 1, None)
  frames = decode.decode(damage.damaged(at=0.8)[kind], indices, needed=4)
  every = decode.decode(damage.textured(**flags))
  assert len(frames) == 4
  for frame in frames:
    assert (frame == every).all((1, 2, 3)).any()
