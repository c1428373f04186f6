"""Launch scripts: the exact commands that they run, and restarts of preempted runs."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT

SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))
PYTHON = ".venv/bin/python"
MAIN = f"{PYTHON} -m vtr_jax.main"


def run(script, *args, **env):
  return subprocess.run(
    ["bash", f"launch/{script}.sh", *args],
    cwd=ROOT,
    env=os.environ | env,
    capture_output=True,
    text=True,
  )


def commands(script, *args, **env):
  """The commands that a script would run, without the shell's backslash escapes."""
  made = run(script, "--dry_run", "--config=configs/mac.py", *args, **env)
  assert made.returncode == 0, made.stderr
  lines = made.stdout.splitlines()
  return [re.sub(r"\\(.)", r"\1", x[2:]) for x in lines if x.startswith("+ ")]


def test_local_sh_runs_main_with_its_arguments():
  line = f"{MAIN} --config=configs/mac.py --config.steps=3"
  assert commands("local", "--config.steps=3")[-1] == line


def test_demo_and_tests_pass_their_arguments():
  assert commands("demo")[-1] == (
    f"{MAIN} --config=configs/simvtp.py --config=configs/mac.py"
  )
  assert commands("test", "-k", "x")[-1] == (
    f"{PYTHON} -m pytest -n 2 --dist loadfile --no-loadscope-reorder "
    "--config=configs/mac.py -k x"
  )


def test_a_new_environment_has_pip(tmp_path):
  """By uv too; CONTRIBUTING.md and docs/scale.md install further packages by it."""
  launch = tmp_path / "launch"
  shutil.copytree(ROOT / "launch", launch)
  uv = tmp_path / "bin" / "uv"
  uv.parent.mkdir()
  uv.write_text("")
  uv.chmod(0o755)
  printed = subprocess.run(
    ["bash", launch / "local.sh", "--dry_run"],
    env=os.environ | dict(PATH=f"{uv.parent}:{os.environ['PATH']}"),
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  assert re.search(r"uv venv .*--seed", printed)


def test_processes_sh_starts_one_command_per_process():
  peers = "--coordinator=127.0.0.1:12321 --num_processes=2 --process_id="
  assert commands("processes", NUM_PROCESSES="2")[-2:] == [
    f"{MAIN} {peers}{i} --config=configs/mac.py" for i in range(2)
  ]
  assert commands("processes", NUM_PROCESSES="2", DEVICES="CUDA")[-1].startswith(
    f"env CUDA_VISIBLE_DEVICES=1 {MAIN}"
  )


# In place of Python: reports its start; the first SIGTERM saves, which takes a moment.
SAVES = """#!/usr/bin/env bash
trap 'trap - TERM; sleep 0.2; echo saved >"$0.$$"; exit 85' TERM
touch "$0.$$"
while :; do sleep 0.05; done
"""


@pytest.mark.parametrize(
  ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 85)]
)
def test_processes_sh_stops_all_processes_before_it_ends(number, code, tmp_path):
  """A terminal or a scheduler signals the whole group."""
  shutil.copytree(ROOT / "launch", tmp_path / "launch")
  python = tmp_path / PYTHON
  python.parent.mkdir(parents=True)
  python.write_text(SAVES)
  python.chmod(0o755)
  for name in ("requirements.txt", ".venv/requirements.txt"):  # already installed
    (tmp_path / name).touch()
  script = subprocess.Popen(
    ["bash", tmp_path / "launch" / "processes.sh"],
    env=os.environ | dict(NUM_PROCESSES="2"),
    stdout=subprocess.DEVNULL,
    start_new_session=True,
  )
  started = lambda: list(python.parent.glob("python.*"))
  while len(started()) < 2 and script.poll() is None:
    time.sleep(0.05)
  os.killpg(script.pid, number)
  assert script.wait(timeout=60) == code
  assert [file.read_text() for file in started()] == ["saved\n"] * 2


def test_slurm_sh_runs_srun():
  assert commands("slurm") == [
    f"srun --kill-on-bad-exit=0 {PYTHON} -u -m vtr_jax.main --config=configs/mac.py"
  ]


def test_tpu_pod_sh_creates_installs_trains_and_deletes():
  """Its six commands, in order."""
  env = dict(NAME="n", ZONE="z", TYPE="v4-32", RUNTIME="r", BUCKET="b", SPOT="1")
  ask, pack, copy, install, train, delete = commands("tpu_pod", **env)
  tpu = "gcloud compute tpus"
  assert ask == (
    f"{tpu} queued-resources create n --node-id=n --accelerator-type=v4-32 "
    "--runtime-version=r --spot --zone=z --quiet"
  )
  assert pack.startswith("tar ")
  assert copy == f"{tpu} tpu-vm scp /tmp/vtr_jax.tgz n: --worker=all --zone=z --quiet"
  on_all = f"{tpu} tpu-vm ssh n --worker=all --command="
  assert install.startswith(on_all)
  # Apart: where one line of a file has a hash, all that pip is given must have one.
  each = ".venv/bin/pip install -q -r requirements.txt && .venv/bin/pip install -q"
  assert f"{each} 'jax[tpu]'" in install
  assert "gcsfuse --implicit-dirs --rename-dir-limit=200000 b ~/bucket" in install
  assert train == (
    f"{on_all}cd vtr_jax && {PYTHON} -u -m vtr_jax.main --coordinator=auto "
    "--workdir=$HOME/bucket/runs/n --config=configs/mac.py "
    "--config.data.dir=$HOME/bucket/data --zone=z --quiet"
  )
  assert delete == f"{tpu} queued-resources delete n --force --zone=z --quiet"
  assert commands("tpu_pod", **env, KEEP="1")[-1] == train


def test_gke_sh_creates_a_workload_and_waits():
  env = dict(NAME="n", CLUSTER="c", ZONE="z", PROJECT="p", TYPE="v5litepod-256")
  create, follow = commands("gke", **env, SLICES="2")
  where = "--cluster=c --zone=z --project=p"
  assert create.startswith(
    f"xpk workload create --workload=n {where} --tpu-type=v5litepod-256 --num-slices=2"
  )
  assert "--restart-on-exit-codes=85" in create
  assert "exec python -u -m vtr_jax.main --config=configs/mac.py" in create
  assert follow == f"xpk workload list {where} --wait-for-job-completion=n"


def test_skypilot_sh_writes_a_task_and_launches_it():
  env = dict(ACCELERATORS="H100:8", NODES="2", BUCKET="s3://b")
  made = run("skypilot", "--dry_run", "--config=configs/mac.py", **env)
  assert made.returncode == 0, made.stderr
  for line in (
    "num_nodes: 2",
    "  accelerators: H100:8",
    "  job_recovery: {recover_on_exit_codes: [85]}",
    "  /bucket: {source: s3://b, mode: MOUNT}",
    "--num_processes=$SKYPILOT_NUM_NODES --process_id=$SKYPILOT_NODE_RANK",
    "--workdir=/bucket/runs/vtr-jax --config=configs/mac.py",
    "--config.data.dir=/bucket/data",
  ):
    assert line in made.stdout
  assert commands("skypilot", **env)[-1].startswith("sky jobs launch --yes /")


@pytest.mark.parametrize(
  ("script", "missing"),
  [
    ("processes", "NUM_PROCESSES"),
    ("tpu_pod", "NAME"),
    ("gke", "NAME"),
    ("skypilot", "ACCELERATORS"),
  ],
)
def test_a_missing_setting_is_named(script, missing):
  made = run(script, "--dry_run")
  assert made.returncode == 2
  assert f"set {missing}:" in made.stderr


REQUEUE = """
source launch/run.sh "$@"
requeue bash -c 'echo x >>"$0"; [ "$(wc -l <"$0")" -lt 3 ] && exit 85; exit '"$1" "$2"
"""


@pytest.mark.parametrize("code", [0, 4])
def test_requeue_restarts_a_preempted_run_and_keeps_other_exit_codes(code, tmp_path):
  log = tmp_path / "log"
  made = subprocess.run(
    ["bash", "-c", REQUEUE, "x", str(code), str(log)], cwd=ROOT, capture_output=True
  )
  assert made.returncode == code
  assert log.read_text() == "x\n" * 3


FAILING = """
source launch/run.sh "$@"
requeue bash -c 'echo x >>"$0"; exit '"$1" "$2"
"""


@pytest.mark.parametrize(("code", "starts"), [(2, 4), (5, 4), (3, 1), (4, 1), (130, 1)])
def test_requeue_bounds_restarts_and_does_not_restart_hopeless_runs(
  code, starts, tmp_path
):
  log = tmp_path / "log"
  made = subprocess.run(
    ["bash", "-c", FAILING, "x", str(code), str(log)],
    cwd=ROOT,
    capture_output=True,
    env=os.environ | dict(RESTARTS="3"),
  )
  assert made.returncode == code
  assert log.read_text() == "x\n" * starts


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.stem)
def test_scripts_pass_shellcheck_and_are_short(path):
  subprocess.run(["bash", "-n", path], check=True)
  assert len(path.read_text().splitlines()) <= 60
  shellcheck = pathlib.Path(sys.executable).parent / "shellcheck"
  subprocess.run([shellcheck, "-x", path], check=True, cwd=ROOT)
