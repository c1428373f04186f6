"""Teacher and EMA: copies of parameters that are updated from the trained ones.

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
  """How a teacher is updated: key `teacher` of section `objective`."""

  update: str = "ema"  # ema | copy; ours
  # ema: decay in the first step; ours: BYOL's
  decay: float = 0.996
  # ema: decay in the last step; half a cosine between them; ours: BYOL's
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
  """Which parameters have a teacher, and how it is updated."""

  names: tuple[str, ...]  # top-level groups of the parameters
  config: TeacherConfig

  def pick(self, params: Any) -> dict[str, Any]:
    """The teacher's part of a tree of parameters, or of anything of that structure."""
    return {name: params[name] for name in self.names}

  def decay(self, step: Int32[Array, ""], steps: int) -> Float[Array, ""]:
    """Decay in step `step` of `steps`, from 0.

    The half cosine from `decay` to `final_decay` is BYOL's (arXiv 2006.07733, C.1).
    """
    c = self.config
    progress = step.astype(jnp.float32) / steps
    cosine = (jnp.cos(jnp.pi * progress) + 1) / 2  # 1 in the first step, then to 0
    return c.final_decay + (c.decay - c.final_decay) * cosine

  def before_step(
    self, teacher: Any, params: Any, step: Int32[Array, ""]
  ) -> dict[str, Any]:
    """The teacher that step `step` uses; `params` are those before the step.

    Copies are made here, so that a step that is not applied loses none.
    """
    if self.config.update != "copy":
      return teacher
    due = step % self.config.update_every == 0
    choose = lambda old, new: jnp.where(due, new, old)
    return jax.tree.map(choose, teacher, self.pick(params))

  def after_step(
    self, teacher: Any, params: Any, step: Int32[Array, ""], steps: int
  ) -> dict[str, Any]:
    """The teacher after step `step`; `params` are those after the step."""
    if self.config.update != "ema":
      return teacher
    return update_ema(teacher, self.pick(params), self.decay(step, steps))


def update_ema(ema: Any, params: Any, decay: Float[Array, ""]) -> Any:
  """decay * ema + (1 - decay) * params, exact for a decay of 0 or 1."""

  def mix(e: jax.Array, p: jax.Array) -> jax.Array:
    return jnp.select([decay == 0, decay == 1], [p, e], p + decay * (e - p))

  return jax.tree.map(mix, ema, params)


def warmup_decay(decay: float, step: Int32[Array, ""]) -> Float[Array, ""]:
  """Decay of the EMA in step `step`, from 0.

  At most (1 + step) / (10 + step), as in TensorFlow's ExponentialMovingAverage: a short
  run's EMA would otherwise stay close to the initial parameters.
  """
  return jnp.minimum(decay, (1 + step) / (10 + step))
