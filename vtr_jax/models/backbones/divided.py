"""Divided space-time attention: Frozen in Time (arXiv 2104.00650), MCQ, MILES."""

import dataclasses
from typing import Any, ClassVar

from vtr_jax.core.config import require
from vtr_jax.models import video_tower
from vtr_jax.models.divided_attention import DividedBlock


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(video_tower.Config):
  """Section `objective.video` with name = "divided"."""

  name: str = "divided"  # code: Frozen


class Tower(video_tower.VideoTower):
  """Attention along time relates the same patch of all frames."""

  drops = "same"
  visible_only = False
  attentions: ClassVar = dict(time_attention="time", attention="space")

  @classmethod
  def check(cls, config: Any) -> None:
    require(
      config.parts.class_token,
      f"video.name: 'divided' needs a class token, which arch {config.arch!r} has not; "
      "set 'vit'",
    )

  def block(self, frames: int) -> tuple:
    c = self.config
    kind = c.video.adapted(c.parts.kind)
    return DividedBlock, (c.video, c.compute, kind, frames, c.video.time_init)
