"""Results of a study's runs: files, means over seeds, curves, verdicts."""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from vtr_jax.core import io, processes
from vtr_jax.core.config import read, require
from vtr_jax.core.errors import ConfigError, DataError, one_line
from vtr_jax.train import workdir
from vtr_jax.train.study.config import Claim, Key, StudyConfig, rows_of

FILE = "study.json"  # in the folder of a run
ALL = "results.json"  # of all runs, in the study's folder
# A difference of that many standard errors is told from none; ours.
ERRORS = 2.0

Results = dict[Key, "Result"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
  """The result of one run: a row at a budget with a seed."""

  row: str  # "table / row"
  budget: float
  seed: int
  rate: float  # factor of the config's learning rate
  steps: tuple[int, ...]  # of each part
  gflop: tuple[float, ...]  # per step, of each part
  metrics: dict[str, float]  # of the last evaluation; empty if diverged
  diverged: str = ""  # why it has no metrics
  commands: tuple[str, ...]  # that train its parts
  fingerprint: str  # of its config

  def __post_init__(self):
    sound = len(self.steps) == len(self.gflop) > 0 and min(self.gflop) > 0
    require(sound and min(self.steps) > 0, "steps, gflop: one of each part, positive")

  @property
  def key(self) -> Key:
    return Key(self.row, self.budget, self.seed)

  @property
  def tflop(self) -> float:
    """Compute of the run."""
    return sum(s * g for s, g in zip(self.steps, self.gflop, strict=True)) / 1e3

  def minutes(self, seconds: Sequence[float]) -> float:
    """Time of its steps, from seconds per step of each part."""
    return sum(s * t for s, t in zip(self.steps, seconds, strict=True)) / 60


class Estimate(NamedTuple):
  """A mean over seeds."""

  mean: float
  error: float  # standard error; NaN for one seed
  count: int  # seeds


def load(study: StudyConfig, directory: pathlib.Path) -> Results:
  """All finished runs of the study's rows, budgets and seeds; rewrites results.json.

  A run counts once: the file in its own folder precedes its entry in results.json.

  Raises:
    DataError: a file is damaged.
  """
  workdir.make(directory)
  with processes.locked(directory / "results.lock", "study"):
    found = {r.key: r for r in _stored(directory / ALL, study.metrics)}
    for name in rows_of(study):
      for budget in study.budgets:
        for seed in study.seeds:
          key = Key(name, budget, seed)
          path = directory / key.path / FILE
          if path.exists():
            found[key] = read_result(path, study.metrics)
    ordered = dict(sorted(found.items()))
    values = [dataclasses.asdict(r) for r in ordered.values()]
    workdir.write_json(directory / ALL, dict(runs=values))
  return ordered


def find(
  directory: pathlib.Path, fingerprint: str, metrics: Sequence[str]
) -> Result | None:
  """A finished run or trial with that config and these metrics, of any row.

  Seed and steps are part of the config, and no run has the seed of trials.

  Raises:
    DataError: results.json is damaged.
  """
  stored = _stored(directory / ALL, ())
  for path in sorted(directory.glob(f"*/*/{FILE}")):
    # `load` reports damaged files of the study's rows; others may be a removed row's.
    with contextlib.suppress(DataError, FileNotFoundError):
      stored.append(read_result(path, ()))
  for result in stored:
    whole = bool(result.diverged) or set(metrics) <= set(result.metrics)
    if result.fingerprint == fingerprint and whole:
      return result
  return None


def _stored(path: pathlib.Path, metrics: Sequence[str]) -> list[Result]:
  """The runs in results.json, also those of rows that the study no longer has."""
  if not path.exists():
    return []
  try:
    runs = io.mapping(path.read_bytes())["runs"]
    return [_result(values, metrics) for values in runs]
  except (ValueError, KeyError, TypeError, ConfigError) as e:
    raise DataError(
      f"{path}: damaged ({one_line(e)}); restore it, or delete it and run again"
    ) from e


def read_result(path: pathlib.Path, metrics: Sequence[str]) -> Result:
  """One run's result; raises DataError if it is damaged."""
  try:
    return _result(io.mapping(path.read_bytes()), metrics)
  except (ValueError, ConfigError) as e:
    raise DataError(f"{path}: damaged ({one_line(e)}); delete it and run again") from e


def _result(values: Mapping[str, Any], metrics: Sequence[str]) -> Result:
  result = read(Result, values, "result")
  missing = set(metrics) - set(result.metrics)
  require(
    bool(result.diverged) or not missing,
    f"result.metrics: {', '.join(sorted(missing))} missing",
  )
  return result


@dataclasses.dataclass(frozen=True)
class Times:
  """Seconds of a step of each part of each row."""

  seconds: dict[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    for name, values in self.seconds.items():
      require(len(values) > 0 and min(values) > 0, f"seconds.{name}: must be positive")


def read_times(path: pathlib.Path) -> dict[str, tuple[float, ...]]:
  """Seconds of a step of each part of each row; empty without the file."""
  if not path.exists():
    return {}
  try:
    return read(Times, io.mapping(path.read_bytes()), "times").seconds
  except (ValueError, ConfigError) as e:
    raise DataError(f"{path}: damaged ({one_line(e)}); delete it and run again") from e


def digest(values: Any) -> str:
  """A short hash of plain values."""
  text = json.dumps(values, sort_keys=True, default=str)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def estimate(values: Sequence[float]) -> Estimate:
  """Mean and standard error over seeds."""
  n = len(values)
  if not n:
    return Estimate(math.nan, math.nan, 0)
  error = float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else math.nan
  return Estimate(float(np.mean(values)), error, n)


def at_budget(
  results: Results, row: str, budget: float, metric: str
) -> tuple[Estimate, int]:
  """(a row's mean at a budget, its diverged runs)."""
  runs = [r for k, r in results.items() if k.row == row and k.budget == budget]
  values = [r.metrics[metric] for r in runs if not r.diverged]
  return estimate(values), sum(bool(r.diverged) for r in runs)


def curves(
  results: Results, row: str, metric: str, seconds: Sequence[float] | None = None
) -> list[Float[np.ndarray, "n 2"]]:
  """(compute, metric) of every seed of a row, by compute.

  Compute is in TFLOP, or in minutes if seconds per step are given; empty seconds are
  not measured yet, and give no curve. Seeds with a diverged run are left out.
  """
  if seconds is not None and not seconds:
    return []
  runs = [r for k, r in results.items() if k.row == row]
  drawn = []
  for seed in sorted({r.seed for r in runs}):
    some = sorted((r for r in runs if r.seed == seed), key=lambda r: r.budget)
    if any(r.diverged for r in some):
      continue
    compute = [r.tflop if seconds is None else r.minutes(seconds) for r in some]
    drawn.append(
      np.array([[c, r.metrics[metric]] for c, r in zip(compute, some, strict=True)])
    )
  return drawn


def gains(
  results: Results, row: str, budgets: Sequence[float], metric: str
) -> list[float]:
  """Points that a row's mean gains per doubling of its budget, between budgets.

  A curve whose last gain is its largest has not passed its steepest part: another row
  may lead only because it is further along the same curve.
  """
  means = [(b, at_budget(results, row, b, metric)[0].mean) for b in budgets]
  known = [(b, mean) for b, mean in means if not math.isnan(mean)]
  return [
    (high - low) / math.log2(more / less)
    for (less, low), (more, high) in itertools.pairwise(known)
  ]


def difference(
  ours: list[Float[np.ndarray, "n 2"]], theirs: list[Float[np.ndarray, "n 2"]]
) -> tuple[float, Estimate]:
  """(compute, difference of means there) of two rows at their largest common compute.

  Between budgets, a metric is linear in the logarithm of the compute. The count is that
  of the row with fewer seeds; without a common compute it is 0.
  """
  everything = [*ours, *theirs]
  if not ours or not theirs:
    return math.nan, Estimate(math.nan, math.nan, 0)
  at = min(curve[-1, 0] for curve in everything)
  # Equal budgets are whole numbers of steps, and so only nearly equal compute.
  if at < 0.98 * max(curve[0, 0] for curve in everything):
    return math.nan, Estimate(math.nan, math.nan, 0)
  a, b = (
    estimate([float(np.interp(np.log(at), np.log(c[:, 0]), c[:, 1])) for c in some])
    for some in (ours, theirs)
  )
  error = math.hypot(a.error, b.error)
  return at, Estimate(a.mean - b.mean, error, min(a.count, b.count))


def verdict(claim: Claim, found: Estimate, margin: float) -> str:
  """Whether a claim holds, by a difference and `ERRORS` standard errors of it.

  A row is better if the difference exceeds them, and no worse if it is above -margin
  by more than that.
  """
  if not found.count:
    return "not run yet"
  if math.isnan(found.error):
    return "cannot be told (one seed)"
  low, high = (found.mean + sign * ERRORS * found.error for sign in (-1, 1))
  bound = 0.0 if claim.better else -margin
  if low > bound:
    return "holds"
  return "does not hold" if high < bound else "cannot be told"
