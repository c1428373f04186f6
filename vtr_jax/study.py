"""Many short trainings, one table: python -m vtr_jax.study --config=configs/study.py.

Every row of every table is trained once with each seed; rows that are done are not
done again, and one that was interrupted goes on. Two processes may share the work by
--config.seeds. Written into --workdir: the rows' runs, study.md, study.png.
"""

import dataclasses
import importlib
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np

from vtr_jax.core import cli, io, sharding
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
  changes: dict[str, Any]  # of the table's config, nested as it is


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows that are compared with one another; the first is the measure."""

  title: str
  config: str  # file in configs/ and variant, as "mac:demo"
  changes: dict[str, Any]  # of that config, for every row
  rows: tuple[Row, ...]


@dataclasses.dataclass(frozen=True)
class StudyConfig:
  """The whole config of a study."""

  name: str
  data_dir: str  # of all prepared data sets
  seeds: tuple[int, ...]
  evals: dict[str, Any]  # of every row, in place of its config's own
  shown: str  # the one of them whose text-to-video numbers are shown
  tables: tuple[Table, ...]

  def __post_init__(self):
    require(len(self.seeds) > 0, "seeds: none; give one or more")
    choose(self.shown, self.evals, "shown")
    places = [_slug(t, r) for t in self.tables for r in t.rows]
    for place in places:
      require(places.count(place) == 1, f"tables: two rows are named {place}")


@dataclasses.dataclass(frozen=True)
class Result:
  """What one row gave with one seed."""

  numbers: dict[str, float]  # METRICS of the evaluation that is shown
  ms: float  # median time of a step, evaluation and waiting for data included
  gflop: float  # of a step, counted before the compiler's own changes


def run(study: StudyConfig, directory: pathlib.Path) -> None:
  """Trains what is missing; after each row the tables are written anew."""
  jobs = [(t, r, s) for s in study.seeds for t in study.tables for r in t.rows]
  for number, (table, row, seed) in enumerate(jobs, 1):
    place = directory / _slug(table, row) / str(seed)
    if (place / "study.json").exists():
      continue
    print(f"{number}/{len(jobs)}: {table.title}, {row.name}, seed {seed}", flush=True)
    config = row_config(table, row, seed) | dict(evals=study.evals)
    config["data"]["dir"] = study.data_dir
    train_and_evaluate(config, place)
    result = _measure(config, place, study.shown)
    workdir.write_json(place / "study.json", dataclasses.asdict(result))
    jax.clear_caches()  # the next row compiles its own
    report(study, directory)
  report(study, directory)
  print(f"{directory / 'study.md'} and study.png are written", flush=True)


def report(study: StudyConfig, directory: pathlib.Path) -> None:
  """Writes the tables and the picture of what is done."""
  found = _collect(study, directory)
  (directory / "study.md").write_text(to_markdown(study, found))
  draw(directory / "study.png", study, found)


def row_config(table: Table, row: Row, seed: int) -> dict[str, Any]:
  """The row's config; a change of a key that is not there is refused."""
  file, _, variant = table.config.partition(":")
  module = importlib.import_module(f"configs.{file}")
  config = module.get_config(*[variant] if variant else [])
  for changes in (table.changes, row.changes, dict(seed=seed)):
    _change(config, changes, f"{table.title}, {row.name}")
  return config.to_dict()


def _change(config: ml_collections.ConfigDict, changes: Mapping, where: str) -> None:
  for key, value in changes.items():
    choose(key, config, where)
    if isinstance(value, Mapping) and isinstance(
      config[key], ml_collections.ConfigDict
    ):
      _change(config[key], value, f"{where}.{key}")
    else:
      with config.ignore_type():
        config[key] = value


def _measure(config: Mapping, place: pathlib.Path, split: str) -> Result:
  """Numbers of a finished run."""
  found = json.loads((place / "results.json").read_text())["results"]
  rates = [
    r["clips_per_second"]
    for r in writer.read(place / "metrics.jsonl")
    if "clips_per_second" in r
  ]
  c = read(TrainConfig, config)
  parts, mesh = c.parts(), sharding.make_mesh(c.mesh)
  shapes, _ = parts.abstract(mesh)
  train_step = parts.train_step(mesh)
  with sharding.scope(mesh):
    cost = train_step.jitted.lower(shapes, parts.spec).cost_analysis()
  return Result(
    numbers={m: found[f"{split}/t2v/{m}"] for m in METRICS},
    ms=1e3 * c.batch_size / float(np.median(rates)),
    gflop=cost["flops"] / 1e9,
  )


def _collect(
  study: StudyConfig, directory: pathlib.Path
) -> dict[tuple[str, str], list[Result]]:
  """(table, row) -> the results of all seeds that are done."""
  found = {}
  for table in study.tables:
    for row in table.rows:
      files = sorted((directory / _slug(table, row)).glob("*/study.json"))
      found[table.title, row.name] = [_result(f) for f in files]
  return found


def _result(path: pathlib.Path) -> Result:
  try:
    found = read(Result, io.mapping(path.read_bytes()), "result")
    missing = set(METRICS) - set(found.numbers)
    require(not missing, f"result.numbers: {', '.join(sorted(missing))} missing")
  except (ValueError, ConfigError) as e:
    raise DataError(f"{path}: damaged ({one_line(e)}); delete it and run again") from e
  return found


def to_markdown(
  study: StudyConfig, found: Mapping[tuple[str, str], list[Result]]
) -> str:
  """One table per comparison: means over seeds, ± half the range of R@1."""
  lines = []
  for table in study.tables:
    lines += [f"## {table.title}", "", f"`configs/{table.config}`", ""]
    lines += ["| | " + " | ".join(METRICS) + " | ms a step | GFLOP a step | seeds |"]
    lines += ["|---|" + "---:|" * (len(METRICS) + 3)]
    for row in table.rows:
      cells = _cells(found[table.title, row.name])
      lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    lines.append("")
  return "\n".join(lines)


def _cells(results: list[Result]) -> list[str]:
  """One row's cells; without results they say so."""
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
  found: Mapping[tuple[str, str], list[Result]],
) -> None:
  """R@1 of every row, one panel per table; a dot per seed, a bar for the mean."""
  heights = [len(t.rows) for t in study.tables]
  made = canvas.figure(8, 1 + 0.45 * sum(heights) + 0.6 * len(heights))
  panels = made.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
  for table, ax in zip(study.tables, panels, strict=True):
    names = [row.name for row in table.rows]
    for place, name in enumerate(names):
      values = [r.numbers["R@1"] for r in found[table.title, name]]
      ax.barh(place, np.mean(values or [0]), height=0.5, color=canvas.BOX)
      ax.scatter(values, [place] * len(values), color=canvas.CYCLE[0], zorder=2)
    ax.set_title(table.title, loc="left", color=canvas.INK)
    canvas.dress(ax, "R@1, text to video, percent", "")
    ax.set_yticks(range(len(names)), labels=names)
    ax.invert_yaxis()
  canvas.save(made, path)


def _slug(table: Table, row: Row) -> str:
  return re.sub(r"[^a-z0-9]+", "-", f"{table.title} {row.name}".lower()).strip("-")


def main(config: dict, directory: str) -> None:
  run(read(StudyConfig, config), pathlib.Path(directory))


if __name__ == "__main__":
  cli.start(main, "configs/study.py", "")
