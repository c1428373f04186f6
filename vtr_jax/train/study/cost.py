"""FLOPs and time of a step of a study's rows."""

import itertools
import pathlib
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from vtr_jax.core import batch, processes, sharding
from vtr_jax.core.config import read
from vtr_jax.train import workdir
from vtr_jax.train.config import TrainConfig
from vtr_jax.train.study import results
from vtr_jax.train.study.config import StudyConfig
from vtr_jax.train.study.plans import Plan

# Rounds that are run, and those at their start that settle the allocator.
_ROUNDS, _WARM_UP = 8, 3


def step_flops(plan: Plan) -> list[float]:
  """FLOPs of a step of each part: model, loss, gradient and optimiser.

  XLA's count before compilation, of plain attention without recomputation.
  """
  return [_flops(config) for config in plan.configs]


def _flops(values: Mapping[str, Any]) -> float:
  # Loops and kernels would hide what is inside.
  plain = dict(scan=False, attention="xla", remat="none")
  objective = dict(values["objective"])
  objective["compute"] = objective["compute"] | plain
  config = read(TrainConfig, {**values, "objective": objective})
  parts, mesh = config.parts(), sharding.make_mesh(config.mesh)
  shapes, _ = parts.abstract(mesh)
  step = parts.train_step(mesh).jitted
  with sharding.scope(mesh):
    lowered = step.lower(shapes, parts.spec)
  return float(lowered.cost_analysis()["flops"])


def step_times(
  study: StudyConfig,
  plans: Mapping[str, Plan],
  chosen: Sequence[str],
  directory: pathlib.Path,
) -> dict[str, tuple[float, ...]]:
  """Seconds of a step of each part of the chosen rows; measured once, in turns.

  The rows of a table alternate, so that changes of the machine's speed affect all
  equally. `times.json` keeps them: of several processes, one measures.
  """
  workdir.make(directory)
  path = directory / "times.json"
  with processes.locked(directory / "times.lock", "measurement"):
    known = results.read_times(path)
    for table in study.tables:
      names = [f"{table.title} / {r.name}" for r in table.rows]
      new = [n for n in names if len(known.get(n, [])) != len(plans[n].configs)]
      if not set(new) & set(chosen):
        continue
      print(f"{table.title}: measuring the time of a step", flush=True)
      known |= _measure({n: plans[n] for n in names})
      workdir.write_json(path, dict(seconds=known))
      jax.clear_caches()
  return {name: known[name] for name in chosen}


def _measure(plans: Mapping[str, Plan]) -> dict[str, tuple[float, ...]]:
  """Median seconds of a step of each part, measured in turns."""
  cases = {
    (name, part): _Case(read(TrainConfig, config))
    for name, p in plans.items()
    for part, config in enumerate(p.configs)
  }
  for _, case in itertools.product(range(_ROUNDS), cases.values()):
    case.run()
  return {
    name: tuple(cases[name, part].median() for part in range(len(p.configs)))
    for name, p in plans.items()
  }


class _Case:
  """A compiled step that is timed on a batch without data."""

  def __init__(self, config: TrainConfig):
    parts, mesh = config.parts(), sharding.make_mesh(config.mesh)
    mask = config.make_objective().mask
    fake = batch.fake(config.clip, config.text, mask, config.batch_size)
    self._batch = sharding.put_batch(fake, mesh)
    self._state, self._step = parts.init(mesh), parts.train_step(mesh)
    self._times: list[float] = []

  def run(self) -> None:
    begin = time.perf_counter()
    self._state, metrics = self._step(self._state, self._batch)
    jax.block_until_ready((self._state, metrics))
    self._times.append(time.perf_counter() - begin)

  def median(self) -> float:
    return statistics.median(self._times[_WARM_UP:])
