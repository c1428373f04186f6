"""The base of ViT backbones: tubelets, positions, blocks, a final LayerNorm.

Positions are learned, in one table for space and one for time, or fixed. A backbone in
models/backbones/ chooses the blocks. A frame here is one time index of the grid of
tubelets.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, Num

from vtr_jax.core.arrays import AnyArray
from vtr_jax.core.config import choose
from vtr_jax.models.backbones.base import Backbone, BackboneConfig, Tokens
from vtr_jax.models.divided_attention import TIME_INITS
from vtr_jax.models.layers import (
  Block,
  TransformerConfig,
  activation,
  logical,
  run_blocks,
)
from vtr_jax.models.patch_embed import flat_positions, space_time_positions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(TransformerConfig, BackboneConfig):
  """Keys of section `objective.video` that ViT backbones share.

  All have all keys, so that a flag can choose another one.
  """

  # frozen | output, divided only, see models/divided_attention.py; ours: "frozen" never
  # learns what to attend to in time
  time_init: str = "output"
  # learned, initialised as frozen (normal of 0.02, time 0) | space_time (sinusoids); or
  # fixed: flat (sinusoids over the flat index, VideoMAE's); code: Frozen
  pos_embed: str = "frozen"
  # for clips longer than trained on: zeros | linear; code: Frozen
  time_pos_embed_resize: str = "zeros"

  def __post_init__(self):
    super().__post_init__()
    choose(self.time_init, TIME_INITS, "time_init")
    choose(self.pos_embed, ("frozen", "space_time", "flat"), "pos_embed")
    choose(self.time_pos_embed_resize, ("zeros", "linear"), "time_pos_embed_resize")


class VideoTower(Backbone):
  """Encodes clips to a class token, unless `arch` has none, and a token per tubelet."""

  @classmethod
  def has_class_token(cls, config: Any) -> bool:
    return config.parts.class_token

  def block(self, frames: int) -> tuple[type[nn.Module], tuple]:
    """(class of the blocks, its fields) for clips of `frames`."""
    del frames
    c = self.config
    return Block, (c.video, c.compute, c.video.adapted(c.parts.kind))

  @nn.compact
  def __call__(
    self,
    video: Num[AnyArray, "b t h w c"] | Num[AnyArray, "b k p"],
    keep_idx: Int32[AnyArray, "b k"] | None = None,
    mask_idx: Int32[AnyArray, "b m"] | None = None,
    drop_path: float = 0.0,
  ) -> Tokens:
    """See `Backbone`; for other numbers of frames see `time_positions`."""
    c, parts, dtype = self.config, self.config.parts, self.config.compute.dtype
    frames = self.num_frames(video)
    cls, x = self._embed(video, keep_idx, mask_idx, frames)
    rows, count, width = x.shape
    if self.framewise:  # each frame is a row of the batch
      x = x.reshape(rows * frames, count // frames, width)
    if cls is not None:
      cls = jnp.broadcast_to(cls[None, None], (x.shape[0], 1, width))
      x = jnp.concatenate([cls, x], axis=1)
    x = activation(x)
    norm = c.video.adapted(parts.kind).norm(dtype)
    if parts.norm_input:
      x = activation(norm(name="norm_input")(x))
    block, fields = self.block(frames)
    x = run_blocks(block, fields, c.video.depth, c.compute, x, None, drop_path)
    if not parts.norm_pooled:
      x = activation(norm(name="norm")(x))
    split = int(parts.class_token)
    cls, patches = (y.reshape(rows, -1, width) for y in (x[:, :split], x[:, split:]))
    return Tokens(cls, patches, frames if self.framewise else 1)

  def _embed(
    self,
    video: AnyArray,
    keep_idx: AnyArray | None,
    mask_idx: AnyArray | None,
    frames: int,
  ) -> tuple[Float[AnyArray, " d"] | None, Float[Array, "b k d"]]:
    """(class token or None, embedded tubelets with their positions)."""
    dtype = self.config.compute.dtype
    x = self.embed_tubelets(video, keep_idx, mask_idx)
    cls, positions = self._positions(frames)
    positions = positions.astype(dtype)
    # Columns are not sharded, for the reason given in models/text_embed.py.
    positions = nn.with_logical_constraint(positions, ("length", None))
    if keep_idx is None:
      x += positions[None]
    else:
      x += jnp.take(positions, jnp.asarray(keep_idx), axis=0)
    return None if cls is None else cls.astype(dtype), x

  def _positions(
    self, frames: int
  ) -> tuple[Float[AnyArray, " d"] | None, Float[Array, "n d"]]:
    """(class token or None, positions of all tubelets of a clip of `frames`)."""
    c, width = self.config, self.config.video.width
    learned_frames, high, wide = self.clip.grid
    init, zeros = nn.initializers.truncated_normal(0.02), nn.initializers.zeros_init()
    cls = None
    if has_cls := c.parts.class_token:
      cls = self.param("cls_token", logical(init, ("norm",)), (width,))
    if c.video.pos_embed == "flat":
      return cls, jnp.asarray(flat_positions((frames, high, wide), width))
    inits = init, zeros
    if c.video.pos_embed == "space_time":
      inits = sinusoid_inits(self.clip.grid, has_cls)
    table = lambda name, init, rows: self.param(
      name, logical(init, ("length", "embed")), (rows, width)
    )
    space = table("space_positions", inits[0], has_cls + high * wide)
    if has_cls:
      cls, space = cls + space[0], space[1:]
    if self.framewise:  # without time positions
      return cls, jnp.tile(space, (frames, 1))
    time = table("time_positions", inits[1], learned_frames)
    time = time_positions(time, frames, c.video.time_pos_embed_resize)
    return cls, (space[None] + time[:, None]).reshape(-1, width)


def sinusoid_inits(
  grid: tuple[int, int, int], class_token: bool
) -> tuple[Callable, Callable]:
  """Initialisers of the position tables: [class token ; patches], and frames.

  Their sum is `patch_embed.space_time_positions`; at time 0 it is the space table.
  """
  frames, height, width = grid

  def space(key: jax.Array, shape: tuple[int, int]) -> Float[Array, "n d"]:
    patches = jnp.asarray(space_time_positions((1, height, width), shape[1]))
    if not class_token:
      return patches
    cls = nn.initializers.truncated_normal(0.02)(key, (1, shape[1]))
    return jnp.concatenate([cls, patches])

  def time(key: jax.Array, shape: tuple[int, int]) -> Float[Array, "t d"]:
    positions = space_time_positions((frames, 1, 1), shape[1])
    return jnp.asarray(positions - positions[0])

  return space, time


def time_positions(
  learned: Float[AnyArray, "t d"], frames: int, time_pos_embed_resize: str
) -> Float[Array, "s d"]:
  """Time positions of a clip of `frames`, adapted as in Frozen's code.

  Clips shorter than learned use the first positions. Longer clips have zeros after the
  learned ones ("zeros"), or interpolate them ("linear", half-pixel centres).
  """
  learned = jnp.asarray(learned)
  count, width = learned.shape
  if frames <= count:
    return learned[:frames]
  if time_pos_embed_resize == "zeros":
    return jnp.pad(learned, ((0, frames - count), (0, 0)))
  return jax.image.resize(learned, (frames, width), "linear")
