"""The tables of docs/scale.md: the three recipes on TPUs that this machine lacks.

  ACCELERATOR=tpu ./launch/setup.sh
  .venv/bin/python -m benchmarks.scale --keep=scale.json

Each row is a compilation of a minute or two on one core. --keep stores finished rows,
so that the same command resumes. Markdown is printed at the end.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterator

import jax
from absl import app, flags

from configs import mac, miles, simvtp
from vtr_jax.core.config import read
from vtr_jax.plan import chips
from vtr_jax.plan.__main__ import plan, with_video_ratio
from vtr_jax.train.config import TrainConfig

# Same total number of clips; MILES' batch of 800 does not divide over 256 chips.
ROWS = 1024
RECIPES = {
  "mac.py:webvid2m_cc3m": mac.get_config("webvid2m_cc3m"),
  "miles.py:webvid2m_cc3m": miles.get_config("webvid2m_cc3m"),
  "simvtp.py:webvid2m": simvtp.get_config("webvid2m"),
}
TOPOLOGIES = ("v5e:16x16", "v6e:8x8")
MASKED, MASKS = "v5e:4x4", (0.0, 0.6, 0.75, 0.9)


def recipe(name: str, rows: int = ROWS) -> TrainConfig:
  """A recipe with `rows` clips a step and the same total number of clips."""
  config = read(TrainConfig, RECIPES[name].to_dict())
  steps = config.steps * config.batch_size // rows
  optim = dataclasses.replace(
    config.optim, warmup_steps=config.optim.warmup_steps * config.batch_size // rows
  )
  return dataclasses.replace(config, batch_size=rows, steps=steps, optim=optim)


def work() -> Iterator[tuple[str, TrainConfig, str]]:
  """(name of a row, config, topology)."""
  for topology in TOPOLOGIES:
    for name in RECIPES:
      yield f"{name} {topology}", recipe(name), topology
  for ratio in MASKS:
    name = "mac.py:webvid2m_cc3m"
    yield f"{ratio:.0%} {MASKED}", with_video_ratio(recipe(name), ratio), MASKED


def line(cells: list) -> str:
  return "| " + " | ".join(map(str, cells)) + " |"


def cell(value: float | None, form: str) -> str:
  return "" if value is None else format(value, form)


def shared(n: dict) -> list[str]:
  """Cells of both tables."""
  fits = f"{n['peak_gb']:.1f} of {n['limit_gb']:.1f}"
  return [
    fits if n["fits"] else f"does not fit: {fits}",
    f"{n['tflop']:.2f}",
    cell(n["moved_gb"], ".0f"),
    cell(n["hbm_gb"], ".0f"),
    cell(n["bound_ms"], ".1f") if n["moved_gb"] else "",
    n["by"] if n["moved_gb"] else "",
    cell(n["cycles_ms"], ".1f"),
  ]


def recipes(done: dict[str, dict]) -> Iterator[str]:
  heads = ["recipe", "chips", "examples a chip", "peak, GB", "TFLOP", "GB moved"]
  heads += ["GB HBM", "bound, ms", "by", "cycles, ms", "collectives, MB", "chip-hours"]
  yield line(heads)
  yield line(["---", "---", *["---:"] * 10])
  for topology in TOPOLOGIES:
    for name in RECIPES:
      n = done.get(f"{name} {topology}")
      if n is None:
        continue
      moved = sum(c["size"] for c in n["collectives"]) / 1e6
      hours = cell(n["chip_hours"], ",.0f") if n["moved_gb"] else ""
      rows = f"{n['rows_a_device'] * n['devices'] / n['chips']:g}"
      chip = f"{n['chips']:.0f} {topology}"
      yield line([name, chip, rows, *shared(n), f"{moved:,.0f}", hours])


def masks(done: dict[str, dict]) -> Iterator[str]:
  heads = ["masked", "tubelets", "peak, GB", "TFLOP", "GB moved", "GB HBM"]
  heads += ["bound, ms", "by", "cycles, ms"]
  yield line(heads)
  yield line(["---:"] * 9)
  for ratio in MASKS:
    if n := done.get(f"{ratio:.0%} {MASKED}"):
      yield line([f"{ratio:.0%}", n["visible"], *shared(n)])


def main(_) -> None:
  jax.config.update("jax_platforms", "cpu")  # where libtpu is, it would look for a TPU
  path = pathlib.Path(flags.FLAGS.keep)
  done = json.loads(path.read_text()) if path.exists() else {}
  for name, config, topology in work():
    if name in done or flags.FLAGS.only not in name:
      continue
    target = chips.find(topology, compiler=not flags.FLAGS.estimate)
    done[name] = plan(config, target, search=flags.FLAGS.search).metrics()
    path.write_text(json.dumps(done, indent=1) + "\n")
  print("\n".join([*recipes(done), "", *masks(done)]))


if __name__ == "__main__":
  flags.DEFINE_string("keep", "scale.json", "File of finished rows.")
  flags.DEFINE_string("only", "", "Only rows whose names contain this.")
  flags.DEFINE_bool("search", False, "Search for the largest batches: twice the time.")
  flags.DEFINE_bool("estimate", False, "By arithmetic alone.")
  app.run(main)
