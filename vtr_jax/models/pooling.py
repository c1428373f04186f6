"""Pooled features, and attention pooling."""

import functools
from typing import NamedTuple

import flax.linen as nn
from jaxtyping import Array, Float

from vtr_jax.models.attention import attend
from vtr_jax.models.layers import (
  BlockConfig,
  Compute,
  Mlp,
  TransformerConfig,
  logical,
  multi_head,
)
from vtr_jax.models.norm_gelu import LayerNorm


class VideoFeatures(NamedTuple):
  """Features of unmasked clips before any projection, for probes and heads."""

  pooled: Float[Array, "b d"]  # pooled as for the embedding
  tokens: Float[Array, "b n d"]  # all tokens; class tokens first


class AttentionPool(nn.Module):
  """A learned query attends to all tokens; then an MLP (SigLIP, arXiv 2303.15343)."""

  size: TransformerConfig
  compute: Compute
  kind: BlockConfig

  @nn.compact
  def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b d"]:
    width, heads, dtype = self.size.width, self.size.num_heads, self.compute.dtype
    init = logical(nn.initializers.xavier_uniform(), ("norm", "norm"))
    probe = self.param("probe", init, (1, width)).astype(dtype)
    mix = functools.partial(attend, implementation=self.compute.attention)
    y = multi_head(self, mix, probe[None], x, heads, dtype)[:, 0]
    norm = LayerNorm(self.kind.epsilon, dtype, name="norm")
    return y + Mlp(self.size.mlp_dim, dtype, self.kind.gelu, name="mlp")(norm(y))
