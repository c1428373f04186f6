"""Preparing by a real Ray on this machine: the same bytes, whatever is killed."""

import importlib.util
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, run_main
from prepare_cases import arguments, content, make, write_source

from vtr_jax.core.errors import ConfigError, DataError
from vtr_jax.prepare import cluster, run

with_ray = pytest.mark.skipif(
  importlib.util.find_spec("ray") is None, reason="pip install ray (80 MB): not here"
)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  return write_source(tmp_path_factory.mktemp("source") / "videos")


@pytest.fixture(scope="module")
def prepared(source, tmp_path_factory):
  """The data set, prepared by one process."""
  return make(source, tmp_path_factory.mktemp("whole"))


def flags(source, out):
  given = [flag for flag in arguments(source, out) if not flag.startswith("--workers")]
  return [*given, "--runner=ray"]


def start(source, out):
  """The command, started, with a Ray of its own, which keeps a token in HOME."""
  command = [sys.executable, "-m", "vtr_jax.prepare", *flags(source, out)]
  env = os.environ | dict(RAY_ADDRESS="local", HOME=str(out))
  with (out / "log").open("w") as log:
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log)


def descendants(pid):
  """Process id -> command of a process' children, and of their children."""
  found = {}
  for file in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
    try:
      children = [int(child) for child in file.read_text().split()]
      for child in children:
        found[child] = pathlib.Path(f"/proc/{child}/cmdline").read_text()
        found |= descendants(child)
    except OSError:  # it has just ended
      continue
  return found


def workers(pid):
  """Ray's processes that make a shard now."""
  return [i for i, name in descendants(pid).items() if name.startswith("ray::_task")]


def wait(ready, process):
  """Waits until `ready()`; returns its value. The process must not end before."""
  end = time.monotonic() + 120
  while not (value := ready()):
    assert process.poll() is None
    assert time.monotonic() < end
    time.sleep(0.01)
  return value


def finish(process, out):
  """Waits for the command's success; returns what it printed."""
  assert process.wait(timeout=200) == 0, (out / "log").read_text()
  return (out / "log").read_text()


@with_ray
@pytest.mark.nightly
def test_shards_of_killed_workers_are_retried(source, prepared, tmp_path):
  work = tmp_path / "mine" / ".unfinished-1.0.0"
  process = start(source, tmp_path)
  # It has begun with the items of its shard.
  wait(lambda: [*work.glob("*-0000?")], process)
  killed = wait(lambda: workers(process.pid), process)
  assert not (tmp_path / "mine" / "1.0.0").exists()
  for pid in killed:
    os.kill(pid, signal.SIGKILL)
  assert "train 14, test 4; refused 0" in finish(process, tmp_path)
  assert content(tmp_path / "mine" / "1.0.0") == content(prepared)


@with_ray
@pytest.mark.nightly
def test_a_killed_driver_resumes_without_finished_shards(source, prepared, tmp_path):
  work, made = tmp_path / "mine" / ".unfinished-1.0.0", tmp_path / "mine" / "1.0.0"
  process = start(source, tmp_path)
  wait(lambda: [*work.glob("*.json")][1:], process)  # the plan and a shard
  left = workers(process.pid)
  process.kill()
  process.wait()
  assert not made.exists()
  end = time.monotonic() + 60
  while any(pathlib.Path(f"/proc/{pid}").exists() for pid in left):
    assert time.monotonic() < end, "workers outlive the command"
    time.sleep(0.1)
  reports = [path for path in work.glob("*-0000?.json")]
  kept = {path.with_suffix(".array_record").stat().st_ino for path in reports}
  assert 1 <= len(kept) < 5
  finish(start(source, tmp_path), tmp_path)
  assert kept <= {path.stat().st_ino for path in made.iterdir()}
  assert content(made) == content(prepared)


@with_ray
@pytest.mark.nightly
def test_a_cluster_that_is_not_there_is_one_line(source, tmp_path):
  ran = run_main(
    *flags(source, tmp_path), module="vtr_jax.prepare", RAY_ADDRESS="127.0.0.1:1"
  )
  assert ran.returncode == 2
  assert ran.stderr.startswith("DistributedError: --runner: ray cannot be started or ")
  assert ran.stderr.endswith("RAY_ADDRESS=127.0.0.1:1, or unset it to start Ray here\n")
  assert ran.stderr.count("\n") == 1


def test_a_node_without_the_files_is_named(tmp_path):
  """Its items would be refused as missing otherwise."""
  for directory, files in (("gone", []), (".", [tmp_path / "gone"])):
    with pytest.raises(DataError, match=r"gone: not on node .*; all nodes must share"):
      cluster._task(None, None, str(tmp_path / directory), files)


def test_without_ray_the_cure_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "ray", None)
  with pytest.raises(ConfigError, match=r"^--runner: ray .*; pip install ray$") as e:
    cluster.check_installed()
  assert e.value.exit_code == 2


@pytest.mark.parametrize(
  ("given", "message"),
  [
    (dict(runner="beam"), "runner: 'beam' is unknown; known: local, ray"),
    (dict(runner="ray", job=1, jobs=2), "of all jobs; omit --shard"),
  ],
)
def test_invalid_runners_are_rejected(given, message):
  with pytest.raises(ConfigError, match=message):
    run.Run(**given)
