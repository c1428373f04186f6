"""The scripts that prepare on many machines, run as their schedulers would."""

import os
import subprocess
import sys

import pytest
import yaml
from conftest import ROOT
from prepare_cases import arguments, content, make, write_source

JOBS = 2


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  return write_source(tmp_path_factory.mktemp("source") / "videos")


@pytest.fixture(scope="module")
def prepared(source, tmp_path_factory):
  """The data set, prepared by one process."""
  return make(source, tmp_path_factory.mktemp("whole"))


def finish(processes):
  for process in processes:
    out, errors = process.communicate(timeout=200)
    assert process.returncode == 0, out + errors


def start(command, **env):
  return subprocess.Popen(
    command,
    cwd=ROOT,
    env=os.environ | env,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def slurm(*flags, **env):
  env |= dict(SLURM_SUBMIT_DIR=str(ROOT), SLURM_CPUS_PER_TASK="1")
  return start(["bash", "launch/prepare_array.sh", *flags], **env)


def task_env(number):
  """The variables that Slurm sets for a task of an array."""
  return dict(
    SLURM_ARRAY_TASK_ID=str(number),
    SLURM_ARRAY_TASK_COUNT=str(JOBS),
    SLURM_ARRAY_TASK_MIN="0",
    SLURM_ARRAY_TASK_MAX=str(JOBS - 1),
  )


@pytest.mark.skipif(
  not (ROOT / ".venv" / "bin" / "python").exists(), reason="the script needs .venv"
)
def test_a_slurm_array_prepares_the_same_bytes(source, prepared, tmp_path):
  flags = [f for f in arguments(source, tmp_path) if not f.startswith("--workers")]
  finish([slurm(*flags, **task_env(i)) for i in range(JOBS)])
  finish([slurm("--merge", f"--out={tmp_path}", "--name=mine")])
  assert content(tmp_path / "mine" / "1.0.0") == content(prepared)
  gap = slurm(*flags, **task_env(1) | dict(SLURM_ARRAY_TASK_MIN="1"))
  assert "use --array=0-N" in gap.communicate()[1]
  assert gap.returncode == 2


@pytest.mark.nightly
def test_a_kubernetes_job_prepares_the_same_bytes(source, prepared, tmp_path):
  """The command line of the file, with its placeholders filled in."""
  job = yaml.safe_load((ROOT / "launch" / "prepare_array.yaml").read_text())["spec"]
  assert job["completionMode"] == "Indexed"
  (container,) = job["template"]["spec"]["containers"]
  (line,) = container["args"]
  assert f"/{job['completions']}" in line
  line = line.replace(f"/{job['completions']}", f"/{JOBS}")
  flags = " ".join(
    flag for flag in arguments(source, tmp_path) if "--workers" not in flag
  )
  line = line[: line.index("--format")] + flags
  line = line.replace("exec python", f"exec {sys.executable}")
  finish(
    [
      start([*container["command"], line], JOB_COMPLETION_INDEX=str(i))
      for i in range(JOBS)
    ]
  )
  merge = ["-m", "vtr_jax.prepare", "--merge", f"--out={tmp_path}", "--name=mine"]
  finish([start([sys.executable, *merge])])
  assert content(tmp_path / "mine" / "1.0.0") == content(prepared)
