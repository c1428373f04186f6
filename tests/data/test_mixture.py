"""Mixtures of data sets: which data set and records at each step, on every host."""

import dataclasses
import json
import shutil

import clips
import numpy as np
import pytest

from vtr_jax.core.batch import spec
from vtr_jax.core.config import read
from vtr_jax.core.errors import ConfigError, DataError
from vtr_jax.data import mixture, sources
from vtr_jax.data.examples import DataConfig

LENGTHS = dict(videos=9, images=5, more=7)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  """Three data sets; the images are videos of one frame."""
  root = tmp_path_factory.mktemp("data")
  for number, (name, length) in enumerate(LENGTHS.items()):
    rows = clips.records(length, frames=1 if name == "images" else 10)
    clips.prepare(root / f"in{number}", dict(train=rows))
    shutil.move(root / f"in{number}" / clips.NAME, root / name)
  return root


def mixed(root, *parts, **changes):
  """Config of a mixture; a part is (name, weight, frames)."""
  mix = tuple(mixture.Part(n, "train", w, f) for n, w, f in parts)
  return clips.config(root, name="videos", mixture=mix, **changes)


@pytest.fixture(scope="module")
def shared(root):
  """Two data sets of 4 frames share batches 3:1; one of 2 frames has its own steps."""
  # 0 stands for the clip's own, which is 4.
  return mixed(root, ("videos", 3, 0), ("images", 1.0, 2), ("more", 1.0, 4))


@pytest.fixture(scope="module")
def stream(root, shared, tokenizer):
  return clips.take(root, tokenizer, 10, data=shared)


# --- Turns ------------------------------------------------------------------------


@pytest.mark.parametrize(
  ("weights", "turns"),
  [
    ((1, 1), "ababababab"),
    ((3, 1), "aabaaabaaa"),
    ((1,), "aaaaaaaaaa"),
    ((1, 1, 1), "bacbacbacb"),
    ((0.2, 0.8), "bbabbbbabb"),
  ],
)
def test_turns_alternate_by_weight(weights, turns):
  found = [mixture.Turns(weights)(i) for i in range(10)]
  assert "".join("abc"[who] for who, _ in found) == turns
  for i, (who, before) in enumerate(found):
    assert before == sum(other == who for other, _ in found[:i])


def test_turns_never_drift_from_the_weights():
  weights = (0.1, 2, 0.7, 5)
  turns = mixture.Turns(weights)
  had = np.zeros(4, int)
  for number in range(3000):
    who, before = turns(number)
    assert before == had[who]
    had[who] += 1
    expected = (number + 1) * np.array(weights) / sum(weights)
    assert np.abs(had - expected).max() < 2
  far = [turns(10**12 + i) for i in range(200)]
  assert np.bincount([who for who, _ in far], minlength=4)[3] in (127, 128, 129)


# --- Streams ----------------------------------------------------------------------


def data_set_of_rows(batch):
  """Index into `LENGTHS` of the data set that each row is from."""
  return np.searchsorted(np.cumsum([*LENGTHS.values()]), batch["record"], "right")


def test_images_and_videos_alternate_by_step(root, tokenizer):
  data = mixed(root, ("videos", 1, 0), ("images", 1, 2))
  for step, batch in enumerate(clips.take(root, tokenizer, 6, data=data)):
    frames = 2 if step % 2 else 4
    clip = dataclasses.replace(clips.CLIP, num_frames=frames)
    for key, shape in spec(clip, clips.TEXT, clips.MASK, 8).items():
      assert (batch[key].shape, batch[key].dtype) == (shape.shape, shape.dtype), key
    assert set(data_set_of_rows(batch)) == {step % 2}
    assert batch["valid"].all()


def test_data_sets_of_one_shape_share_every_batch_by_weight(stream):
  for step, batch in enumerate(stream):
    count = np.bincount(data_set_of_rows(batch), minlength=3)
    if step in (2, 7):
      assert batch["video"].shape[1] == 2
      assert count.tolist() == [0, 8, 0]
    else:
      assert batch["video"].shape[1] == 4
      assert count.tolist() == [6, 0, 2]


def test_each_data_set_has_its_records_once_per_epoch(stream):
  rows = np.concatenate([b["record"] for b in stream])
  starts = np.cumsum([0, *LENGTHS.values()])
  for number, length in enumerate(LENGTHS.values()):
    own = rows[(starts[number] <= rows) & (rows < starts[number + 1])]
    assert len(own) >= 2 * length
    for epoch in range(len(own) // length):
      seen = own[epoch * length : (epoch + 1) * length]
      np.testing.assert_array_equal(np.sort(seen), starts[number] + np.arange(length))
    assert (own[:length] != own[length : 2 * length]).any()


@pytest.mark.parametrize("start", [1, 4, 8])
def test_restart_continues_the_stream(root, shared, tokenizer, stream, start):
  rest = clips.take(root, tokenizer, 2, data=shared, start_step=start)
  clips.assert_same(rest, stream[start : start + 2])


@pytest.mark.parametrize("num_hosts", [2, 4])
def test_hosts_split_the_batches_of_one(root, shared, tokenizer, stream, num_hosts):
  hosts = [
    clips.take(root, tokenizer, 6, data=shared, host=host, num_hosts=num_hosts)
    for host in range(num_hosts)
  ]
  for host, batches in enumerate(hosts):
    rows = slice(host * 8 // num_hosts, (host + 1) * 8 // num_hosts)
    for mine, whole in zip(batches, stream, strict=False):
      clips.assert_same([mine], [{k: v[rows] for k, v in whole.items()}])


def test_worker_processes_give_the_same_batches(root, shared, tokenizer, stream):
  data = dataclasses.replace(shared, num_workers=2)
  clips.assert_same(
    clips.take(root, tokenizer, 4, data=data, start_step=3), stream[3:7]
  )


def test_a_curriculum_applies_to_data_sets_without_num_frames(root, tokenizer):
  parts = ("videos", 1, 0), ("images", 1, 2)
  data = mixed(root, *parts, curriculum=((0, (2,)), (4, (4,))))
  batches = clips.take(root, tokenizer, 8, data=data)
  assert [b["video"].shape[1] for b in batches] == [2, 2, 2, 2, 4, 2, 4, 2]
  plain = clips.take(root, tokenizer, 8, data=mixed(root, *parts))
  for a, b in zip(batches, plain, strict=True):
    np.testing.assert_array_equal(a["record"], b["record"])
  clips.assert_same(batches[4:], plain[4:])


def test_problems_of_records_name_the_data_set(tmp_path, tokenizer):
  rows = [*clips.records(3, frames=10), clips.record("torn", b"")]
  clips.prepare(tmp_path / "a", dict(train=rows))
  clips.prepare(tmp_path / "b", dict(train=clips.records(4, frames=10)))
  name = clips.NAME
  data = mixed(tmp_path, (f"b/{name}", 1, 0), (f"a/{name}", 1, 0))
  (batch,) = clips.take(tmp_path, tokenizer, 1, data=data)
  bad = ~batch["valid"]
  assert batch["problem"][bad].tolist() == [f"a/{name}/torn: empty file"]
  assert batch["record"][bad].tolist() == [7]  # the last of the second


# --- Configuration ----------------------------------------------------------------


def test_the_fingerprint_covers_every_data_set_of_the_mixture(root, shared):
  alone = clips.config(root, name="videos")
  directory = sources.find(str(root), "videos")
  assert alone.fingerprint() == sources.fingerprint(directory, "train")
  less = dataclasses.replace(shared, mixture=shared.mixture[:2])
  part = dataclasses.replace(shared.mixture[2], split="train[:3]")
  cut = dataclasses.replace(shared, mixture=(*shared.mixture[:2], part))
  found = {c.fingerprint() for c in (alone, shared, less, cut)}
  assert len(found) == 4
  assert all(len(f) == 16 for f in found)


def test_a_mixture_is_read_from_json(shared):
  values = json.loads(json.dumps(dataclasses.asdict(shared)))
  assert read(DataConfig, values) == shared
  values["mixture"][1]["wieght"] = 2
  with pytest.raises(
    ConfigError, match=r"mixture\[1\]\.wieght: unknown key; did you mean"
  ):
    read(DataConfig, values)


@pytest.mark.parametrize(
  ("part", "message"),
  [
    (("videos", 0, 0), "weight: 0 must be positive"),
    (("videos", 1, -1), "frames: -1 must not be negative"),
    (("videos", 1, 3), r"data\.mixture: 3 frames are not a multiple"),
    (("videos", 1, 8), r"data\.mixture: 8 frames are more than clip\.num_frames = 4"),
  ],
)
def test_invalid_mixture_entries_are_rejected(tmp_path, tokenizer, part, message):
  with pytest.raises(ConfigError, match=message):
    clips.take(tmp_path, tokenizer, 1, data=mixed(tmp_path, part))


def test_a_missing_data_set_is_named(root, tokenizer):
  data = mixed(root, ("videos", 1, 0), ("vidoes", 1, 0))
  with pytest.raises(DataError, match="vidoes: no prepared data set"):
    clips.take(root, tokenizer, 1, data=data)
