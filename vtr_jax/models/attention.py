"""Scaled dot-product attention, in the implementations of `Compute.attention`.

"xla" is ours: autodiff of jax.nn.dot_product_attention stores and moves several float32
arrays of the size of the scores, this one only the probabilities, in the activations'
dtype. "cudnn" is the fused kernel for NVIDIA GPUs, in bfloat16; "pallas" is ours for
TPUs (models/pallas_attention.py). "auto" chooses, see `resolve`.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int32

from vtr_jax.core import sharding
from vtr_jax.core.arrays import AnyArray
from vtr_jax.core.errors import ConfigError

IMPLEMENTATIONS = ("auto", "xla", "cudnn", "pallas")
PLATFORMS = dict(cudnn="gpu", pallas="tpu")  # that an implementation needs
ALL = -1  # the group of tokens that see, and are seen by, every token

# "auto", ours: below this, the probabilities of a query are fewer numbers than its
# head's channels, and a kernel saves no bytes.
_SHORTEST = 32

# Products of bfloat16 accumulate in float32, as everywhere. Requested explicitly, this
# lets XLA's CPU back end multiply bfloat16 directly, without conversion to float32.
einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


class Seen(NamedTuple):
  """Which tokens of a row see which, for self-attention; see `attend`."""

  valid: Bool[AnyArray, "b n"] | None
  groups: Int32[AnyArray, "#b n"] | None
  length: int | None = None  # the valid tokens are the first ones, so many of each row


def attend(
  query: Float[Array, "b n h e"],
  key: Float[Array, "b m h e"],
  value: Float[Array, "b m h e"],
  valid: Bool[AnyArray, "b m"] | None = None,
  implementation: str = "xla",
  causal: bool = False,
  logit_cap: float = 0.0,
  groups: Int32[AnyArray, "#b n"] | None = None,
  length: int | None = None,
) -> Float[Array, "b n h e"]:
  """softmax(query key / sqrt(e)) value, of each head.

  Args:
    query: n may differ from m.
    key: of the tokens that are attended to.
    value: of the same tokens.
    valid: keys that are attended to; None = all.
    implementation: one of `IMPLEMENTATIONS`.
    causal: a query does not attend to later keys.
    logit_cap: s becomes cap tanh(s / cap) before the softmax; 0 = none. "xla" only.
    groups: a query attends to the valid keys of its own group and of group `ALL`, and
      one of group `ALL` to every valid key; other numbers are 0 or more. Self-attention
      only. One row serves all rows. None = one group.
    length: of self-attention whose `valid` are the first tokens, so many of each row;
      cuDNN then reads no mask, and the others get zeros.

  Raises:
    ConfigError: the implementation is for other devices.
  """
  implementation = resolve(implementation, query, key, logit_cap)
  if implementation == "xla":
    seen = _seen(valid, groups)
    return _attend(query, key, value, seen, causal, logit_cap)
  assert not logit_cap, f"{implementation} has no logit cap"
  if implementation == "pallas":
    from vtr_jax.models import pallas_attention  # imports Pallas, which takes a second

    return pallas_attention.attend(query, key, value, valid, groups, causal)
  if length is not None:
    return _cudnn_of_length(query, key, value, length, causal)
  return _cudnn(query, key, value, _seen(valid, groups), causal)


def evened(
  x: Float[Array, "b n d"], implementation: str, num_heads: int, logit_cap: float
) -> tuple[Array, Seen | None]:
  """(tokens, which are seen), with one more token where cuDNN would pad in each layer.

  Its gradient needs an even number. The tokens are as they are, and the second is None,
  where `attend` takes another implementation.
  """
  b, n, d = x.shape
  heads = x.reshape(b, n, num_heads, d // num_heads)
  if n % 2 == 0 or resolve(implementation, heads, heads, logit_cap) != "cudnn":
    return x, None
  valid = jnp.broadcast_to(jnp.arange(n + 1)[None] < n, (b, n + 1))
  return jnp.pad(x, ((0, 0), (0, 1), (0, 0))), Seen(valid, None, n)


def resolve(
  implementation: str,
  query: Float[Array, "b n h e"],
  key: Float[Array, "b m h e"],
  logit_cap: float = 0.0,
) -> str:
  """What "auto" means for these inputs: xla | cudnn | pallas; others are checked.

  The devices are those of the enclosing `sharding.scope`, attached or not.

  Raises:
    ConfigError: the implementation is for other devices.
  """
  platform = sharding.platform()
  if implementation != "auto":
    check(implementation, platform)
    return implementation
  if logit_cap or min(query.shape[1], key.shape[1]) < _SHORTEST:
    return "xla"
  if platform == "tpu":
    from vtr_jax.models import pallas_attention

    return "pallas" if pallas_attention.supports(key) else "xla"
  return "cudnn" if platform == "gpu" and _cudnn_supports(key) else "xla"


def check(implementation: str, platform: str) -> None:
  """Raises ConfigError if the implementation is for other devices."""
  if PLATFORMS.get(implementation, platform) != platform:
    raise ConfigError(
      f"config.objective.compute.attention: {implementation!r} needs a "
      f"{PLATFORMS[implementation].upper()}, this step is for {platform}; set 'auto'"
    )


def _cudnn_supports(key: Float[Array, "b m h e"]) -> bool:
  """cuDNN's own limits (jax.nn.dot_product_attention): NVIDIA GPUs from Ampere on.

  A GPU that a step is planned for (plan/gpus.py) is one of these.
  """
  capability = str(getattr(jax.devices()[0], "compute_capability", "8.0"))
  size, (major, _, _) = key.shape[3], capability.partition(".")
  ampere = major.isdigit() and int(major) >= 8
  return ampere and key.dtype == jnp.bfloat16 and size <= 128 and size % 8 == 0


def _seen(valid: AnyArray | None, groups: AnyArray | None) -> Array | None:
  """Which keys queries see, [b or 1, n or 1, m]; None = all."""
  seen = None if valid is None else jnp.asarray(valid)[:, None, :]
  if groups is not None:
    queries, keys = jnp.asarray(groups)[:, :, None], jnp.asarray(groups)[:, None, :]
    same = (queries == keys) | (queries == ALL) | (keys == ALL)
    seen = same if seen is None else seen & same
  return seen


def _cudnn_of_length(
  query: Array, key: Array, value: Array, length: int, causal: bool
) -> Array:
  lengths = jnp.full(len(query), length, jnp.int32)
  # What the kernel writes at padding is not defined, in gradients neither: NaN, too.
  real = (jnp.arange(query.shape[1]) < length)[None, :, None, None]
  defined = lambda x: jnp.where(real, x, 0)
  out = jax.nn.dot_product_attention(
    *map(defined, (query, key, value)),
    query_seq_lengths=lengths,
    key_value_seq_lengths=lengths,
    is_causal=causal,
    implementation="cudnn",
  )
  return defined(out)


def _cudnn(
  query: Array, key: Array, value: Array, seen: Array | None, causal: bool
) -> Array:
  fused = functools.partial(
    jax.nn.dot_product_attention, is_causal=causal, implementation="cudnn"
  )
  (b, n), m = query.shape[:2], key.shape[1]
  if seen is None and n % 2 == m % 2 == 0:
    return fused(query, key, value)
  # Its gradient needs even lengths, and a mask of every row and query.
  seen = (
    jnp.ones((b, n, m), bool) if seen is None else jnp.broadcast_to(seen, (b, n, m))
  )
  mask = jnp.pad(seen, ((0, 0), (0, n % 2), (0, m % 2)))[:, None]
  even = lambda x: jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0)))
  return fused(even(query), even(key), even(value), mask=mask)[:, :n]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _attend(
  query: Array,
  key: Array,
  value: Array,
  seen: Array | None,
  causal: bool,
  cap: float,
) -> Array:
  return _forward(query, key, value, seen, causal, cap)[0]


def _forward(
  query: Array,
  key: Array,
  value: Array,
  seen: Array | None,
  causal: bool,
  cap: float,
) -> tuple[Array, tuple[Array, ...]]:
  query = query * query.shape[-1] ** -0.5
  scores = einsum("bnhe,bmhe->bhnm", query, key)
  if cap:
    scores = cap * jnp.tanh(scores / cap)
  if seen is not None:
    scores = jnp.where(seen[:, None], scores, -1e30)
  if causal:
    scores = jnp.where(jnp.tri(*scores.shape[2:], dtype=bool), scores, -1e30)
  probs = jax.nn.softmax(scores, axis=-1).astype(query.dtype)
  probs = checkpoint_name(probs, "probs")
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
