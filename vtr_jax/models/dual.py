"""Dual encoder of Frozen in Time: a video tower and a text tower (arXiv 2104.00650).

The video tower is a ViT with a class token and learned positions, one table for
space and one for time. Its attention is divided (time, then space) as in Frozen,
or joint over all tokens. The text tower is DistilBERT's post-norm transformer. A
clip and a caption are compared by their class tokens, each through a linear layer.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32, Num

from vtr_jax.batch import Batch, ClipSpec, MaskSpec, TextSpec, patchify
from vtr_jax.config import choose, require
from vtr_jax.losses import unit
from vtr_jax.models.divided import RESIDUALS, TIME_INITS, DividedBlock
from vtr_jax.models.layers import (
  Attention,
  Block,
  Compute,
  Dense,
  Mlp,
  Size,
  Transformer,
  activation,
  logical,
  run_blocks,
)
from vtr_jax.models.pointwise import LayerNorm
from vtr_jax.models.text import TextEmbed, hide_words
from vtr_jax.models.video import (
  gather,
  space_time_positions,
  unit_pixels,
)

MAX_SCALE = 100.0  # of a learned 1 / temperature, as in CLIP


@dataclasses.dataclass(frozen=True)
class Config:
  """What every dual encoder reads from section `objective` of the config."""

  video: Size
  text: Size
  compute: Compute
  projection: int  # width of the embeddings that are compared
  attention: str  # between video tokens: divided | joint
  residual: str  # frozen | timesformer; divided only, see models/divided.py
  time_init: str  # frozen | output; divided only, see models/divided.py
  positions: str  # first values: frozen (0.02 normal, time 0) | space_time (sinusoid)
  hidden: str  # tubelets: drop | blank (by a learned mask token)
  longer_clips: str  # time positions of more slices than were learned: zeros | linear
  pool: str  # what is projected: cls (the class token) | mean (of all other tokens)
  text_norm: str  # LayerNorm after each sum (post) | before each layer (pre)
  text_dropout: float  # after the text embedding and every MLP; pre: embedding only
  temperature: float  # of the contrastive term, or its first value
  learn_temperature: bool  # False = fixed

  def __post_init__(self):
    choose(self.attention, ("divided", "joint"), "attention")
    choose(self.residual, RESIDUALS, "residual")
    choose(self.time_init, TIME_INITS, "time_init")
    choose(self.positions, ("frozen", "space_time"), "positions")
    choose(self.pool, ("cls", "mean"), "pool")
    choose(self.text_norm, ("post", "pre"), "text_norm")
    choose(self.hidden, ("drop", "blank"), "hidden")
    choose(self.longer_clips, ("zeros", "linear"), "longer_clips")
    require(self.projection > 0, f"projection: {self.projection} must be positive")
    require(self.temperature > 0, f"temperature: {self.temperature} must be positive")
    require(
      not self.learn_temperature or self.temperature >= 1 / MAX_SCALE,
      f"temperature: {self.temperature} is below {1 / MAX_SCALE}, the least that is "
      "learned; raise it, or set learn_temperature = False",
    )


class TextBlock(nn.Module):
  """Post-norm block (BERT, DistilBERT; LayerNorm epsilon 1e-12)."""

  size: Size
  compute: Compute
  dropout: float  # DistilBERT also drops attention weights; left out here

  @nn.compact
  def __call__(
    self, x: Float[Array, "b l d"], valid: Bool[Array, "b l"]
  ) -> Float[Array, "b l d"]:
    norm = functools.partial(LayerNorm, 1e-12, self.compute.dtype)
    attention = Attention(self.size.num_heads, self.compute, name="attention")
    x = norm(name="norm_attention")(x + attention(x, valid))
    y = Mlp(self.size.mlp_dim, self.compute.dtype, name="mlp")(x)
    y = nn.Dropout(self.dropout, deterministic=False)(y)
    return activation(norm(name="norm_mlp")(x + y))


class VideoTower(nn.Module):
  """Class token and tubelets of a clip, encoded."""

  clip: ClipSpec
  config: Config

  @nn.compact
  def __call__(
    self,
    video: Num[Array, "b t h w c"] | Num[Array, "b k p"],
    keep_idx: Int32[Array, "b k"] | None = None,
    mask_idx: Int32[Array, "b m"] | None = None,
  ) -> Float[Array, "b 1+k d"]:
    """Encodes the tubelets at `keep_idx`, None = all; the class token comes first.

    Those at `mask_idx` stay, but a learned mask token takes the place of their pixels.
    `video` may also be the tubelets at `keep_idx` alone; then attention must be joint.
    `video` may have any number of frames, one for an image: its time positions are
    made by `time_positions`. With divided attention `keep_idx` must hold the same
    places in every time slice.
    """
    c, dtype = self.config, self.config.compute.dtype
    whole = video.ndim == 5
    slices = video.shape[1] // self.clip.tubelet[0] if whole else self.clip.grid[0]
    x = self._embed(video, keep_idx, mask_idx, slices)
    if c.attention == "joint":
      block, fields = Block, (c.video, c.compute)
    else:
      block = DividedBlock
      fields = (c.video, c.compute, slices, c.residual, c.time_init)
    x = run_blocks(block, fields, c.video.depth, c.compute, x)
    return activation(LayerNorm(1e-6, dtype, name="norm")(x))

  def _embed(
    self, video: Array, keep_idx: Array | None, mask_idx: Array | None, slices: int
  ) -> Float[Array, "b 1+k d"]:
    dtype, width = self.config.compute.dtype, self.config.video.width
    frames, height, wide = self.clip.grid
    init, zeros = nn.initializers.truncated_normal(0.02), nn.initializers.zeros_init()
    table = lambda name, init, rows: self.param(
      name, logical(init, ("length", "embed")), (rows, width)
    )
    cls = self.param("cls_token", logical(init, ("norm",)), (width,))
    starts = init, zeros
    if self.config.positions == "space_time":
      starts = sinusoid_starts(self.clip.grid)
    space = table("space_positions", starts[0], 1 + height * wide)
    time = table("time_positions", starts[1], frames)
    time = time_positions(time, slices, self.config.longer_clips)
    positions = (space[None, 1:] + time[:, None]).reshape(-1, width).astype(dtype)
    # Whole rows, for the reason given in models/text.py.
    positions = nn.with_logical_constraint(positions, ("length", None))
    patches = patchify(video, self.clip.tubelet) if video.ndim == 5 else video
    if keep_idx is not None and video.ndim == 5:
      patches = gather(patches, keep_idx)
    repeats = self.clip.tubelet_dim // 3
    mean, std = np.tile(self.clip.mean, repeats), np.tile(self.clip.std, repeats)
    x = (unit_pixels(patches) - mean.astype("f")) / std.astype("f")
    x = Dense(width, ("pixels", "embed"), dtype, name="proj")(x)
    if mask_idx is not None:
      blank = self.param("mask_token", logical(init, ("norm",)), (width,))
      hidden = (mask_idx[:, :, None] == jnp.arange(x.shape[1])).any(axis=1)
      x = jnp.where(hidden[:, :, None], blank.astype(dtype), x)
    x += positions if keep_idx is None else jnp.take(positions, keep_idx, axis=0)
    cls = jnp.broadcast_to((cls + space[0]).astype(dtype), (x.shape[0], 1, width))
    return activation(jnp.concatenate([cls, x], axis=1))


class TextTower(nn.Module):
  """Tokens of a caption, encoded; the first is the class token."""

  text: TextSpec
  config: Config

  @nn.compact
  def __call__(
    self, ids: Int32[Array, "b l"], valid: Bool[Array, "b l"], *, train: bool
  ) -> Float[Array, "b l d"]:
    c = self.config
    rate = c.text_dropout if train else 0.0
    embed = TextEmbed(self.text, c.text.width, rate, c.compute.dtype, name="embed")
    x = embed(ids, valid, train=train)
    if c.text_norm == "pre":
      return Transformer(c.text, c.compute, name="transformer")(x, valid)
    fields = (c.text, c.compute, rate)
    return run_blocks(TextBlock, fields, c.text.depth, c.compute, x, valid)


class DualEncoder(nn.Module):
  """Both towers, their projections, and the temperature if it is learned."""

  clip: ClipSpec
  text: TextSpec
  mask: MaskSpec
  config: Config

  def setup(self):
    c = self.config
    self.video_tower = VideoTower(self.clip, c)
    self.text_tower = TextTower(self.text, c)
    self.video_proj = Dense(c.projection, ("embed", "classes"), "float32")
    self.text_proj = Dense(c.projection, ("embed", "classes"), "float32")
    if c.learn_temperature:
      init = nn.initializers.constant(-math.log(c.temperature))
      self.logit_scale = self.param("logit_scale", logical(init, ()), ())

  def video_tokens(self, batch: Batch) -> Float[Array, "b 1+n d"]:
    """The video tower's tokens of whole clips."""
    return self.video_tower(batch["video"])

  def masked_tokens(self, batch: Batch) -> Float[Array, "b 1+k d"]:
    """The same of masked clips: the hidden tubelets are dropped, or blanked."""
    if self.mask.send == "visible":
      return self.video_tower(batch["video_visible"], batch["video_keep_idx"])
    drop = self.config.hidden == "drop"
    idx = batch["video_keep_idx" if drop else "video_mask_idx"]
    return self.video_tower(batch["video"], **{"keep_idx" if drop else "mask_idx": idx})

  def pool_video(self, tokens: Float[Array, "b 1+n d"]) -> Float[Array, "b e"]:
    """Embeddings, not normalised."""
    return self.video_proj(self.pooled(tokens))

  def pooled(self, tokens: Float[Array, "b 1+n d"]) -> Float[Array, "b d"]:
    """What is projected of a video's tokens."""
    if self.config.pool == "cls":
      return tokens[:, 0]
    return tokens[:, 1:].astype(jnp.float32).mean(axis=1)

  def video_features(
    self, batch: Batch
  ) -> tuple[Float[Array, "b d"], Float[Array, "b 1+n d"]]:
    """(what is projected, tokens) of whole clips."""
    tokens = self.video_tokens(batch)
    return self.pooled(tokens), tokens

  def encode_text(
    self, ids: Int32[Array, "b l"], valid: Bool[Array, "b l"], *, train: bool
  ) -> Float[Array, "b e"]:
    """Embeddings, not normalised."""
    tokens = self.text_tower(ids, valid, train=train)
    if self.config.pool == "cls":
      return self.text_proj(nn.relu(tokens[:, 0]))
    words = jnp.where(valid[:, :, None], tokens.astype(jnp.float32), 0)
    count = valid.sum(axis=1, keepdims=True)
    return self.text_proj(nn.relu(words.sum(axis=1) / jnp.maximum(count, 1)))

  def masked_text(self, batch: Batch) -> Float[Array, "b e"]:
    """Embeddings of masked captions, not normalised; with dropout."""
    ids, valid = hide_words(batch, self.mask, self.text.mask_id)
    return self.encode_text(ids, valid, train=True)

  def encode_video(self, batch: Batch) -> Float[Array, "b e"]:
    """Embeddings of whole clips, not normalised."""
    return self.pool_video(self.video_tokens(batch))

  def embed_video(self, batch: Batch) -> Float[Array, "b e"]:
    return unit(self.encode_video(batch))

  def embed_text(self, batch: Batch) -> Float[Array, "b e"]:
    ids, valid = batch["text_ids"], batch["text_valid"]
    return unit(self.encode_text(ids, valid, train=False))

  def scale(self) -> Float[Array, ""] | float:
    """1 / temperature; a learned one is at most MAX_SCALE."""
    if not self.config.learn_temperature:
      return 1 / self.config.temperature
    # The gradient passes the bound, or a scale that once crossed it could not return.
    excess = jnp.maximum(self.logit_scale - math.log(MAX_SCALE), 0)
    return jnp.exp(self.logit_scale - jax.lax.stop_gradient(excess))


def sinusoid_starts(grid: tuple[int, int, int]) -> tuple[Callable, Callable]:
  """First values of the position tables: [class token ; places], and time slices.

  Together they are `video.space_time_positions`, at time 0 the space table alone.
  """
  frames, height, width = grid

  def space(key: jax.Array, shape: tuple[int, int]) -> Float[Array, "n d"]:
    places = space_time_positions((1, height, width), shape[1])
    first = nn.initializers.truncated_normal(0.02)(key, (1, shape[1]))
    return jnp.concatenate([first, places])

  def time(key: jax.Array, shape: tuple[int, int]) -> Float[Array, "t d"]:
    slices = space_time_positions((frames, 1, 1), shape[1])
    return jnp.asarray(slices - slices[0])

  return space, time


def check_mask(config: Config, clip: ClipSpec, mask: MaskSpec) -> None:
  """Refuses masks that the video tower cannot have.

  Raises:
    ConfigError: divided attention and tubelets dropped that are not the same ones in
      every time slice; or visible tubelets alone are sent and that is not enough.
  """
  joint_drop = config.attention == "joint" and config.hidden == "drop"
  require(
    mask.send == "clip" or joint_drop,
    "config.mask.send: 'visible' needs config.objective.attention = 'joint' and "
    "hidden = 'drop'; set 'clip'",
  )
  if config.attention == "divided" and config.hidden == "drop":
    require(
      not mask.num_hidden(clip.grid) or mask.video in ("tube", "block_tube"),
      f"config.mask.video: {mask.video!r} hides other places in every frame, but "
      "divided attention needs the same ones; set 'tube' or 'block_tube', or "
      "config.objective.attention = 'joint'",
    )


def time_positions(
  learned: Float[Array, "t d"], slices: int, longer_clips: str
) -> Float[Array, "s d"]:
  """Time positions of a clip of `slices` time slices, as Frozen adapts its own.

  Fewer slices than learned take the first ones. More take zeros after the learned
  ones ("zeros"), or the learned ones stretched ("linear", half-pixel centres).
  """
  count, width = learned.shape
  if slices <= count:
    return learned[:slices]
  if longer_clips == "zeros":
    return jnp.pad(learned, ((0, slices - count), (0, 0)))
  return jax.image.resize(learned, (slices, width), "linear")
