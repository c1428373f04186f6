"""The config of a study: rows that are trained at equal compute, and claims on them."""

import dataclasses
import re
from typing import Any

from vtr_jax.core.config import choose, require

UNITS = ("tflop", "minutes")
TRIAL_SEED = 1000  # of no run, so that no seed is chosen by its own trial


@dataclasses.dataclass(frozen=True)
class Row:
  """One way to train."""

  name: str
  changes: dict[str, Any]  # of the config, after the table's, with the same nesting
  # changes of a second part, which starts from the first's parameters and gets
  # `then_share` of the compute; empty = one part
  then: dict[str, Any] = dataclasses.field(default_factory=dict)
  config: str = ""  # instead of the table's, and without its changes


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows to compare; one figure."""

  title: str
  config: str  # file next to the study's config, and variant: "mac:demo"
  changes: dict[str, Any]  # of that config, for every row
  rows: tuple[Row, ...]


@dataclasses.dataclass(frozen=True)
class Claim:
  """A statement that compares two rows, each given as "table / row"."""

  text: str
  row: str
  than: str
  # whether the row must be better, or only no worse than by `margin`
  better: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyConfig:
  """The full config of a study."""

  name: str  # of the study
  data_dir: str  # of all prepared data sets
  seeds: tuple[int, ...]  # of parameters, order and masks; a run for each
  unit: str = "tflop"  # of budgets: tflop | minutes
  budgets: tuple[float, ...]  # compute of a run, ascending; a run for each
  # of the config's learning rate, tried for every row at the first budget; the best on
  # `trial` is taken for all of them; one factor = nothing is tried
  rates: tuple[float, ...] = (1.0,)
  warmup_share: float = 0.1  # of the steps
  then_share: float = 0.2  # of the compute, for rows of two parts
  then_rate: float = 0.3  # of the row's learning rate, in the second part
  evals: dict[str, Any]  # of every run, instead of its config's
  trial_evals: dict[str, Any]  # of runs that try a learning rate
  trial: str  # metric of `trial_evals`, such as "validation/t2v/R@10"
  metrics: tuple[str, ...]  # of `evals`, in percent, shown; the first first
  margin: float = 1.0  # points that "no worse" tolerates
  tables: tuple[Table, ...]  # of rows to compare
  claims: tuple[Claim, ...] = ()

  def __post_init__(self):
    require(len(self.seeds) > 0, "seeds: none; give one or more")
    require(
      TRIAL_SEED not in self.seeds,
      f"seeds: {TRIAL_SEED} is that of trials; use another",
    )
    choose(self.unit, UNITS, "unit")
    ascending = list(self.budgets) == sorted(set(self.budgets))
    require(
      len(self.budgets) > 0 and min(self.budgets) > 0 and ascending,
      f"budgets: {self.budgets} must be positive and ascending",
    )
    require(len(self.rates) > 0, "rates: none; (1.0,) tries nothing")
    require(len(self.metrics) > 0, "metrics: none; give one or more")
    for key in ("warmup_share", "then_share"):
      value = getattr(self, key)
      require(0 < value < 1, f"{key}: {value} not in (0, 1)")
    for metric in self.metrics:
      choose(metric.split("/")[0], self.evals, "metrics")
    choose(self.trial.split("/")[0], self.trial_evals, "trial")
    names = [f"{t.title} / {r.name}" for t in self.tables for r in t.rows]
    slugs = [slug(name) for name in names]
    for name in names:
      require(slugs.count(slug(name)) == 1, f"tables: two rows are named {name}")
    for claim in self.claims:
      choose(claim.row, dict.fromkeys(names), f"claims: {claim.text}: row")
      choose(claim.than, dict.fromkeys(names), f"claims: {claim.text}: than")


@dataclasses.dataclass(frozen=True, order=True)
class Key:
  """Identity of one run: a row at a budget with a seed."""

  row: str  # "table / row"
  budget: float
  seed: int

  @property
  def path(self) -> str:
    """Folder of the run, below the study's."""
    return f"{slug(self.row)}/{self.budget:g}-{self.seed}"


def rows_of(study: StudyConfig) -> dict[str, tuple[Table, Row]]:
  """Every row by its name, "table / row", in order."""
  return {f"{t.title} / {r.name}": (t, r) for t in study.tables for r in t.rows}


def slug(name: str) -> str:
  """A folder's name of a row's."""
  return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
