"""The guard: harmful steps are skipped and counted; too many cause a roll-back.

On the device, a step whose loss or gradient is not finite leaves the state unchanged
except for the step counter. So does a spike, if so configured. Nothing has to be
undone, and no later step waits for the check.

On the host, where metrics arrive a few steps later, `Guard` counts skipped steps. Above
the budget the loop rolls back to a checkpoint before the first of them (roll_back.py).
"""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vtr_jax.core.arrays import AnyArray
from vtr_jax.core.config import choose, require

ACTIONS = ("warn", "skip", "roll_back")
# Standard deviation of a normal distribution / its median absolute deviation.
_NORMAL = 1.4826
# Minimum deviation, as a fraction of the median: without it, a loss that hardly moves
# would make a spike of every fluctuation; ours.
_MIN_DEVIATION = 0.01

Metrics = dict[str, Float[Array, ""]]


@dataclasses.dataclass(frozen=True)
class GuardConfig:
  """Section `guard` of the config. No paper's code has one."""

  budget: int = 3  # max skipped steps in `window`; one more causes a roll-back; ours
  window: int = 100  # steps, for the budget and for the statistics of spikes; ours
  # robust z-score of loss or gradient norm that is a spike; 0 = off; ours
  spike: float = 0.0
  # warn | skip | roll_back: skip, and count it in the budget; ours
  on_spike: str = "warn"
  # mean cosine of different clips that raises a warning; 1 = off; ours
  collapse: float = 0.99

  def __post_init__(self):
    require(self.budget >= 0, f"budget: {self.budget} must not be negative")
    require(self.window > 0, f"window: {self.window} must be positive")
    require(self.spike >= 0, f"spike: {self.spike} must not be negative")
    choose(self.on_spike, ACTIONS, "on_spike")
    require(0 <= self.collapse <= 1, f"collapse: {self.collapse} not in [0, 1]")

  @property
  def history(self) -> int:
    """Number of steps in the state's loss history."""
    return self.window if self.spike else 0

  @property
  def limit(self) -> float:
    """Robust z-score above which a step is skipped."""
    return self.spike if self.spike and self.on_spike != "warn" else math.inf


def new_history(steps: int) -> Float[Array, "2 n"] | None:
  """Losses and gradient norms of the last `steps` steps; NaN before the first."""
  return jnp.full((2, steps), jnp.nan, jnp.float32) if steps else None


def accept(
  metrics: Metrics, history: Float[Array, "2 n"] | None, limit: float
) -> tuple[Bool[Array, ""], Float[Array, "2 n"] | None, Metrics]:
  """(whether to apply the step, updated history, additional metrics), on the device.

  Args:
    metrics: of the step, with loss/total and grad_norm; all must be finite.
    history: of the steps before it; None = no spike detection.
    limit: robust z-score above which the step is skipped.
  """
  ok = jnp.stack([jnp.isfinite(v) for v in metrics.values()]).all()
  more = {}
  if history is not None:
    new = jnp.stack([metrics["loss/total"], metrics["grad_norm"]])
    more["spike"] = jnp.where(ok, _deviations(new, history), 0.0)
    # Spikes enter the history too: if the loss stays high, it counts as a spike for
    # half a window only.
    pushed = jnp.concatenate([history[:, 1:], new[:, None]], axis=1)
    history = jnp.where(ok, pushed, history)
    ok &= more["spike"] <= limit
  return ok, history, more | dict(skipped=1.0 - ok)


def _deviations(
  new: Float[Array, "2"], history: Float[Array, "2 n"]
) -> Float[Array, ""]:
  """The larger robust z-score of both; 0 until the history is full."""
  median = jnp.median(history, axis=1)
  deviation = _NORMAL * jnp.median(jnp.abs(history - median[:, None]), axis=1)
  z = (new - median) / jnp.maximum(deviation, _MIN_DEVIATION * jnp.abs(median))
  return jnp.nan_to_num(z.max(), nan=0.0)


def anisotropy(x: Float[Array, "b e"], valid: Bool[AnyArray, " b"]) -> Float[Array, ""]:
  """Mean cosine of two different valid rows of unit norm; 1 = all are equal."""
  count = valid.sum(dtype=jnp.float32)
  total = jnp.where(valid[:, None], x, 0).astype(jnp.float32).sum(axis=0)
  return ((total**2).sum() - count) / jnp.maximum(count * (count - 1), 1)


class RollBack(Exception):
  """More steps were skipped than the budget allows."""

  def __init__(self, first: int, last: int, text: str, metrics: dict[str, float]):
    super().__init__(text)
    self.first, self.last = first, last  # skipped steps
    self.metrics = metrics  # of the last one
    # Of the last one, if it is the newest step: its batch, this host's records, and
    # the loss history before it.
    self.batch: dict[str, Any] | None = None
    self.records: Any = None
    self.history: Any = None


class Guard:
  """Counts skipped steps on the host. Checkpoints store its `stored`."""

  def __init__(self, config: GuardConfig, stored: dict[str, Any] | None = None):
    stored = stored or {}
    self._config = config
    self._skipped: list[int] = list(stored.get("bad", ()))  # steps, within the window
    self.rolled_to: int | None = stored.get("rolled_to")  # step of the last roll-back
    self._collapsed: set[str] = set()

  def stored(self) -> dict[str, Any]:
    return dict(bad=self._skipped, rolled_to=self.rolled_to)

  @property
  def has_skipped(self) -> bool:
    """Whether a step of the window was skipped."""
    return bool(self._skipped)

  def roll_back(self, to: int) -> None:
    self._skipped, self.rolled_to = [], to

  def check(self, step: int, metrics: dict[str, float]) -> str:
    """Checks a step's metrics; to be called in order. Returns a warning, or "".

    Raises:
      RollBack: the budget is exceeded.
    """
    c = self._config
    self._skipped = [s for s in self._skipped if s > step - c.window]
    spike = f"spike of {metrics.get('spike', 0):.3g} deviations"
    if not metrics["skipped"]:
      high = bool(c.spike) and metrics["spike"] > c.spike
      return f"step {step}: {spike}, {_summary(metrics)}" if high else ""
    not_finite = {k: v for k, v in metrics.items() if not math.isfinite(v)}
    cause = _summary(not_finite) if not_finite else f"{spike}, {_summary(metrics)}"
    if not not_finite and c.on_spike == "skip":
      return f"step {step} is skipped: {cause}"
    self._skipped.append(step)
    text = (
      f"step {step} is skipped: {cause} ({len(self._skipped)} in {c.window} steps, "
      f"guard.budget is {c.budget})"
    )
    if len(self._skipped) > c.budget:
      raise RollBack(self._skipped[0], step, text, dict(metrics))
    return text

  def collapse(self, metrics: dict[str, float]) -> str:
    """Checks averaged metrics; returns a warning when a collapse begins, or ""."""
    above = {
      k.partition("/")[2]: v
      for k, v in metrics.items()
      if k.startswith("anisotropy/") and v > self._config.collapse
    }
    new = {k: v for k, v in above.items() if k not in self._collapsed}
    self._collapsed = set(above)
    if not new:
      return ""
    listed = ", ".join(f"{k} {v:.4f}" for k, v in new.items())
    return (
      f"embeddings collapse: the mean cosine of different ones is {listed}, above "
      f"guard.collapse = {self._config.collapse:g}; retrieval is then at chance. Try "
      "a lower optim.lr, longer warm-up, or a larger loss_weights.vtc"
    )


def _summary(metrics: dict[str, float]) -> str:
  """Up to three metrics: total loss and gradient norm first, then other losses."""
  first = [k for k in ("loss/total", "grad_norm") if k in metrics]
  rest = [k for k in metrics if k.startswith("loss/") and k not in first]
  names = (first + rest or list(metrics))[:3]
  return ", ".join(f"{k} = {metrics[k]:.4g}" for k in names)
