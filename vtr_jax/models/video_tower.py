"""The towers of dual encoders: a clip's tokens, a caption's tokens, and their pooling.

The video tower is a ViT over tubelets with positions, learned ones in one table for
space and one for time. Attention is divided (time, then space, as in Frozen in Time,
arXiv 2104.00650), joint over all tokens, or within each frame alone. The text tower is
DistilBERT's post-norm transformer or a pre-norm one. What else differs between families
of public weights is told by a `Family`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32, Num

from vtr_jax.core.batch import ClipSpec, TextSpec, patchify
from vtr_jax.core.config import choose, require
from vtr_jax.models.attention import attend
from vtr_jax.models.divided_attention import RESIDUALS, TIME_INITS, DividedBlock
from vtr_jax.models.layers import (
  Attention,
  Block,
  Compute,
  Dense,
  Kind,
  Mlp,
  Size,
  Transformer,
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
from vtr_jax.models.text_embed import TextEmbed


@dataclasses.dataclass(frozen=True)
class Family:
  """What the towers of one family of public weights do their own way."""

  kind: Kind = dataclasses.field(default_factory=Kind)  # of the blocks; text may differ
  class_token: bool = True  # of the video tower
  patch_bias: bool = True
  norm_input: bool = False  # a LayerNorm before the video blocks
  norm_words: bool = True  # a LayerNorm after the text embedding
  causal_text: bool = False
  text_at: str = "first"  # the token that `pool = "cls"` reads: first | last
  attention_pool: bool = False  # `pool = "cls"` of a video: a probe asks all tokens
  norm_pooled: bool = False  # the last LayerNorm behind the pooling, not before it
  relu: bool = False  # before the text projection
  projections: tuple[str, str] = ("linear", "linear")  # video, text: see `Projection`
  max_scale: float = 100.0  # of a learned 1 / temperature


# CLIP: arXiv 2103.00020 and its code; open_clip trains most of its models with the
# exact GELU. SigLIP: arXiv 2303.15343 and big_vision. SimVTP: the two copies of its
# encoder that its code fine-tunes.
_CLIP = Family(
  kind=Kind(1e-5, "quick"),
  patch_bias=False,
  norm_input=True,
  norm_words=False,
  causal_text=True,
  text_at="last",
)
FAMILIES = dict(
  frozen=Family(relu=True, projections=("affine", "affine")),
  clip=_CLIP,
  open_clip=dataclasses.replace(_CLIP, kind=Kind(1e-5, "exact")),
  siglip=Family(
    kind=Kind(1e-6, "tanh"),
    class_token=False,
    norm_words=False,
    text_at="last",
    attention_pool=True,
    projections=("none", "affine"),
    max_scale=float("inf"),
  ),
  simvtp=Family(class_token=False, norm_pooled=True, projections=("none", "none")),
)


@dataclasses.dataclass(frozen=True)
class Config:
  """What every dual encoder reads from section `objective` of the config."""

  family: str  # one of FAMILIES
  video: Size
  text: Size
  compute: Compute
  projection: int  # width of the embeddings that are compared
  attention: str  # between video tokens: divided | joint | frame
  residual: str  # frozen | timesformer; divided only, see models/divided.py
  time_init: str  # frozen | output; divided only, see models/divided.py
  positions: str  # first values: frozen (0.02 normal, time 0) | space_time (sinusoid);
  # or not learned: flat (sinusoid over the flat index, VideoMAE's)
  hidden: str  # tubelets: drop | blank (by a learned mask token)
  longer_clips: str  # time positions of more slices than were learned: zeros | linear
  pool: str  # what is projected: cls (the class token, or the family's own way) |
  # mean (of all other tokens)
  text_norm: str  # LayerNorm after each sum (post) | before each layer (pre)
  text_dropout: float  # after the text embedding and every MLP; pre: embedding only
  temperature: float  # of the contrastive term, or its first value
  learn_temperature: bool  # False = fixed

  def __post_init__(self):
    choose(self.family, FAMILIES, "family")
    choose(self.attention, ("divided", "joint", "frame"), "attention")
    choose(self.residual, RESIDUALS, "residual")
    choose(self.time_init, TIME_INITS, "time_init")
    choose(self.positions, ("frozen", "space_time", "flat"), "positions")
    choose(self.pool, ("cls", "mean"), "pool")
    choose(self.text_norm, ("post", "pre"), "text_norm")
    choose(self.hidden, ("drop", "blank"), "hidden")
    choose(self.longer_clips, ("zeros", "linear"), "longer_clips")
    require(self.projection > 0, f"projection: {self.projection} must be positive")
    require(self.temperature > 0, f"temperature: {self.temperature} must be positive")
    least = 1 / self.parts.max_scale
    require(
      not self.learn_temperature or self.temperature >= least,
      f"temperature: {self.temperature} is below {least}, the least that is "
      "learned; raise it, or set learn_temperature = False",
    )
    self._check_family()

  @property
  def parts(self) -> Family:
    return FAMILIES[self.family]

  def _check_family(self) -> None:
    """Refuses what the family's towers cannot do."""
    parts, where = self.parts, f"family {self.family!r}"
    require(
      self.family == "frozen" or self.text_norm == "pre",
      f"text_norm: {self.text_norm!r}, but {where} has it before each layer; set 'pre'",
    )
    require(
      parts.class_token or self.attention != "divided",
      f"attention: 'divided' needs a class token, which {where} has not; set 'joint'",
    )
    require(
      self.pool == "mean" or parts.class_token or parts.attention_pool,
      f"pool: {self.pool!r}, but {where} has no class token; set 'mean'",
    )
    for name, how in zip(("video", "text"), parts.projections, strict=True):
      width = getattr(self, name).width
      require(
        how != "none" or width == self.projection,
        f"projection: {self.projection}, but {where} does not project: set it to "
        f"{name}.width, {width}",
      )


class Tokens(NamedTuple):
  """What a video tower makes of a clip."""

  cls: Float[Array, "b c d"]  # class tokens: one, one per frame, or none
  places: Float[Array, "b k d"]  # tubelets, in the order of their indices
  apart: int = 1  # equal parts, in order, that were encoded alone: the frames


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
    slices = video.shape[1] // self.clip.tubelet[0] if whole else self.clip.grid[0]
    cls, x = self._embed(video, keep_idx, mask_idx, slices)
    rows, count, width = x.shape
    if c.attention == "frame":  # each slice is a row of its own
      x = x.reshape(rows * slices, count // slices, width)
    if cls is not None:
      cls = jnp.broadcast_to(cls, (x.shape[0], 1, width))
      x = jnp.concatenate([cls, x], axis=1)
    x = activation(x)
    norm = functools.partial(LayerNorm, parts.kind.epsilon, dtype)
    if parts.norm_input:
      x = activation(norm(name="norm_input")(x))
    block, fields = Block, (c.video, c.compute, parts.kind)
    if c.attention == "divided":
      block, fields = DividedBlock, (*fields, slices, c.residual, c.time_init)
    x = run_blocks(block, fields, c.video.depth, c.compute, x)
    if not parts.norm_pooled:
      x = activation(norm(name="norm")(x))
    split = int(parts.class_token)
    both = (y.reshape(rows, -1, width) for y in (x[:, :split], x[:, split:]))
    return Tokens(*both, slices if c.attention == "frame" else 1)

  def _embed(
    self, video: Array, keep_idx: Array | None, mask_idx: Array | None, slices: int
  ) -> tuple[Float[Array, "d"] | None, Float[Array, "b k d"]]:
    dtype, width = self.config.compute.dtype, self.config.video.width
    patches = patchify(video, self.clip.tubelet) if video.ndim == 5 else video
    if keep_idx is not None and video.ndim == 5:
      patches = gather(patches, keep_idx)
    repeats = self.clip.tubelet_dim // 3
    mean, std = np.tile(self.clip.mean, repeats), np.tile(self.clip.std, repeats)
    x = (unit_pixels(patches) - mean.astype("f")) / std.astype("f")
    bias = self.config.parts.patch_bias
    x = Dense(width, ("pixels", "embed"), dtype, use_bias=bias, name="proj")(x)
    if mask_idx is not None:
      init = logical(nn.initializers.truncated_normal(0.02), ("norm",))
      blank = self.param("mask_token", init, (width,))
      hidden = (mask_idx[:, :, None] == jnp.arange(x.shape[1])).any(axis=1)
      x = jnp.where(hidden[:, :, None], blank.astype(dtype), x)
    cls, positions = self._positions(slices)
    positions = positions.astype(dtype)
    # Whole rows, for the reason given in models/text.py.
    positions = nn.with_logical_constraint(positions, ("length", None))
    x += positions if keep_idx is None else jnp.take(positions, keep_idx, axis=0)
    return None if cls is None else cls.astype(dtype), x

  def _positions(
    self, slices: int
  ) -> tuple[Float[Array, "d"] | None, Float[Array, "n d"]]:
    """(class token or None, positions of all tubelets of a clip)."""
    c, width = self.config, self.config.video.width
    frames, high, wide = self.clip.grid
    init, zeros = nn.initializers.truncated_normal(0.02), nn.initializers.zeros_init()
    cls = None
    if has_cls := c.parts.class_token:
      cls = self.param("cls_token", logical(init, ("norm",)), (width,))
    if c.positions == "flat":
      return cls, jnp.asarray(flat_positions((slices, high, wide), width))
    starts = init, zeros
    if c.positions == "space_time":
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
    time = time_positions(time, slices, c.longer_clips)
    return cls, (space[None] + time[:, None]).reshape(-1, width)


class TextTower(nn.Module):
  """Tokens of a caption, encoded."""

  text: TextSpec
  config: Config

  @nn.compact
  def __call__(
    self, ids: Int32[Array, "b l"], valid: Bool[Array, "b l"], *, train: bool
  ) -> Float[Array, "b l d"]:
    c, parts = self.config, self.config.parts
    rate = c.text_dropout if train else 0.0
    dtype, norm = c.compute.dtype, parts.norm_words
    embed = TextEmbed(self.text, c.text.width, rate, dtype, norm, name="embed")
    x = embed(ids, valid, train=train)
    if c.text_norm == "pre":
      kind = dataclasses.replace(parts.kind, causal=parts.causal_text)
      after = not parts.norm_pooled
      return Transformer(c.text, c.compute, kind, after, name="transformer")(x, valid)
    fields = (c.text, c.compute, rate)
    return run_blocks(TextBlock, fields, c.text.depth, c.compute, x, valid)


class AttentionPool(nn.Module):
  """A learned probe asks all tokens; then an MLP (SigLIP's head, arXiv 2303.15343)."""

  size: Size
  compute: Compute
  kind: Kind

  @nn.compact
  def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b d"]:
    width, heads, dtype = self.size.width, self.size.num_heads, self.compute.dtype
    init = logical(nn.initializers.xavier_uniform(), ("norm", "norm"))
    probe = self.param("probe", init, (1, width)).astype(dtype)
    dense = functools.partial(Dense, width, ("embed", "heads"), dtype)
    split = lambda y: y.reshape(*y.shape[:2], heads, width // heads)
    query = split(dense(name="query")(probe[None]))
    key, value = dense(use_bias=False, name="key")(x), dense(name="value")(x)
    query = jnp.broadcast_to(query, (x.shape[0], *query.shape[1:]))
    self.sow("intermediates", "heads", (query, split(key)))
    y = attend(query, split(key), split(value), None, self.compute.attention)
    y = Dense(width, ("heads", "embed"), dtype, name="out")(y.reshape(-1, width))
    norm = LayerNorm(self.kind.epsilon, dtype, name="norm")
    return y + Mlp(self.size.mlp_dim, dtype, self.kind.gelu, name="mlp")(norm(y))


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
