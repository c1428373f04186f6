"""The text tower: token embeddings through a stack of blocks."""

import dataclasses
import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from vtr_jax.core.arrays import AnyArray
from vtr_jax.core.batch import TextSpec
from vtr_jax.models.config import Config
from vtr_jax.models.depth import layer_of
from vtr_jax.models.layers import (
  Attention,
  BlockConfig,
  Compute,
  Mlp,
  Transformer,
  TransformerConfig,
  activation,
  logical,
  run_blocks,
)
from vtr_jax.models.text_embed import TextEmbed

POST_NORM = BlockConfig(epsilon=1e-12)  # BERT's and DistilBERT's


class TextBlock(nn.Module):
  """Post-norm block (BERT, DistilBERT)."""

  size: TransformerConfig
  compute: Compute
  dropout: float  # of the MLP; DistilBERT's attention dropout is left out

  @nn.compact
  def __call__(
    self, x: Float[Array, "b l d"], valid: Bool[AnyArray, "b l"]
  ) -> Float[Array, "b l d"]:
    kind = self.size.adapted(POST_NORM)
    norm = kind.norm(self.compute.dtype)
    attention = Attention(self.size.num_heads, self.compute, name="attention")
    x = norm(name="norm_attention")(x + attention(x, valid))
    y = Mlp(self.size.mlp_dim, self.compute.dtype, kind.gelu, name="mlp")(x)
    y = nn.Dropout(self.dropout, deterministic=False)(y)
    return activation(norm(name="norm_mlp")(x + y))


class TextTower(nn.Module):
  """Encodes captions to one embedding per token, an appended class token last."""

  text: TextSpec
  config: Config

  @nn.nowrap
  def layer(self, path: str) -> int | range:
    """As `Backbone.layer`, of the text tower."""
    return layer_of(path.removeprefix("transformer/"), self.config.text.depth)

  @nn.compact
  def __call__(
    self, ids: Int32[AnyArray, "b l"], valid: Bool[AnyArray, "b l"], *, train: bool
  ) -> Float[Array, "b _ d"]:
    c, parts = self.config, self.config.parts
    rate = c.text_dropout if train else 0.0
    dtype, norm = c.compute.dtype, parts.norm_text_embed
    width, sinusoid = c.text.width, parts.sinusoid_text
    epsilon = c.text.adapted(POST_NORM).epsilon
    embed = TextEmbed(
      self.text, width, rate, dtype, norm, sinusoid, epsilon, name="embed"
    )
    x = embed(ids, valid, train=train)
    if parts.text_at == "appended":
      init = nn.initializers.truncated_normal(0.02)
      cls = self.param("cls_token", logical(init, ("norm",)), (width,))
      if sinusoid:
        cls = cls * math.sqrt(width)
      cls = jnp.broadcast_to(cls.astype(dtype)[None, None], (x.shape[0], 1, width))
      x, valid = jnp.concatenate([x, cls], axis=1), with_appended(c, valid)
    if c.text_norm == "pre":
      kind = dataclasses.replace(parts.kind, causal=parts.causal_text)
      after = not parts.norm_pooled
      return Transformer(c.text, c.compute, kind, after, name="transformer")(x, valid)
    fields = (c.text, c.compute, rate)
    return run_blocks(TextBlock, fields, c.text.depth, c.compute, x, valid)


def with_appended(config: Config, valid: Bool[AnyArray, "b l"]) -> Bool[Array, "b _"]:
  """Which of the tower's tokens are valid: an appended class token always is."""
  count = int(config.parts.text_at == "appended")
  return jnp.pad(valid, ((0, 0), (0, count)), constant_values=True)
