"""Scaled dot-product attention, in the implementations of `Compute.attention`.

"xla" is ours: autodiff of jax.nn.dot_product_attention stores and moves several float32
arrays of the size of the scores, this one only the probabilities, in the activations'
dtype. "cudnn" is the fused kernel for NVIDIA GPUs, in bfloat16; "splash" that for TPUs.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vtr_jax.core.arrays import AnyArray

IMPLEMENTATIONS = ("xla", "cudnn", "splash")

# Products of bfloat16 accumulate in float32, as everywhere. Requested explicitly, this
# lets XLA's CPU back end multiply bfloat16 directly, without conversion to float32.
einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def attend(
  query: Float[Array, "b n h e"],
  key: Float[Array, "b m h e"],
  value: Float[Array, "b m h e"],
  valid: Bool[AnyArray, "b m"] | None = None,
  implementation: str = "xla",
  causal: bool = False,
  logit_cap: float = 0.0,
) -> Float[Array, "b n h e"]:
  """softmax(query key / sqrt(e)) value, of each head.

  Invalid keys are not attended to, nor are later ones than the query if `causal`. With
  a `logit_cap` ("xla" only), s becomes cap tanh(s / cap) before the softmax.
  """
  if implementation == "xla":
    return _attend(query, key, value, valid, causal, logit_cap)
  assert not logit_cap, f"{implementation} has no logit cap"
  if implementation == "splash":
    from vtr_jax.models import splash  # imports Pallas, which takes a second

    return splash.attend(query, key, value, valid, causal)
  return _cudnn(query, key, value, valid, causal)


def _cudnn(
  query: Array, key: Array, value: Array, valid: AnyArray | None, causal: bool
) -> Array:
  fused = functools.partial(
    jax.nn.dot_product_attention, is_causal=causal, implementation="cudnn"
  )
  if valid is None and query.shape[1] % 2 == key.shape[1] % 2 == 0:
    return fused(query, key, value)
  if valid is None:
    valid = jnp.ones(key.shape[:2], bool)
  # Its gradient needs even lengths, and the mask a row for every query.
  even = lambda x: jnp.pad(x, [(0, 0), (0, x.shape[1] % 2)] + [(0, 0)] * (x.ndim - 2))
  padded = even(query)
  mask = even(valid)[:, None, None, :]
  mask = jnp.broadcast_to(mask, (len(mask), 1, padded.shape[1], mask.shape[3]))
  return fused(padded, even(key), even(value), mask=mask)[:, : query.shape[1]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _attend(
  query: Array,
  key: Array,
  value: Array,
  valid: AnyArray | None,
  causal: bool,
  cap: float,
) -> Array:
  return _forward(query, key, value, valid, causal, cap)[0]


def _forward(
  query: Array,
  key: Array,
  value: Array,
  valid: AnyArray | None,
  causal: bool,
  cap: float,
) -> tuple[Array, tuple[Array, ...]]:
  query = query * query.shape[-1] ** -0.5
  scores = einsum("bnhe,bmhe->bhnm", query, key)
  if cap:
    scores = cap * jnp.tanh(scores / cap)
  if valid is not None:
    scores = jnp.where(valid[:, None, None, :], scores, -1e30)
  if causal:
    scores = jnp.where(jnp.tri(*scores.shape[2:], dtype=bool), scores, -1e30)
  probs = jax.nn.softmax(scores, axis=-1).astype(query.dtype)
  out = einsum("bhnm,bmhe->bnhe", probs, value).astype(query.dtype)
  return out, (query, key, value, probs, out)


def _backward(
  causal: bool, cap: float, saved: tuple[Array, ...], g: Array
) -> tuple[Array | None, ...]:
  del causal  # the probabilities are 0 there
  query, key, value, probs, out = saved
  to_value = einsum("bhnm,bnhe->bmhe", probs, g)
  to_probs = einsum("bnhe,bmhe->bhnm", g, value)
  # Equals the sum over keys of probs * to_probs, from far fewer values.
  mean = einsum("bnhe,bnhe->bhn", g, out)[..., None]
  to_scores = probs.astype(mean.dtype) * (to_probs - mean)
  if cap:  # recomputed: tanh would take as much memory as the probabilities
    tanh = jnp.tanh(einsum("bnhe,bmhe->bhnm", query, key) / cap)
    to_scores *= 1 - tanh * tanh
  to_scores = to_scores.astype(query.dtype)
  to_query = einsum("bhnm,bmhe->bnhe", to_scores, key) * query.shape[-1] ** -0.5
  to_key = einsum("bhnm,bnhe->bmhe", to_scores, query)
  return *(y.astype(query.dtype) for y in (to_query, to_key, to_value)), None


_attend.defvjp(_forward, _backward)
