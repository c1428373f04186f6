"""Preparing a data set: complete or absent, and the same bytes however it was made."""

import contextlib
import json
import multiprocessing
import shutil
import signal
import subprocess
import sys
import time

import clips
import pytest
from array_record.python import array_record_module
from conftest import ROOT, run_main
from prepare_cases import (
  TEST,
  TRAIN,
  Hanging,
  Killing,
  arguments,
  content,
  make,
  write_source,
)

from vtr_jax.core.errors import BadSample, ConfigError, DataBudgetError, DataError
from vtr_jax.data import sources
from vtr_jax.data.tokenizers.base import SentencePiece
from vtr_jax.data.video.decode import decode
from vtr_jax.prepare import merge, run, spool
from vtr_jax.prepare.check import check
from vtr_jax.prepare.formats import base
from vtr_jax.prepare.options import Options, Result
from vtr_jax.prepare.place import Place


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  return write_source(tmp_path_factory.mktemp("source") / "videos")


@pytest.fixture(scope="module")
def prepared(source, tmp_path_factory):
  """The data set, prepared without interruption."""
  return make(source, tmp_path_factory.mktemp("whole"))


def manifest(directory):
  return json.loads((directory / "manifest.json").read_text())


def test_prepared_records_can_be_read(source, prepared):
  root, name = prepared.parents[1], "mine"
  assert sources.find(str(root), name) == str(prepared)
  train = sources.open_split(str(prepared), "train")
  ids = [train[i]["id"] for i in range(len(train))]
  assert ids != sorted(ids)
  assert sorted(ids) == [f"v{i:02d}.mp4" for i in range(TRAIN)]
  test = sources.open_split(str(prepared), "test")
  records = [test[i] for i in range(len(test))]
  assert [r["id"] for r in records] == [f"v{i}.mp4" for i in range(TRAIN, TRAIN + TEST)]
  assert records[0]["captions"] == [f"a blue ball moves {TRAIN}"]
  assert records[0]["label"] == ""
  assert decode(records[0]["video"]).shape == (6, 32, 48, 3)


def test_the_manifest_and_the_tokenizer_are_complete(prepared):
  described = manifest(prepared)
  assert described["splits"]["train"]["records"] == TRAIN
  assert described["splits"]["train"]["frames"] == 6 * TRAIN
  assert described["splits"]["train"]["shards"] == 4
  assert described["splits"]["test"]["records"] == TEST
  assert described["refused"] == described["warned"] == []
  sums = json.loads((prepared / "checksum.json").read_text())
  assert described["splits"]["test"]["checksum"] == sums["test"]["records"]
  pieces = SentencePiece(str(prepared / "tokenizer.model"))
  assert (pieces.pad_id, pieces.unk_id, pieces.cls_id, pieces.mask_id) == (0, 1, 2, 3)
  ids, valid = pieces.encode("a purple ball", 16)
  assert pieces.unk_id not in ids[valid]


def test_three_jobs_give_the_same_bytes_as_one(source, prepared, tmp_path):
  for job in (2, 0):
    make(source, tmp_path, job=job, jobs=3)
  place = Place(str(tmp_path), "mine")
  with pytest.raises(DataError, match=r"train-00001 \(number 1\), test-00000"):
    merge.merge(place, merge.Final())
  make(source, tmp_path, job=1, jobs=3)
  merge.merge(place, merge.Final())
  assert content(place.directory) == content(prepared)
  assert not place.work.exists()


def test_merge_detects_a_truncated_shard(source, tmp_path):
  make(source, tmp_path, job=0, jobs=2)
  make(source, tmp_path, job=1, jobs=2)
  place = Place(str(tmp_path), "mine")
  path = place.work / "train-00002.array_record"
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(DataError, match=r"train-00002.array_record: .* bytes; delete"):
    merge.merge(place, merge.Final())
  assert not place.directory.exists()


def killed(source, out, ready):
  """Runs the command until `ready()`, then kills it without warning."""
  command = [sys.executable, "-m", "vtr_jax.prepare", *arguments(source, out)]
  with (out / "log").open("w") as log:
    process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    while not ready() and process.poll() is None:
      time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    return process.wait()


def test_a_killed_preparation_resumes_to_the_same_bytes(source, prepared, tmp_path):
  """Shards finished before a kill are kept; the result is that of one full run."""
  work = tmp_path / "mine" / ".unfinished-1.0.0"
  moments = [
    lambda: list(work.glob("train-*/0*")),
    lambda: len(list(work.glob("*.json"))) > 3,
    lambda: (work / "staging" / "dataset_info.json").exists(),
  ]
  kept = {}
  for ready in moments:
    assert killed(source, tmp_path, ready) == -signal.SIGKILL
    assert not (tmp_path / "mine" / "1.0.0").exists()
    for path in work.glob("*.array_record"):
      assert kept.setdefault(path.name, path.stat().st_ino) == path.stat().st_ino
  assert len(kept) == 5
  again = run_main(*arguments(source, tmp_path), module="vtr_jax.prepare")
  assert again.returncode == 0, again.stderr
  assert "train 14, test 4; refused 0" in again.stderr
  assert content(tmp_path / "mine" / "1.0.0") == content(prepared)


def test_only_incomplete_items_are_repeated(source, tmp_path):
  place = Place(str(tmp_path), "mine")
  (place.work / "test-00000").mkdir(parents=True)
  good, torn = (place.work / "test-00000" / f"0000{i}" for i in range(2))
  spool.write(good, Result(clips.mp4(frames=3), frames=3))
  spool.write(torn, Result(clips.mp4(frames=3), frames=3))
  torn.write_bytes(torn.read_bytes()[:-1])
  test = sources.open_split(str(make(source, tmp_path)), "test")
  assert [len(decode(test[i]["video"])) for i in range(4)] == [3, 6, 6, 6]


def test_items_that_hang_or_kill_their_worker_are_refused_alone(source, tmp_path):
  items = base.open("csv", base.Request(str(source)))[TRAIN:]
  for name, kind in (("hung.mp4", Hanging), ("killed.mp4", Killing)):
    items.insert(1, items[0]._replace(id=name, media=kind(str(tmp_path / name))))
  made = make(
    source,
    tmp_path / "out",
    items=items,
    final=merge.Final(bad_budget=0.5),
    deadline=4.0,
  )
  reasons = {note["id"]: note["reason"] for note in manifest(made)["refused"]}
  assert set(reasons) == {"hung.mp4", "killed.mp4"}
  assert "not done after 4 s" in reasons["hung.mp4"]
  assert "its process died (exit code -9)" in reasons["killed.mp4"]
  test = sources.open_split(str(made), "test")
  assert [test[i]["id"] for i in range(4)] == [f"v{i}.mp4" for i in range(14, 18)]
  assert not multiprocessing.active_children()


BAD = (
  ("empty.mp4", b"", "empty file"),
  ("page.mp4", b"<html>404</html>", "not a video"),
  ("cut.mp4", clips.mp4()[:900], "not a video"),
  ("missing.mp4", None, "no such file"),
)


def test_exactly_the_bad_items_are_refused_within_the_budget(tmp_path):
  """Above the budget, no work is lost: with a larger budget it continues."""
  source = write_source(tmp_path / "videos", [bad[:2] for bad in BAD])
  with pytest.raises(DataBudgetError, match=r"4 of 22 items are refused.*bad_budget"):
    make(source, tmp_path, final=merge.Final(bad_budget=0.1))
  work = tmp_path / "mine" / ".unfinished-1.0.0"
  assert len((work / "refused.jsonl").read_text().splitlines()) == 4
  before = {path: path.stat().st_ino for path in work.glob("*.array_record")}
  made = make(source, tmp_path, final=merge.Final(bad_budget=0.2))
  assert {path.stat().st_ino for path in made.glob("*array_record*")} == {
    *before.values()
  }
  refused = {note["id"]: note for note in manifest(made)["refused"]}
  assert refused.keys() == {name for name, _, _ in BAD}
  for name, _, reason in BAD:
    assert refused[name]["file"] == str(source / name)
    assert reason in refused[name]["reason"]
  assert manifest(made)["splits"]["train"] | dict(bytes=0, checksum="") == dict(
    records=14, refused=4, captions=14, frames=84, seconds=10.5, bytes=0, shards=5
  ) | dict(checksum="")


def test_missing_files_end_the_run_before_any_work(source, tmp_path, capfd):
  items = base.open("csv", base.Request(str(source)))
  gone = [i._replace(media=base.Media(str(tmp_path / i.id))) for i in items]
  (tmp_path / items[0].id.upper()).touch()
  message = r"18 of 18 items are unfit.*no such file; did you mean '.*/V00\.MP4'\?; fix"
  with pytest.raises(DataBudgetError, match=message):
    make(source, tmp_path, items=gone)
  (tmp_path / items[2].id.upper()).touch()
  capfd.readouterr()
  with pytest.raises(DataBudgetError, match=message):
    make(source, tmp_path, items=gone)
  unfit = [x for x in capfd.readouterr().err.splitlines() if x.startswith("unfit: ")]
  assert len(unfit) == 9
  assert unfit[0].endswith(": no such file")
  assert unfit[1].endswith(
    f"v02.mp4): no such file; did you mean '{tmp_path}/V02.MP4'?"
  )
  # Within the budget, the manifest lists each of them with its nearest name.
  items[2] = gone[2]
  made = make(source, tmp_path / "out", items=items, final=merge.Final(bad_budget=0.5))
  (refused,) = manifest(made)["refused"]
  assert refused["reason"] == f"no such file; did you mean '{tmp_path}/V02.MP4'?"


def test_items_without_captions_are_refused_unless_labelled_or_allowed(
  source, tmp_path
):
  """Empty captions count as none."""
  items = base.open("csv", base.Request(str(source)))
  items[0] = items[0]._replace(captions=())
  items[1] = items[1]._replace(captions=(" ", ""))
  items[2] = items[2]._replace(captions=(), label="jump")
  made = make(source, tmp_path / "a", items=items, final=merge.Final(bad_budget=0.5))
  assert {note["id"] for note in manifest(made)["refused"]} == {"v00.mp4", "v01.mp4"}
  keep = Options(short_side=32, allow_no_captions=True)
  made = make(source, tmp_path / "b", keep, items=items)
  assert manifest(made)["splits"]["train"]["records"] == TRAIN
  assert manifest(made)["splits"]["train"]["captions"] == TRAIN - 3


def test_copy_keeps_the_bytes_of_the_files(source, tmp_path):
  test = sources.open_split(str(make(source, tmp_path, Options(copy=True))), "test")
  for i in range(TEST):
    assert test[i]["video"] == (source / test[i]["id"]).read_bytes()


def test_resuming_with_other_options_is_rejected(source, tmp_path):
  make(source, tmp_path, job=0, jobs=9)
  with pytest.raises(DataError, match=r"another options .short_side 32, now 64"):
    make(source, tmp_path, Options(short_side=64))
  fewer = base.open("csv", base.Request(str(source)))[1:]
  with pytest.raises(DataError, match=r"another items .18, now 17"):
    make(source, tmp_path, items=fewer)


def test_a_given_vocabulary_is_copied(source, tmp_path):
  path = tmp_path / "vocab.txt"
  path.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nred\n")
  made = make(source, tmp_path / "out", final=merge.Final(tokenizer=str(path)))
  assert (made / "tokenizer.model").read_bytes() == path.read_bytes()
  assert manifest(made)["tokenizer_pieces"] == 7


def test_an_unusable_vocabulary_is_rejected_before_any_work(source, tmp_path):
  path = tmp_path / "vocab.txt"
  path.write_text("[PAD]\n[UNK]\n[CLS]\n")
  with pytest.raises(DataError, match=r"vocab\.txt: the vocabulary has no \[SEP\]"):
    make(source, tmp_path, final=merge.Final(tokenizer=str(path)))
  assert not [*tmp_path.rglob("*.array_record")]


def test_resuming_with_another_tokenizer_is_rejected(source, tmp_path):
  made = make(source, tmp_path)
  place, other = Place(str(tmp_path), "mine"), merge.Final(vocab_size=100)
  message = r"another tokenizer .vocab_size 8000, now 100"
  with pytest.raises(DataError, match=message):
    make(source, tmp_path, final=other)
  with pytest.raises(DataError, match=message):
    merge.merge(place, other)
  with pytest.raises(
    DataError, match=r"another tokenizer .vocab_size 8000, now None; "
  ):
    make(source, tmp_path, final=merge.Final(tokenizer=str(made / "tokenizer.model")))
  make(source, tmp_path)
  make(source, tmp_path, final=other, job=0, jobs=2)  # leaves that to the merge


@pytest.mark.parametrize(
  "text", ['{"options": {', "[]", "\udcff", '{"options": {"x": 1}}']
)
def test_a_damaged_manifest_is_reported(source, prepared, tmp_path, text):
  shutil.copytree(prepared.parent, tmp_path / "mine")
  path = tmp_path / "mine" / "1.0.0" / "manifest.json"
  path.write_bytes(text.encode(errors="surrogateescape"))
  with pytest.raises(DataError, match=r"manifest.json: damaged"):
    check(str(path.parent))
  if "x" not in text:
    with pytest.raises(DataError, match=r"manifest.json: damaged"):
      make(source, tmp_path)


def test_check_names_each_bad_record(source, tmp_path, capsys):
  made = make(source, tmp_path, Options(copy=True))
  check(str(made))
  assert capsys.readouterr().out == ""
  path = made / "mine-test.array_record-00000-of-00001"
  data = path.read_bytes()
  at = data.index((source / "v15.mp4").read_bytes()[-300:]) + 100
  path.write_bytes(data[:at] + b"\xa5\x5a" + data[at + 2 :])
  gone = made / "mine-train.array_record-00003-of-00004"
  gone.unlink()
  with pytest.raises(DataError, match="3 of 18 records are bad"):
    check(str(made))
  lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
  assert [line[:2] for line in lines] == [
    ["train", "12"],
    ["train", "13"],
    ["test", "1"],
  ]
  assert lines[2][2] == "v15.mp4"
  assert lines[0][3:] == [str(gone), "no such file"]


def rewritten(path, change):
  """Rewrites a valid shard, with every record replaced by `change(number, record)`."""
  reader = array_record_module.ArrayRecordReader(str(path))
  records = [reader.read([i])[0] for i in range(reader.num_records())]
  reader.close()
  writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
  for number, record in enumerate(records):
    writer.write(change(number, record))
  writer.close()


def silently_damaged(data):
  """The video with a bit flipped so that it decodes without error, but differently."""
  good = decode(data)
  for at in range(len(data) - 40, len(data) // 2, -1):
    bad = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    with contextlib.suppress(BadSample):
      frames = decode(bad)
      if frames.shape == good.shape and (frames != good).any():
        return bad
  raise AssertionError("the decoder notices everything")


def test_check_lists_exactly_the_silently_changed_records(source, tmp_path, capsys):
  """Shards are valid and all videos decode: only the checksums differ."""
  made = make(source, tmp_path, Options(copy=True))
  videos = {n: (source / f"v{n}.mp4").read_bytes() for n in (14, 16)}
  swap = {
    0: lambda record: record.replace(videos[14], silently_damaged(videos[14])),
    2: lambda record: record.replace(videos[16], silently_damaged(videos[16])),
    3: lambda record: record.replace(b"v17", b"v71"),
  }
  path = made / "mine-test.array_record-00000-of-00001"
  rewritten(path, lambda number, record: record)
  check(str(made))  # written again, and nothing was changed
  rewritten(path, lambda number, record: swap.get(number, bytes)(record))
  with pytest.raises(DataError, match="3 of 18 records are bad") as e:
    check(str(made))
  assert e.value.exit_code == 2
  lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
  wanted = "not the bytes that were written"
  assert [line[:2] + line[4:] for line in lines] == [
    ["test", number, wanted] for number in "023"
  ]


def test_check_accepts_data_sets_made_without_prepare(data_dir):
  check(str(data_dir / "moving_shapes" / "tiny" / "1.0.0"))
  with pytest.raises(DataError, match="no prepared data set"):
    check(str(data_dir))


@pytest.mark.parametrize(
  ("flags", "code", "line"),
  [
    ((), 2, "ConfigError: --format: missing"),
    (("--format=cvs", "--source=x"), 2, "ConfigError: format: 'cvs' is unknown"),
    (("--format=csv", "--source=x", "--crf=99"), 2, "ConfigError: crf: 99"),
  ],
)
def test_mistakes_on_the_command_line_are_one_line_with_exit_code_2(
  flags, code, line, tmp_path
):
  ran = run_main(*flags, f"--out={tmp_path}", module="vtr_jax.prepare")
  assert ran.returncode == code
  assert ran.stderr.startswith(line)
  assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize("shard", ["3/3", "1", "a/b", "-1/2"])
def test_invalid_job_numbers_are_rejected(shard):
  with pytest.raises((ConfigError, DataError), match="must be i/n"):
    run.Run(0, 1.0, *run.parse_job(shard))
