"""An image ViT on each frame; the clip is the frames' mean (arXiv 2104.08860)."""

import dataclasses
from typing import ClassVar

from vtr_jax.models import video_tower


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(video_tower.Config):
  """Section `objective.video` with name = "frame"."""

  name: str = "frame"  # code: CLIP4Clip


class Tower(video_tower.VideoTower):
  """Attention within frames, which have no time positions."""

  drops = "equal"
  framewise = True
  attentions: ClassVar = dict(attention="frame")
