"""docs/extending.md, run literally: files are added, and nothing else is edited."""

import json
import os
import re
import shutil
import subprocess
import sys

import clips
import pytest
from conftest import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text()
FILES = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE, re.DOTALL))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
  """A copy of the project with the page's files in it."""
  place = tmp_path_factory.mktemp("project")
  ignore = shutil.ignore_patterns("__pycache__")
  for name in ("vtr_jax", "configs", "tests"):
    shutil.copytree(ROOT / name, place / name, ignore=ignore)
  shutil.copy(ROOT / "pyproject.toml", place)
  for name, code in FILES.items():
    (place / name).write_text(code)
  return place


def run(project, *command):
  done = subprocess.run(
    [sys.executable, *command], cwd=project, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stdout + done.stderr
  return done.stdout


def test_the_page_shows_one_of_each_kind():
  assert {name.split("/")[-2] for name in FILES} == {
    "objectives",
    "configs",
    "backbones",
    "formats",
    "evaluators",
  }


def test_an_added_objective_trains_and_an_added_evaluator_runs(project, data_dir):
  run(
    project,
    *("-m", "vtr_jax.main", "--config=configs/uniform.py:smoke", "--workdir=out"),
    f"--config.data.dir={data_dir}",
    "--config.evals={'test': {'kind': 'spread', 'split': 'test'}}",
  )
  results = json.loads((project / "out" / "results.json").read_text())["results"]
  assert -1 <= results["test/mean_cosine"] <= 1
  records = (project / "out" / "metrics.jsonl").read_text().splitlines()
  losses = [json.loads(line) for line in records]
  assert any("loss/uniformity" in record for record in losses)


@pytest.mark.nightly  # by day: an added objective
def test_an_added_task_trains_on_its_own_rows(project, data_dir):
  sizes = [
    len(code.splitlines()) for name, code in FILES.items() if name.endswith("count.py")
  ]
  assert len(sizes) == 2
  assert sum(sizes) < 80
  run(
    project,
    *("-m", "vtr_jax.main", "--config=configs/count.py:smoke", "--workdir=counted"),
    f"--config.data.dir={data_dir}",
  )
  records = (project / "counted" / "metrics.jsonl").read_text().splitlines()
  assert any("loss/count" in json.loads(line) for line in records)
  (project / "clip.mp4").write_bytes(clips.mp4(8, 32, 32))
  flags = "--checkpoint=counted", "--top=0", "--out=counts.jsonl", "clip.mp4"
  run(project, "-m", "vtr_jax.predict", *flags)
  rows = map(json.loads, (project / "counts.jsonl").read_text().splitlines())
  assert sorted(row["class"] for row in rows) == ["0", "1", "2", "3"]


@pytest.mark.nightly
def test_an_added_backbone_trains_on_masked_clips(project, data_dir):
  run(
    project,
    *("-m", "vtr_jax.main", "--config=configs/mean_mixer.py:smoke"),
    *("--workdir=mixer", "--config.steps=2", "--config.optim.layer_decay=0.9"),
    f"--config.data.dir={data_dir}",
    "--config.evals={'test': {'kind': 'retrieval', 'split': 'test'}}",
  )
  config = json.loads((project / "mixer" / "config.json").read_text())
  assert config["objective"]["video"]["name"] == "mean_mixer"
  assert config["mask"]["video_ratio"] > 0
  assert (project / "mixer" / "results.json").exists()


@pytest.mark.nightly
def test_the_contract_tests_run_on_an_added_objective(project):
  # It has no paper's recipe whose values would name their sources.
  out = run(
    project,
    *(
      "-m",
      "pytest",
      "-q",
      "tests/contract/test_objectives.py",
      "-k",
      "uniform and not recipe",
    ),
    *("-m", "nightly or not nightly", "-p", "no:cacheprovider"),
  )
  assert re.match(r"\.{5,}\s", out), out


def test_a_data_set_of_an_added_format_is_prepared(project, tmp_path):
  (tmp_path / "videos" / "a b").mkdir(parents=True)
  (tmp_path / "videos" / "a b" / "one.mp4").write_bytes(clips.mp4(8))
  (tmp_path / "videos" / "captions.tsv").write_text("a b/one.mp4\ta red ball\n")
  run(
    project,
    *("-m", "vtr_jax.prepare", "--format=table", f"--source={tmp_path}/videos"),
    f"--out={tmp_path}/out",
  )
  assert os.listdir(tmp_path / "out")
