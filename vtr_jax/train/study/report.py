"""The report of a study: tables, curves, verdicts and commands."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from vtr_jax.eval.viz import canvas
from vtr_jax.train.study import results as results_lib
from vtr_jax.train.study.config import StudyConfig, Table, rows_of, slug
from vtr_jax.train.study.results import Estimate, Results

_AXES = dict(tflop="compute, TFLOP", minutes="time of the steps, minutes")
_TICKS = (1, 1.5, 2, 3, 5, 7)  # of an axis without budgets: their multiples by tens


def write(study: StudyConfig, directory: pathlib.Path) -> Results:
  """Writes study.md and a figure for each table; returns the finished runs."""
  results = results_lib.load(study, directory)
  seconds = results_lib.read_times(directory / "times.json")
  (directory / "study.md").write_text(to_markdown(study, results, seconds))
  for table in study.tables:
    path = directory / f"{slug(table.title)}.png"
    draw(path, study, table, results, seconds)
  return results


def missing(study: StudyConfig, results: Results) -> dict[str, int]:
  """Runs that are not finished, by row."""
  wanted = len(study.budgets) * len(study.seeds)
  return {
    name: left
    for name in rows_of(study)
    if (
      left := wanted
      - sum(
        k.row == name and k.budget in study.budgets and k.seed in study.seeds
        for k in results
      )
    )
  }


def to_markdown(
  study: StudyConfig, results: Results, seconds: Mapping[str, Sequence[float]]
) -> str:
  """The report, without its introduction."""
  lines = []
  for table in study.tables:
    lines += [f"## {table.title}", "", f"![{table.title}]({slug(table.title)}.png)", ""]
    lines += _table(study, table, results, seconds)
  if study.claims:
    lines += ["## Verdicts", "", *_verdicts(study, results, seconds)]
  lines += ["## Commands", "", *_commands(study, results)]
  return "\n".join(lines)


def _table(
  study: StudyConfig,
  table: Table,
  results: Results,
  seconds: Mapping[str, Sequence[float]],
) -> list[str]:
  """Means of every metric at every budget; cost of a step."""
  heads = [f"{m}, {b:g}" for m in map(_short, study.metrics) for b in study.budgets]
  first = study.metrics[0]
  heads += [f"{_short(first)} per doubling"]
  heads += ["ms a step", "GFLOP a step", "lr x", "seeds"]
  lines = ["| | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
  for row in table.rows:
    name = f"{table.title} / {row.name}"
    runs = [r for k, r in results.items() if k.row == name]
    cells = [
      _cell(*results_lib.at_budget(results, name, b, m))
      for m in study.metrics
      for b in study.budgets
    ]
    times = " + ".join(f"{1e3 * s:.0f}" for s in seconds.get(name, []))
    gflop = " + ".join(f"{g:.1f}" for g in runs[0].gflop) if runs else ""
    rate = f"{runs[0].rate:g}" if runs else ""
    gains = results_lib.gains(results, name, study.budgets, first)
    cells += [", ".join(f"{g:+.1f}" for g in gains)]
    cells += [times, gflop, rate, str(len({r.seed for r in runs}))]
    lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
  columns = (
    f"Columns: metric, {study.unit} of the run; ± standard error over seeds. Per "
    "doubling: points gained between two budgets, over the doublings between them."
  )
  return [*lines, "", columns, ""]


def _cell(found: Estimate, diverged: int) -> str:
  text = _number(found) if found.count else ""
  if diverged:
    text += f" ({diverged} diverged)"
  return text.strip() or "not run"


def _number(found: Estimate, sign: str = "") -> str:
  text = f"{found.mean:{sign}.1f}"
  return text if np.isnan(found.error) else f"{text} ± {found.error:.1f}"


def _short(metric: str) -> str:
  """ "test/t2v/R@1" as "R@1"; other splits and kinds keep their names."""
  return metric.removeprefix("test/t2v/")


def _verdicts(
  study: StudyConfig, results: Results, seconds: Mapping[str, Sequence[float]]
) -> list[str]:
  """A row for each claim: differences at equal FLOPs and at equal time."""
  lines = [
    "| claim | rows | at equal FLOPs | | at equal time | | past the steepest part |",
    "|---|---|---:|---|---:|---|---|",
  ]
  left = missing(study, results)
  for claim in study.claims:
    metric, cells = study.metrics[0], []
    for unit in _AXES:
      pair = [
        results_lib.curves(
          results, row, metric, seconds.get(row, []) if unit == "minutes" else None
        )
        for row in (claim.row, claim.than)
      ]
      at, found = results_lib.difference(*pair)
      verdict = results_lib.verdict(claim, found, study.margin)
      if all(pair) and not found.count and not {claim.row, claim.than} & set(left):
        verdict = "no compute in common"  # one budget, whose steps take other times
      name = dict(tflop="TFLOP", minutes="min")[unit]
      where = f" at {at:.3g} {name}" if found.count else ""
      cells += [(_number(found, "+") if found.count else "") + where, verdict]
    cells += [_past(results_lib.gains(results, claim.than, study.budgets, metric))]
    rows = f"{claim.row} minus {claim.than} ({_short(metric)})"
    lines.append(f"| {claim.text} | {rows} | " + " | ".join(cells) + " |")
  note = (
    f"Holds: by more than {results_lib.ERRORS:g} standard errors of the difference; "
    f'"no worse" tolerates {study.margin:g} point. The largest compute that both rows '
    "have; curves are linear in its logarithm between budgets. Past the steepest part: "
    "whether the baseline's last gain per doubling is below its largest. No compute in "
    "common: the curves of the two rows do not overlap."
  )
  return [*lines, "", note, ""]


def _past(gains: Sequence[float]) -> str:
  """Whether a curve bends, of its gains per doubling; one gain cannot tell."""
  if len(gains) < 2:
    return "cannot be told"
  return "yes" if gains[-1] < max(gains) else "no"


def _commands(study: StudyConfig, results: Results) -> list[str]:
  """The commands of each row's largest run with the first seed."""
  lines = ["Each row's largest run, first seed; the study's evaluations apart.", ""]
  lines += ["```"]
  for name in rows_of(study):
    runs = [r for k, r in results.items() if k.row == name and not r.diverged]
    if runs:
      last = max(runs, key=lambda r: (r.budget, -r.seed))
      lines += [f"# {name}", *last.commands]
  return [*lines, "```", ""]


def draw(
  path: pathlib.Path,
  study: StudyConfig,
  table: Table,
  results: Results,
  seconds: Mapping[str, Sequence[float]],
) -> None:
  """The first metric against compute and against time: a curve for each row.

  Rows that have been trained at one budget alone are compared there, by bars.
  """
  names = {f"{table.title} / {row.name}" for row in table.rows}
  budgets = {k.budget for k in results if k.row in names}
  if len(budgets) == 1:
    _draw_bars(path, study, table, results, *budgets)
    return
  figure = canvas.figure(10, 4.2)
  for ax, unit in zip(figure.subplots(1, 2, sharey=True), _AXES, strict=True):
    for number, row in enumerate(table.rows):
      name, colour = f"{table.title} / {row.name}", canvas.CYCLE[number % 7]
      times = seconds.get(name, []) if unit == "minutes" else None
      curves = results_lib.curves(results, name, study.metrics[0], times)
      whole = [c for c in curves if len(c) == max(map(len, curves))]
      if not whole:
        continue
      mean = np.mean(whole, axis=0)
      style = dict(color=colour, linestyle="-" if number < 7 else "--")
      ax.plot(*mean.T, label=row.name, marker="o", markersize=3, **style)
      for curve in curves:
        ax.scatter(*curve.T, color=colour, s=6, alpha=0.5)
    canvas.style_axes(ax, _AXES[unit], f"{_short(study.metrics[0])}, percent")
    ax.set_xscale("log")
    ax.minorticks_off()
    if unit == study.unit:
      ax.set_xticks(study.budgets)
    else:
      ax.xaxis.get_major_locator().set_params(subs=_TICKS)
    ax.xaxis.set_major_formatter("{x:g}")
    if (legend := ax.get_legend()) is not None and unit == "minutes":
      legend.remove()
  canvas.save(figure, path)


def _draw_bars(
  path: pathlib.Path,
  study: StudyConfig,
  table: Table,
  results: Results,
  budget: float,
) -> None:
  """The first metric of every row at one budget; a dot for each seed."""
  figure = canvas.figure(7, 0.8 + 0.4 * len(table.rows))
  ax, metric = figure.subplots(), study.metrics[0]
  for number, row in enumerate(table.rows):
    name = f"{table.title} / {row.name}"
    runs = [r for k, r in results.items() if k.row == name and not r.diverged]
    values = [r.metrics[metric] for r in runs]
    mean = results_lib.estimate(values).mean if values else 0.0
    ax.barh(number, mean, height=0.6, color=canvas.CYCLE[0], alpha=0.6)
    ax.scatter(values, [number] * len(values), color=canvas.INK, s=9)
  unit = dict(tflop="TFLOP", minutes="minutes of steps")[study.unit]
  canvas.style_axes(ax, f"{_short(metric)}, percent, after {budget:g} {unit}", "")
  ax.set_yticks(range(len(table.rows)), [row.name for row in table.rows])
  ax.invert_yaxis()
  canvas.save(figure, path)
