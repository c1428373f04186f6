"""The study: rows are trained once, tables show the results."""

import dataclasses
import json

import pytest
from conftest import ROOT, run_main

from configs import study as study_config
from vtr_jax import study
from vtr_jax.core.config import read
from vtr_jax.core.errors import ConfigError

CONFIGS = ROOT / "configs"


def config(variant="smoke", **changes):
  return read(study.StudyConfig, study_config.get_config(variant).to_dict() | changes)


def test_every_row_of_the_full_study_is_a_valid_distinct_config():
  """Rows of a table differ from one another."""
  full = config("full")
  assert len(full.seeds) >= 2
  for table in full.tables:
    rows = [json.dumps(study.row_config(CONFIGS, table, r, 0)) for r in table.rows]
    assert len(set(rows)) == len(rows), table.title


def test_a_misspelt_change_is_rejected():
  smoke = study_config.get_config("smoke").to_dict()
  smoke["tables"][0]["rows"][1]["changes"] = dict(mask=dict(video_ratoi=0.5))
  table = read(study.StudyConfig, smoke).tables[0]
  with pytest.raises(ConfigError, match=r"40 % masked\.mask: 'video_ratoi'.*ratio"):
    study.row_config(CONFIGS, table, table.rows[1], 0)


def test_two_rows_of_one_name_are_rejected():
  smoke = study_config.get_config("smoke").to_dict()
  smoke["tables"][0]["rows"][1]["name"] = smoke["tables"][0]["rows"][0]["name"]
  with pytest.raises(ConfigError, match="two rows are named"):
    read(study.StudyConfig, smoke)


def test_means_over_seeds_by_hand():
  table = study.Table("T", "mac:smoke", {}, (study.Row("a", {}), study.Row("b", {})))
  smoke = config(tables=())
  two = [
    study.Result({"R@1": r, "R@5": 50.0, "R@10": 60.0, "MedR": 4.0}, ms, 2.0)
    for r, ms in ((10.0, 100.0), (13.0, 300.0))
  ]
  found = {("T", "a"): two, ("T", "b"): two[:1]}
  text = study.to_markdown(dataclasses.replace(smoke, tables=(table,)), found)
  assert "| a | 11.5 ± 1.5 | 50.0 | 60.0 | 4.0 | 200 | 2.0 | 2 |" in text
  assert "| b | 10.0 ± 0.0 |" in text
  found["T", "b"] = []
  missing = study.to_markdown(dataclasses.replace(smoke, tables=(table,)), found)
  assert "| b | not run yet | " in missing


@pytest.mark.nightly
def test_the_study_command_trains_only_missing_rows(data_dir, tmp_path):
  flags = ["--config=configs/study.py:smoke", f"--workdir={tmp_path}"]
  flags += [f"--config.data_dir={data_dir}"]
  first = run_main(*flags, module="vtr_jax.study")
  assert first.returncode == 0, first.stderr
  assert "4/4: MILES: the snapshot, moving average, seed 0" in first.stdout
  text = (tmp_path / "study.md").read_text()
  assert "| 40 % masked |" in text
  assert (tmp_path / "study.png").read_bytes()[:4] == b"\x89PNG"
  results = sorted(tmp_path.glob("*/0/study.json"))
  assert len(results) == 4
  gflop = {p.parts[-3]: json.loads(p.read_text())["gflop"] for p in results}
  whole, less = (gflop[f"mac-masked-video-{n}-masked"] for n in (0, 40))
  assert less < 0.9 * whole
  results[0].unlink()  # as if it had been killed before its result was written
  again = run_main(*flags, module="vtr_jax.study")
  assert again.returncode == 0, again.stderr
  assert again.stdout.count("seed 0") == 1
  assert (tmp_path / "study.md").read_text().count("|") == text.count("|")
