"""A plan as text, as a row of a table, and as JSON."""

import dataclasses
from typing import Any

from vtr_jax.plan.chips import Target
from vtr_jax.plan.costs import Costs
from vtr_jax.plan.problem import Problem

_LABELS = dict(
  compiled="compiled for these chips; times are bounds at their peaks, not promises",
  arithmetic="ESTIMATE by arithmetic alone, no compiler for these chips is installed: "
  "pip install 'vtr_jax[plan]'",
)
COLUMNS = (
  ("masked", "{masked:.0%}"),
  ("visible", "{visible:,}"),
  ("fits", "{fits}"),
  ("GB peak", "{peak_gb:.1f}"),
  ("TFLOP", "{tflop:.2f}"),
  ("GB moved", "{moved_gb:.1f}"),
  ("bound ms", "{bound_ms:.1f}"),
  ("by", "{by}"),
  ("chip-hours", "{chip_hours:,.0f}"),
  ("largest", "{largest}"),
)


@dataclasses.dataclass(frozen=True)
class Plan:
  """The cost of one training step of a config on a target, and of the full training."""

  problem: Problem
  target: Target
  costs: Costs
  largest: int | None  # examples a device that fit; None: not searched, or none
  price: float | None  # of a chip for an hour

  def metrics(self) -> dict[str, Any]:
    """All metrics of the plan, flat; None = unknown."""
    c, p, t = self.problem.config, self.costs, self.target
    bound = p.bound(t.chip)
    seconds, by = bound or (None, None)
    hours = seconds and c.steps * seconds / 3600 * t.chips
    giga = lambda n: None if n is None else n / 1e9
    return dict(
      config=c.name,
      topology=t.name,
      slices=t.slices,
      chips=t.chips,
      devices=t.count,
      kind=t.chip.kind,
      mesh=dict(self.problem.mesh.shape),
      how=p.how,
      rows=c.batch_size,
      rows_a_device=c.batch_size / self.problem.row_devices,
      masked=c.mask.video_ratio,
      visible=self.problem.parts.spec["video_keep_idx"].shape[1],
      compute=dataclasses.asdict(self.problem.parts.objective.compute),
      micro_batches=c.micro_batches,
      fits=p.fits,
      **{f"{k}_gb": giga(v) for k, v in p.held.items()},
      temporaries_gb=giga(p.temporary),
      code_gb=giga(p.code),
      peak_gb=giga(p.peak),
      limit_gb=giga(p.limit),
      tflop=p.flops / 1e12,
      moved_gb=giga(p.bytes),
      ms={k: 1e3 * v for k, v in p.times(t.chip).items()},
      bound_ms=seconds and 1e3 * seconds,
      by=by,
      collectives=[dataclasses.asdict(x) for x in p.collectives],
      steps=c.steps,
      chip_hours=hours,
      days=seconds and c.steps * seconds / 86400,
      cost=hours and self.price and hours * self.price,
      largest=self.largest,
    )

  def text(self) -> str:
    """Report for a terminal."""
    n = self.metrics()
    mesh = " x ".join(f"{a}={size}" for a, size in n["mesh"].items())
    over = f" x {n['slices']} slices" if n["slices"] > 1 else ""
    compute = ", ".join(f"{k}={v}" for k, v in n["compute"].items())
    lines = [
      f"{n['config']} on {n['topology']}{over}: {n['chips']:.0f} {n['kind']}, {mesh}",
      _LABELS[n["how"]],
      f"{n['rows']:,} examples a step, {n['rows_a_device']:g} a device; "
      f"{n['masked']:.0%} masked, {n['visible']:,} tubelets visible",
      f"{compute}, micro_batches={n['micro_batches']}",
      "",
      *self._memory(n),
      "",
      *self._time(n),
    ]
    return "\n".join(lines)

  def _memory(self, n: dict[str, Any]) -> list[str]:
    kinds = (*self.costs.held, "temporaries", "code")
    rows = [(k, n[f"{k}_gb"]) for k in kinds]
    lines = [f"  {k:12} {_gb(v)}" for k, v in rows if v is not None]
    there = "" if n["limit_gb"] is None else f" of {n['limit_gb']:.1f}"
    verdict = "fits" if n["fits"] else "DOES NOT FIT"
    lines.append(f"  {'peak' if n['fits'] else 'needed':12} {_gb(n['peak_gb'])}")
    found = "" if n["largest"] is None else f"; {n['largest']} examples a device fit"
    return [f"memory a device, GB{there}: {verdict}{found}", *lines]

  def _time(self, n: dict[str, Any]) -> list[str]:
    lines = [f"a step, each device: {n['tflop']:.3f} TFLOP of products"]
    if n["moved_gb"] is not None:
      lines[0] += f", {n['moved_gb']:.1f} GB read and written"
    for c in self.costs.collectives:
      lines.append(
        f"  {c.kind:20} {c.network.upper()}  {c.count:4} times {c.size / 1e6:12,.3f} MB"
      )
    if n["bound_ms"] is None:
      return [*lines, f"no peak FLOP/s of {n['kind']} is known: no bound of the time"]
    each = ", ".join(f"{k} {v:.1f}" for k, v in n["ms"].items())
    lines.append(f"at least {n['bound_ms']:.1f} ms (bound by {n['by']}; {each})")
    cost = "" if not n["cost"] else f", {n['cost']:,.0f} at {self.price:g} an hour"
    lines.append(
      f"{n['steps']:,} steps at that bound: {n['chip_hours']:,.1f} chip-hours, "
      f"{n['days']:.2f} days{cost}"
    )
    return lines


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
