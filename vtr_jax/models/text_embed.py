"""Masked captions, and BERT's embedding layer."""

import flax.linen as nn
import jax
import jax.numpy as jnp
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


class TextEmbed(nn.Module):
  """Word and learned position embeddings, LayerNorm (epsilon 1e-12), dropout.

  BERT also adds its token-type-0 embedding to every token; here it is part of the
  position table.
  """

  text: TextSpec
  width: int
  dropout: float
  dtype: str
  norm: bool = True

  @nn.compact
  def __call__(
    self, ids: Int32[AnyArray, "b l"], valid: Bool[AnyArray, "b l"], *, train: bool
  ) -> Float[Array, "b l d"]:
    init = nn.initializers.truncated_normal(0.02)
    words = self.param(
      "words", logical(init, ("vocab", "embed")), (self.text.vocab_size, self.width)
    )
    positions = self.param(
      "positions",
      logical(init, ("length", "embed")),
      (self.text.max_length, self.width),
    )
    # Columns are not sharded: the lookup would then communicate every activation.
    words = nn.with_logical_constraint(words.astype(self.dtype), ("vocab", None))
    x = activation(jnp.take(words, ids, axis=0))
    # As PyTorch's padding_idx: padding's word embedding gets no gradient.
    x = jnp.where(valid[:, :, None], x, jax.lax.stop_gradient(x))
    x += positions[None, : ids.shape[1]].astype(self.dtype)
    if self.norm:
      x = LayerNorm(1e-12, self.dtype, name="norm")(x)
    return nn.Dropout(self.dropout)(x, deterministic=not train)
