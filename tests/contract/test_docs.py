"""What the README promises: notebooks run, commands and links exist."""

import ast
import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

NOTEBOOKS = sorted((ROOT / "colabs").glob("*.ipynb"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


COMMANDS = [
  path
  for folder, pattern in (("benchmarks", "*.py"), ("vtr_jax", "**/*.py"))
  for path in sorted((ROOT / folder).glob(pattern))
  if 'if __name__ == "__main__":' in path.read_text()
]


@pytest.mark.parametrize("path", COMMANDS, ids=lambda p: str(p.relative_to(ROOT)))
def test_help_prints_a_command_s_docstring_as_it_is_written(path):
  """absl formats it with %, and Python joins lines that end with one backslash."""
  written, _, _ = path.read_text().removeprefix('"""').partition('"""')
  docstring = ast.get_docstring(ast.parse(path.read_text()), clean=False)
  assert docstring == written.replace("\\\\", "\\")
  assert "%" not in docstring


def nightly_if_slow(path):
  """One notebook runs by day; README's example covers the Python API."""
  marks = () if path.stem == "masks" else pytest.mark.nightly
  return pytest.param(path, id=path.stem, marks=marks)


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_imports_of_notebooks_exist(path):
  """Checked by day too, when most notebooks do not run."""
  cells = json.loads(path.read_text())["cells"]
  code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
  code = re.sub(r"^[%!].*$", "", code, flags=re.M)
  imports = [n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.ImportFrom)]
  for node in imports:
    if node.module.split(".")[0] in ("vtr_jax", "configs"):
      module = importlib.import_module(node.module)
      for name in node.names:
        found = hasattr(module, name.name)
        assert found or importlib.util.find_spec(f"{node.module}.{name.name}"), (
          name.name
        )


@pytest.mark.parametrize("path", [nightly_if_slow(path) for path in NOTEBOOKS])
def test_notebooks_run(path, data_dir, tmp_path):
  """Its code cells, in order, at smoke size, in a process of its own."""
  cells = json.loads(path.read_text())["cells"]
  code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
  assert all(not c.get("outputs") for c in cells)
  assert path.stat().st_size < 60_000
  env = dict(VTR_VARIANT="smoke", VTR_DATA=str(data_dir), VTR_WORKDIR=str(tmp_path))
  run = subprocess.run(
    [sys.executable, "-c", "\n".join(code)],
    cwd=ROOT,
    env=os.environ | env,
    capture_output=True,
    text=True,
  )
  assert run.returncode == 0, run.stderr


def test_the_readme_example_runs(tmp_path):
  """The Python of the README, as it stands, in an empty folder."""
  (code,) = re.findall(r"```python\n(.*?)```", PAGES[0].read_text(), re.DOTALL)
  run = subprocess.run(
    [sys.executable, "-c", code],
    cwd=tmp_path,
    env=os.environ | dict(PYTHONPATH=str(ROOT)),
    capture_output=True,
    text=True,
  )
  assert run.returncode == 0, run.stderr
  assert (tmp_path / "runs" / "mine" / "results.json").exists()


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_relative_links_exist(path):
  for link in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
    if "://" not in link:
      assert (path.parent / link).exists(), link


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_commands_name_existing_modules_configs_and_scripts(path):
  text = path.read_text()
  for module in re.findall(r"python -m ((?:vtr_jax|benchmarks)\.\w+)", text):
    path = ROOT / module.replace(".", "/")
    command = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    assert command.exists(), module
  shown = re.findall(r"```python\n# (\S+)", text)  # files that the page shows
  for config in re.findall(r"--config=(configs/\w+\.py)", text):
    assert config in shown or (ROOT / config).exists(), config
  for script in re.findall(r"\./(launch/\w+\.sh)", text):
    assert os.access(ROOT / script, os.X_OK), script


def test_the_tests_that_a_page_names_exist():
  text = (ROOT / "docs" / "reliability.md").read_text()
  named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", text)
  assert len(named) > 50
  files = {path.name: path for path in (ROOT / "tests").rglob("test_*.py")}
  for file, name in named:
    assert file in files, file
    assert f"def {name}(" in files[file].read_text(), f"{file}::{name}"
  rows = re.findall(r"^\| (\d+) \|", text, flags=re.MULTILINE)
  assert sorted(map(int, rows)) == list(range(1, 42))


def test_every_page_is_in_the_site_s_navigation():
  contents = (ROOT / "mkdocs.yml").read_text()
  for path in (ROOT / "docs").glob("*.md"):
    assert f"- {path.name}\n" in contents, f"{path.name}: add it to mkdocs.yml"


def test_the_site_is_built_without_a_warning(tmp_path):
  build = [sys.executable, "-m", "mkdocs", "build", "--quiet", "-d", str(tmp_path)]
  env = os.environ | dict(NO_MKDOCS_2_WARNING="1")
  run = subprocess.run(build, cwd=ROOT, env=env, capture_output=True, text=True)
  assert (run.returncode, run.stderr) == (0, "")
  assert (tmp_path / "weights" / "index.html").exists()
