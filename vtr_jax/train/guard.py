"""Steps that would do harm: not applied, counted, and when there are too many of them.

On the device: a step whose loss or gradient is not finite leaves the state as it was,
but for the number of the step. So does, if asked for, one that stands out among the
steps before it. Nothing has to be undone, and no later step has to wait for a verdict.

On the host, where the numbers arrive some steps later, `Watch` counts. Above the budget
the loop goes back to a checkpoint from before the first of them (train.py).
"""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vtr_jax.core.config import choose, require

ACTIONS = ("warn", "skip", "roll_back")
# A median absolute deviation times this is the deviation of normal numbers.
_NORMAL = 1.4826
# Of the median: losses that hardly move would make a spike of every breath; ours.
_LEAST = 0.01

Metrics = dict[str, Float[Array, ""]]


@dataclasses.dataclass(frozen=True)
class GuardConfig:
  """Section `guard` of the config."""

  budget: int  # steps of `window` that may go unapplied; one more, and it rolls back
  window: int  # steps that the budget is of, and that a spike is told from
  spike: float  # robust z-score of loss or gradient norm that is a spike; 0 = off
  on_spike: str  # warn | skip | roll_back: skip, and count it in the budget
  collapse: float  # mean cosine of different clips that is an alarm; 1 = off

  def __post_init__(self):
    require(self.budget >= 0, f"budget: {self.budget} must not be negative")
    require(self.window > 0, f"window: {self.window} must be positive")
    require(self.spike >= 0, f"spike: {self.spike} must not be negative")
    choose(self.on_spike, ACTIONS, "on_spike")
    require(0 <= self.collapse <= 1, f"collapse: {self.collapse} not in [0, 1]")

  @property
  def history(self) -> int:
    """Steps whose numbers the state keeps."""
    return self.window if self.spike else 0

  @property
  def limit(self) -> float:
    """Robust z-score above which a step is not applied."""
    return self.spike if self.spike and self.on_spike != "warn" else math.inf


def fresh_history(steps: int) -> Float[Array, "2 n"] | None:
  """Losses and gradient norms of the last steps; NaN where there were none yet."""
  return jnp.full((2, steps), jnp.nan, jnp.float32) if steps else None


def judge(
  numbers: Metrics, recent: Float[Array, "2 n"] | None, limit: float
) -> tuple[Bool[Array, ""], Float[Array, "2 n"] | None, Metrics]:
  """(whether to apply the step, history with it, numbers to add), on the device.

  Args:
    numbers: of the step, with loss/total and grad_norm; all must be finite.
    recent: of the steps before it; None = spikes are of no interest.
    limit: robust z-score above which it is not applied.
  """
  sound = jnp.stack([jnp.isfinite(v) for v in numbers.values()]).all()
  more = {}
  if recent is not None:
    new = jnp.stack([numbers["loss/total"], numbers["grad_norm"]])
    more["spike"] = jnp.where(sound, _deviations(new, recent), 0.0)
    # A spike too: where a loss stays high, it is one for half a window only.
    pushed = jnp.concatenate([recent[:, 1:], new[:, None]], axis=1)
    recent = jnp.where(sound, pushed, recent)
    sound &= more["spike"] <= limit
  return sound, recent, more | dict(skipped=1.0 - sound)


def _deviations(
  new: Float[Array, "2"], recent: Float[Array, "2 n"]
) -> Float[Array, ""]:
  """How far the higher of both is above its median; 0 until the history is full."""
  middle = jnp.median(recent, axis=1)
  spread = _NORMAL * jnp.median(jnp.abs(recent - middle[:, None]), axis=1)
  z = (new - middle) / jnp.maximum(spread, _LEAST * jnp.abs(middle))
  return jnp.nan_to_num(z.max(), nan=0.0)


def anisotropy(x: Float[Array, "b e"], valid: Bool[Array, " b"]) -> Float[Array, ""]:
  """Mean cosine of two different valid rows of unit norm: 1 = all are the same."""
  count = valid.sum()
  total = jnp.where(valid[:, None], x, 0).astype(jnp.float32).sum(axis=0)
  return ((total**2).sum() - count) / jnp.maximum(count * (count - 1), 1)


class RollBack(Exception):
  """More steps than the budget were not applied."""

  def __init__(self, first: int, last: int, text: str, numbers: dict[str, float]):
    super().__init__(text)
    self.first, self.last = first, last  # steps that were not applied
    self.numbers = numbers  # of the last
    # Of the last, where it is the newest: its batch, this host's records, and the
    # history before it.
    self.batch: dict[str, Any] | None = None
    self.records: Any = None
    self.recent: Any = None


class Watch:
  """Counts on the host. What it knows is saved with the state: `known`."""

  def __init__(self, config: GuardConfig, known: dict[str, Any] | None = None):
    known = known or {}
    self._config = config
    self._bad: list[int] = list(known.get("bad", ()))  # steps, within the window
    self.rolled_to: int | None = known.get("rolled_to")  # step, last time
    self._collapsed: set[str] = set()

  def known(self) -> dict[str, Any]:
    return dict(bad=self._bad, rolled_to=self.rolled_to)

  @property
  def uneasy(self) -> bool:
    """Whether a step of the window was not applied."""
    return bool(self._bad)

  def roll_back(self, to: int) -> None:
    self._bad, self.rolled_to = [], to

  def take(self, step: int, numbers: dict[str, float]) -> str:
    """Looks at a step's numbers, in order: a warning, or "".

    Raises:
      RollBack: it is one too many.
    """
    c = self._config
    self._bad = [b for b in self._bad if b > step - c.window]
    spike = f"spike of {numbers.get('spike', 0):.3g} deviations"
    if not numbers["skipped"]:
      high = bool(c.spike) and numbers["spike"] > c.spike
      return f"step {step}: {spike}, {_told(numbers)}" if high else ""
    wrong = {k: v for k, v in numbers.items() if not math.isfinite(v)}
    cause = _told(wrong) if wrong else f"{spike}, {_told(numbers)}"
    if not wrong and c.on_spike == "skip":
      return f"step {step} is not applied: {cause}"
    self._bad.append(step)
    text = (
      f"step {step} is not applied: {cause} ({len(self._bad)} in {c.window} steps, "
      f"guard.budget is {c.budget})"
    )
    if len(self._bad) > c.budget:
      raise RollBack(self._bad[0], step, text, dict(numbers))
    return text

  def collapse(self, numbers: dict[str, float]) -> str:
    """Looks at a log line's averages: a warning when a collapse begins, or ""."""
    above = {
      k.partition("/")[2]: v
      for k, v in numbers.items()
      if k.startswith("anisotropy/") and v > self._config.collapse
    }
    new = {k: v for k, v in above.items() if k not in self._collapsed}
    self._collapsed = set(above)
    if not new:
      return ""
    listed = ", ".join(f"{k} {v:.4f}" for k, v in new.items())
    return (
      f"embeddings collapse: the mean cosine of different ones is {listed}, above "
      f"guard.collapse = {self._config.collapse:g}; retrieval is chance then. What "
      "helps: a lower optim.lr, longer warm-up, more weight on vtc"
    )


def _told(numbers: dict[str, float]) -> str:
  """The total and the gradient's norm before others, as many as fit in a line."""
  first = [k for k in ("loss/total", "grad_norm") if k in numbers]
  rest = [k for k in numbers if k.startswith("loss/") and k not in first]
  names = (first + rest or list(numbers))[:3]
  return ", ".join(f"{k} = {numbers[k]:.4g}" for k in names)
