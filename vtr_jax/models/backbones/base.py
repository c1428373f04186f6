"""The interface of video backbones, which dual encoders call.

A backbone is one file in this folder with two parts: a dataclass `Config`, which reads
section `objective.video` of the config, and a linen module `Tower`. No other file
depends on it.
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, Num

from vtr_jax.core.arrays import AnyArray
from vtr_jax.core.batch import ClipSpec, patchify
from vtr_jax.core.config import choose, require
from vtr_jax.models import backbones
from vtr_jax.models.depth import layer_of
from vtr_jax.models.layers import logical
from vtr_jax.models.patch_embed import gather, project_pixels


class Tokens(NamedTuple):
  """A video tower's output for a batch of clips."""

  cls: Float[Array, "b c d"]  # class tokens: one, one per frame, or none
  patches: Float[Array, "b k d"]  # tubelets, in the order of their indices
  num_frames: int = 1  # frames encoded independently; 1 = joint


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackboneConfig:
  """Section `objective.video` of the config; `name` selects the subclass that reads it.

  Keyword-only, so that a backbone's own `Config` may add keys without a default.
  """

  name: str  # of a file in models/backbones
  width: int  # of the tokens
  depth: int  # number of blocks

  @staticmethod
  def variant(values: Any) -> type:
    """See `core.config.variant`."""
    require("name" in values, f"name: missing; one of {', '.join(names())}")
    choose(values["name"], names(), "name")
    return _module(values["name"]).Config


class Backbone(nn.Module):
  """Base class of every `Tower`: what an objective and the figures ask of it."""

  clip: ClipSpec
  config: Any  # models.config.Config; its `video` is the backbone's own

  # Masks whose tubelets it can drop: any | equal (the same number of patches in every
  # frame) | same (the same patches in every frame).
  drops: ClassVar[str] = "any"
  # Whether the tubelets at `keep_idx` suffice, so that the others need not be sent.
  visible_only: ClassVar[bool] = True
  # Frames are encoded independently: the clip's embedding is the mean of its frames'.
  framewise: ClassVar[bool] = False
  # Modules that attend, by a part of their path, and the kind of attention: joint |
  # frame (each frame's rows of the batch) | space, time (of divided attention, or time
  # alone, each patch's rows of the batch). For figures.
  attentions: ClassVar[Mapping[str, str]] = dict(attention="joint")
  logit_cap: ClassVar[float] = 0.0  # of those; see `models.attention.attend`

  def __call__(
    self,
    video: Num[AnyArray, "b t h w c"] | Num[AnyArray, "b k p"],
    keep_idx: Int32[AnyArray, "b k"] | None = None,
    mask_idx: Int32[AnyArray, "b m"] | None = None,
    drop_path: float = 0.0,
  ) -> Tokens:
    """Tokens of the tubelets at `keep_idx`, None = all.

    Args:
      video: clips of any number of frames (an image is one); or only the tubelets at
        `keep_idx`, if `visible_only`.
      keep_idx: of a mask as `drops` says.
      mask_idx: tubelets whose embedding a learned mask token replaces.
      drop_path: see `layers.run_blocks`; of each frame if encoded independently.
    """
    raise NotImplementedError

  @classmethod
  def check(cls, config: Any) -> None:
    """Raises ConfigError if other keys of the objective do not fit the backbone."""

  @classmethod
  def has_class_token(cls, config: Any) -> bool:
    """Whether `Tokens.cls` is not empty, so that `pool = "cls"` can read it."""
    del config
    return False

  @nn.nowrap
  def depth(self) -> int:
    """Number of layers of blocks, for layer-wise decay of the learning rate."""
    return self.config.video.depth

  @nn.nowrap
  def layer(self, path: str) -> int | range:
    """Layer of a parameter of the tower: 0 = embeddings, i + 1 = block i, see `optim`.

    A range for blocks that are stacked in one array; depth + 1 = what follows them.
    """
    return layer_of(path, self.depth())

  @nn.nowrap
  def num_frames(self, video: AnyArray) -> int:
    """Frames of the grid of tubelets."""
    if video.ndim == 5:
      return video.shape[1] // self.clip.tubelet_size[0]
    return self.clip.grid[0]

  def embed_tubelets(
    self,
    video: Num[AnyArray, "b t h w c"] | Num[AnyArray, "b k p"],
    keep_idx: Int32[AnyArray, "b k"] | None,
    mask_idx: Int32[AnyArray, "b m"] | None,
  ) -> Float[Array, "b k d"]:
    """Linear embedding of the tubelets, without positions; in a compact method."""
    dtype, width = self.config.compute.dtype, self.config.video.width
    patches = patchify(video, self.clip.tubelet_size) if video.ndim == 5 else video
    if keep_idx is not None and video.ndim == 5:
      patches = gather(patches, keep_idx)
    x = project_pixels(patches, self.clip, width, dtype, self.config.parts.patch_bias)
    if mask_idx is not None:
      init = logical(nn.initializers.truncated_normal(0.02), ("norm",))
      mask_token = self.param("mask_token", init, (width,)).astype(dtype)
      masked = (mask_idx[:, :, None] == jnp.arange(x.shape[1])[None, None]).any(axis=1)
      x = jnp.where(masked[:, :, None], mask_token[None, None], x)
    return x


# Files of this folder that are shared by backbones.
_SHARED = {"base"}


def names() -> list[str]:
  """Names of all backbones: the files of this folder except shared ones."""
  modules = {m.name for m in pkgutil.iter_modules(backbones.__path__)}
  return sorted(modules - _SHARED)


def tower(config: BackboneConfig) -> type[Backbone]:
  """The `Tower` of a backbone's section."""
  return _module(config.name).Tower


def _module(name: str) -> Any:
  return importlib.import_module(f"vtr_jax.models.backbones.{name}")
