"""The architecture: imports point down, and forbidden packages are not imported."""

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

# Floors of the package. A folder imports from earlier floors and from itself; a file
# at the root is a command and may import from every folder.
FLOORS = (
  {"core"},
  {"data", "models"},
  {"objectives"},
  {"eval", "weights"},
  {"train"},
  {"inference"},
  {"prepare", "plan"},
  {"moments"},
  {"search"},
  {"main", "evaluate", "predict", "convert", "export", "probe", "replay", "study"},
  {"__main__"},  # all commands in one
)
FILES = sorted((ROOT / "vtr_jax").rglob("*.py"))


def room(module: str) -> str:
  """vtr_jax.data.video.decode -> data."""
  return module.split(".")[1]


def imports(path):
  """Our modules that a file imports, wherever in the file."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (a.name for a in node.names if a.name.startswith("vtr_jax."))
    elif isinstance(node, ast.ImportFrom) and node.module == "vtr_jax":
      yield from (f"vtr_jax.{a.name}" for a in node.names)
    elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
      "vtr_jax."
    ):
      yield node.module


def test_imports_point_down():
  level = {name: i for i, names in enumerate(FLOORS) for name in names}
  wrong = []
  for path in FILES:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts == ("vtr_jax", "__init__"):
      continue
    here = parts[1]
    assert here in level, f"{here}: give it a place in FLOORS"
    for module in imports(path):
      there = room(module)
      if there != here and level[there] >= level[here]:
        wrong.append(f"{'/'.join(parts)} imports {module}")
  assert not wrong


def test_the_package_root_contains_only_commands_and_folders():
  root = ROOT / "vtr_jax"
  # configs is a link to the recipes, which are not the package's code.
  folders = [
    p for p in root.iterdir() if p.is_dir() and not p.name.startswith(("__", "configs"))
  ]
  files = list(root.glob("*.py"))
  assert len(folders) <= 12
  assert len(files) <= 10
  for path in files:
    text = path.read_text()
    assert path.stem == "__init__" or 'if __name__ == "__main__"' in text, path


def test_every_layer_exists():
  for names in FLOORS:
    for name in names:
      path = ROOT / "vtr_jax" / name
      assert path.is_dir() or path.with_suffix(".py").exists(), name


@pytest.mark.parametrize(
  "train", [False, pytest.param(True, marks=pytest.mark.nightly)]
)
def test_nothing_imports_tensorflow_or_pytorch(train, smoke, tmp_path):
  """In a fresh interpreter: every module imported; at night, two steps trained."""
  modules = [
    ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for p in FILES
  ]
  smoke |= dict(steps=2, evals={})
  smoke["optim"]["warmup_steps"] = 1
  code = f"""
import importlib, sys
for name in {modules!r}:
  importlib.import_module(name)
from vtr_jax.train import train_and_evaluate
if {train}:
  train_and_evaluate({smoke!r}, {str(tmp_path)!r})
print(sorted({{"tensorflow", "torch"}} & set(sys.modules)))
"""
  run = subprocess.run(
    [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
  )
  assert run.returncode == 0, run.stderr
  assert run.stdout.splitlines()[-1] == "[]"


def test_data_modules_use_no_device():
  folders = {"data", "prepare"}
  modules = [
    ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for p in FILES
    if p.relative_to(ROOT).parts[1] in folders and p.stem != "__main__"
  ]
  code = f"""
import importlib
for name in {modules!r}:
  importlib.import_module(name)
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
"""
  subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_no_array_is_unpickled():
  """Each `np.load` is explicit, as NumPy's default has changed before."""
  loads = [
    (path.name, node.lineno, ast.unparse(node))
    for path in FILES
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "np.load"
  ]
  assert loads
  for load in loads:
    assert "allow_pickle=False" in load[-1], load


@pytest.mark.parametrize("word", ["/home/", "/root/", "/work/", "pypi.org/simple"])
def test_files_name_no_path_or_host_of_one_machine(word):
  """No absolute path, no host of a package registry."""
  kept = subprocess.run(
    ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
  ).stdout.splitlines()
  for name in kept:
    path, text = ROOT / name, {".py", ".md", ".sh", ".toml", ".txt", ".yml", ".ipynb"}
    if path.suffix in text and path.name != "test_layers.py":
      assert word not in path.read_text(), name
