"""Runs in a bucket: killed, resumed elsewhere, read, and with it out of reach."""

import json
import os
import pathlib
import re
import shutil
import signal
import tempfile

import bucket
import pytest
from clips import mp4
from etils import epath
from test_kill import kill
from test_processes import finish as finish_all
from test_processes import start as start_several
from test_processes import wait_for
from training import assert_same, finish, losses, params, start, without_evals

from configs import mac
from vtr_jax import evaluate
from vtr_jax.core import buckets
from vtr_jax.core.errors import ConfigError, DataError
from vtr_jax.core.mirror import Mirror
from vtr_jax.data import sources
from vtr_jax.inference import load as load_lib
from vtr_jax.search import build
from vtr_jax.search.searcher import Searcher
from vtr_jax.train.loop import train_and_evaluate

pytestmark = [bucket.needed, pytest.mark.timeout(900)]


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
  """Local copies of this process and of others are here."""
  folder = tmp_path / "scratch"
  folder.mkdir()
  monkeypatch.setattr(tempfile, "tempdir", str(folder))
  monkeypatch.setenv("TMPDIR", str(folder))
  return folder / f"vtr_jax-{os.getuid()}"


def config_of(data_dir, **changes):
  values = mac.get_config("smoke").to_dict()
  values["data"]["dir"] = str(data_dir)
  return without_evals(values, steps=8, checkpoint_every=2, **changes)


@pytest.fixture(scope="module")
def reference(data_dir, tmp_path_factory):
  """The same run on a disk."""
  workdir = tmp_path_factory.mktemp("reference")
  train_and_evaluate(config_of(data_dir), workdir)
  return workdir


def download(url, to):
  """A copy of a run, as a user makes one."""
  shutil.rmtree(to, ignore_errors=True)
  buckets.forget()
  buckets._file_system().get(url, str(to), recursive=True)
  return to


def assert_equal(url, reference, tmp_path):
  assert_equal_files(download(url, tmp_path / "copy"), reference)


def assert_equal_files(run, reference):
  assert losses(run) == losses(reference)
  assert_same(params(run, 8), params(reference, 8))
  assert json.loads((run / "results.json").read_text())["step"] == 8
  assert not (run / "lock").exists()


@pytest.fixture(scope="session")
def run(gcs, data_dir, tmp_path_factory):
  """A run of two steps in the bucket, with its data there."""
  origin = pathlib.Path(sources.find(data_dir, "moving_shapes/tiny"))
  there = "gs://bucket/data"
  buckets.upload(origin, f"{there}/moving_shapes/tiny/1.0.0", "dataset_info.json")
  values = config_of(there) | dict(steps=2)
  values["optim"]["warmup_steps"] = 1
  tempfile.tempdir = str(tmp_path_factory.mktemp("scratch"))
  train_and_evaluate(values, "gs://bucket/run")
  return "gs://bucket/run"


def test_a_run_of_which_all_is_in_a_bucket_is_evaluated_and_fine_tuned(
  run,
  url,
  data_dir,
  tmp_path,
):
  found = {p.name for p in epath.Path(run).iterdir()}
  assert found >= {"config.json", "metrics.jsonl", "tokenizer.model", "checkpoints"}
  results = evaluate.evaluate(evaluate.Request("msvd", {"split": "test"}, run))
  written = epath.Path(f"{run}/evaluations/msvd/results.json").read_bytes()
  assert json.loads(written)["results"] == results
  here = download(run, tmp_path / "copy")
  on_disk = evaluate.Request("msvd", {"split": "test"}, str(here), out=url)
  assert evaluate.evaluate(on_disk) == results
  assert json.loads(epath.Path(f"{url}/results.json").read_bytes())["clips"] == 32
  tuned = config_of(data_dir) | dict(steps=2, init_from=run)
  tuned["optim"] |= dict(lr=0.0, warmup_steps=1)
  train_and_evaluate(tuned, tmp_path / "tuned")
  before, after = params(here, 2), params(tmp_path / "tuned", 2)
  weights = [name for name in before if name.startswith("params/")]
  assert weights
  assert_same({n: before[n] for n in weights}, {n: after[n] for n in weights})


def test_data_in_a_bucket_are_those_of_the_disk(run, data_dir):
  here = sources.find(data_dir, "moving_shapes/tiny")
  there = sources.find("gs://bucket/data", "moving_shapes/tiny")
  assert there == "gs://bucket/data/moving_shapes/tiny/1.0.0"
  assert sources.find("data", there) == there
  one, two = (sources.open_split(d, "test") for d in (here, there))
  assert [one[i] for i in (0, 31)] == [two[i] for i in (0, 31)]
  assert sources.fingerprint(here, "train") == sources.fingerprint(there, "train")
  with pytest.raises(DataError, match=r"gs://bucket/data/none: no prepared data set"):
    sources.find("gs://bucket/data", "none")


def test_a_run_resumes_on_a_machine_that_has_nothing_of_it(run, scratch, data_dir):
  """The tokenizer, the metrics and the config of the run are found; nothing is done."""
  values = config_of("gs://bucket/data") | dict(steps=2)
  values["optim"]["warmup_steps"] = 1
  before = epath.Path(f"{run}/metrics.jsonl").read_bytes()
  train_and_evaluate(values, run)
  assert epath.Path(f"{run}/metrics.jsonl").read_bytes() == before
  with pytest.raises(ConfigError, match=rf"^{run}: holds a run with another config"):
    train_and_evaluate(values | dict(seed=5), run)


def test_a_search_index_is_local_and_keeps_the_run_s_address(run, tmp_path):
  (tmp_path / "films").mkdir()
  (tmp_path / "films" / "a.mp4").write_bytes(mp4())
  report = build.build(
    tmp_path / "films", tmp_path / "index", load_lib.load(run), checkpoint=run
  )
  assert report.clips == 1
  assert Searcher.open(str(tmp_path / "index")).indexes[0].header.checkpoint == run


@pytest.mark.nightly
def test_killed_in_a_save_and_resumed_where_nothing_is_left(
  url,
  data_dir,
  reference,
  scratch,
  tmp_path,
):
  config, torn = config_of(data_dir), []
  for number, delay in ((2, 0.3), (1, 0.2), (1, 0.1), (1, 0.4), (1, 0.05)):
    killed, _ = kill(config, url, "write", number, delay, {})
    if not killed:  # it had ended before
      break
    shutil.rmtree(scratch)
    buckets.forget()
    steps = epath.Path(f"{url}/checkpoints").glob("[0-9]*")
    torn += [p for p in steps if not (p / "commit_success.txt").exists()]
    if torn:
      break
  assert torn  # folders with a final name that are not whole
  code, text = finish(start(config, url))
  assert code == 0, text
  assert_equal(url, reference, tmp_path)
  steps = {p.name for p in (tmp_path / "copy" / "checkpoints").iterdir()}
  assert steps == {p.name for p in (reference / "checkpoints").iterdir()}


@pytest.mark.nightly
def test_stopped_by_sigterm_all_is_in_the_bucket(
  url, data_dir, reference, scratch, tmp_path
):
  config = config_of(data_dir) | dict(checkpoint_every=100)
  process = start(config, url)
  wait_for(process, "step 3/")
  process.send_signal(signal.SIGTERM)
  code, text = finish(process)
  assert code == 85, text
  shutil.rmtree(scratch)
  saved = max(losses(download(url, tmp_path / "copy")))
  code, text = finish(start(config, url))
  assert code == 0, text
  assert f"training from step {saved} to 8" in text
  assert_equal(url, reference, tmp_path)


@pytest.mark.nightly
def test_two_processes_resume_a_run_of_one(
  url,
  data_dir,
  reference,
  scratch,
  tmp_path,
):
  config = config_of(data_dir)
  killed, _ = kill(config, url, "write", 3, 0.5, {})
  assert killed
  shutil.rmtree(scratch)
  ended = finish_all(start_several(config, url, 2, 1, dict(data=2, fsdp=1, tensor=1)))
  for code, text in ended:
    assert code == 0, text
  assert re.search("training from step [1-7] to 8", ended[0][1])  # of process 0 alone
  found = losses(download(url, tmp_path / "copy"))
  for step, value in losses(reference).items():
    assert found[step] == pytest.approx(value, rel=5e-4)


@pytest.mark.nightly
def test_of_two_runs_in_one_directory_the_second_waits(
  url, data_dir, reference, tmp_path
):
  # On another machine, as far as the files here tell.
  elsewhere = tmp_path / "elsewhere"
  elsewhere.mkdir()
  with Mirror(url).held(0.0):
    second = start(config_of(data_dir), url, TMPDIR=str(elsewhere))
    wait_for(second, f"WARNING: {url}: waiting for another run to end")
  code, text = finish(second)
  assert code == 0, text
  assert_equal(url, reference, tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("when", ["step", "write"])
def test_with_the_bucket_out_of_reach_a_run_goes_on_and_loses_nothing(
  when, data_dir, reference, scratch, tmp_path
):
  place = bucket.Server(tmp_path / "server")
  address, config = "gs://bucket/run", config_of(data_dir)
  own = place.environ
  process = start(config, address, **own)
  wait_for(process, "step 2/" if when == "step" else "step 4/")
  place.kill()
  code, text = finish(process)
  assert code == 5, text
  assert "step 8/8" in text
  (line,) = (x for x in text.splitlines() if x.startswith("CheckpointError: "))
  (local,) = (p for p in scratch.iterdir() if not p.name.endswith("-copy"))
  assert address in line
  assert str(local) in line
  assert "not written (" in text
  assert losses(local) == losses(reference)
  assert_same(params(local, 8), params(reference, 8))
  place.start()
  code, text = finish(start(config, address, **own))
  place.kill()
  assert code == 0, text
  assert "training from step" not in text
  assert not (local / "checkpoints").exists()


@pytest.mark.nightly
def test_a_run_sees_that_the_bucket_is_back(data_dir, reference, tmp_path):
  place = bucket.Server(tmp_path / "server")
  address, config = "gs://bucket/run", config_of(data_dir)
  process = start(config, address, **place.environ)
  wait_for(process, "step 2/")
  place.kill()
  while "is in " not in process.stdout.readline():
    assert process.poll() is None
  place.start()
  code, text = finish(process)
  assert code == 0, text
  assert f"{address}: can be written again" in text
  there = tmp_path / "server" / "bucket" / "run"
  assert (there / "checkpoints" / "8" / "commit_success.txt").exists()
  place.kill()
  assert_equal_files(there, reference)
