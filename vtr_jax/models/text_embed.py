"""Hidden words, and BERT's first layer (word + position, LayerNorm, dropout)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from vtr_jax.core.arrays import AnyArray
from vtr_jax.core.batch import Batch, MaskSpec, TextSpec
from vtr_jax.models.layers import activation, logical
from vtr_jax.models.norm_gelu import LayerNorm


def hide_words(
  batch: Batch, mask: MaskSpec, mask_id: int
) -> tuple[Int32[AnyArray, "b l"], Bool[AnyArray, "b l"]]:
  """(ids, valid) of captions whose hidden words are replaced, or left out.

  A word that is left out keeps its place, and no other word attends to it.
  """
  ids, valid, hidden = batch["text_ids"], batch["text_valid"], batch["text_masked"]
  if mask.text == "drop":
    return ids, valid & ~hidden
  return jnp.where(hidden, mask_id, ids), valid


class TextEmbed(nn.Module):
  """Words and learned positions, normalised (epsilon 1e-12, as in BERT) or not.

  BERT also adds its token-type-0 row to every token; that row belongs into the
  position table here.
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
    # Whole rows: a lookup in a table split by column would move every activation.
    words = nn.with_logical_constraint(words.astype(self.dtype), ("vocab", None))
    x = activation(jnp.take(words, ids, axis=0))
    # As PyTorch's padding_idx: padding never trains its word row.
    x = jnp.where(valid[:, :, None], x, jax.lax.stop_gradient(x))
    x += positions[None, : ids.shape[1]].astype(self.dtype)
    if self.norm:
      x = LayerNorm(1e-12, self.dtype, name="norm")(x)
    return nn.Dropout(self.dropout)(x, deterministic=not train)
