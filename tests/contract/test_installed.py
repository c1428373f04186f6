"""The installed package alone: every command, and training from another folder."""

import importlib.util
import os
import subprocess
import sys
import tomllib

import numpy as np
import pytest
from conftest import ROOT

import vtr_jax

COMMANDS = (
  *("main", "evaluate", "predict", "convert", "export", "probe", "replay", "study"),
  *("prepare", "plan", "search"),
)


def test_the_version_is_that_of_the_package_and_of_the_changelog():
  """0.2.0.dev0 is the code before the release that the changelog calls unreleased."""
  package = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
  assert vtr_jax.__version__ == package["version"]
  release, _, development = vtr_jax.__version__.partition(".dev")
  heading = f"## Unreleased ({release})" if development else f"## {release}"
  headings = (ROOT / "CHANGELOG.md").read_text().splitlines()
  assert heading == next(line for line in headings if line.startswith("## "))


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
  """(environment, empty folder): the package is in a site-packages of its own."""
  if importlib.util.find_spec("pip") is None:
    pytest.skip("pip is not installed, as in an environment that uv makes")
  place = tmp_path_factory.mktemp("installed")
  site, empty = place / "site", place / "empty"
  empty.mkdir()
  # The build writes next to its sources, so it gets a copy.
  files = "vtr_jax pyproject.toml README.md LICENSE"
  subprocess.run(
    f"git ls-files -co --exclude-standard {files} | tar -c -T - | tar -x -C {place}",
    shell=True,
    cwd=ROOT,
    check=True,
  )
  pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
  pip += ["--no-build-isolation", "--target", str(site), str(place)]
  done = subprocess.run(pip, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
  return env | dict(PYTHONPATH=str(site)), empty


def run(installed, *command):
  env, empty = installed
  return subprocess.run(
    [sys.executable, "-m", *map(str, command)],
    cwd=empty,
    env=env,
    capture_output=True,
    text=True,
  )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_installed_command_has_help(installed, name):
  done = run(installed, f"vtr_jax.{name}", "--help")
  assert done.returncode == 0, done.stderr
  assert f"vtr_jax.{name}" in done.stdout + done.stderr or "flags:" in done.stdout


def test_the_search_page_is_installed(installed):
  env, _ = installed
  folder = os.path.join(env["PYTHONPATH"], "vtr_jax", "search", "server", "page")
  assert {"app.js", "index.html", "style.css", "icon.svg"} <= set(os.listdir(folder))


def test_the_installed_package_trains_from_another_folder(installed, data_dir):
  """The config is a file of the user; its imports lie next to it."""
  done = run(
    installed,
    "vtr_jax.main",
    f"--config={ROOT}/configs/simvtp.py:smoke",
    f"--config.data.dir={data_dir}",
    "--config.steps=4",
    "--config.evals={}",
    "--workdir=run",
  )
  assert done.returncode == 0, done.stderr
  assert (installed[1] / "run" / "results.json").exists()


def test_the_installed_package_converts_weights_without_configs(installed, tmp_path):
  """The recipe that such a run starts from comes with the package."""
  from safetensors.numpy import save_file

  # Too few arrays for a model: the recipe was found if the arrays are what is missing.
  save_file(
    {"cls_token": np.zeros((1, 1, 32), "float32")}, tmp_path / "vit.safetensors"
  )
  done = run(
    installed,
    "vtr_jax.convert",
    "--from=vit",
    f"--checkpoint={tmp_path}/vit.safetensors",
    "--to=converted",
  )
  assert done.returncode == 2, done.stderr
  assert done.stderr.count("\n") == 1, done.stderr
  assert done.stderr.startswith("WeightsError: "), done.stderr
