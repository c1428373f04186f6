"""What is required: hashes, no known vulnerability, one range of Pythons."""

import json
import re
import subprocess
import sys
import tomllib

import pytest
from conftest import ROOT


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
  assert [c for c in package["classifiers"] if told in c] == [told + v for v in minors]
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
