"""Pooled features, and attention pooling."""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
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
    init = logical(nn.initializers.xavier_uniform(), ("length", "norm"))
    probe = self.param("probe", init, (1, width)).astype(dtype)
    mix = functools.partial(attend, implementation=self.compute.attention)
    y = multi_head(self, mix, probe[None], x, heads, dtype)[:, 0]
    kind = self.size.adapted(self.kind)
    norm = LayerNorm(kind.epsilon, dtype, name="norm")
    return y + Mlp(self.size.mlp_dim, dtype, kind.gelu, name="mlp")(norm(y))


class ScaledPool(nn.Module):
  """A learned query attends to all tokens, in heads of 4 width / num_heads channels.

  Each channel of the query has a learned scale. A LayerNorm follows, no MLP; there is
  no residual and no logit cap (VideoPrism, arXiv 2402.13217, and its code).
  """

  size: TransformerConfig
  compute: Compute
  kind: BlockConfig

  @nn.compact
  def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b d"]:
    width, heads, dtype = self.size.width, self.size.num_heads, self.compute.dtype
    init, zeros = nn.initializers.xavier_uniform(), nn.initializers.zeros_init()
    probe = self.param("probe", logical(init, ("length", "norm")), (1, width))
    scale = self.param("query_scale", logical(zeros, ("norm",)), (4 * width // heads,))
    mix = functools.partial(attend, implementation=self.compute.attention)
    y = multi_head(
      self,
      mix,
      probe.astype(dtype)[None],
      x,
      heads,
      dtype,
      key_bias=self.kind.key_bias,
      inner=4 * width,
      query_scale=jax.nn.softplus(scale) * 1.442695041,  # 1 / log 2: 1 at the start
    )
    return self.size.adapted(self.kind).norm(dtype)(name="norm")(y[:, 0])


POOLS = dict(siglip=AttentionPool, videoprism=ScaledPool)
