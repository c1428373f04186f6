"""Requirements: hashes, no known vulnerability, Pythons, declared imports."""

import ast
import json
import re
import subprocess
import sys
import tomllib

import pytest
from conftest import ROOT

# Packages whose module has another name, but for - and _.
MODULES = dict(
  gcsfs="fsspec",  # whose file system it is
  google_cloud_storage="google",
  pillow="PIL",
  absl_py="absl",
  orbax_checkpoint="orbax",
  umap_learn="umap",
)


def pins():
  """name==version -> the text after it, up to the next package."""
  text = (ROOT / "requirements.txt").read_text()
  text = re.sub(r"^ *#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", "")
  return dict(line.split(" ", 1) for line in text.splitlines())


def test_every_required_package_has_a_hash():
  found = pins()
  assert any(name.startswith("jax==") for name in found)
  for name, rest in found.items():
    assert "--hash=sha256:" in rest, name


def test_one_range_of_pythons_is_named_everywhere():
  package = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
  first, end = map(int, re.findall(r"3\.(\d+)", package["requires-python"]))
  minors = [f"3.{minor}" for minor in range(first, end)]
  told = "Programming Language :: Python :: "
  assert [c for c in package["classifiers"] if told + "3." in c] == [
    told + v for v in minors
  ]
  texts = {
    ".github/workflows/test.yml": f"python: {minors}".replace("'", '"'),
    "launch/setup.sh": f"(3, {first}) <= sys.version_info < (3, {end})",
    "README.md": f"Python {minors[0]} to {minors[-1]}",
    "CONTRIBUTING.md": f"Python {minors[0]} to {minors[-1]}",
  }
  for name, text in texts.items():
    assert text in (ROOT / name).read_text(), name
  for version in minors:
    assert f"python{version}" in (ROOT / "launch/setup.sh").read_text()


def imports(path):
  """(module, whether it is imported with the file) of each import of a file."""
  tree = ast.parse(path.read_text())
  with_file = {id(node) for node in tree.body}
  for node in ast.walk(tree):
    names = []
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      names = [node.module or ""]
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
      "import_module"
    ):
      text = node.args[0]
      first = text.values[0] if isinstance(text, ast.JoinedStr) else text
      names = [first.value] if isinstance(first, ast.Constant) else []
    for name in names:
      yield name.split(".")[0], id(node) in with_file


def modules(requirements):
  """Modules of packages that pyproject.toml lists."""
  names = [re.match(r"[\w-]+", text)[0].replace("-", "_") for text in requirements]
  return {MODULES.get(name, name) for name in names}


def test_every_import_of_the_package_is_declared_and_no_other_package():
  """What is imported with a file is always installed; the rest may be an extra."""
  project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
  always = modules(project["dependencies"])
  used = ("docs", "test", "reference", "plan", "plan-gpu")
  extras = project["optional-dependencies"]
  optional = modules(r for name, rs in extras.items() if name not in used for r in rs)
  files = [p for f in ("vtr_jax", "configs") for p in (ROOT / f).rglob("*.py")]
  found = {(p.relative_to(ROOT), *pair) for p in files for pair in imports(p)}
  own = {"vtr_jax", "__future__", *sys.stdlib_module_names}
  found = {(path, name, at_once) for path, name, at_once in found if name not in own}
  for path, name, at_once in sorted(found):
    assert name in always | (set() if at_once else optional), f"{path}: {name}"
  assert {name for _, name, _ in found} >= always | optional


@pytest.mark.nightly
def test_no_required_package_has_a_known_vulnerability(record_property):
  """If pip-audit is installed and reaches its database."""
  command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps"]
  command += ["--requirement", ROOT / "requirements.txt", "--format=json"]
  made = subprocess.run(command, capture_output=True, text=True)
  if "No module named pip_audit" in made.stderr:
    pytest.skip("pip-audit is not installed: pip install pip-audit")
  try:
    told = json.loads(made.stdout)["dependencies"]
  except ValueError:
    pytest.skip(f"pip-audit does not reach its source: {made.stderr[-200:]}")
  known = [p for p in told if "vulns" in p]
  if not known:
    pytest.skip("pip-audit does not reach its source: it knows none of the packages")
  record_property("packages audited", f"{len(known)} of {len(told)}")
  assert not [p for p in known if p["vulns"]]
