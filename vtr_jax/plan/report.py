"""A plan as text, as a row of a table, and as JSON."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from vtr_jax.plan.chips import Target, install
from vtr_jax.plan.costs import Costs
from vtr_jax.plan.problem import Problem

_COMPILED = "compiled for these chips; nothing here was measured"
_ARITHMETIC = "ESTIMATE by arithmetic; compiling for these chips requires: "
# What each row of the time is.
_BOUND = "lower bound, at the peak"
_MEMORY = "lower bound, at the bandwidth"
_RULE = "rule of thumb, at the bandwidth"
_MOVED = "the compiler's count, with fast memory and repeated reads"
_CYCLES = "the compiler's estimate"
COLUMNS = (
  ("masked", "{masked:.0%}"),
  ("visible", "{visible:,}"),
  ("fits", "{fits}"),
  ("GB peak", "{peak_gb:.1f}"),
  ("TFLOP", "{tflop:.2f}"),
  ("GB moved", "{moved_gb:.1f}"),
  ("GB HBM", "{hbm_gb:.1f}"),
  ("bound ms", "{bound_ms:.1f}"),
  ("by", "{by}"),
  ("cycles ms", "{cycles_ms:.1f}"),
  ("of peak", "{peak_share:.0%}"),
  ("chip-hours", "{chip_hours:,.0f}"),
  ("largest", "{largest}"),
)


@dataclasses.dataclass(frozen=True)
class Plan:
  """The cost of one training step of a config on a target, and of the full training."""

  problem: Problem
  target: Target
  costs: Costs
  largest: int | None  # max examples per device; None: not searched, or none fits
  price: float | None  # of a chip for an hour

  def metrics(self) -> dict[str, Any]:
    """All metrics of the plan, flat; None = unknown."""
    c, costs, target = self.problem.config, self.costs, self.target
    bound = costs.bound(target.chip)
    seconds, by = bound or (None, None)
    times, expected = costs.times(target.chip), costs.expected(target.chip)
    compute = times.get("compute")
    hours = seconds and c.steps * seconds / 3600 * target.chips
    giga = lambda n: None if n is None else n / 1e9
    return dict(
      config=c.name,
      topology=target.name,
      slices=target.slices,
      chips=target.chips,
      devices=target.count,
      kind=target.chip.kind,
      mesh=dict(self.problem.mesh.shape),
      how=costs.how,
      rows=c.batch_size,
      rows_a_device=c.batch_size / self.problem.row_devices,
      masked=c.mask.video_ratio,
      visible=self.problem.parts.spec["video_keep_idx"].shape[1],
      compute=dataclasses.asdict(self.problem.parts.objective.compute),
      micro_batches=c.micro_batches,
      fits=costs.fits,
      **{f"{k}_gb": giga(v) for k, v in costs.held.items()},
      temporaries_gb=giga(costs.temporary),
      code_gb=giga(costs.code),
      peak_gb=giga(costs.peak),
      limit_gb=giga(costs.limit),
      tflop=costs.flops / 1e12,
      moved_gb=giga(costs.bytes),
      hbm_gb=giga(costs.hbm),
      ms={k: 1e3 * v for k, v in times.items()},
      bound_ms=seconds and 1e3 * seconds,
      by=by,
      cycles=costs.cycles and costs.cycles.count,
      cycles_missing=costs.cycles and costs.cycles.missing,
      cycles_ms=expected and 1e3 * expected,
      peak_share=expected and compute and compute / expected,
      kernels=costs.kernels,
      collectives=[dataclasses.asdict(x) for x in costs.collectives],
      steps=c.steps,
      chip_hours=hours,
      days=seconds and c.steps * seconds / 86400,
      cost=hours and self.price and hours * self.price,
      largest=self.largest,
    )

  def text(self) -> str:
    """Report for a terminal."""
    m = self.metrics()
    mesh = " x ".join(f"{a}={size}" for a, size in m["mesh"].items())
    slices = f" x {m['slices']} slices" if m["slices"] > 1 else ""
    compute = ", ".join(f"{k}={v}" for k, v in m["compute"].items())
    lines = [
      f"{m['config']} on {m['topology']}{slices}: {m['chips']:.0f} {m['kind']}, {mesh}",
      _COMPILED if m["how"] == "compiled" else _ARITHMETIC + install(self.target.chip),
      f"{m['rows']:,} examples a step, {m['rows_a_device']:g} a device; "
      f"{m['masked']:.0%} masked, {m['visible']:,} tubelets visible",
      f"{compute}, micro_batches={m['micro_batches']}",
      "",
      *self._memory(m),
      "",
      *self._time(m),
    ]
    return "\n".join(lines)

  def _memory(self, m: dict[str, Any]) -> list[str]:
    kinds = (*self.costs.held, "temporaries", "code")
    rows = [(k, m[f"{k}_gb"]) for k in kinds]
    lines = [f"  {k:12} {_gb(v)}" for k, v in rows if v is not None]
    limit = "" if m["limit_gb"] is None else f" of {m['limit_gb']:.1f}"
    verdict = "fits" if m["fits"] else "DOES NOT FIT"
    lines.append(f"  {'peak' if m['fits'] else 'needed':12} {_gb(m['peak_gb'])}")
    largest = "" if m["largest"] is None else f"; {m['largest']} examples a device fit"
    return [f"memory a device, GB{limit}: {verdict}{largest}", *lines]

  def _time(self, m: dict[str, Any]) -> list[str]:
    lines = ["a step, each device:", *map(_row, self._rows(m))]
    for c in self.costs.collectives:
      lines.append(
        f"  {c.kind:20} {c.network.upper()}  {c.count:4} times {c.size / 1e6:12,.3f} MB"
      )
    if m["bound_ms"] is None:
      return [*lines, f"no peak FLOP/s of {m['kind']} is known: no bound of the time"]
    lines.append(f"at least {m['bound_ms']:.1f} ms, bound by {m['by']}")
    cost = "" if not m["cost"] else f", {m['cost']:,.0f} at {self.price:g} an hour"
    lines.append(
      f"{m['steps']:,} steps at that bound: {m['chip_hours']:,.1f} chip-hours, "
      f"{m['days']:.2f} days{cost}"
    )
    return lines

  def _rows(self, m: dict[str, Any]) -> Iterator[tuple]:
    """(name, amount, unit, milliseconds, what it is) of each row."""
    yield "compute", m["tflop"], "TFLOP", m["ms"].get("compute"), _BOUND
    memory = m["ms"].get("memory")
    if m["hbm_gb"] is not None:
      yield "main memory", m["hbm_gb"], "GB", memory, _MEMORY
      if m["moved_gb"] != m["hbm_gb"]:  # else the compiler has no count
        yield "all memory", m["moved_gb"], "GB", None, _MOVED
    elif m["moved_gb"] is not None:
      yield "memory", m["moved_gb"], "GB", memory, _RULE
    if m["cycles"]:
      share = "" if m["peak_share"] is None else f", {m['peak_share']:.0%} of peak"
      missing = m["cycles_missing"]
      calls = f"; {missing:,} custom calls without cycles" if missing else ""
      label = _CYCLES + share + calls
      yield "cycles", m["cycles"] / 1e6, "M", m["cycles_ms"], label
    if m["kernels"] is not None:
      yield "kernels", m["kernels"], "", None, "launched; their start is not in any row"


def _row(row: tuple) -> str:
  name, amount, unit, ms, label = row
  number = f"{amount:10,}" if isinstance(amount, int) else f"{amount:10,.3f}"
  time = "" if ms is None else f"{ms:.1f} ms"
  return f"  {name:12} {number} {unit:5} {time:>11}  {label}"


def _gb(value: float) -> str:
  return f"{value:8.3f}"


def table(plans: list[Plan]) -> str:
  """One row a plan."""
  rows = [[title for title, _ in COLUMNS]]
  for plan in plans:
    metrics = plan.metrics()
    metrics["fits"] = "yes" if metrics["fits"] else "no"
    rows.append([_cell(form, metrics) for _, form in COLUMNS])
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return "\n".join(
    "  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True))
    for row in rows
  )


def _cell(form: str, metrics: dict[str, Any]) -> str:
  key = form[1:].partition(":")[0].rstrip("}")
  return "-" if metrics[key] is None else form.format(**metrics)
