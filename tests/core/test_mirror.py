"""Small files of a run in a bucket: copied there and back, by one run at a time."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import types

import bucket
import pytest

from vtr_jax.core import buckets, mirror
from vtr_jax.core.errors import CheckpointError, ConfigError, DataError
from vtr_jax.core.mirror import Mirror
from vtr_jax.prepare import __main__ as command
from vtr_jax.prepare.place import Place


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
  """Local copies are here."""
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
  return tmp_path / f"vtr_jax-{os.getuid()}"


def there(url):
  """Name -> content, of all files below."""
  bucket, _, prefix = f"{url}/".removeprefix("gs://").partition("/")
  found = buckets._client().list_blobs(bucket, prefix=prefix)
  return {b.name.removeprefix(prefix): b.download_as_bytes() for b in found}


def test_a_local_directory_is_used_as_it_is(tmp_path):
  place = Mirror(tmp_path / "run")
  assert (place.name, place.local) == (str(tmp_path / "run"), tmp_path / "run")
  assert place.checkpoints == tmp_path / "run" / "checkpoints"
  with place.held(0.0):
    place.pull()
    place.push()
    assert place.reachable()
    assert place.sync()
    place.finish()
  assert not list(tmp_path.iterdir())


@bucket.needed
def test_what_changed_is_pushed_and_an_emptied_scratch_directory_is_filled(
  url, scratch
):
  place = Mirror(url)
  place.pull()
  (place.local / "figures").mkdir()
  (place.local / "figures" / "a.png").write_bytes(b"png")
  (place.local / "metrics.jsonl").write_text("1\n")
  (place.local / ".config.json.5.tmp").write_text("half")
  assert place.sync()
  assert there(url) == {"figures/a.png": b"png", "metrics.jsonl": b"1\n"}
  uploaded = buckets.files(url)["metrics.jsonl"]
  with (place.local / "metrics.jsonl").open("a") as f:
    f.write("2\n")
  place.finish()
  assert there(url)["metrics.jsonl"] == b"1\n2\n"
  (picture,) = buckets.files(f"{url}/figures").values()
  assert picture.generation < buckets.files(url)["metrics.jsonl"].generation
  assert picture.generation < uploaded.generation  # uploaded once
  shutil.rmtree(scratch)
  other = Mirror(url + "/")
  other.pull()
  assert (other.local / "metrics.jsonl").read_bytes() == b"1\n2\n"
  assert not (other.local / "figures").exists()  # nothing reads it again


@bucket.needed
def test_of_two_versions_of_a_file_the_newer_one_is_kept(url):
  place = Mirror(url)
  place.pull()
  for name in ("here", "there", "deleted"):
    (place.local / name).write_text("old")
  place.finish()
  (place.local / "here").write_text("new, not pushed")
  buckets.blob(f"{url}/there").upload_from_string("new, of another machine")
  buckets.blob(f"{url}/deleted").delete()
  again = Mirror(url)
  again.pull()
  assert (again.local / "here").read_text() == "new, not pushed"
  assert (again.local / "there").read_text() == "new, of another machine"
  assert not (again.local / "deleted").exists()
  assert again.sync()
  assert there(url)["here"] == b"new, not pushed"
  # A run that was deleted does not come back.
  for name in there(url):
    buckets.blob(f"{url}/{name}").delete()
  again.pull()
  assert {p.name for p in again.local.iterdir()} == {".mirror.json"}


@bucket.needed
def test_a_command_uploads_its_own_files_alone(url):
  """Its output may be the directory of a run, of which there are older copies here."""
  run = Mirror(url)
  run.pull()
  (run.local / "config.json").write_text("old")
  made = [Mirror(url, fresh=True) for _ in range(2)]
  for number, place in enumerate(made):
    place.local.mkdir(parents=True)
    (place.local / f"results-{number}.json").write_text("{}")
    place.finish()
    assert not place.local.exists()
  assert set(there(url)) == {"results-0.json", "results-1.json"}
  assert (run.local / "config.json").read_text() == "old"


@bucket.needed
def test_a_checkpoint_that_was_saved_here_is_complete_only_when_all_of_it_is_there(url):
  place = Mirror(url)
  place.pull()
  step = place.local / "checkpoints" / "4"
  (step / "state" / "d").mkdir(parents=True)
  for name in ("commit_success.txt", "state/commit_success.txt", "state/d/1", "z"):
    (step / name).write_text(name)
  buckets.blob(f"{url}/checkpoints/2/z").upload_from_string("of a torn one")
  assert [p.name for p in place.checkpoints.iterdir()] == ["2"]
  assert place.sync()
  assert {p.name for p in place.checkpoints.iterdir()} == {"2", "4"}
  buckets.blob(f"{url}/checkpoints/2/z").delete()
  found = buckets.files(f"{url}/checkpoints/4") | buckets.files(
    f"{url}/checkpoints/4/state"
  )
  assert set(there(url)) == {
    f"checkpoints/4/{name}"
    for name in ("commit_success.txt", "state/commit_success.txt", "state/d/1", "z")
  }
  last = buckets.files(f"{url}/checkpoints/4")["commit_success.txt"]
  assert last.generation == max(b.generation for b in [*found.values(), last])
  assert not (place.local / "checkpoints").exists()


@bucket.needed
def test_one_run_at_a_time(url, capfd):
  first, second = Mirror(url), Mirror(url)
  with first.held(0.0):
    with pytest.raises(DataError, match="another run writes there"), second.held(0.5):
      pass
    assert "waiting for another run to end" in capfd.readouterr().err
    assert first.reachable()
  with second.held(0.0):
    assert second.reachable()
  assert there(url) == {}


@bucket.needed
def test_the_lease_of_an_ended_process_is_void_and_that_of_a_silent_one_in_time(
  url, monkeypatch
):
  place = Mirror(url)
  ended = subprocess.Popen([sys.executable, "-c", ""])
  ended.wait()
  lease = dict(machine=mirror._machine(), pid=ended.pid, id="x")
  buckets.blob(f"{url}/lock").upload_from_string(json.dumps(lease))
  with place.held(0.0):
    pass
  buckets.blob(f"{url}/lock").upload_from_string(json.dumps(lease | dict(machine="y")))
  with pytest.raises(DataError, match="another run"), place.held(0.0):
    pass
  monkeypatch.setattr(mirror, "_EXPIRY", 0.5)
  with place.held(10.0):
    pass


@bucket.needed
def test_a_run_whose_lease_was_taken_ends_and_writes_nothing_more(url, monkeypatch):
  first, second = Mirror(url), Mirror(url, 1)
  with first.held(0.0):
    first.pull()
    (first.local / "metrics.jsonl").write_text("of the first\n")
    monkeypatch.setattr(mirror, "_EXPIRY", 0.0)
    with second.held(5.0):
      with pytest.raises(DataError, match="another run has taken over"):
        first.reachable()
      with pytest.raises(DataError, match="another run has taken over"):
        first.finish()
      assert second.reachable()
    assert "metrics.jsonl" not in there(url)


@bucket.needed
def test_a_run_whose_lease_was_taken_leaves_that_of_the_new_owner(url, monkeypatch):
  first, second = Mirror(url), Mirror(url, 1)
  with contextlib.ExitStack() as later:
    with first.held(0.0):
      monkeypatch.setattr(mirror, "_EXPIRY", 0.0)
      later.enter_context(second.held(5.0))
      with pytest.raises(DataError, match="another run has taken over"):
        first.reachable()
    assert json.loads(there(url)["lock"])["id"] == second._id
    assert second.reachable()
  assert there(url) == {}


@bucket.needed
def test_a_long_upload_renews_the_lease(url, monkeypatch):
  place = Mirror(url)
  with place.held(0.0):
    place.pull()
    for name in "abc":
      (place.local / name).write_text(name)
    monkeypatch.setattr(mirror, "_RENEW", 0.0)
    before, written, write = place._lease, [], place._write_lease
    monkeypatch.setattr(place, "_write_lease", lambda g: written.append(g) or write(g))
    assert place.sync()
  assert written[0] == before
  assert len(set(written)) >= 4  # at the start, and before each file
  assert set(there(url)) == set("abc")


@bucket.needed
def test_an_unreachable_bucket_is_said_once_and_nothing_is_lost(
  gcs,
  url,
  capfd,
  monkeypatch,
):
  monkeypatch.setattr(buckets, "_DEADLINE", 1.0)
  monkeypatch.setattr(buckets, "_TIMEOUT", 0.5)
  monkeypatch.setattr(buckets, "_LARGE", 0.5)
  place = Mirror(url)
  with place.held(0.0):
    place.pull()
    (place.local / "metrics.jsonl").write_text("1\n")
    gcs.pause()
    try:
      assert not place.sync()
      assert not place.reachable()
      with pytest.raises(CheckpointError, match="run the same command again") as e:
        place.finish()
    finally:
      gcs.resume()
    assert str(place.local) in str(e.value)
    assert (place.local / "metrics.jsonl").read_text() == "1\n"
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"WARNING: {url}: not written (")
    assert place.sync()
    assert "can be written again" in capfd.readouterr().err
  assert there(url) == {"metrics.jsonl": b"1\n"}


@bucket.needed
def test_a_further_process_says_that_the_bucket_is_back_when_it_is(
  gcs, url, capfd, monkeypatch
):
  for name in ("_DEADLINE", "_AGAIN"):
    monkeypatch.setattr(buckets, name, 1.0)
  for name in ("_TIMEOUT", "_LARGE"):
    monkeypatch.setattr(buckets, name, 0.5)
  place = Mirror(url, 1)  # without a lease, which process 0 holds
  place.pull()
  (place.local / "metrics-1.jsonl").write_text("1\n")
  gcs.pause()
  try:
    assert not place.sync()
    assert not place.reachable()
  finally:
    gcs.resume()
  assert "can be written again" not in capfd.readouterr().err
  assert place.reachable()
  assert "can be written again" in capfd.readouterr().err
  assert there(url) == {"metrics-1.jsonl": b"1\n"}  # it was due


@bucket.needed
def test_a_finished_folder_is_uploaded_once(url, tmp_path):
  folder = tmp_path / "1.0.0"
  (folder / "sub").mkdir(parents=True)
  for name in ("dataset_info.json", "x.array_record", "sub/y"):
    (folder / name).write_text(name)
  assert buckets.upload(folder, url, "dataset_info.json") == 3
  assert there(url) == {
    name: name.encode() for name in ("dataset_info.json", "x.array_record", "sub/y")
  }
  found = buckets.files(url)
  assert found["dataset_info.json"].generation > found["x.array_record"].generation
  (folder / "x.array_record").write_text("other")
  assert buckets.upload(folder, url, "dataset_info.json") == 1
  with pytest.raises(DataError, match="cannot be used"):
    buckets.upload(folder, "gs://no-such-bucket/x", "dataset_info.json")


@bucket.needed
def test_prepare_copies_a_complete_data_set(url, tmp_path, capfd):
  place = Place(str(tmp_path), "mine")
  command._push(place, url)
  assert there(url) == {}
  place.directory.mkdir(parents=True)
  for name in ("manifest.json", "dataset_info.json"):
    (place.directory / name).write_text("{}")
  command._push(place, f"{url}/data/")
  assert set(there(url)) == {
    f"data/mine/1.0.0/{name}" for name in ("manifest.json", "dataset_info.json")
  }
  assert f"{url}/data/mine/1.0.0: 2 files copied" in capfd.readouterr().err


@pytest.mark.parametrize(
  ("given", "message"),
  [
    (dict(push="/mnt/x"), "--push: /mnt/x: not a bucket; give gs://BUCKET/DIR"),
    (dict(push="gs://a/b", check="x"), "--push: --check copies nothing; omit one"),
  ],
)
def test_prepare_refuses_a_push_before_any_work(given, message, monkeypatch):
  values = dict(push="", check="", merge=False) | given
  given = types.SimpleNamespace(flag_values_dict=lambda: values)
  monkeypatch.setattr(command.flags, "FLAGS", given)
  with pytest.raises(ConfigError, match=f"^{message}$"):
    command._call()


@bucket.needed
def test_prepare_copies_a_data_set_with_its_new_notes(
  url, tmp_path, monkeypatch, capfd
):
  folder = tmp_path / "mine" / "1.0.0"
  folder.mkdir(parents=True)
  (folder / "dataset_info.json").write_text("{}")
  values = dict(push=url, check="", merge=False, format="csv", notes_of="x")
  values |= {name: None for name in command._FINAL}
  given = types.SimpleNamespace(flag_values_dict=lambda: values)
  monkeypatch.setattr(command.flags, "FLAGS", given)
  monkeypatch.setattr(command, "_add_notes", lambda *_: folder)
  monkeypatch.setattr(command.merge, "Final", lambda **_: None)
  command._call()
  assert set(there(url)) == {"mine/1.0.0/dataset_info.json"}
  assert "1 files copied" in capfd.readouterr().err


@bucket.needed
def test_a_bucket_that_does_not_exist_is_one_line(gcs):
  with (
    pytest.raises(DataError, match=r"^gs://no-such/run: cannot be used"),
    Mirror("gs://no-such/run").held(0.0),
  ):
    pass


def test_copies_have_names_of_their_own(scratch):
  names = {buckets.scratch(u) for u in ("gs://a/run", "gs://b/run")}
  assert len(names | {Mirror("gs://a/run", 1).local}) == 3
  assert buckets.copied(pathlib.Path("x")) == pathlib.Path("x")


def test_a_scratch_directory_that_others_may_write_is_refused(scratch, tmp_path):
  cure = f"^{scratch}: .*; remove it, or set TMPDIR"
  scratch.mkdir()
  scratch.chmod(0o777)
  with pytest.raises(ConfigError, match=cure):
    Mirror("gs://a/run")
  scratch.chmod(0o700)
  scratch.rename(tmp_path / "other")
  scratch.symlink_to(tmp_path / "other")
  with pytest.raises(ConfigError, match=cure):
    Mirror("gs://a/run")
