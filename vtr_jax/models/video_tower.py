"""The video tower of dual encoders: a ViT over tubelets.

Positions are learned, in one table for space and one for time, or fixed. Attention is
divided (time, then space, as in Frozen in Time, arXiv 2104.00650), joint over all
tokens, or within each frame. A frame here is one time index of the grid of tubelets.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, Num

from vtr_jax.core.arrays import AnyArray
from vtr_jax.core.batch import ClipSpec, patchify
from vtr_jax.models.config import Config
from vtr_jax.models.divided_attention import DividedBlock
from vtr_jax.models.layers import (
  Block,
  activation,
  logical,
  run_blocks,
)
from vtr_jax.models.norm_gelu import LayerNorm
from vtr_jax.models.patch_embed import (
  flat_positions,
  gather,
  project_pixels,
  space_time_positions,
)


class Tokens(NamedTuple):
  """The video tower's output for a batch of clips."""

  cls: Float[Array, "b c d"]  # class tokens: one, one per frame, or none
  patches: Float[Array, "b k d"]  # tubelets, in the order of their indices
  num_frames: int = 1  # frames encoded independently; 1 = joint


class VideoTower(nn.Module):
  """Encodes clips to a class token and one token per tubelet."""

  clip: ClipSpec
  config: Config

  @nn.compact
  def __call__(
    self,
    video: Num[AnyArray, "b t h w c"] | Num[AnyArray, "b k p"],
    keep_idx: Int32[AnyArray, "b k"] | None = None,
    mask_idx: Int32[AnyArray, "b m"] | None = None,
  ) -> Tokens:
    """Tokens of the tubelets at `keep_idx`, None = all.

    Args:
      video: clips of any number of frames (an image is one), see `time_positions`; or
        only the tubelets at `keep_idx`, if attention is joint or within frames.
      keep_idx: with divided attention the same patches in every frame; within frames
        the same number of patches in each.
      mask_idx: tubelets whose embedding a learned mask token replaces.
    """
    c, parts, dtype = self.config, self.config.parts, self.config.compute.dtype
    frames = self.clip.grid[0]
    if video.ndim == 5:
      frames = video.shape[1] // self.clip.tubelet_size[0]
    cls, x = self._embed(video, keep_idx, mask_idx, frames)
    rows, count, width = x.shape
    if c.attention == "frame":  # each frame is a row of the batch
      x = x.reshape(rows * frames, count // frames, width)
    if cls is not None:
      cls = jnp.broadcast_to(cls[None, None], (x.shape[0], 1, width))
      x = jnp.concatenate([cls, x], axis=1)
    x = activation(x)
    norm = functools.partial(LayerNorm, parts.kind.epsilon, dtype)
    if parts.norm_input:
      x = activation(norm(name="norm_input")(x))
    block, fields = Block, (c.video, c.compute, parts.kind)
    if c.attention == "divided":
      block, fields = DividedBlock, (*fields, frames, c.time_init)
    x = run_blocks(block, fields, c.video.depth, c.compute, x)
    if not parts.norm_pooled:
      x = activation(norm(name="norm")(x))
    split = int(parts.class_token)
    cls, patches = (y.reshape(rows, -1, width) for y in (x[:, :split], x[:, split:]))
    return Tokens(cls, patches, frames if c.attention == "frame" else 1)

  def _embed(
    self,
    video: AnyArray,
    keep_idx: AnyArray | None,
    mask_idx: AnyArray | None,
    frames: int,
  ) -> tuple[Float[AnyArray, " d"] | None, Float[Array, "b k d"]]:
    """(class token or None, embedded tubelets with their positions)."""
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
    if c.pos_embed == "flat":
      return cls, jnp.asarray(flat_positions((frames, high, wide), width))
    inits = init, zeros
    if c.pos_embed == "space_time":
      inits = sinusoid_inits(self.clip.grid, has_cls)
    table = lambda name, init, rows: self.param(
      name, logical(init, ("length", "embed")), (rows, width)
    )
    space = table("space_positions", inits[0], has_cls + high * wide)
    if has_cls:
      cls, space = cls + space[0], space[1:]
    if c.attention == "frame":  # without time positions
      return cls, jnp.tile(space, (frames, 1))
    time = table("time_positions", inits[1], learned_frames)
    time = time_positions(time, frames, c.time_pos_embed_resize)
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
