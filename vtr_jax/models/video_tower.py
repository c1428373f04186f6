"""The towers of dual encoders: a clip's tokens, a caption's tokens, and their pooling.

The video tower is a ViT over tubelets with positions, learned ones in one table for
space and one for time. Attention is divided (time, then space, as in Frozen in Time,
arXiv 2104.00650), joint over all tokens, or within each frame alone. The text tower is
DistilBERT's post-norm transformer or a pre-norm one. What else differs between families
of public weights is described by an `ArchSpec`.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, Num

from vtr_jax.core.arrays import AnyArray
from vtr_jax.core.batch import ClipSpec, patchify
from vtr_jax.models.config import Config
from vtr_jax.models.divided_attention import DividedBlock
from vtr_jax.models.layers import (
  Block,
  Dense,
  activation,
  logical,
  run_blocks,
)
from vtr_jax.models.norm_gelu import LayerNorm
from vtr_jax.models.patch_embed import (
  flat_positions,
  gather,
  space_time_positions,
  unit_pixels,
)


class Tokens(NamedTuple):
  """What a video tower makes of a clip."""

  cls: Float[Array, "b c d"]  # class tokens: one, one per frame, or none
  places: Float[Array, "b k d"]  # tubelets, in the order of their indices
  apart: int = 1  # equal parts, in order, that were encoded alone: the frames


class VideoTower(nn.Module):
  """Class token and tubelets of a clip, encoded."""

  clip: ClipSpec
  config: Config

  @nn.compact
  def __call__(
    self,
    video: Num[AnyArray, "b t h w c"] | Num[AnyArray, "b k p"],
    keep_idx: Int32[AnyArray, "b k"] | None = None,
    mask_idx: Int32[AnyArray, "b m"] | None = None,
  ) -> Tokens:
    """Encodes the tubelets at `keep_idx`, None = all.

    Those at `mask_idx` stay, but a learned mask token takes the place of their pixels.
    `video` may also be the tubelets at `keep_idx` alone; then attention must be joint
    or within frames. `video` may have any number of frames, one for an image: its time
    positions are made by `time_positions`. With divided attention `keep_idx` must hold
    the same places in every time slice, within frames as many.
    """
    c, parts, dtype = self.config, self.config.parts, self.config.compute.dtype
    whole = video.ndim == 5
    slices = video.shape[1] // self.clip.tubelet_size[0] if whole else self.clip.grid[0]
    cls, x = self._embed(video, keep_idx, mask_idx, slices)
    rows, count, width = x.shape
    if c.attention == "frame":  # each slice is a row of its own
      x = x.reshape(rows * slices, count // slices, width)
    if cls is not None:
      cls = jnp.broadcast_to(cls[None, None], (x.shape[0], 1, width))
      x = jnp.concatenate([cls, x], axis=1)
    x = activation(x)
    norm = functools.partial(LayerNorm, parts.kind.epsilon, dtype)
    if parts.norm_input:
      x = activation(norm(name="norm_input")(x))
    block, fields = Block, (c.video, c.compute, parts.kind)
    if c.attention == "divided":
      block, fields = DividedBlock, (*fields, slices, c.time_init)
    x = run_blocks(block, fields, c.video.depth, c.compute, x)
    if not parts.norm_pooled:
      x = activation(norm(name="norm")(x))
    split = int(parts.class_token)
    both = (y.reshape(rows, -1, width) for y in (x[:, :split], x[:, split:]))
    return Tokens(*both, slices if c.attention == "frame" else 1)

  def _embed(
    self,
    video: AnyArray,
    keep_idx: AnyArray | None,
    mask_idx: AnyArray | None,
    slices: int,
  ) -> tuple[Float[AnyArray, " d"] | None, Float[Array, "b k d"]]:
    dtype, width = self.config.compute.dtype, self.config.video.width
    patches = patchify(video, self.clip.tubelet_size) if video.ndim == 5 else video
    if keep_idx is not None and video.ndim == 5:
      patches = gather(patches, keep_idx)
    repeats = self.clip.tubelet_dim // 3
    mean, std = np.tile(self.clip.mean, repeats), np.tile(self.clip.std, repeats)
    mean, std = mean.astype("f")[None, None], std.astype("f")[None, None]
    x = (unit_pixels(patches) - mean) / std
    bias = self.config.parts.patch_bias
    x = Dense(width, ("pixels", "embed"), dtype, use_bias=bias, name="proj")(x)
    if mask_idx is not None:
      init = logical(nn.initializers.truncated_normal(0.02), ("norm",))
      blank = self.param("mask_token", init, (width,))
      hidden = (mask_idx[:, :, None] == jnp.arange(x.shape[1])[None, None]).any(axis=1)
      x = jnp.where(hidden[:, :, None], blank.astype(dtype)[None, None], x)
    cls, positions = self._positions(slices)
    positions = positions.astype(dtype)
    # Whole rows, for the reason given in models/text.py.
    positions = nn.with_logical_constraint(positions, ("length", None))
    x += positions[None] if keep_idx is None else jnp.take(positions, keep_idx, axis=0)
    return None if cls is None else cls.astype(dtype), x

  def _positions(
    self, slices: int
  ) -> tuple[Float[AnyArray, " d"] | None, Float[AnyArray, "n d"]]:
    """(class token or None, positions of all tubelets of a clip)."""
    c, width = self.config, self.config.video.width
    frames, high, wide = self.clip.grid
    init, zeros = nn.initializers.truncated_normal(0.02), nn.initializers.zeros_init()
    cls = None
    if has_cls := c.parts.class_token:
      cls = self.param("cls_token", logical(init, ("norm",)), (width,))
    if c.pos_embed == "flat":
      return cls, jnp.asarray(flat_positions((slices, high, wide), width))
    starts = init, zeros
    if c.pos_embed == "space_time":
      starts = sinusoid_starts(self.clip.grid, has_cls)
    table = lambda name, init, rows: self.param(
      name, logical(init, ("length", "embed")), (rows, width)
    )
    space = table("space_positions", starts[0], has_cls + high * wide)
    if has_cls:
      cls, space = cls + space[0], space[1:]
    if c.attention == "frame":  # a frame does not know its time
      return cls, jnp.tile(space, (slices, 1))
    time = table("time_positions", starts[1], frames)
    time = time_positions(time, slices, c.time_pos_embed_resize)
    return cls, (space[None] + time[:, None]).reshape(-1, width)


def sinusoid_starts(
  grid: tuple[int, int, int], class_token: bool
) -> tuple[Callable, Callable]:
  """First values of the position tables: [class token ; places], and time slices.

  Together they are `video.space_time_positions`, at time 0 the space table alone.
  """
  frames, height, width = grid

  def space(key: jax.Array, shape: tuple[int, int]) -> Float[Array, "n d"]:
    places = jnp.asarray(space_time_positions((1, height, width), shape[1]))
    if not class_token:
      return places
    first = nn.initializers.truncated_normal(0.02)(key, (1, shape[1]))
    return jnp.concatenate([first, places])

  def time(key: jax.Array, shape: tuple[int, int]) -> Float[Array, "t d"]:
    slices = space_time_positions((frames, 1, 1), shape[1])
    return jnp.asarray(slices - slices[0])

  return space, time


def time_positions(
  learned: Float[AnyArray, "t d"], slices: int, time_pos_embed_resize: str
) -> Float[AnyArray, "s d"]:
  """Time positions of a clip of `slices` time slices, as Frozen adapts its own.

  Fewer slices than learned take the first ones. More take zeros after the learned
  ones ("zeros"), or the learned ones stretched ("linear", half-pixel centres).
  """
  count, width = learned.shape
  if slices <= count:
    return learned[:slices]
  if time_pos_embed_resize == "zeros":
    return jnp.pad(learned, ((0, slices - count), (0, 0)))
  return jax.image.resize(learned, (slices, width), "linear")
