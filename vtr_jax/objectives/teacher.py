"""Copies of parameters that are not trained but updated from them: teacher and EMA.

An objective's teacher copies some parameters; the EMA (`optim.ema_decay`) averages
all of them, for evaluation.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from vtr_jax.core.config import choose, require


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
  """How a teacher follows; part of the section `objective` that has one."""

  update: str = "ema"  # ema | copy; ours
  # ema: share of itself that the teacher keeps in the first step; ours: BYOL's
  decay: float = 0.996
  # ema: the same in the last step; half a cosine between them; ours: BYOL's
  final_decay: float = 1.0
  update_every: int = 1000  # copy: steps from one copy to the next; ours

  def __post_init__(self):
    choose(self.update, ("ema", "copy"), "update")
    for key in ("decay", "final_decay"):
      value = getattr(self, key)
      require(0 <= value <= 1, f"{key}: {value} not in [0, 1]")
    require(
      self.update_every > 0, f"update_every: {self.update_every} must be positive"
    )


@dataclasses.dataclass(frozen=True)
class Teacher:
  """Which parameters are shadowed, and how the shadow follows."""

  names: tuple[str, ...]  # top-level groups of the parameters
  config: TeacherConfig

  def pick(self, params: Any) -> dict[str, Any]:
    """The shadowed part of a tree of parameters, or of anything of that shape."""
    return {name: params[name] for name in self.names}

  def keep(self, step: Int32[Array, ""], steps: int) -> Float[Array, ""]:
    """Share of itself that the teacher keeps in step number `step` of `steps`, from 0.

    The half cosine from `decay` to `final_decay` is BYOL's (arXiv 2006.07733, C.1).
    """
    c = self.config
    left = (jnp.cos(jnp.pi * step / steps) + 1) / 2  # 1 at first, 0 at last
    return c.final_decay + (c.decay - c.final_decay) * left

  def renew(self, shadow: Any, params: Any, step: Int32[Array, ""]) -> dict[str, Any]:
    """The shadow that step number `step` sees, which begins with `params`.

    Copies are made here, so that none is lost with a step that is not applied.
    """
    if self.config.update != "copy":
      return shadow
    due = step % self.config.update_every == 0
    choose = lambda old, new: jnp.where(due, new, old)
    return jax.tree.map(choose, shadow, self.pick(params))

  def follow(
    self, shadow: Any, params: Any, step: Int32[Array, ""], steps: int
  ) -> dict[str, Any]:
    """The shadow after step number `step`, which left `params`."""
    if self.config.update != "ema":
      return shadow
    return follow(shadow, self.pick(params), self.keep(step, steps))


def follow(shadow: Any, params: Any, keep: Float[Array, ""]) -> Any:
  """The shadow that keeps a share `keep` of itself and takes the rest of `params`."""

  def mix(s: jax.Array, p: jax.Array) -> jax.Array:
    # Exact at both ends: no rounding where there is nothing to mix.
    return jnp.select([keep == 0, keep == 1], [p, s], p + keep * (s - p))

  return jax.tree.map(mix, shadow, params)


def mean_keep(ema: float, step: Int32[Array, ""]) -> Float[Array, ""]:
  """Decay of the EMA in step number `step`, from 0.

  At first less than `ema`, or a short run's mean would be what it began with: at most
  (1 + step) / (10 + step), as TensorFlow's ExponentialMovingAverage.
  """
  return jnp.minimum(ema, (1 + step) / (10 + step))
