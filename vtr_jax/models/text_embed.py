"""Masked captions, and BERT's embedding layer."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32

from vtr_jax.core.arrays import AnyArray
from vtr_jax.core.batch import Batch, MaskSpec, TextSpec
from vtr_jax.models.layers import activation, logical
from vtr_jax.models.norm_gelu import LayerNorm


def mask_text(
  batch: Batch, mask: MaskSpec, mask_id: int
) -> tuple[Int32[AnyArray, "b l"], Bool[AnyArray, "b l"]]:
  """(ids, valid) of captions whose masked tokens are replaced, or left out.

  A token that is left out keeps its position, but no other token attends to it.
  """
  ids, valid, masked = batch["text_ids"], batch["text_valid"], batch["text_masked"]
  if mask.text == "drop":
    return ids, valid & ~masked
  return jnp.where(masked, mask_id, ids), valid


def sinusoids(length: int, width: int) -> Float[np.ndarray, "l d"]:
  """Sines in the first half of the columns, cosines in the second (VideoPrism's code).

  Wavelengths grow from 2 pi to 20000 pi tokens, both included.
  """
  half = width // 2
  rate = 10000.0 ** (-np.arange(half) / max(half - 1, 1))
  angle = np.arange(length)[:, None] * rate
  return np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)


class TextEmbed(nn.Module):
  """Word and learned position embeddings, LayerNorm, dropout.

  BERT also adds its token-type-0 embedding to every token; here it is part of the
  position table.
  """

  text: TextSpec
  width: int
  dropout: float
  dtype: str
  norm: bool = True
  sinusoid: bool = False  # words times sqrt(width) plus sinusoids, none of it learned
  epsilon: float = 1e-12  # of the LayerNorm; BERT's

  @nn.compact
  def __call__(
    self, ids: Int32[AnyArray, "b l"], valid: Bool[AnyArray, "b l"], *, train: bool
  ) -> Float[Array, "b l d"]:
    init = nn.initializers.truncated_normal(0.02)
    words = self.param(
      "words", logical(init, ("vocab", "embed")), (self.text.vocab_size, self.width)
    )
    if self.sinusoid:
      positions = jnp.asarray(sinusoids(ids.shape[1], self.width))
    else:
      shape = self.text.max_length, self.width
      positions = self.param("positions", logical(init, ("length", "embed")), shape)
    # Columns are not sharded: the lookup would then communicate every activation.
    words = nn.with_logical_constraint(words.astype(self.dtype), ("vocab", None))
    x = activation(jnp.take(words, ids, axis=0))
    # As PyTorch's padding_idx: padding's word embedding gets no gradient.
    x = jnp.where(valid[:, :, None], x, jax.lax.stop_gradient(x))
    if self.sinusoid:
      x *= math.sqrt(self.width)
    x += positions[None, : ids.shape[1]].astype(self.dtype)
    if self.norm:
      x = LayerNorm(self.epsilon, self.dtype, name="norm")(x)
    return nn.Dropout(self.dropout)(x, deterministic=not train)
