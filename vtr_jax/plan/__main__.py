"""Plans memory and time of a training for chips that are not attached.

  python -m vtr_jax.plan --config=simvtp:webvid2m --topology=v5e:16x16
  ... --slices=2 --price=1.2 --json=plan.json     two slices, dollars, a file
  ... --masked=0,60,75,90                         a row for each fraction masked
  ... --topology=h100:8                           eight GPUs that NVLink joins
  ... --topology=local                            this machine's own devices

Compiles the step that training runs, for TPUs (libtpu: pip install 'jax[tpu]'), GPUs
(pip install 'jax[cuda12-local]' nvidia-cuda-nvcc-cu12) or this machine; allocates no
array. Without the compiler, or with --estimate, it estimates.
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
from vtr_jax.train.config import TrainConfig, comments, with_defaults


def plan(
  config: TrainConfig,
  target: chips.Target,
  price: float | None = None,
  search: bool = True,
) -> Plan:
  """Memory and time of `config` on `target`.

  Args:
    config: of the training.
    target: the devices.
    price: of a chip for an hour.
    search: whether to search for the largest batch that fits.
  """
  planner = estimate if target.devices is None else compiled
  step = problem.make(config, target)
  if not search:
    return Plan(step, target, planner.costs(step, target), None, price)
  smallest = step.parts.smallest_batch(step.mesh)
  if smallest == 1:  # contrastive training needs two examples
    smallest = config.batch_size if config.batch_size % 2 else 2

  def costs_of(n: int) -> costs.Costs:
    """Costs of n times the smallest batch."""
    larger = dataclasses.replace(config, batch_size=n * smallest)
    return planner.costs(problem.make(larger, target), target)

  requested, likely = config.batch_size // smallest, 0
  if planner is compiled and target.chip.memory:
    likely = min(costs.guess(requested, estimate.costs(step, target)), 1 << 10)
  # Compiling takes a core: the likely largest batch is compiled in parallel.
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    jobs = {n: pool.submit(costs_of, n) for n in {requested, likely} if n}
    tried = {n: job.result() for n, job in jobs.items()}
  step_costs = tried[requested]
  best = costs.largest(costs_of, tried) if step_costs.limit else None
  rows = best and best[0] * smallest // step.row_devices
  return Plan(step, target, step_costs, rows, price)


def with_video_ratio(config: TrainConfig, ratio: float) -> TrainConfig:
  """The config with another fraction of the video masked."""
  mask = dataclasses.replace(config.mask, video_ratio=ratio)
  return dataclasses.replace(config, mask=mask)


def percent(values: list[str]) -> list[float]:
  """The fractions that `--masked` names."""
  try:
    fractions = [float(v) / 100 for v in values]
  except ValueError:
    raise ConfigError(
      f"--masked: {','.join(values)} are not percent; use 0,60,75,90"
    ) from None
  for fraction in fractions:
    require(0 <= fraction < 1, f"--masked: {100 * fraction:g} not in [0, 100)")
  return fractions


def main(values: flags.FlagValues, config: TrainConfig) -> None:
  if values.batch_size:
    config = dataclasses.replace(config, batch_size=values.batch_size)
  if values.topology != "local":
    # If libtpu is installed, JAX would look for a TPU.
    jax.config.update("jax_platforms", "cpu")
  target = chips.find(values.topology, values.slices, not values.estimate)
  fractions = percent(values.masked) or [config.mask.video_ratio]
  plans = []
  for fraction in fractions:
    planned = plan(
      with_video_ratio(config, fraction), target, values.price or None, values.search
    )
    plans.append(planned)
    if fraction == fractions[0]:
      print(planned.text() + "\n", flush=True)
  if len(plans) > 1:
    print(table(plans))
  if values.json:
    rows = [p.metrics() for p in plans]
    pathlib.Path(values.json).write_text(json.dumps(rows, indent=1) + "\n")


def start() -> None:
  """Parses the flags; ends the process."""
  chosen = config_flags.DEFINE_config_file("config", None, lock_config=True)
  flags.DEFINE_string("topology", "local", f"Chips and layout: {chips.KNOWN}.")
  flags.DEFINE_integer(
    "slices", 1, "Number of slices; the data-centre network joins them."
  )
  flags.DEFINE_integer("batch_size", 0, "Examples a step; 0 = the config's.")
  flags.DEFINE_list("masked", [], "Percent of the video, a row each.")
  flags.DEFINE_alias("hidden", "masked")  # its name in 0.1.0
  flags.DEFINE_float("price", 0.0, "Of a chip for an hour, in any currency.")
  flags.DEFINE_string("json", "", "File for all metrics.")
  flags.DEFINE_bool("search", True, "Search for the largest batch that fits.")
  flags.DEFINE_bool("estimate", False, "Estimate, even if a compiler is installed.")

  def work() -> None:
    hint = "add --config=mac:webvid2m_cc3m, for example"
    main(flags.FLAGS, read(TrainConfig, with_defaults(cli.load(chosen, hint))))

  cli.run(work, comments=comments)


if __name__ == "__main__":
  start()
