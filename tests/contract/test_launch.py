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
    env=os.environ | dict(ACCELERATOR="") | env,
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


def fake(path, script):
  """An executable shell script at `path`."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(f"#!/usr/bin/env bash\n{script}\n")
  path.chmod(0o755)


def tools(folder):
  """A PATH of what setup.sh needs: no Python, uv or nvidia-smi of this machine."""
  folder.mkdir(parents=True, exist_ok=True)
  for name in ("bash", "dirname", "env", "cmp", "sed", "grep"):
    (folder / name).symlink_to(shutil.which(name))
  return str(folder)


@pytest.mark.parametrize("uv", [True, False])
def test_where_no_python_fits_uv_fetches_one(uv, tmp_path):
  shutil.copytree(ROOT / "launch", tmp_path / "launch")
  path = tools(tmp_path / "bin")
  for name in ("python", "python3", *(f"python3.{minor}" for minor in range(11, 15))):
    fake(tmp_path / "bin" / name, "exit 1")
  if uv:
    fake(tmp_path / "bin" / "uv", "")
  made = subprocess.run(
    ["bash", tmp_path / "launch" / "local.sh", "--dry_run"],
    env=dict(PATH=path),
    capture_output=True,
    text=True,
  )
  if uv:
    assert "+ uv venv --quiet --seed --python 3.13 .venv\n" in made.stdout
  else:
    assert made.returncode == 1
    assert made.stderr.count("\n") == 1
    assert "no Python 3.11 to 3.14 found: install one, or uv" in made.stderr


VISIBLE = 'source launch/accelerator.sh; visible "$0"'


@pytest.mark.parametrize(
  ("files", "driver", "seen"),
  [
    ([], "", ""),
    ([], "echo 580.65.06; echo 580.65.06", "cuda13"),
    ([], "echo 1000.1", "cuda13"),
    ([], "echo 575.57.08", "cuda12"),
    ([], "echo NVIDIA-SMI has failed; exit 9", ""),
    (["dev/nvidia0"], "exit 9", "cuda12"),
    (["dev/accel0"], "exit 9", "tpu"),
    (["dev/accel/accel0"], "exit 9", ""),  # of a laptop's processor
    (["dev/vfio/0", "0x1ae0"], "exit 9", "tpu"),
    (["dev/vfio/vfio", "0x1ae0"], "exit 9", ""),  # Google's network card
    (["dev/vfio/0", "0x10de"], "exit 9", ""),
  ],
)
def test_a_gpu_or_a_tpu_is_recognised(files, driver, seen, tmp_path):
  fake(tmp_path / "bin" / "nvidia-smi", driver)
  for name in files:
    vendor = name.startswith("0x")
    path = tmp_path / ("sys/bus/pci/devices/0000:00:04.0/vendor" if vendor else name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{name}\n")
  made = subprocess.run(
    ["bash", "-euo", "pipefail", "-c", VISIBLE, tmp_path],
    cwd=ROOT,
    env=os.environ | dict(PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}"),
    capture_output=True,
    text=True,
  )
  assert (made.returncode, made.stdout.strip(), made.stderr) == (0, seen, "")


class Project:
  """A copy of launch/ with an installed .venv, whose Python prints its arguments."""

  def __init__(self, root):
    self.root, self.site = root, root / ".venv/lib/python3.14/site-packages"
    shutil.copytree(ROOT / "launch", root / "launch")
    fake(root / PYTHON, 'echo "$@" >>python.log')
    for name in ("requirements.txt", ".venv/requirements.txt"):
      (root / name).touch()
    self.package("jax-0.12.0.1")
    self.path = tools(root / "bin")
    self.driver = "exit 9"

  def package(self, name):
    (self.site / f"{name}.dist-info").mkdir(parents=True)

  def run(self, script="local", code=0, **env):
    """(what .venv's Python was called with, standard error)."""
    fake(self.root / "bin" / "nvidia-smi", self.driver)
    (self.root / "python.log").write_text("")
    made = subprocess.run(
      ["bash", f"launch/{script}.sh"],
      cwd=self.root,
      env=dict(PATH=self.path) | env,
      capture_output=True,
      text=True,
    )
    assert made.returncode == code, made.stderr
    return (self.root / "python.log").read_text().splitlines(), made.stderr


MAIN_CALL = "-m vtr_jax.main"
PIP = "-m pip install --quiet --disable-pip-version-check --no-compile"
COMPILE = "-m compileall -qq -j 0 .venv/lib"


def test_an_accelerator_is_installed_remembered_and_renewed(tmp_path):
  project = Project(tmp_path)
  made, _ = project.run(ACCELERATOR="cuda12")
  assert made == [f"{PIP} jax[cuda12]==0.12.0.1", COMPILE, MAIN_CALL]
  assert project.run()[0] == [MAIN_CALL]
  assert project.run(ACCELERATOR="cuda12")[0] == [MAIN_CALL]
  # requirements.txt has moved jax.
  (project.site / "jax-0.12.0.1.dist-info").rename(project.site / "jax-0.13.dist-info")
  assert project.run()[0] == [f"{PIP} jax[cuda12]==0.13", COMPILE, MAIN_CALL]
  assert project.run()[0] == [MAIN_CALL]


def test_another_plugin_of_cuda_replaces_the_first(tmp_path):
  project = Project(tmp_path)
  project.run(ACCELERATOR="cuda12")
  project.package("jax_cuda12_plugin-0.12.0.1")
  assert project.run(ACCELERATOR="cuda13")[0] == [
    "-m pip uninstall --quiet --yes jax-cuda12-plugin jax-cuda12-pjrt",
    f"{PIP} jax[cuda13]==0.12.0.1",
    COMPILE,
    MAIN_CALL,
  ]


def test_a_plugin_that_was_not_installed_is_not_remembered(tmp_path):
  project = Project(tmp_path)
  fake(tmp_path / PYTHON, 'echo "$@" >>python.log; exit 1')
  made, _ = project.run(code=1, ACCELERATOR="tpu")
  assert made == [f"{PIP} jax[tpu]==0.12.0.1"]
  fake(tmp_path / PYTHON, 'echo "$@" >>python.log')
  assert project.run()[0] == [MAIN_CALL]


def test_uv_installs_the_plugin_where_it_is_there(tmp_path):
  project = Project(tmp_path)
  fake(tmp_path / "bin" / "uv", 'echo "uv $@" >>python.log')
  assert project.run(ACCELERATOR="tpu")[0] == [
    "uv pip install --quiet --python .venv/bin/python jax[tpu]==0.12.0.1",
    MAIN_CALL,
  ]


def test_an_accelerator_that_jax_does_not_use_is_one_line(tmp_path):
  project = Project(tmp_path)
  project.driver = "echo 580.65.06"
  made, errors = project.run()
  assert made == [MAIN_CALL]
  assert errors == (
    "JAX lacks the plugin for this machine: ACCELERATOR=cuda13 ./launch/setup.sh "
    "installs it\n"
  )
  assert project.run("setup", ACCELERATOR="cuda13")[1] == ""
  assert project.run()[1] == ""
  (tmp_path / ".venv/accelerator.txt").unlink()
  project.package("jax_cuda12_plugin-0.12.0.1")  # installed by hand
  assert project.run()[1] == ""


def test_an_unknown_accelerator_is_one_line(tmp_path):
  made, errors = Project(tmp_path).run(code=2, ACCELERATOR="gpu")
  assert made == []
  assert errors == "ACCELERATOR=gpu: set it to tpu, cuda12 or cuda13\n"


@pytest.mark.parametrize(
  "script", ["setup", "local", "demo", "test", "nightly", "processes", "slurm"]
)
def test_every_script_of_this_machine_installs_the_plugin(script, tmp_path):
  project = Project(tmp_path)
  made = subprocess.run(
    ["bash", f"launch/{script}.sh", "--dry_run"],
    cwd=tmp_path,
    env=os.environ | dict(ACCELERATOR="cuda13", NUM_PROCESSES="1"),
    capture_output=True,
    text=True,
  )
  assert "jax\\[cuda13\\]==0.12.0.1" in made.stdout, made.stderr
  assert not (project.root / "python.log").exists()
  assert not (project.root / ".venv/accelerator.txt").exists()


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
  assert "cd vtr_jax && { python3 -m pip install -q --user uv" in install
  assert "ACCELERATOR=tpu bash launch/setup.sh && .venv/bin/python -m pip" in install
  assert install.count("gcsfs") == 1
  assert train == (
    f"{on_all}cd vtr_jax && {PYTHON} -u -m vtr_jax.main --coordinator=auto "
    "--workdir=gs://b/runs/n --config=configs/mac.py "
    "--config.data.dir=gs://b/data --zone=z --quiet"
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
  assert "cd /app && rm -rf .venv && " in create
  assert "ACCELERATOR=tpu bash launch/setup.sh && exec .venv/bin/python -u -m" in create
  assert "vtr_jax.main --config=configs/mac.py" in create
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
  # After the variable, the kind of machine decides.
  for given, plugin in (
    (env, "cuda12"),
    (env | dict(ACCELERATOR="cuda13"), "cuda13"),
    (env | dict(ACCELERATORS="tpu-v6e-8"), "tpu"),
  ):
    text = run("skypilot", "--dry_run", **given).stdout
    assert f"ACCELERATOR={plugin} bash launch/setup.sh\n" in text


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
