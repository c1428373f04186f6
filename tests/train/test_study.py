"""The study: runs at equal compute, curves, verdicts, a report."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest
from conftest import ROOT, run_main

from configs import study as study_config
from vtr_jax.core.config import read
from vtr_jax.core.errors import ConfigError, DataError, DivergedError
from vtr_jax.train.study import cost, plans, report, results, rows
from vtr_jax.train.study.config import Claim, Key, StudyConfig, rows_of

CONFIGS = ROOT / "configs"
TABLE = "MAC: masked video"
WHOLE, LESS = f"{TABLE} / 0 % masked", f"{TABLE} / 40 % masked"


def config(variant="smoke", **changes):
  return read(StudyConfig, study_config.get_config(variant).to_dict() | changes)


def result(row, budget, seed, r1=10.0, *, gflop=1.0, steps=1000, diverged=""):
  metrics = {"test/t2v/R@1": r1, "test/t2v/R@10": 50.0, "motion/top1": 20.0}
  return results.Result(
    row=row,
    budget=budget,
    seed=seed,
    rate=1.0,
    steps=(steps,),
    gflop=(gflop,),
    metrics={} if diverged else metrics,
    diverged=diverged,
    commands=(f"python -m vtr_jax.main --config.seed={seed}",),
    fingerprint="f",
  )


def of(*runs):
  return {r.key: r for r in runs}


@pytest.mark.parametrize("variant", ["claims", "shapes", "quick", "gpu"])
def test_every_row_is_a_valid_distinct_config(variant):
  """Rows of a table differ from one another, and the terms of a loss are known."""
  study = config(variant)
  for table in study.tables:
    made = [plans.plan(study, CONFIGS, table, r) for r in table.rows]
    assert len({json.dumps(p.configs) for p in made}) == len(made), table.title
    for p in made:
      for values in p.configs:
        rows.fingerprint((values,))  # reads it, with every key's default


def test_a_misspelt_change_is_rejected():
  smoke = study_config.get_config("smoke").to_dict()
  smoke["tables"][0]["rows"][1]["changes"] = dict(mask=dict(video_ratoi=0.5))
  study = read(StudyConfig, smoke)
  with pytest.raises(ConfigError, match=r"40 % masked\.mask: 'video_ratoi'.*ratio"):
    plans.plan(study, CONFIGS, *rows_of(study)[LESS])


def test_names_that_do_not_fit_are_rejected():
  smoke = study_config.get_config("smoke").to_dict()
  with pytest.raises(ConfigError, match="seeds: 1000 is that of trials"):
    read(StudyConfig, smoke | dict(seeds=(1000,)))
  with pytest.raises(ConfigError, match="budgets"):
    read(StudyConfig, smoke | dict(budgets=(2.0, 1.0)))
  claim = dict(text="x", row=LESS, than=f"{TABLE} / 1 % masked")
  with pytest.raises(ConfigError, match=r"than: .*1 % masked.*did you mean"):
    read(StudyConfig, smoke | dict(claims=(claim,)))
  smoke["tables"][0]["rows"][1]["name"] = smoke["tables"][0]["rows"][0]["name"]
  with pytest.raises(ConfigError, match="two rows are named"):
    read(StudyConfig, smoke | dict(claims=()))


@pytest.mark.parametrize("text", ["2", "2/2", "-1/2", "a/2", "0/0", "1/2/3"])
def test_a_shard_that_is_none_is_rejected(text):
  with pytest.raises(ConfigError, match="--shard"):
    rows.parse_shard(text)
  assert rows.parse_shard("1/3") == (1, 3)


@pytest.mark.parametrize(
  ("variant", "row", "than", "low", "high"),
  [
    ("smoke", WHOLE, LESS, 1.05, 1.5),
    # Attention falls faster than the number of tubelets, text not at all.
    pytest.param(
      *("claims", WHOLE, f"{TABLE} / 75 % masked", 3.5, 4.5), marks=pytest.mark.nightly
    ),
    # A term without weight costs nothing.
    pytest.param(
      "claims",
      "MILES: the snapshot / EMA",
      "MILES: the snapshot / without features",
      *(1.2, 1.4),
      marks=pytest.mark.nightly,
    ),
  ],
)
def test_flops_that_a_budget_counts(variant, row, than, low, high):
  study = config(variant)
  pairs = rows_of(study)
  flops = lambda name: cost.step_flops(plans.plan(study, CONFIGS, *pairs[name]))[0]
  assert low < flops(row) / flops(than) < high


def test_rows_of_one_budget_are_drawn_as_bars(tmp_path, monkeypatch):
  """Means as bars, seeds as dots; a row that has not run has neither."""
  shown = []
  monkeypatch.setattr(report.canvas, "save", lambda figure, path: shown.append(figure))
  study = config(budgets=(1.0, 2.0))
  found = of(result(LESS, 2.0, 0, 11.0), result(LESS, 2.0, 1, 14.0))
  report.draw(tmp_path / "x.png", study, study.tables[0], found, {})
  (ax,) = shown[0].axes
  assert [bar.get_width() for bar in ax.patches] == [0.0, 12.5]
  dots = [dots.get_offsets().tolist() for dots in ax.collections]
  assert dots == [[], [[11.0, 1.0], [14.0, 1.0]]]
  assert ax.get_xlabel() == "R@1, percent, after 2 TFLOP"
  found |= of(result(LESS, 1.0, 0, 5.0))
  report.draw(tmp_path / "x.png", study, study.tables[0], found, {})
  assert len(shown[1].axes) == 2  # curves against compute and time


# Verdicts.


def test_mean_and_standard_error_by_hand():
  found = results.estimate([10.0, 13.0, 16.0])
  assert found == (13.0, pytest.approx(3 / math.sqrt(3)), 3)
  assert math.isnan(results.estimate([10.0]).error)


def test_rows_are_compared_at_the_largest_compute_that_both_have():
  """Linear in the logarithm of compute: halfway between 1 and 4 is 2."""
  ours = [np.array([[1.0, 10.0], [4.0, 30.0]]), np.array([[1.0, 12.0], [4.0, 32.0]])]
  theirs = [np.array([[0.5, 5.0], [2.0, 15.0]]), np.array([[0.5, 5.0], [2.0, 17.0]])]
  at, found = results.difference(ours, theirs)
  assert at == 2.0
  assert found.mean == pytest.approx(21.0 - 16.0)
  assert found.error == pytest.approx(math.hypot(1.0, 1.0))
  assert found.count == 2
  apart = [np.array([[8.0, 1.0], [9.0, 2.0]])]
  assert results.difference(ours, apart)[1].count == 0
  assert results.difference([], theirs)[1].count == 0


def test_equal_time_uses_the_time_of_a_step():
  runs = of(*(result(LESS, b, 0, 10 * b, steps=int(600 * b)) for b in (1.0, 2.0)))
  (by_flops,) = results.curves(runs, LESS, "test/t2v/R@1")
  (by_time,) = results.curves(runs, LESS, "test/t2v/R@1", [0.1])
  np.testing.assert_allclose(by_flops, [[0.6, 10], [1.2, 20]])
  np.testing.assert_allclose(by_time, [[1.0, 10], [2.0, 20]])
  assert results.curves(runs, LESS, "test/t2v/R@1", []) == []  # of another host


@pytest.mark.parametrize(
  ("values", "gains", "past"),
  [
    ([1.0, 3.0, 9.0], [2.0, 3.0], "no"),  # 6 points in two doublings
    ([1.0, 9.0, 12.0], [8.0, 1.5], "yes"),
    ([1.0, 3.0], [2.0], "cannot be told"),
  ],
)
def test_a_curve_past_its_steepest_part_by_hand(values, gains, past):
  budgets = (1.0, 2.0, 8.0)
  study = config(budgets=budgets, seeds=(0,))
  runs = of(*(result(WHOLE, b, 0, v) for b, v in zip(budgets, values, strict=False)))
  assert results.gains(runs, WHOLE, budgets, study.metrics[0]) == gains
  text = report.to_markdown(study, runs, {})
  assert f"| {', '.join(f'{g:+.1f}' for g in gains)} |" in text
  assert f"| {past} |" in text


@pytest.mark.parametrize(
  ("better", "mean", "error", "expected"),
  [
    (True, 5.0, 2.0, "holds"),
    (True, 3.0, 2.0, "cannot be told"),
    (True, -5.0, 2.0, "does not hold"),
    (False, 0.5, 0.5, "holds"),
    (False, -0.5, 0.5, "cannot be told"),
    (False, -3.0, 0.5, "does not hold"),
    (False, 0.0, math.nan, "cannot be told (one seed)"),
  ],
)
def test_verdicts_by_hand(better, mean, error, expected):
  """No worse tolerates one point."""
  claim = Claim("x", LESS, WHOLE, better)
  found = results.Estimate(mean, error, 3)
  assert results.verdict(claim, found, 1.0) == expected


def test_a_diverged_seed_is_shown_and_in_no_verdict():
  study = config(budgets=(1.0,), seeds=(0, 1))
  runs = [result(n, 1.0, s, 10.0 + s) for n in (WHOLE, LESS) for s in (0, 1)]
  runs[3] = result(LESS, 1.0, 1, diverged="loss is not finite")
  text = report.to_markdown(study, of(*runs), {WHOLE: [0.1], LESS: [0.1]})
  assert "| 0 % masked | 10.5 ± 0.5 |" in text
  assert "| 40 % masked | 10.0 (1 diverged) |" in text
  assert "cannot be told (one seed)" in text
  assert "no compute in common" not in text
  slower = report.to_markdown(study, of(*runs), {WHOLE: [0.1], LESS: [0.2]})
  assert slower.count("no compute in common") == 1  # equal FLOPs, twice the time
  assert "python -m vtr_jax.main --config.seed=0" in text
  assert report.missing(study, of(*runs[:3])) == {
    LESS: 1,
    "MAC: unmasked at the end / 75 % masked, then unmasked": 2,
  }


# Files.


def write(path, value):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(dataclasses.asdict(value)))


def test_a_run_counts_once_wherever_it_is_stored(tmp_path):
  """Runs of other hosts come as results.json; a run's own file precedes it."""
  study = config(budgets=(1.0, 2.0))
  one, two = result(WHOLE, 1.0, 0, 11.0), result(LESS, 2.0, 0, 12.0)
  old = dataclasses.replace(one, rate=0.5)
  text = json.dumps(dict(runs=[dataclasses.asdict(r) for r in (old, two)]))
  (tmp_path / "results.json").write_text(text)
  write(tmp_path / one.key.path / "study.json", one)
  found = results.load(study, tmp_path)
  assert found == of(one, two)
  assert results.load(study, tmp_path) == found  # as rewritten


@pytest.mark.parametrize(
  ("content", "message"),
  [("{", ""), ('{"row": 1}', "row"), (None, "R@10 missing")],
)
def test_a_damaged_result_is_named(tmp_path, content, message):
  study, run = config(budgets=(1.0,)), result(WHOLE, 1.0, 0)
  path = tmp_path / run.key.path / "study.json"
  write(path, dataclasses.replace(run, metrics={"motion/top1": 1.0}))
  if content is not None:
    path.write_text(content)
  with pytest.raises(DataError, match=f"study.json: damaged .*{message}"):
    results.load(study, tmp_path)


def test_a_finished_run_of_another_config_is_refused(tmp_path):
  """The run has stored the dtype that "auto" was, which is not another config."""
  study = config("claims", rates=(1.0,), budgets=(1.0,))
  made = plans.plan(study, CONFIGS, *rows_of(study)[WHOLE])
  job, key = rows._Job(study, made, [1e9], [1e9], tmp_path), Key(WHOLE, 1.0, 0)
  (values,) = sized = job.sized(key, 1.0, tmp_path / key.path, study.evals)
  assert values["steps"] == 1000  # 1 TFLOP of 1 GFLOP each
  assert values["optim"]["warmup_steps"] == 100
  assert values["objective"]["compute"]["dtype"] == "auto"
  same = dataclasses.replace(result(WHOLE, 1.0, 0), fingerprint=rows.fingerprint(sized))
  (tmp_path / key.path / "checkpoints" / "1000").mkdir(parents=True)
  compute = values["objective"]["compute"] | dict(dtype="bfloat16")
  stored = values | dict(objective=values["objective"] | dict(compute=compute))
  (tmp_path / key.path / "config.json").write_text(json.dumps(stored))
  job.check(key, same)
  slower = dataclasses.replace(job, unit=[2e9])
  with pytest.raises(ConfigError, match="steps: 1000 there, 500 now"):
    slower.check(key, same)
  (tmp_path / key.path / "config.json").unlink()
  with pytest.raises(ConfigError, match="finished with another config"):
    slower.check(key, same)


def test_a_run_that_diverges_is_kept_as_such(tmp_path, monkeypatch):
  def diverge(config, path):
    raise DivergedError("loss is not finite")

  monkeypatch.setattr(rows, "train_and_evaluate", diverge)
  study = config(rates=(1.0,), budgets=(1.0,))
  pair = rows_of(study)[WHOLE]
  job = rows._Job(study, plans.plan(study, CONFIGS, *pair), [1e9], [1e9], tmp_path)
  key = Key(WHOLE, 1.0, 0)
  job.train(key)
  found = results.load(study, tmp_path)
  assert found[key].diverged == "loss is not finite"
  job.check(key, found[key])


def test_rows_of_the_same_config_are_trained_once(tmp_path, monkeypatch, capsys):
  """Also by another process, whose results.json alone is here."""
  trained = []

  def train(config, path):
    trained.append(path)
    return dict.fromkeys(("test/t2v/R@1", "test/t2v/R@10", "motion/top1"), 7.0)

  monkeypatch.setattr(rows, "train_and_evaluate", train)
  study = config("claims", rates=(1.0,), budgets=(1.0,), seeds=(0,))
  names = [
    "SimVTP: loss terms / + contrast + matching",
    "SimVTP: fewer clips / 100 % of clips",
    "The best of three / SimVTP",
  ]
  other = "SimVTP: loss terms / contrast alone"
  for name in (*names, other):
    if name == names[1]:  # the same learning rate, as another multiple of another one
      path = tmp_path / Key(names[0], 1.0, 0).path / "study.json"
      write(path, dataclasses.replace(results.read_result(path, ()), rate=2.0))
    if name == names[-1]:
      (tmp_path / Key(names[0], 1.0, 0).path / "study.json").unlink()
      (tmp_path / Key(names[1], 1.0, 0).path / "study.json").unlink()
    made = plans.plan(study, CONFIGS, *rows_of(study)[name])
    job, key = rows._Job(study, made, [1e9], [2e9], tmp_path), Key(name, 1.0, 0)
    assert job.train(key) == (name in (names[0], other))
    job.check(key, results.load(study, tmp_path)[key])
  assert trained == [tmp_path / Key(name, 1.0, 0).path for name in (names[0], other)]
  found = results.load(study, tmp_path)
  assert {k.row for k in found} == {*names, other}
  assert {r.metrics["test/t2v/R@1"] for r in found.values()} == {7.0}
  assert {r.gflop for r in found.values()} == {(2.0,)}
  assert capsys.readouterr().out.count(f"as {names[0]}, which has the same config") >= 1


def test_an_equal_run_counts_if_it_has_what_the_row_needs(tmp_path):
  """Not one whose metrics were others, nor a damaged one of a row that is gone."""
  find = lambda: results.find(tmp_path, "f", ("test/t2v/R@1",))
  (tmp_path / "gone" / "5-0").mkdir(parents=True)
  (tmp_path / "gone" / "5-0" / "study.json").write_text("{")
  run = result(WHOLE, 1.0, 0)
  less = dataclasses.replace(run, metrics={"motion/top1": 1.0})
  write(tmp_path / "old" / "1-0" / "study.json", less)
  assert find() is None
  write(tmp_path / run.key.path / "study.json", run)
  assert find() == run
  failed = dataclasses.replace(less, diverged="loss is not finite", fingerprint="g")
  write(tmp_path / "other" / "1-0" / "study.json", failed)
  assert results.find(tmp_path, "g", ("test/t2v/R@1",)) == failed


@pytest.mark.nightly
def test_two_shards_train_every_row_once(data_dir, tmp_path):
  flags = ["--config=configs/study.py:smoke", f"--workdir={tmp_path}"]
  flags += [f"--config.data_dir={data_dir}"]
  first = run_main(*flags, "--shard=0/2", module="vtr_jax.study")
  assert first.returncode == 0, first.stderr
  assert f"runs are missing, left to others: {LESS}" in first.stdout
  second = run_main(*flags, "--shard=1/2", module="vtr_jax.study")
  assert second.returncode == 0, second.stderr
  assert "missing" not in second.stdout
  text = (tmp_path / "study.md").read_text()
  assert "| 40 % masked |" in text
  assert "cannot be told (one seed)" in text
  assert (tmp_path / "mac-masked-video.png").read_bytes()[:4] == b"\x89PNG"
  runs = json.loads((tmp_path / "results.json").read_text())["runs"]
  assert len(runs) == 6
  two = [r for r in runs if "unmasked at" in r["row"]]
  assert all(len(r["steps"]) == 2 and len(r["commands"]) == 2 for r in two)
  for run in two:  # 0.3 of the first part's 0.0014 or 0.0007, not 0.000419999...
    assert re.search(r"optim\.lr=0\.000(42|21) ", run["commands"][1])
  # As if one had been killed before its result was written.
  (path,) = tmp_path.glob("mac-masked-video-0-masked/0.002-0/study.json")
  path.unlink()
  (tmp_path / "results.json").unlink()
  again = run_main(*flags, module="vtr_jax.study")
  assert again.returncode == 0, again.stderr
  assert again.stdout.count(", seed 0") == 1
  assert json.loads((tmp_path / "results.json").read_text())["runs"] == runs
