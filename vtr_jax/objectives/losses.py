"""Functions that losses are made of."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, Num

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


def at_masked(
  masked: Bool[AnyArray, "b l"],
  count: int,
  *values: Num[AnyArray, "b l ..."] | Bool[AnyArray, "b l"],
) -> tuple[Any, ...]:
  """Each of `values` at `count` positions of a row: its masked ones, then others.

  For predictions at masked positions alone; no row may have more than `count`. With a
  count of l or more, the values themselves.
  """
  if count >= masked.shape[1]:
    return values
  idx = jnp.argsort(~jnp.asarray(masked), axis=1, stable=True)[:, :count]
  expanded = lambda x: idx.reshape(*idx.shape, *[1] * (x.ndim - 2))
  return tuple(jnp.take_along_axis(x, expanded(x), axis=1) for x in values)


@jax.custom_vjp
def cross_entropy(
  logits: Float[Array, "... v"], labels: Int32[AnyArray, "..."]
) -> Float[Array, "..."]:
  """Negative log-likelihood of `labels`, each in [0, v), in float32.

  Only the logits are kept for the gradient, in their own dtype, and the label's logit
  is found by a masked sum, with which XLA reads bfloat16 ones directly. Otherwise
  exponentials, and the operand of a look-up by index, are written in float32.
  """
  return _cross_entropy_forward(logits, labels)[0]


def _cross_entropy_forward(logits: Array, labels: AnyArray) -> tuple[Array, tuple]:
  top = logits.max(axis=-1, keepdims=True).astype(jnp.float32)
  shifted = logits.astype(jnp.float32) - top
  picked = jnp.sum(jnp.where(_is_label(logits, labels), shifted, 0), axis=-1)
  log_sum = jnp.log(jnp.exp(shifted).sum(axis=-1, keepdims=True))
  return log_sum[..., 0] - picked, (logits, labels, top, log_sum)


def _cross_entropy_backward(saved: tuple, g: Array) -> tuple[Array, None]:
  logits, labels, top, log_sum = saved
  # A quotient by the sum would make XLA keep the forward pass's exponentials; `top` is
  # subtracted first because a large one leaves few digits of log_sum.
  softmax = jnp.exp(logits.astype(jnp.float32) - top - log_sum)
  slope = jnp.where(_is_label(logits, labels), softmax - 1, softmax) * g[..., None]
  return slope.astype(logits.dtype), None


def _is_label(logits: Array, labels: AnyArray) -> Bool[Array, "... v"]:
  classes = jnp.arange(logits.shape[-1], dtype=labels.dtype)
  return labels[..., None] == jax.lax.broadcast_to_rank(classes, logits.ndim)


cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)


def soft_cross_entropy(
  logits: Float[Array, "... v"], targets: Float[AnyArray, "... v"]
) -> Float[Array, "..."]:
  """Cross entropy with target distributions, whose rows sum to 1, in float32."""
  log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
  return -jnp.sum(jnp.asarray(targets, jnp.float32) * log_probs, axis=-1)
