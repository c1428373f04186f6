"""What a training will take, on chips that are not here.

  python -m vtr_jax.plan --config=configs/simvtp.py:webvid2m --topology=v5e:16x16
  ... --slices=2 --price=1.2 --json=plan.json     two slices, dollars, a file
  ... --hidden=0,60,75,90                         a row for each share of hidden video
  ... --topology=local                            this machine's own devices

Compiles the step that training runs, for a TPU topology (libtpu: pip install
'vtr_jax[plan]') or for this machine, and makes no array. Without libtpu it estimates.
"""

import concurrent.futures
import dataclasses
import json
import pathlib

import jax
from absl import flags
from ml_collections import config_flags

from vtr_jax.core import cli
from vtr_jax.core.config import read, require
from vtr_jax.core.errors import ConfigError
from vtr_jax.plan import chips, compiled, costs, estimate, problem
from vtr_jax.plan.report import Plan, table
from vtr_jax.train.config import TrainConfig


def plan(
  config: TrainConfig,
  target: chips.Target,
  price: float | None = None,
  search: bool = True,
) -> Plan:
  """What `config` takes on `target`.

  Args:
    price: of a chip for an hour.
    search: whether to look for the largest batch that fits.
  """
  way = estimate if target.devices is None else compiled
  wanted = problem.make(config, target)
  if not search:
    return Plan(wanted, target, way.costs(wanted, target), None, price)
  least = wanted.row_devices * config.micro_batches
  if least == 1:  # one row alone cannot be trained on
    least = config.batch_size if config.batch_size % 2 else 2

  def of(n: int) -> costs.Costs:
    """Of n times the smallest batch."""
    larger = dataclasses.replace(config, batch_size=n * least)
    return way.costs(problem.make(larger, target), target)

  asked, likely = config.batch_size // least, 0
  if way is compiled and target.chip.memory:
    likely = min(costs.guess(asked, estimate.costs(wanted, target)), 1 << 10)
  # Compiling takes a core: the batch that should be the largest is tried beside.
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    jobs = {n: pool.submit(of, n) for n in {asked, likely} if n}
    tried = {n: job.result() for n, job in jobs.items()}
  found = tried[asked]
  best = costs.largest(of, tried) if found.limit else None
  rows = best and best[0] * least // wanted.row_devices
  return Plan(wanted, target, found, rows, price)


def at(config: TrainConfig, hidden: float) -> TrainConfig:
  """With another share of the video hidden."""
  mask = dataclasses.replace(config.mask, video_ratio=hidden)
  return dataclasses.replace(config, mask=mask)


def percent(values: list[str]) -> list[float]:
  """Shares of what `--hidden` gives."""
  try:
    shares = [float(v) / 100 for v in values]
  except ValueError:
    raise ConfigError(
      f"--hidden: {','.join(values)} are not percent; use 0,60,75,90"
    ) from None
  for share in shares:
    require(0 <= share < 1, f"--hidden: {100 * share:g} not in [0, 100)")
  return shares


def main(values: flags.FlagValues, config: TrainConfig) -> None:
  if values.batch_size:
    config = dataclasses.replace(config, batch_size=values.batch_size)
  if values.topology != "local":
    # Where libtpu is installed, JAX would look for a TPU.
    jax.config.update("jax_platforms", "cpu")
  target = chips.find(values.topology, values.slices, not values.estimate)
  shares = percent(values.hidden) or [config.mask.video_ratio]
  plans = []
  for share in shares:
    made = plan(at(config, share), target, values.price or None, values.search)
    plans.append(made)
    if share == shares[0]:
      print(made.text() + "\n", flush=True)
  if len(plans) > 1:
    print(table(plans))
  if values.json:
    made = [p.numbers() for p in plans]
    pathlib.Path(values.json).write_text(json.dumps(made, indent=1) + "\n")


def start() -> None:
  """Parses the flags; ends the process."""
  chosen = config_flags.DEFINE_config_file("config", None, lock_config=True)
  flags.DEFINE_string("topology", "local", f"Chips and layout: {chips.KNOWN}.")
  flags.DEFINE_integer("slices", 1, "Such slices, joined by the data centre's network.")
  flags.DEFINE_integer("batch_size", 0, "Rows a step; 0 = the config's.")
  flags.DEFINE_list("hidden", [], "Percent of the video, a row each.")
  flags.DEFINE_float("price", 0.0, "Of a chip for an hour, in any currency.")
  flags.DEFINE_string("json", "", "File for all numbers.")
  flags.DEFINE_bool("search", True, "Look for the largest batch that fits.")
  flags.DEFINE_bool("estimate", False, "By arithmetic, even if libtpu is installed.")

  def work() -> None:
    hint = "add --config=configs/mac.py:webvid2m_cc3m, for example"
    main(flags.FLAGS, read(TrainConfig, cli.load(chosen, hint)))

  cli.run(work)


if __name__ == "__main__":
  start()
