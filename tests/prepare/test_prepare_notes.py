"""Notes: written with the records, or added to prepared ones; never half of them."""

import json
import shutil
import signal
import subprocess
import sys

import clips
import pytest
from conftest import ROOT, run_main
from format_cases import put
from prepare_cases import TEST, TRAIN, content, make, write_source

from vtr_jax.core.errors import DataBudgetError, DataError
from vtr_jax.data import notes, sources
from vtr_jax.data.notes import Note
from vtr_jax.data.tokenizers.base import SentencePiece
from vtr_jax.prepare import merge, run
from vtr_jax.prepare import notes as adding
from vtr_jax.prepare.check import check
from vtr_jax.prepare.formats import base, parse
from vtr_jax.prepare.options import Options
from vtr_jax.prepare.place import Place

ORIGIN = dict(format="csv", source="videos")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  return write_source(tmp_path_factory.mktemp("source") / "videos")


@pytest.fixture(scope="module")
def items(source):
  """Every second video has two questions, and the last one a moment too."""
  found = base.open("csv", base.Request(str(source)))
  return [noted(item, i) if i % 2 else item for i, item in enumerate(found)]


def noted(item, i):
  made = [Note("question", f"{i}{x}", f"größe {i}?", "man", "what") for x in "ab"]
  if i == TRAIN + TEST - 1:
    made.append(Note("moment", "m", "he sits", windows=((0.0, 0.5), (1.0, 2.5))))
  return item._replace(notes=tuple(made))


@pytest.fixture(scope="module")
def prepared(source, items, tmp_path_factory):
  return make(source, tmp_path_factory.mktemp("whole"), items=items)


@pytest.fixture
def plain(source, tmp_path):
  """The same data set, prepared without notes."""
  return make(source, tmp_path / "plain")


def rows(directory, split, name="csv"):
  path = directory / f"notes-{name}-{split}.jsonl"
  return [json.loads(line) for line in path.read_text().splitlines()]


def without_manifest(directory):
  return {k: v for k, v in content(directory).items() if k != "manifest.json"}


def listed(directory):
  return json.loads((directory / "manifest.json").read_text())["notes"]


NOTE = Note("question", "1", "who?", "man")


@pytest.mark.parametrize(
  ("note", "says"),
  [
    (NOTE._replace(kind="answer"), "a kind of question, label, moment, got 'answer'"),
    (NOTE._replace(text=" "), "an id and a text of the question, got '1' and ''"),
    (NOTE._replace(id=None), "an id and a text"),
    (NOTE._replace(answer=3), "a UTF-8 text for answer, got 3;"),
    (NOTE._replace(text="\ud800"), "a UTF-8 text for text, got '\\ud800'"),
    (NOTE._replace(answer=""), "an answer of the question, got an empty one"),
    (NOTE._replace(options=("a", "b")), "an answer among the options, got 'man'"),
    (NOTE._replace(kind="moment"), "a window of the moment, got none"),
    (NOTE._replace(windows=((2.0, 2.0),)), "0 <= start < end, got (2.0, 2.0)"),
    (NOTE._replace(windows=((-1.0, 2.0),)), "0 <= start < end, got (-1.0, 2.0)"),
    (NOTE._replace(windows=((1.0, float("inf")),)), "0 <= start < end, got (1.0, inf)"),
  ],
)
def test_an_invalid_note_is_rejected_with_its_place(note, says):
  fields = note._asdict()
  kind, name = fields.pop("kind"), fields.pop("id")
  with pytest.raises(DataError) as caught:
    parse.note("a.json:7", kind, name, **fields)
  assert str(caught.value).startswith(f"a.json:7: expected {says}")


def test_a_published_number_is_an_id_and_texts_are_stripped():
  note = parse.note("", "question", 1, " who? ", answer="man ", options=("man", " x"))
  assert note == NOTE._replace(options=("man", "x"))


def test_each_note_names_its_record_in_the_order_of_the_records(prepared, items):
  for split in ("train", "test"):
    records = sources.open_split(str(prepared), split)
    want = {item.id: item.notes for item in items if item.split == split}
    got = rows(prepared, split)
    assert [row["index"] for row in got] == sorted(row["index"] for row in got)
    assert len(got) == sum(map(len, want.values()))
    for row in got:
      assert row["record"] == records[row["index"]]["id"]
      assert row["split"] == split
      assert notes.from_json(row) in want[row["record"]]
  ids = [row["id"] for row in rows(prepared, "test")]
  assert ids == ["15a", "15b", "17a", "17b", "m"]
  assert rows(prepared, "test")[0] == dict(
    record="v15.mp4",
    index=1,
    split="test",
    kind="question",
    id="15a",
    text="größe 15?",
    answer="man",
    type="what",
  )


def test_the_manifest_counts_the_notes_and_check_accepts_them(prepared):
  counts = {k: v["notes"] for k, v in listed(prepared)["csv"]["splits"].items()}
  assert counts == dict(train=TRAIN, test=TEST + 1)
  check(str(prepared))


def test_any_number_of_jobs_and_workers_writes_the_same_bytes(
  source, items, prepared, tmp_path
):
  """The first job's work is found by a later run, as after a kill."""
  make(source, tmp_path, items=items, job=0, jobs=2, workers=2)
  make(source, tmp_path, items=items, job=1, jobs=2)
  place = Place(str(tmp_path), "mine")
  merge.merge(place, merge.Final())
  assert content(place.directory) == content(prepared)


def test_notes_of_a_refused_item_are_left_out(items, source, tmp_path):
  bad = source / "bad.mp4"
  bad.write_bytes(b"<html>")
  more = [noted(items[0]._replace(id="bad", media=base.Media(str(bad))), 99), *items]
  made = make(source, tmp_path, items=more, final=merge.Final(bad_budget=0.1))
  assert {row["record"] for row in rows(made, "train")} == {
    item.id for item in items if item.split == "train" and item.notes
  }
  check(str(made))


def test_resuming_with_other_notes_is_rejected(source, items, tmp_path):
  make(source, tmp_path, items=items, job=0, jobs=9)
  other = [item._replace(notes=item.notes[1:]) for item in items]
  with pytest.raises(DataError, match="another notes_sha256"):
    make(source, tmp_path, items=other)


def test_preparing_again_compares_the_notes(source, items, prepared, plain, capsys):
  root = prepared.parents[1]
  make(source, root, items=items)
  make(source, root)  # without notes, there is nothing to compare
  other = [item._replace(notes=item.notes[1:]) for item in items]
  with pytest.raises(DataError, match=r"was made with other notes; .*--notes_of="):
    make(source, root, items=other)
  make(source, plain.parents[1], items=items)
  assert "has not these notes; add them by --notes_of" in capsys.readouterr().err


def test_manifests_of_earlier_versions_hold_the_hash_of_items_without_notes():
  item = base.Item("a", "train", base.Media("a.mp4"), ("x",), notes=(NOTE,))
  assert run._without_notes(item) == (
    "Item(id='a', split='train', media=Media(path='a.mp4', offset=0, size=-1), "
    "captions=('x',), label='', start=None, end=None)"
  )


def test_items_with_questions_alone_are_kept_and_train_the_tokenizer(
  source, items, tmp_path
):
  asked = [item._replace(captions=()) for item in items if item.notes]
  made = make(source, tmp_path, items=asked)
  assert len(sources.open_split(str(made), "train")) == TRAIN // 2
  pieces = SentencePiece(str(made / "tokenizer.model"))
  ids, valid = pieces.encode("größe", 8)
  assert pieces.unk_id not in ids[valid]


def test_added_notes_are_those_of_one_run_and_records_stay(prepared, plain, items):
  before = without_manifest(plain)
  adding.add(plain, items, ORIGIN, 0.0)
  assert without_manifest(plain) == without_manifest(prepared)
  assert before.items() <= content(plain).items()
  assert listed(plain)["csv"]["splits"] == listed(prepared)["csv"]["splits"]
  check(str(plain))
  again = content(plain)
  adding.add(plain, items, ORIGIN | dict(source="elsewhere"), 0.0)
  assert content(plain) == again


def test_a_second_set_is_added_and_a_new_run_replaces_the_first(plain, items):
  adding.add(plain, items, ORIGIN, 0.0)
  first = listed(plain)["csv"]
  adding.add(plain, items[-1:], dict(format="other"), 0.0)
  assert listed(plain)["csv"] == first
  assert len(rows(plain, "test", "other")) == 3
  only = [item for item in items if item.split == "test"]
  adding.add(plain, only, ORIGIN, 0.0)
  assert list(listed(plain)["csv"]["splits"]) == ["test"]
  assert not (plain / "notes-csv-train.jsonl").exists()
  assert len(rows(plain, "test", "other")) == 3
  check(str(plain))


def test_notes_of_items_that_are_not_prepared_are_listed(plain, items, capsys):
  before = content(plain)
  more = [*items, items[1]._replace(id="gone", notes=(NOTE,))]
  with pytest.raises(DataBudgetError) as caught:
    adding.add(plain, more, ORIGIN, 0.05)
  assert "1 of 10 items with notes are not prepared, listed above" in str(caught.value)
  assert "leave them out with --bad_budget, now 0.05" in str(caught.value)
  assert capsys.readouterr().out == "not prepared: gone\n"
  assert content(plain) == before
  adding.add(plain, more, ORIGIN, 0.1)
  assert listed(plain)["csv"]["not_prepared"] == ["gone"]
  with pytest.raises(DataBudgetError, match="1 of 1 items"):
    adding.add(plain, more[-1:], ORIGIN, 1.0)
  with pytest.raises(DataError, match="these annotations have no notes"):
    adding.add(plain, items[:1], ORIGIN, 1.0)


def test_an_interrupted_addition_is_noticed_and_completed(plain, items, monkeypatch):
  """Ended between the files and the manifest, which lists them; others stay valid."""
  adding.add(plain, items, ORIGIN, 0.0)
  adding.add(plain, items, dict(format="other"), 0.0)
  want = content(plain)
  fewer = [item._replace(notes=item.notes[1:]) for item in items]
  adding.add(plain, fewer, ORIGIN, 0.0)

  def killed(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(adding, "write_json", killed)
  with pytest.raises(KeyboardInterrupt):
    adding.add(plain, items, ORIGIN, 0.0)
  monkeypatch.undo()
  with pytest.raises(DataError, match=r"not the bytes that .*--notes_of="):
    notes.read(plain, "test", name="csv")
  assert notes.read(plain, "test", name="other")
  adding.add(plain, items, ORIGIN, 0.0)
  assert without_manifest(plain) == {
    k: v for k, v in want.items() if k != "manifest.json"
  }
  check(str(plain))


def test_damaged_notes_are_reported_and_repaired(plain, items):
  adding.add(plain, items, ORIGIN, 0.0)
  path = plain / "notes-csv-test.jsonl"
  good = path.read_bytes()
  path.write_bytes(good.replace(b"man", b"cat", 1))
  with pytest.raises(DataError, match=r"notes-csv-test\.jsonl: not the bytes that"):
    check(str(plain))
  path.unlink()
  with pytest.raises(DataError, match=r"notes-csv-test\.jsonl: No such file.*; copy"):
    check(str(plain))
  adding.add(plain, items, ORIGIN, 0.0)
  assert path.read_bytes() == good


def test_check_notices_notes_of_other_records(plain, items):
  adding.add(plain, items, ORIGIN, 0.0)
  text = (plain / "notes-csv-test.jsonl").read_text().replace("v15.mp4", "v16.mp4")
  made = notes.save(plain, "csv", dict(test=text))
  manifest = json.loads((plain / "manifest.json").read_text())
  manifest["notes"]["csv"]["splits"] = made
  (plain / "manifest.json").write_text(json.dumps(manifest))
  with pytest.raises(DataError, match=r"record 1 of test is not 'v16\.mp4'; add them"):
    check(str(plain))


def test_check_notices_another_label_in_the_list_of_records(source, tmp_path, capsys):
  items = base.open("csv", base.Request(str(source)))
  labelled = [item._replace(label="run") for item in items]
  made = make(source, tmp_path, Options(copy=True), items=labelled)
  path = made / "records.jsonl"
  path.write_text(path.read_text().replace('"label": "run"', '"label": "ran"', 1))
  with pytest.raises(DataError, match="1 of 18 records are bad"):
    check(str(made))
  assert "has another label in records.jsonl" in capsys.readouterr().out


def test_the_command_adds_questions_to_a_data_set_of_another_source(tmp_path):
  """Added to what TFDS has built, which has no manifest; no video is there."""
  names = ("a_1_2", "b_3_4", "c_5_6")
  records = dict(
    train=[clips.record(names[0], b"-")],
    test=[clips.record(n, b"-") for n in names[1:]],
  )
  data = clips.prepare(tmp_path, records)
  qa = put(
    tmp_path / "qa",
    {
      "youtube_mapping.txt": "a_1_2 vid1\nb_3_4 vid2\nc_5_6 vid3\n",
      "val_qa.json": [dict(video_id=2, id=7, question="who is it?", answer="man")],
      "test_qa.json": [dict(video_id=3, id=8, question="what is it?", answer="cat")],
    },
  )
  flags = ("--format=msvd_qa", f"--notes_of={tmp_path}/clips")
  ran = run_main(*flags, module="vtr_jax.prepare")
  assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
  assert ran.stderr.startswith("ConfigError: annotations: missing")
  wrong = ("--format=msvd_qa", f"--notes_of={qa}", f"--annotations={qa}")
  ran = run_main(*wrong, module="vtr_jax.prepare")
  assert ran.stderr == f"DataError: {qa}: no prepared data set; fix --notes_of\n"
  ran = run_main(*flags, f"--annotations={qa}", module="vtr_jax.prepare")
  assert ran.returncode == 0, ran.stderr
  assert "notes of msvd_qa: test 2; 0 items are not prepared" in ran.stderr
  (none, cat) = notes.read(data, "test")
  assert (none, cat[0].answer) == ((), "cat")
  (man, none) = notes.read(data, "test", own_split="validation")
  assert (man[0].answer, none) == ("man", ())


KILLED = """
import os, signal, sys
from vtr_jax.prepare import notes
from vtr_jax.prepare.formats import base
from vtr_jax.data.notes import Note

directory, source, place, before = sys.argv[1:]
replace, calls = os.replace, []

def replaced(old, new):
  calls.append(new)
  last = len(calls) == int(place)
  if last and before == "1":
    os.kill(os.getpid(), signal.SIGKILL)
  replace(old, new)
  if last:
    os.kill(os.getpid(), signal.SIGKILL)

os.replace = replaced
items = base.open("csv", base.Request(source))
items = [item._replace(notes=(Note("question", "1", f"{item.id}?", "man"),))
         for item in items]
notes.add(directory, items, dict(format="csv", source="videos"), 0.01)
"""


@pytest.mark.nightly
def test_notes_that_were_killed_are_completed_by_the_same_command(
  source, plain, tmp_path
):
  """Before and after each file that is put in its place; another set is kept."""
  found = base.open("csv", base.Request(str(source)))
  other = [item._replace(notes=(NOTE,)) for item in found]
  adding.add(plain, other, dict(format="umt", source="videos"), 0.01)
  kept = {k: v for k, v in content(plain).items() if "notes-csv" not in k}

  def add(place, before, directory):
    arguments = (str(directory), str(source), str(place), str(before))
    return subprocess.run([sys.executable, "-c", KILLED, *arguments], cwd=ROOT)

  reference = tmp_path / "reference"
  shutil.copytree(plain, reference)
  assert add(99, 0, reference).returncode == 0
  deaths = 0
  for place in range(1, 9):
    for before in (1, 0):
      directory = tmp_path / f"{place}-{before}"
      shutil.copytree(plain, directory)
      if add(place, before, directory).returncode != -signal.SIGKILL:
        continue
      deaths += 1
      after = content(directory)
      assert {k: after[k] for k in kept if k != "manifest.json"} == (
        {k: v for k, v in kept.items() if k != "manifest.json"}
      )
      assert rows(directory, "test", "umt") == rows(plain, "test", "umt")
      assert add(99, 0, directory).returncode == 0
      assert content(directory) == content(reference)
  assert deaths >= 6
