"""Functions that losses are made of."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from vtr_jax.core.arrays import AnyArray


def masked_mean(
  values: Float[Array, "..."], mask: Bool[AnyArray, "..."]
) -> Float[Array, ""]:
  """Mean of `values` where `mask`, 0 if nowhere; `mask` may lack trailing axes."""
  weight = jnp.broadcast_to(
    mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim)), values.shape
  ).astype(jnp.float32)
  # where, not a product: masked values may be anything, even NaN.
  total = jnp.sum(jnp.where(weight > 0, values.astype(jnp.float32), 0))
  return total / jnp.maximum(jnp.sum(weight), 1)


def cross_entropy(
  logits: Float[Array, "... v"], labels: Int32[AnyArray, "..."]
) -> Float[Array, "..."]:
  """Negative log-likelihood of `labels`, in float32."""
  logits = logits.astype(jnp.float32)
  picked = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
  return jax.nn.logsumexp(logits, axis=-1) - picked
