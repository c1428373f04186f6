"""Pooling by attention."""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vtr_jax.models.attention import attend
from vtr_jax.models.layers import (
  BlockConfig,
  Compute,
  Dense,
  Mlp,
  TransformerConfig,
  logical,
)
from vtr_jax.models.norm_gelu import LayerNorm


class AttentionPool(nn.Module):
  """A learned probe asks all tokens; then an MLP (SigLIP's head, arXiv 2303.15343)."""

  size: TransformerConfig
  compute: Compute
  kind: BlockConfig

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
