"""The installed package alone: every command, and training from another folder."""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib

import numpy as np
import pytest
from conftest import ROOT

import vtr_jax
from vtr_jax.__main__ import COMMANDS


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
  files = "vtr_jax configs pyproject.toml README.md LICENSE"
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
  """Runs `vtr-jax`, as installed, in an empty folder."""
  env, empty = installed
  script = os.path.join(env["PYTHONPATH"], "bin", "vtr-jax")
  return subprocess.run(
    [sys.executable, script, *map(str, command)],
    cwd=empty,
    env=env,
    capture_output=True,
    text=True,
  )


def test_the_command_lists_all_commands_of_the_package():
  """Each file at the root, and each folder that can be run."""
  root = ROOT / "vtr_jax"
  files = {path.stem for path in root.glob("*.py")} - {"__init__", "__main__"}
  assert set(COMMANDS) == files | {p.parent.name for p in root.glob("*/__main__.py")}


def test_the_installed_command_lists_the_others_and_names_the_nearest(installed):
  done = run(installed, "--help")
  assert done.returncode == 0, done.stderr
  for name, text in COMMANDS.items():
    assert re.search(rf"^  {name} +{re.escape(text)}$", done.stdout, re.M), name
  for given, line in (
    ("serch", "ConfigError: command: 'serch' is unknown; did you mean 'search'?"),
    ("train", "ConfigError: command: 'train' is unknown; did you mean 'main'?"),
  ):
    done = run(installed, given)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line + "\n")
  done = run(installed)
  assert (done.returncode, done.stderr) == (2, "")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_installed_command_has_help(installed, name):
  done = run(installed, name, "--help")
  assert done.returncode == 0, done.stderr
  assert f"vtr_jax.{name}" in done.stdout


def test_the_search_page_is_installed(installed):
  env, _ = installed
  folder = os.path.join(env["PYTHONPATH"], "vtr_jax", "search", "server", "page")
  assert {"app.js", "index.html", "style.css", "icon.svg"} <= set(os.listdir(folder))


def test_the_installed_package_trains_a_recipe_from_an_empty_folder(
  installed, data_dir, tmp_path
):
  """Even where another package is called `configs`."""
  env, empty = installed
  (tmp_path / "configs").mkdir()
  (tmp_path / "configs" / "__init__.py").write_text("raise ImportError('another')")
  path = os.pathsep.join([str(tmp_path), env["PYTHONPATH"]])
  done = subprocess.run(
    [
      *(sys.executable, "-m", "vtr_jax.main", "--config=mac:smoke", "--workdir=run"),
      *(f"--config.data.dir={data_dir}", "--config.steps=4", "--config.evals={}"),
    ],
    cwd=empty,
    env=env | dict(PYTHONPATH=path),
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert (empty / "run" / "results.json").exists()


@pytest.mark.parametrize(
  ("config", "message"),
  [
    (
      "simvpt:smoke",
      "--config: 'simvpt' is neither a recipe nor FILE.py; did you mean",
    ),
    (
      "configs/mac.py:smoke",
      "no such file; the package's recipe is --config=mac",
    ),
    ("mac:smok", "variant 'smok' is unknown; known: demo, smoke"),
  ],
)
def test_a_recipe_that_is_not_installed_is_one_line(config, message, installed):
  done = run(installed, "main", f"--config={config}")
  assert done.returncode == 2
  assert message in done.stderr
  assert done.stderr.count("\n") == 1


def test_an_installed_study_finds_the_configs_of_its_tables(installed):
  done = run(installed, "study", "--config=study:smoke", "--config.unit=hours")
  known = "known: minutes, tflop"
  assert done.stderr == f"ConfigError: config.unit: 'hours' is unknown; {known}\n"
  code = """if True:
    from vtr_jax.configs import study as recipe
    from vtr_jax.core import config, recipes
    from vtr_jax.train.study.config import StudyConfig, rows_of
    from vtr_jax.train.study.plans import plan
    c = config.read(StudyConfig, recipe.get_config("smoke").to_dict())
    plans = [plan(c, recipes.FOLDER, *pair) for pair in rows_of(c).values()]
    print(*(len(p.configs) for p in plans))
  """
  env, empty = installed
  done = subprocess.run(
    [sys.executable, "-c", code], cwd=empty, env=env, capture_output=True, text=True
  )
  assert done.stdout == "1 1 2\n", done.stderr


def test_the_installed_package_converts_weights(installed, tmp_path):
  """The recipe that such a run starts from comes with the package."""
  from safetensors.numpy import save_file

  # Too few arrays for a model: the recipe was found if the arrays are what is missing.
  save_file(
    {"cls_token": np.zeros((1, 1, 32), "float32")}, tmp_path / "vit.safetensors"
  )
  done = run(
    installed,
    "convert",
    "--from=vit",
    f"--checkpoint={tmp_path}/vit.safetensors",
    "--to=converted",
  )
  assert done.returncode == 2, done.stderr
  assert done.stderr.count("\n") == 1, done.stderr
  assert done.stderr.startswith("WeightsError: "), done.stderr
