"""Prepared data sets: opening them, and errors that name what is damaged."""

import pickle
import shutil
from pathlib import Path

import clips
import numpy as np
import pytest
import tensorflow_datasets as tfds

from vtr_jax.core.errors import BadSample, DataError
from vtr_jax.data import sources

VIDEO = b"not decoded here"


def rows(count, offset=0):
  return [
    clips.record(f"clip{i + offset}", VIDEO, ["größe", f"take {i}"])
    for i in range(count)
  ]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  root = tmp_path_factory.mktemp("data")
  return clips.prepare(root, dict(train=rows(12), test=rows(5)))


@pytest.fixture
def copy(prepared, tmp_path):
  """A copy of the data set, to damage."""
  return Path(shutil.copytree(prepared, tmp_path / "clips" / "1.0.0"))


def test_records_are_plain_python(prepared):
  split = sources.open_split(prepared, "train")
  assert len(split) == 12
  assert split[3] == dict(
    id="clip3", video=VIDEO, captions=["größe", "take 3"], label=""
  )


def test_annotations_are_the_records_without_videos(prepared):
  split = sources.open_split(prepared, "train")
  for annotation, record in zip(sources.annotations(split), rows(12), strict=True):
    assert annotation._asdict() | dict(video=VIDEO) == record


def test_a_slice_of_a_split_has_its_records(prepared):
  split = sources.open_split(prepared, "train[4:10]")
  assert [split[i]["id"] for i in range(len(split))] == [
    f"clip{i}" for i in range(4, 10)
  ]


def test_a_split_survives_pickling(prepared):
  split = sources.open_split(prepared, "test")
  split[0]  # a reader is open
  assert pickle.loads(pickle.dumps(split))[4] == split[4]


def test_find_takes_the_newest_version(tmp_path):
  for version in ("1.9.0", "1.10.0", "1.2.0"):
    (tmp_path / clips.NAME / version).mkdir(parents=True)
    (tmp_path / clips.NAME / version / "dataset_info.json").touch()
  (tmp_path / clips.NAME / "incomplete.AB_2.0.0").mkdir()
  assert sources.find(tmp_path, clips.NAME).endswith("1.10.0")
  assert sources.find(tmp_path, clips.NAME + "/1.9.0").endswith("1.9.0")
  with pytest.raises(DataError, match="no prepared data set; set"):
    sources.find(tmp_path, "other")


def test_fingerprint_changes_with_the_records(prepared, copy, tmp_path):
  train = sources.fingerprint(prepared, "train")
  assert len(train) == 16
  assert sources.fingerprint(copy, "train") == train  # wherever it lies
  assert sources.fingerprint(prepared, "test") != train
  assert sources.fingerprint(prepared, "train[:6]") != train
  (copy / "checksum.json").write_text('{"train": "abc"}')
  assert sources.fingerprint(copy, "train") != train
  more = clips.prepare(tmp_path / "more", dict(train=rows(13)))
  assert sources.fingerprint(more, "train") != train


def test_a_missing_directory_or_split_is_named(prepared, tmp_path):
  with pytest.raises(DataError, match="nowhere: no such directory; correct"):
    sources.open_split(tmp_path / "nowhere", "train")
  with pytest.raises(DataError, match=r": no dataset_info\.json"):
    sources.open_split(tmp_path, "train")
  with pytest.raises(DataError, match="no split 'tset'; did you mean 'test'"):
    sources.open_split(prepared, "tset")
  with pytest.raises(DataError, match="no split 'dev'; known: test, train"):
    sources.open_split(prepared, "dev")
  with pytest.raises(DataError, match="holds no record"):
    sources.open_split(prepared, "train[:0]")
  with pytest.raises(DataError, match="split 'train"):
    sources.open_split(prepared, "train[a")


def test_a_damaged_dataset_info_is_reported(copy):
  (copy / "dataset_info.json").write_text('{"name": "clips", ')
  with pytest.raises(DataError, match="is damaged") as e:
    sources.open_split(copy, "train")
  assert "\n" not in str(e.value)


@pytest.mark.parametrize("left", [0, 100, 0.5, 0.99])
def test_a_truncated_shard_is_reported(copy, left):
  (shard,) = copy.glob("*train*")
  data = shard.read_bytes()
  shard.write_bytes(data[: left if left > 1 else int(left * len(data))])
  with pytest.raises(DataError, match=r"00001: shard is damaged: 0 of 12 records"):
    sources.open_split(copy, "train")
  assert len(sources.open_split(copy, "test")) == 5


def test_a_missing_shard_is_reported(copy):
  (shard,) = copy.glob("*train*")
  shard.unlink()
  with pytest.raises(DataError, match="00001: shard is missing"):
    sources.open_split(copy, "train")


def test_another_schema_is_rejected(tmp_path):
  features = dict(sources.features())
  del features["label"]
  other = tfds.features.FeaturesDict(features)
  record = clips.record("a", VIDEO)
  del record["label"]
  directory = clips.prepare(tmp_path / "a", dict(train=[record]), features=other)
  with pytest.raises(DataError, match="no feature 'label'"):
    sources.open_split(directory, "train")
  other = tfds.features.FeaturesDict(
    features | dict(label=tfds.features.Scalar(np.int64))
  )
  directory = clips.prepare(
    tmp_path / "b", dict(train=[record | dict(label=3)]), features=other
  )
  with pytest.raises(DataError, match="feature 'label' is "):
    sources.open_split(directory, "train")


def test_invalid_utf8_makes_only_its_own_record_bad(tmp_path):
  bad = clips.record("b", VIDEO) | dict(captions=[b"gr\xfcn"])
  directory = clips.prepare(tmp_path, dict(train=[*rows(1), bad]))
  split = sources.open_split(directory, "train")
  assert split[0]["id"] == "clip0"
  with pytest.raises(BadSample, match="not UTF-8"):
    split[1]
  with pytest.raises(
    DataError, match=r"record 1 of 'train' cannot be used \(record 1: "
  ):
    list(sources.annotations(split))


def test_a_damaged_block_makes_only_its_own_records_bad(tmp_path):
  noise = np.random.default_rng(0)
  many = [clips.record(f"clip{i}", noise.bytes(50_000)) for i in range(8)]
  directory = clips.prepare(tmp_path, dict(train=many))
  (shard,) = Path(directory).glob("*train*")
  data = bytearray(shard.read_bytes())
  data[len(data) // 2 : len(data) // 2 + 50] = bytes(50)
  shard.write_bytes(data)
  split = sources.open_split(directory, "train")
  good = 0
  for i in range(8):
    try:
      good += split[i]["id"] == f"clip{i}"
    except BadSample as e:
      assert "damaged shard" in str(e)  # noqa: PT017
  assert 5 <= good < 8
