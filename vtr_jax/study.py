"""Many short trainings, one table: python -m vtr_jax.study --config=study.

Every row of every table is trained once with each seed; finished rows are skipped, an
interrupted one resumes. Two processes can split the work by --config.seeds. Tables name
config files next to the study's own. Written into --workdir: the rows' runs, study.md,
study.png.
"""

import dataclasses
import importlib.util
import json
import pathlib
import re
import types
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import flags
from ml_collections import config_flags

from vtr_jax.core import cli, config_help, io, sharding
from vtr_jax.core.config import choose, read, require
from vtr_jax.core.errors import ConfigError, DataError, one_line
from vtr_jax.eval.viz import canvas
from vtr_jax.train import workdir, writer
from vtr_jax.train.config import TrainConfig
from vtr_jax.train.loop import train_and_evaluate

METRICS = ("R@1", "R@5", "R@10", "MedR")


@dataclasses.dataclass(frozen=True)
class Row:
  """One way to train."""

  name: str
  changes: dict[str, Any]  # of the table's config, with the same nesting


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows to compare; the first is the baseline."""

  title: str
  config: str  # file next to the study's config, and variant: "mac:demo"
  changes: dict[str, Any]  # of that config, for every row
  rows: tuple[Row, ...]


@dataclasses.dataclass(frozen=True)
class StudyConfig:
  """The full config of a study."""

  name: str  # of the study
  data_dir: str  # of all prepared data sets
  seeds: tuple[int, ...]  # of parameters, order and masks; a run for each
  evals: dict[str, Any]  # of every row, instead of its config's
  shown: str  # name of the evaluation whose text-to-video metrics are shown
  tables: tuple[Table, ...]  # of rows to compare

  def __post_init__(self):
    require(len(self.seeds) > 0, "seeds: none; give one or more")
    choose(self.shown, self.evals, "shown")
    names = [_slug(t, r) for t in self.tables for r in t.rows]
    for name in names:
      require(names.count(name) == 1, f"tables: two rows are named {name}")


@dataclasses.dataclass(frozen=True)
class Result:
  """Results of one row with one seed."""

  numbers: dict[str, float]  # METRICS of the evaluation that is shown
  ms: float  # median time per step, including evaluation and waiting for data
  gflop: float  # per step, counted before compilation


def run(study: StudyConfig, configs: pathlib.Path, directory: pathlib.Path) -> None:
  """Trains the rows that are missing; rewrites the tables after each.

  Args:
    study: the config.
    configs: folder of the config files that tables name.
    directory: for the rows' runs, tables and figure.
  """
  jobs = [(t, r, s) for s in study.seeds for t in study.tables for r in t.rows]
  for number, (table, row, seed) in enumerate(jobs, 1):
    path = directory / _slug(table, row) / str(seed)
    if (path / "study.json").exists():
      continue
    print(f"{number}/{len(jobs)}: {table.title}, {row.name}, seed {seed}", flush=True)
    config = row_config(configs, table, row, seed) | dict(evals=study.evals)
    config["data"]["dir"] = study.data_dir
    train_and_evaluate(config, path)
    result = _measure(config, path, study.shown)
    workdir.write_json(path / "study.json", dataclasses.asdict(result))
    jax.clear_caches()  # frees the row's compiled programs
    report(study, directory)
  report(study, directory)
  print(f"{directory / 'study.md'} and study.png are written", flush=True)


def report(study: StudyConfig, directory: pathlib.Path) -> None:
  """Writes tables and figure of the finished rows."""
  results = _collect(study, directory)
  (directory / "study.md").write_text(to_markdown(study, results))
  draw(directory / "study.png", study, results)


def row_config(
  configs: pathlib.Path, table: Table, row: Row, seed: int
) -> dict[str, Any]:
  """The row's config.

  Raises:
    ConfigError: the config file is missing, or a changed key is unknown.
  """
  file, _, variant = table.config.partition(":")
  path = configs / f"{file}.py"
  require(path.exists(), f"{table.title}: config {file!r}: {path} does not exist")
  get_config = _load(path).get_config
  config = get_config(*[variant] if variant else [])
  for changes in (table.changes, row.changes, dict(seed=seed)):
    _change(config, changes, f"{table.title}, {row.name}")
  return config.to_dict()


def _load(path: pathlib.Path) -> types.ModuleType:
  """The module of a config file."""
  spec = importlib.util.spec_from_file_location(f"study_{path.stem}", path)
  assert spec is not None
  assert spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _change(config: Any, changes: Mapping, where: str) -> None:
  for key, value in changes.items():
    choose(key, config, where)
    if isinstance(value, Mapping) and isinstance(
      config[key], ml_collections.ConfigDict
    ):
      _change(config[key], value, f"{where}.{key}")
    else:
      with config.ignore_type():
        config[key] = value


def _measure(config: Mapping, path: pathlib.Path, split: str) -> Result:
  """Results of a finished run."""
  metrics = json.loads((path / "results.json").read_text())["results"]
  rates = [
    r["clips_per_second"]
    for r in writer.read(path / "metrics.jsonl")
    if "clips_per_second" in r
  ]
  c = read(TrainConfig, config)
  parts, mesh = c.parts(), sharding.make_mesh(c.mesh)
  shapes, _ = parts.abstract(mesh)
  train_step = parts.train_step(mesh)
  with sharding.scope(mesh):
    cost = train_step.jitted.lower(shapes, parts.spec).cost_analysis()
  return Result(
    numbers={m: metrics[f"{split}/t2v/{m}"] for m in METRICS},
    ms=1e3 * c.batch_size / float(np.median(rates)),
    gflop=cost["flops"] / 1e9,
  )


def _collect(
  study: StudyConfig, directory: pathlib.Path
) -> dict[tuple[str, str], list[Result]]:
  """(table, row) -> results of all finished seeds."""
  results = {}
  for table in study.tables:
    for row in table.rows:
      files = sorted((directory / _slug(table, row)).glob("*/study.json"))
      results[table.title, row.name] = [_result(f) for f in files]
  return results


def _result(path: pathlib.Path) -> Result:
  try:
    result = read(Result, io.mapping(path.read_bytes()), "result")
    missing = set(METRICS) - set(result.numbers)
    require(not missing, f"result.numbers: {', '.join(sorted(missing))} missing")
  except (ValueError, ConfigError) as e:
    raise DataError(f"{path}: damaged ({one_line(e)}); delete it and run again") from e
  return result


def to_markdown(
  study: StudyConfig, results: Mapping[tuple[str, str], list[Result]]
) -> str:
  """One table per comparison: means over seeds, ± half the range of R@1."""
  lines = []
  for table in study.tables:
    lines += [f"## {table.title}", "", f"`configs/{table.config}`", ""]
    lines += ["| | " + " | ".join(METRICS) + " | ms a step | GFLOP a step | seeds |"]
    lines += ["|---|" + "---:|" * (len(METRICS) + 3)]
    for row in table.rows:
      cells = _cells(results[table.title, row.name])
      lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    lines.append("")
  return "\n".join(lines)


def _cells(results: list[Result]) -> list[str]:
  """One row's cells; "not run yet" without results."""
  if not results:
    return ["not run yet", *[""] * (len(METRICS) + 1), "0"]
  means = {m: np.mean([r.numbers[m] for r in results]) for m in METRICS}
  cells = [f"{means[m]:.1f}" for m in METRICS]
  first = [r.numbers["R@1"] for r in results]
  cells[0] += f" ± {(max(first) - min(first)) / 2:.1f}"
  ms, gflop = (np.mean([getattr(r, k) for r in results]) for k in ("ms", "gflop"))
  return [*cells, f"{ms:.0f}", f"{gflop:.1f}", str(len(results))]


def draw(
  path: pathlib.Path,
  study: StudyConfig,
  results: Mapping[tuple[str, str], list[Result]],
) -> None:
  """R@1 of every row, one panel per table; a dot per seed, a bar for the mean."""
  heights = [len(t.rows) for t in study.tables]
  figure = canvas.figure(8, 1 + 0.45 * sum(heights) + 0.6 * len(heights))
  panels = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
  for table, ax in zip(study.tables, panels, strict=True):
    names = [row.name for row in table.rows]
    for position, name in enumerate(names):
      values = [r.numbers["R@1"] for r in results[table.title, name]]
      ax.barh(position, np.mean(values or [0]), height=0.5, color=canvas.BOX)
      ax.scatter(values, [position] * len(values), color=canvas.CYCLE[0], zorder=2)
    ax.set_title(table.title, loc="left", color=canvas.INK)
    canvas.style_axes(ax, "R@1, text to video, percent", "")
    ax.set_yticks(range(len(names)), labels=names)
    ax.invert_yaxis()
  canvas.save(figure, path)


def _slug(table: Table, row: Row) -> str:
  return re.sub(r"[^a-z0-9]+", "-", f"{table.title} {row.name}".lower()).strip("-")


def main(config: dict, directory: str) -> None:
  file = config_flags.get_config_filename(flags.FLAGS["config"])
  run(read(StudyConfig, config), pathlib.Path(file).parent, pathlib.Path(directory))


if __name__ == "__main__":
  notes = config_help.field_comments(StudyConfig)
  here = frozenset({"workdir"})
  cli.start(main, "study", "", comments=lambda _: notes, here=here)
