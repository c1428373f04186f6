"""Trains the rows of a study, each at every budget with every seed.

A budget fixes the steps: its FLOPs over those of a step, or its time over that of a
step, measured for all rows of a table in turns. Evaluations and compilation are not
counted. Finished runs are skipped, interrupted ones resume, and a run takes the result
of a finished one that has the same config. Processes that share the rows (`shard`) may
share the directory, or copy their folders together later.
"""

import dataclasses
import functools
import gc
import math
import pathlib
import shlex
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections

from vtr_jax.core.config import flatten, require
from vtr_jax.core.errors import ConfigError, DivergedError
from vtr_jax.train import progress, workdir
from vtr_jax.train.loop import train_and_evaluate
from vtr_jax.train.study import cost as cost_lib
from vtr_jax.train.study import results
from vtr_jax.train.study.config import TRIAL_SEED, Key, StudyConfig, rows_of
from vtr_jax.train.study.plans import Plan, change, plan
from vtr_jax.train.study.results import Result

_NOT_SHOWN = ("evals.", "data.dir", "checkpoint_")


def run(
  study: StudyConfig,
  configs: pathlib.Path,
  directory: pathlib.Path,
  shard: tuple[int, int] = (0, 1),
  only: Sequence[str] = (),
) -> None:
  """Trains the missing runs of a shard; the results are written after each.

  Args:
    study: the config.
    configs: folder of the config files that tables name.
    directory: for the runs and their results.
    shard: (i, n): every n-th row from the i-th.
    only: texts of which a row's name contains one; none = every row.

  Raises:
    ConfigError: a row's config is invalid, or a finished run had another one.
  """
  pairs = rows_of(study)
  chosen = [name for name in pairs if not only or any(o in name for o in only)]
  require(len(chosen) > 0, f"--only={','.join(only)}: no row contains that")
  mine = chosen[shard[0] :: shard[1]]
  plans = {name: plan(study, configs, *pair) for name, pair in pairs.items()}
  seconds = cost_lib.step_times(study, plans, chosen, directory)

  @functools.cache  # counting FLOPs traces a step
  def job_of(row: str) -> _Job:
    flops = cost_lib.step_flops(plans[row])
    unit = seconds[row] if study.unit == "minutes" else flops
    return _Job(study, plans[row], unit, flops, directory)

  jobs = [Key(n, b, s) for s in study.seeds for b in study.budgets for n in mine]
  done = results.load(study, directory)
  clock, trained = time.monotonic(), 0.0
  for number, key in enumerate(jobs, 1):
    if key in done:
      job_of(key.row).check(key, done[key])
      continue
    left = sum(k.budget for k in jobs[number - 1 :] if k not in done)
    ahead = (time.monotonic() - clock) / trained * left if trained else 0.0
    print(
      f"{number}/{len(jobs)}: {key.row}, {key.budget:g} {study.unit}, seed {key.seed}"
      + (f"; about {progress.clock(ahead)} left" if trained else ""),
      flush=True,
    )
    if job_of(key.row).train(key):
      trained += key.budget
    done = results.load(study, directory)


@dataclasses.dataclass(frozen=True)
class _Job:
  """Trains one row."""

  study: StudyConfig
  plan: Plan
  unit: Sequence[float]  # compute of a step of each part: FLOPs, or seconds
  flops: Sequence[float]  # of a step of each part
  directory: pathlib.Path

  def train(self, key: Key) -> bool:
    """One run, preceded by the trials of its row if they are missing.

    Returns:
      Whether it was trained; otherwise it has the result of an equal run.
    """
    rate, study = self._best_rate(key), self.study
    return self._run(key, rate, self.directory / key.path, study.evals, study.metrics)

  def check(self, key: Key, result: Result) -> None:
    """Raises ConfigError if a finished run had another config."""
    path = self.directory / key.path
    configs = self.sized(key, result.rate, path, self.study.evals)
    if result.fingerprint == fingerprint(configs):
      return
    if (path / "config.json").exists():
      workdir.prepare(path, configs[-1])  # names the keys that differ
    raise ConfigError(
      f"{path}: finished with another config; use another --workdir, or delete that "
      "folder (and its entry of results.json) to train it again"
    )

  def _best_rate(self, key: Key) -> float:
    """The factor of the learning rate with the best trial."""
    study, scores = self.study, {}
    if len(study.rates) == 1:
      return study.rates[0]
    for rate in study.rates:
      trial = Key(key.row, study.budgets[0], TRIAL_SEED)
      path = self.directory / pathlib.Path(trial.path).parent / f"rate-{rate:g}"
      if not (path / results.FILE).exists():
        print(f"  learning rate x {rate:g}", flush=True)
        self._run(trial, rate, path, study.trial_evals, (study.trial,))
      result = results.read_result(path / results.FILE, (study.trial,))
      configs = self.sized(trial, rate, path, study.trial_evals)
      require(
        result.fingerprint == fingerprint(configs),
        f"{path}: a trial with another config; use another --workdir, or delete it",
      )
      scores[rate] = result.metrics.get(study.trial, -math.inf)
    return max(scores, key=lambda rate: scores[rate])

  def sized(
    self, key: Key, rate: float, path: pathlib.Path, evals: Mapping[str, Any]
  ) -> tuple[dict[str, Any], ...]:
    """The configs of a run's parts, with steps and learning rate."""
    study, sized = self.study, []
    scale = 60.0 if study.unit == "minutes" else 1e12
    for part, (config, share) in enumerate(
      zip(self.plan.configs, self.plan.shares, strict=True)
    ):
      steps = max(1, round(key.budget * scale * share / self.unit[part]))
      warmup = round(study.warmup_share * steps)
      lr = config["optim"]["lr"] * rate * (study.then_rate if part else 1.0)
      changes: dict[str, Any] = dict(seed=key.seed, steps=steps)
      changes |= dict(checkpoint_every=steps, checkpoint_keep=1)
      changes |= dict(optim=dict(lr=lr, warmup_steps=warmup))
      changes |= dict(data=dict(dir=study.data_dir))
      if part:
        changes |= dict(init_from=str(path / f"part-{part - 1}"))
      last = part == len(self.plan.configs) - 1
      editable = ml_collections.ConfigDict(config)
      change(editable, changes, key.row)
      sized.append(editable.to_dict() | dict(evals=evals if last else {}))
    return tuple(sized)

  def _run(
    self,
    key: Key,
    rate: float,
    path: pathlib.Path,
    evals: Mapping[str, Any],
    metrics: Sequence[str],
  ) -> bool:
    """Trains the parts of one run and writes its result, or takes an equal run's.

    Returns:
      Whether it was trained.
    """
    configs = self.sized(key, rate, path, evals)
    equal = results.find(self.directory, fingerprint(configs), metrics)
    if equal is not None:
      print(f"  as {equal.row}, which has the same config", flush=True)
      own = dict(row=key.row, budget=key.budget, rate=rate, gflop=self._gflop)
      result = dataclasses.replace(equal, **own)
    else:
      result = self._trained(key, rate, path, configs)
    workdir.make(path)
    workdir.write_json(path / results.FILE, dataclasses.asdict(result))
    return equal is None

  @property
  def _gflop(self) -> tuple[float, ...]:
    """GFLOP per step of each part."""
    return tuple(f / 1e9 for f in self.flops)

  def _trained(
    self,
    key: Key,
    rate: float,
    path: pathlib.Path,
    configs: tuple[dict[str, Any], ...],
  ) -> Result:
    """The result of training the parts of one run."""
    diverged, found = "", {}
    try:
      for part, config in enumerate(configs[:-1]):
        train_and_evaluate(config, path / f"part-{part}")
      found = train_and_evaluate(configs[-1], path)
    except DivergedError as e:
      diverged = str(e)
    # Frees the run's compiled programs, and parameters that its evaluators refer to.
    jax.clear_caches()
    gc.collect()
    return Result(
      row=key.row,
      budget=key.budget,
      seed=key.seed,
      rate=rate,
      steps=tuple(c["steps"] for c in configs),
      gflop=self._gflop,
      metrics=found,
      diverged=diverged,
      commands=tuple(map(self._command, configs)),
      fingerprint=fingerprint(configs),
    )

  def _command(self, config: Mapping[str, Any]) -> str:
    """The command of one part, the study's evaluations apart."""
    changed = {
      key: value
      for key, value in flatten(config).items()
      if value != self.plan.defaults.get(key) and not key.startswith(_NOT_SHOWN)
    }
    words = [f"--config.{key}={shlex.quote(_shown(v))}" for key, v in changed.items()]
    return " ".join(["python -m vtr_jax.main", f"--config={self.plan.file}", *words])


def _shown(value: Any) -> str:
  """A value as a command has it: no 0.00041999999999999996."""
  return str(float(f"{value:.12g}") if isinstance(value, float) else value)


def fingerprint(configs: tuple[Mapping[str, Any], ...]) -> str:
  """A hash of what determines the parameters of a run's parts."""
  ours = [
    {
      key: value
      for key, value in flatten(workdir.upgraded(workdir.plain(c))).items()
      # A second part starts from the first, wherever that is.
      if not key.startswith(workdir.FREE_KEYS) and not (part and key == "init_from")
    }
    for part, c in enumerate(configs)
  ]
  return results.digest(ours)


def parse_shard(text: str) -> tuple[int, int]:
  """(i, n) of "i/n"; raises ConfigError."""
  i, slash, n = text.partition("/")
  valid = slash and i.isdecimal() and n.isdecimal() and int(i) < int(n) < 10**6
  if not valid:
    raise ConfigError(f"--shard={text}: must be i/n with 0 <= i < n, such as 0/2")
  return int(i), int(n)
