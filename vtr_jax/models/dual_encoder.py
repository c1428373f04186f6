"""Dual encoder: a video tower and a text tower with a joint embedding space.

Frozen in Time (arXiv 2104.00650) compares linear projections of the class tokens of a
clip and a caption; other architectures pool and project differently, see `ArchSpec`.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from vtr_jax.core.arrays import AnyArray
from vtr_jax.core.batch import Batch, ClipSpec, MaskSpec, TextSpec
from vtr_jax.core.config import require
from vtr_jax.models.backbones import base as backbones
from vtr_jax.models.backbones.base import BackboneConfig, Tokens
from vtr_jax.models.config import Config
from vtr_jax.models.depth import layers_above
from vtr_jax.models.layers import (
  BlockConfig,
  Dense,
  TransformerConfig,
  l2_normalize,
  logical,
)
from vtr_jax.models.norm_gelu import LayerNorm
from vtr_jax.models.pooling import POOLS, VideoFeatures
from vtr_jax.models.text_embed import mask_text
from vtr_jax.models.text_tower import TextTower, with_appended

# Methods that all dual encoders predict by; see objectives/base.py.
PREDICTIONS = (
  "embed_video",
  "encode_video",
  "embed_text",
  "embed_patches",
  "embed_tokens",
  "video_features",
)


class DualEncoder(nn.Module):
  """Both towers, their projections, and a learned temperature."""

  clip: ClipSpec
  text: TextSpec
  mask: MaskSpec
  config: Config

  def setup_video(self) -> None:
    """The parts that `video_features` reads."""
    c, parts = self.config, self.config.parts
    self.video_tower = backbones.tower(c.video)(self.clip, c)
    if parts.attention_pool and c.pool == "cls":
      size: Any = c.video  # of a backbone with heads; checked by `Config`
      self.video_pool = POOLS[parts.attention_pool](size, c.compute, parts.kind)
    if parts.norm_pooled:
      self.video_norm = _pooled_norm(c.video, parts.kind)

  def setup(self):
    self.setup_video()
    c, parts = self.config, self.config.parts
    self.text_tower = TextTower(self.text, c)
    if parts.norm_pooled:
      self.text_norm = _pooled_norm(c.text, parts.kind)
    video, text = (
      None
      if how == "none"
      else Dense(c.projection, ("embed", "classes"), "float32", how == "affine")
      for how in parts.projections
    )
    if video is not None:
      self.video_proj = video
    if text is not None:
      self.text_proj = text
    if c.learn_temperature:
      init = nn.initializers.constant(-math.log(c.temperature))
      self.logit_scale = self.param("logit_scale", logical(init, ()), ())

  @nn.nowrap
  def layers_above(self, path: str) -> int | range:
    """Layers of a parameter's tower that follow it, see `optim.by_layer`."""
    tower, _, rest = path.partition("/")
    if tower == "video_tower":
      video = backbones.tower(self.config.video)(self.clip, self.config)
      return layers_above(video.layer(rest), video.depth())
    if tower == "text_tower":
      text = TextTower(self.text, self.config)
      return layers_above(text.layer(rest), self.config.text.depth)
    return 0

  def video_tokens(
    self,
    batch: Batch,
    drop_path: float = 0.0,
    keep_idx: Int32[AnyArray, "b k"] | None = None,
  ) -> Tokens:
    """The video tower's tokens of clips; training may drop paths and tubelets."""
    return self.video_tower(batch["video"], keep_idx=keep_idx, drop_path=drop_path)

  def masked_tokens(self, batch: Batch) -> Tokens:
    """Tokens of masked clips: tubelets are dropped, or replaced by the mask token."""
    if "video_visible" in batch:
      return self.video_tower(batch["video_visible"], batch["video_keep_idx"])
    if self.config.masked_tokens == "drop":
      return self.video_tower(batch["video"], keep_idx=batch["video_keep_idx"])
    return self.video_tower(batch["video"], mask_idx=batch["video_mask_idx"])

  def pool_video(self, tokens: Tokens) -> Float[Array, "b e"]:
    """Embeddings, not normalised.

    Of a framewise backbone, the mean of the frames' unit-norm image embeddings
    (CLIP4Clip's mean pooling, arXiv 2104.08860).
    """
    if not self.video_tower.framewise:
      return self.project_video(self._pooled(tokens))
    frames = l2_normalize(self.project_video(self._pooled(self._frames(tokens))))
    return _frame_mean(frames, tokens.num_frames)

  def video_features(
    self,
    batch: Batch,
    drop_path: float = 0.0,
    keep_idx: Int32[AnyArray, "b k"] | None = None,
  ) -> VideoFeatures:
    """Features of clips; training may drop paths and tubelets."""
    tokens = self.video_tokens(batch, drop_path, keep_idx)
    if self.video_tower.framewise:
      pooled = _frame_mean(self._pooled(self._frames(tokens)), tokens.num_frames)
    else:
      pooled = self._pooled(tokens)
    everything = jnp.concatenate([tokens.cls, tokens.patches], axis=1)
    return VideoFeatures(pooled, everything)

  def _frames(self, tokens: Tokens) -> Tokens:
    """Each independently encoded frame as a row of the batch."""
    rows, width = tokens.patches.shape[0] * tokens.num_frames, tokens.patches.shape[-1]
    split = lambda y: y.reshape(rows, y.size // (rows * width), width)
    return Tokens(split(tokens.cls), split(tokens.patches))

  def _pooled(self, tokens: Tokens) -> Float[Array, "b d"]:
    """Pooled features, before projection."""
    if self.config.pool == "mean":
      x = tokens.patches.astype(jnp.float32).mean(axis=1)
    elif self.config.parts.attention_pool:
      x = self.video_pool(tokens.patches)
    else:
      x = tokens.cls[:, 0]
    return self.video_norm(x) if self.config.parts.norm_pooled else x

  def project_video(self, x: Float[Array, "*b d"]) -> Float[Array, "*b e"]:
    """Projects features of the video tower to the embedding space."""
    if self.config.parts.projections[0] == "none":
      return x.astype(jnp.float32)
    return self.video_proj(x)

  def encode_text(
    self, ids: Int32[AnyArray, "b l"], valid: Bool[AnyArray, "b l"], *, train: bool
  ) -> Float[Array, "b e"]:
    """Embeddings of captions, not normalised."""
    tokens = self.text_tower(ids, valid, train=train)
    return self.pool_text(tokens, with_appended(self.config, valid))

  def pool_text(
    self, tokens: Float[Array, "b l d"], valid: Bool[AnyArray, "b l"]
  ) -> Float[Array, "b e"]:
    """Embeddings of captions from their tokens, not normalised."""
    parts = self.config.parts
    if self.config.pool == "mean":
      words = jnp.where(valid[:, :, None], tokens.astype(jnp.float32), 0)
      count = valid.sum(axis=1, keepdims=True, dtype=jnp.float32)
      x = words.sum(axis=1) / jnp.maximum(count, 1)
    elif parts.text_at != "first":
      positions = jnp.arange(valid.shape[1])[None]
      last = jnp.where(valid, positions, 0).max(axis=1)
      x = jnp.take_along_axis(tokens, last[:, None, None], axis=1)[:, 0]
    else:
      x = tokens[:, 0]
    if parts.norm_pooled:
      x = self.text_norm(x)
    if parts.relu:
      x = nn.relu(x)
    if parts.projections[1] == "none":
      return x.astype(jnp.float32)
    return self.text_proj(x)

  def masked_text(self, batch: Batch) -> Float[Array, "b e"]:
    """Embeddings of masked captions, not normalised; with dropout."""
    ids, valid = mask_text(batch, self.mask, self.text.mask_id)
    return self.encode_text(ids, valid, train=True)

  def encode_video(self, batch: Batch) -> Float[Array, "b e"]:
    """Embeddings of unmasked clips, not normalised."""
    return self.pool_video(self.video_tokens(batch))

  def embed_video(self, batch: Batch) -> Float[Array, "b e"]:
    return l2_normalize(self.encode_video(batch))

  def embed_text(self, batch: Batch) -> Float[Array, "b e"]:
    ids, valid = batch["text_ids"], batch["text_valid"]
    return l2_normalize(self.encode_text(ids, valid, train=False))

  def embed_patches(self, batch: Batch) -> Float[Array, "b n e"]:
    """Unit-norm embedding of each tubelet, pooled as a clip of one tubelet."""
    tokens = self.video_tokens(batch).patches
    each = tokens.reshape(-1, 1, tokens.shape[-1])
    embeddings = l2_normalize(self.pool_video(Tokens(each, each)))
    return embeddings.reshape(*tokens.shape[:2], -1)

  def embed_tokens(self, batch: Batch) -> Float[Array, "b l e"]:
    """Unit-norm embedding of each text token; those of padding are meaningless."""
    ids, valid = batch["text_ids"], batch["text_valid"]
    tokens = self.text_tower(ids, valid, train=False)[:, : ids.shape[1]]
    each = tokens.reshape(-1, 1, tokens.shape[-1])
    valid = jnp.ones(each.shape[:2], bool)
    return l2_normalize(self.pool_text(each, valid)).reshape(*tokens.shape[:2], -1)

  def scale(self) -> Float[Array, ""] | float:
    """1 / temperature; a learned one is at most `ArchSpec.max_scale`."""
    if not self.config.learn_temperature:
      return 1 / self.config.temperature
    # The gradient ignores the bound, or a scale above it could never decrease.
    bound = math.log(self.config.parts.max_scale)
    excess = jnp.maximum(self.logit_scale - bound, 0)
    return jnp.exp(self.logit_scale - jax.lax.stop_gradient(excess))


def _pooled_norm(size: Any, kind: BlockConfig) -> LayerNorm:
  """The LayerNorm of pooled features; a backbone may have no epsilon of its own."""
  if isinstance(size, TransformerConfig):
    kind = size.adapted(kind)
  return LayerNorm(kind.epsilon, "float32")


def _frame_mean(
  frames: Float[Array, "n d"], num_frames: int
) -> Float[Array, "n//{num_frames} d"]:
  return frames.reshape(-1, num_frames, frames.shape[-1]).mean(axis=1)


def check_mask(config: Config, clip: ClipSpec, mask: MaskSpec) -> None:
  """Raises ConfigError unless the backbone can drop the masked tubelets."""
  if config.masked_tokens == "drop":
    check_drops(config.video, clip, mask)


def check_drops(video: BackboneConfig, clip: ClipSpec, mask: MaskSpec) -> None:
  """Checks that a backbone can drop the masked tubelets.

  Raises:
    ConfigError: it needs the same patches, or the same number of them, in every frame.
  """
  if not mask.num_masked(clip.grid):
    return
  name, drops = video.name, backbones.tower(video).drops
  cure = "or config.objective.video.name = 'vit'"
  require(
    drops != "same" or mask.video in ("tube", "block_tube"),
    f"config.mask.video: {mask.video!r} masks other patches in every frame, but "
    f"backbone {name!r} needs the same ones; set 'tube' or 'block_tube', {cure}",
  )
  require(
    drops != "equal" or mask.video != "random",
    "config.mask.video: 'random' leaves frames of different lengths, but backbone "
    f"{name!r} needs equal ones; set 'per_frame', {cure}",
  )
