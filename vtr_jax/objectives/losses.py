"""Functions that losses are made of."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from vtr_jax.core.arrays import AnyArray


class Term(NamedTuple):
  """A loss term as a sum, so that microbatches, hosts and devices add up exactly."""

  total: Float[Array, ""]  # sum over all that counts
  count: Float[Array, ""]  # how many values those are; independent of parameters

  def mean(self) -> Float[Array, ""]:
    """The mean; 0 if nothing counts."""
    return self.total / jnp.maximum(self.count, 1)


def masked_sum(values: Float[Array, "..."], mask: Bool[AnyArray, "..."]) -> Term:
  """The sum of `values` where `mask`; `mask` may lack trailing axes."""
  weight = jnp.broadcast_to(
    mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim)), values.shape
  ).astype(jnp.float32)
  # where, not a product: masked values may be anything, even NaN.
  total = jnp.sum(jnp.where(weight > 0, values.astype(jnp.float32), 0))
  return Term(total, jnp.sum(weight))


def cross_entropy(
  logits: Float[Array, "... v"], labels: Int32[AnyArray, "..."]
) -> Float[Array, "..."]:
  """Negative log-likelihood of `labels`, each in [0, v), in float32.

  The label's logit is found by a masked sum: XLA then reads bfloat16 logits directly. A
  look-up by index would write all of them in float32, and so would its gradient.
  """
  classes = jnp.arange(logits.shape[-1], dtype=labels.dtype)
  classes = jax.lax.broadcast_to_rank(classes, logits.ndim)
  logits = logits.astype(jnp.float32)
  picked = jnp.sum(jnp.where(labels[..., None] == classes, logits, 0), axis=-1)
  return jax.nn.logsumexp(logits, axis=-1) - picked


def soft_cross_entropy(
  logits: Float[Array, "... v"], targets: Float[AnyArray, "... v"]
) -> Float[Array, "..."]:
  """Cross entropy with target distributions, whose rows sum to 1, in float32."""
  log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
  return -jnp.sum(jnp.asarray(targets, jnp.float32) * log_probs, axis=-1)
