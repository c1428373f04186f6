"""A ViT over tubelets with joint attention among all of them."""

import dataclasses

from vtr_jax.models import video_tower


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(video_tower.Config):
  """Section `objective.video` with name = "vit"."""

  name: str = "vit"  # ours


class Tower(video_tower.VideoTower):
  """Joint attention: any mask is dropped, and visible tubelets suffice."""
