"""Notes and labels of a prepared data set, read without its videos."""

import json
import pickle
import shutil
from pathlib import Path

import clips
import pytest
import tensorflow_datasets as tfds
from prepare_cases import make, write_source

from vtr_jax.core.errors import ConfigError, DataError
from vtr_jax.data import notes, sources
from vtr_jax.data.notes import Note
from vtr_jax.prepare.formats import base
from vtr_jax.prepare.options import Options

MOMENT = Note("moment", "m", "he\u2028sits", windows=((0.5, 2.0), (3.0, 9.25)))
CHOICE = Note("question", "c", "what?", "two", "how", ("one", "two"))


def question(i):
  return Note("question", f"q{i}", f"größe {i}?", "man")


@pytest.fixture
def data(tmp_path):
  """Ten training and four test records; those of even number have notes."""
  rows = [clips.record(f"c{i}", b"-") for i in range(14)]
  directory = Path(clips.prepare(tmp_path, dict(train=rows[:10], test=rows[10:])))
  texts = dict(train=[], test=[])
  for i in range(0, 14, 2):
    split, index = ("train", i) if i < 10 else ("test", i - 10)
    own = "validation" if i == 12 else split
    found = [question(i), CHOICE, MOMENT] if i == 4 else [question(i)]
    values = map(notes.to_json, found)
    texts[split].append(notes.lines(f"c{i}", index, own, values))
  joined = {split: "".join(lines) for split, lines in texts.items()}
  write_manifest(directory, asked=notes.save(directory, "asked", joined))
  return directory


def write_manifest(directory, **sets):
  named = {name: dict(splits=splits) for name, splits in sets.items()}
  (directory / "manifest.json").write_text(json.dumps(dict(notes=named)))


def test_a_note_survives_json():
  for note in (MOMENT, CHOICE, question(1)):
    assert notes.from_json(json.loads(json.dumps(notes.to_json(note)))) == note


def test_each_record_has_its_notes(data):
  train = notes.read(data, "train")
  assert len(train) == 10
  assert train[4] == (question(4), CHOICE, MOMENT)
  assert train[3] == ()
  assert notes.read(data, "train", "moment")[4] == (MOMENT,)
  assert pickle.loads(pickle.dumps(train)) == train


def test_notes_follow_the_records_of_a_slice(data):
  assert notes.read(data, "train[3:7]", "question") == [
    (),
    (question(4), CHOICE),
    (),
    (question(6),),
  ]
  assert notes.read(data, "train[80%:]") == [(question(8),), ()]
  both = notes.read(data, "train[:1]+test[:1]")
  assert both == [(question(0),), (question(10),)]


def test_notes_of_another_split_are_left_out_unless_they_are_asked_for(data):
  """As MSVD-QA's validation videos that are retrieval's test videos."""
  assert notes.read(data, "test") == [(question(10),), (), (), ()]
  held = notes.read(data, "train[8:]+test", own_split="validation")
  assert held == [(), (), (), (), (question(12),), ()]


def test_sets_of_a_record_are_joined_or_chosen_by_name(data):
  text = notes.lines("c0", 0, "train", [notes.to_json(MOMENT)])
  more = notes.save(data, "timed", dict(train=text))
  write_manifest(data, asked=notes.listed(data)["asked"], timed=more)
  assert notes.read(data, "train[:1]") == [(question(0), MOMENT)]
  assert notes.read(data, "train[:1]", name="timed") == [(MOMENT,)]


def test_missing_notes_are_reported_with_the_command_that_adds_them(data):
  for arguments, what in (
    (dict(split="test", kind="moment"), "split 'test' has no moment notes"),
    (dict(split="train", name="x"), "split 'train' has no x notes"),
    (dict(split="train[:0]+test", name="x"), "has no x notes"),
  ):
    with pytest.raises(DataError) as caught:
      notes.read(data, **arguments)
    assert what in str(caught.value)
    assert f"--notes_of={data}" in str(caught.value)
  with pytest.raises(DataError, match="has no notes; they are of test, validation"):
    notes.read(data, "test", own_split="dev")
  with pytest.raises(ConfigError, match="kind: 'questions' is unknown; did you"):
    notes.read(data, "train", "questions")
  with pytest.raises(DataError, match="no split 'dev'"):
    notes.read(data, "dev")
  (data / "manifest.json").unlink()
  with pytest.raises(DataError, match="has no notes; add them"):
    notes.read(data, "train")


def test_damaged_notes_are_reported_in_one_line(data):
  path = data / "notes-asked-train.jsonl"
  good = path.read_text()
  path.write_text(good.replace("man", "cat", 1))
  with pytest.raises(DataError, match=r"train\.jsonl: not the bytes that manifest"):
    notes.read(data, "train")
  for bad, says in (
    ('{"record": "c0"}', "'index'"),
    (good.splitlines()[0].replace("question", "guess"), "not a note: expected a kind"),
    ('{"record": "c0", "index": 0, "split": "train"}', "not a note: .*missing"),
    ("[]", "not a JSON object"),
  ):
    write_manifest(data, asked=notes.save(data, "asked", dict(train=bad + "\n")))
    with pytest.raises(DataError, match=rf"train\.jsonl:1: damaged \({says}"):
      notes.read(data, "train")
  path.unlink()
  with pytest.raises(DataError, match=r"train\.jsonl: No such file .*; copy it again"):
    notes.read(data, "train")


@pytest.mark.parametrize(
  "text", ["{", '{"notes": []}', '{"notes": {"a": {}}}', '{"notes": {"a": 3}}']
)
def test_a_damaged_manifest_is_reported(data, text):
  (data / "manifest.json").write_text(text)
  with pytest.raises(DataError, match=r"manifest\.json: damaged"):
    notes.read(data, "train")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
  """Fourteen and four records of three classes, in shards of four."""
  root = tmp_path_factory.mktemp("labelled")
  source = write_source(root / "videos")
  items = base.open("csv", base.Request(str(source)))
  items = [item._replace(label="abc"[i % 3]) for i, item in enumerate(items)]
  return make(source, root, Options(copy=True), items=items)


SPLITS = ("train", "test", "train[3:9]", "train[-2:]", "test[1:]+train[:6]")


@pytest.mark.parametrize("split", SPLITS)
def test_labels_and_places_are_those_of_the_records(labelled, split):
  records = sources.open_split(labelled, split)
  assert sources.labels(labelled, split) == [
    annotation.label for annotation in sources.annotations(records)
  ]
  whole = {name: sources.open_split(labelled, name) for name in ("train", "test")}
  places = sources.places(labelled, split)
  assert [whole[name][i]["id"] for name, i in places] == [
    records[i]["id"] for i in range(len(records))
  ]


def test_labels_are_read_without_the_shards(labelled, tmp_path):
  want = sources.labels(labelled, "train")
  assert set(want) == set("abc")
  for path in labelled.glob("*.json*"):
    (tmp_path / path.name).write_bytes(path.read_bytes())
  assert sources.labels(tmp_path, "train") == want
  assert sources.ids(tmp_path) == {
    split: [row["id"] for row in rows] for split, rows in sources.rows(labelled).items()
  }
  (tmp_path / "records.jsonl").write_text("x\n")
  with pytest.raises(DataError, match=r"records\.jsonl: damaged"):
    sources.labels(tmp_path, "train")


def test_labels_of_older_data_are_read_from_the_records(labelled, tmp_path, data_dir):
  """Their records.jsonl has no labels, or does not exist."""
  copy = shutil.copytree(labelled, tmp_path / "mine" / "1.0.0")
  path = copy / "records.jsonl"
  old = [json.loads(line) for line in path.read_text().splitlines()]
  for row in old:
    del row["label"]
  path.write_text("".join(json.dumps(row) + "\n" for row in old))
  assert sources.labels(copy, "test") == sources.labels(labelled, "test")
  shapes = data_dir / "moving_shapes" / "tiny" / "1.0.0"
  source = tfds.builder_from_directory(shapes).as_data_source("novel")
  want = [record["label"].decode() for record in source]
  assert sources.labels(shapes, "novel") == want
  assert all(want)
