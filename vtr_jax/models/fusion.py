"""Fusion of a question with a clip: the question's tokens attend to the clip's tokens.

Each block is self-attention, cross-attention and an MLP, as in the upper text layers of
Singularity (arXiv 2206.03428) and UMT (arXiv 2303.16058), which have three; pre-norm,
from scratch.
"""

import functools

import flax.linen as nn
from jaxtyping import Array, Bool, Float

from vtr_jax.core.arrays import AnyArray
from vtr_jax.models.attention import attend
from vtr_jax.models.layers import (
  VIT,
  Attention,
  Compute,
  Dense,
  Mlp,
  TransformerConfig,
  activation,
  multi_head,
)


class FusionBlock(nn.Module):
  """Words attend to words, then to the clip's tokens; an MLP follows."""

  size: TransformerConfig
  compute: Compute

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "b l d"],
    valid: Bool[AnyArray, "b l"],
    video: Float[Array, "b n d"],
  ) -> Float[Array, "b l d"]:
    heads, dtype = self.size.num_heads, self.compute.dtype
    kind = self.size.adapted(VIT)
    norm = kind.norm(dtype)
    attention = Attention(heads, self.compute, name="attention")
    x += attention(norm(name="norm_attention")(x), valid)
    x += CrossAttention(heads, self.compute, name="cross")(
      norm(name="norm_cross")(x), video
    )
    mlp = Mlp(self.size.mlp_dim, dtype, kind.gelu, name="mlp")
    return activation(x + mlp(norm(name="norm_mlp")(x)))


class CrossAttention(nn.Module):
  """Multi-head attention to other tokens, all of them valid."""

  num_heads: int
  compute: Compute

  @nn.compact
  def __call__(
    self, x: Float[Array, "b l d"], memory: Float[Array, "b n d"]
  ) -> Float[Array, "b l d"]:
    mix = functools.partial(attend, implementation=self.compute.attention)
    return multi_head(self, mix, x, memory, self.num_heads, self.compute.dtype)


class Fusion(nn.Module):
  """The question's first token after `size.depth` blocks, in float32."""

  size: TransformerConfig  # of the text tower, and the number of blocks
  compute: Compute

  @nn.compact
  def __call__(
    self,
    words: Float[Array, "b l d"],
    valid: Bool[AnyArray, "b l"],
    video: Float[Array, "b n e"],
  ) -> Float[Array, "b d"]:
    """Reads tokens of both towers, whose widths may differ."""
    dtype, norm = self.compute.dtype, self.size.adapted(VIT).norm
    project = Dense(self.size.width, ("heads", "embed"), dtype, name="video")
    video = project(norm(dtype)(name="norm_video")(video))
    x = words.astype(dtype)
    for i in range(self.size.depth):
      block = FusionBlock(self.size, self.compute, name=f"block_{i}")
      x = block(x, valid, video)
    return norm("float32")(name="norm")(x[:, 0])


class Head(nn.Module):
  """Two layers, the first of twice the width (ALPRO, VIOLET); dropout before them."""

  outputs: int
  dropout: float

  @nn.compact
  def __call__(self, x: Float[Array, "b d"], *, train: bool) -> Float[Array, "b v"]:
    x = nn.Dropout(self.dropout)(x, deterministic=not train)
    x = Dense(2 * x.shape[-1], ("embed", "mlp"), "float32", name="hidden")(x)
    return Dense(self.outputs, ("mlp", "classes"), "float32", name="out")(nn.relu(x))
