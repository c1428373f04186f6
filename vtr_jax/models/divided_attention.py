"""Divided space-time attention as in Frozen in Time (arXiv 2104.00650).

Tokens are [class token ; frame 0 ; frame 1 ; ...], all frames of one size: whole
ones, or what the same mask leaves of each.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vtr_jax.models.attention import attend
from vtr_jax.models.layers import (
  BlockConfig,
  Compute,
  Dense,
  Mlp,
  TransformerConfig,
  activation,
)
from vtr_jax.models.norm_gelu import LayerNorm

_ZEROS, _ONES = nn.initializers.zeros_init(), nn.initializers.ones_init()
_XAVIER = nn.initializers.xavier_uniform()
# Kernels of the time attention: (query, key, value), then output.
TIME_INITS = dict(frozen=(_ZEROS, _ONES), output=(_XAVIER, _ZEROS))


class DividedAttention(nn.Module):
  """Attention within a frame or along time (Frozen's VarAttention).

  The class token attends to every token of the clip; another token attends to the
  class token and to the tokens of its own frame (`over="space"`) or of its own
  place in all frames (`over="time"`). Keys have no bias, see layers.Attention.
  """

  num_heads: int
  compute: Compute
  slices: int  # the tokens after the first are `slices` equal frames, in order
  over: str
  inits: tuple  # of the kernels of (query, key, value), and of output

  @nn.compact
  def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
    b, n, d = x.shape
    dense = functools.partial(Dense, d, dtype=self.compute.dtype)
    heads = functools.partial(dense, ("embed", "heads"), kernel_init=self.inits[0])
    split = lambda y: y.reshape(b, n, self.num_heads, d // self.num_heads)
    query = split(heads(name="query")(x))
    key = split(heads(use_bias=False, name="key")(x))
    value = split(heads(name="value")(x))
    self.sow("intermediates", "heads", (query, key))
    with jax.named_scope(f"attend_{self.over}"):
      how = dict(implementation=self.compute.attention)
      cls = attend(query[:, :1], key, value, **how)
      groups = self._group(query)
      inputs = groups, self._with_cls(key), self._with_cls(value)
      rest = attend(*(y.reshape(-1, *y.shape[2:]) for y in inputs), **how)
      rest = rest.reshape(groups.shape)
      if self.over == "time":
        rest = rest.swapaxes(1, 2)
    y = jnp.concatenate([cls.reshape(b, 1, d), rest.reshape(b, n - 1, d)], axis=1)
    return dense(("heads", "embed"), kernel_init=self.inits[1], name="out")(y)

  def _group(self, y: Float[Array, "b n h e"]) -> Float[Array, "b g m h e"]:
    """Groups of tokens that see each other, without the class token."""
    y = y[:, 1:].reshape(y.shape[0], self.slices, -1, *y.shape[2:])
    return y.swapaxes(1, 2) if self.over == "time" else y

  def _with_cls(self, y: Float[Array, "b n h e"]) -> Float[Array, "b g m h e"]:
    groups = self._group(y)
    shape = (*groups.shape[:2], 1, *groups.shape[3:])
    return jnp.concatenate([jnp.broadcast_to(y[:, :1, None], shape), groups], axis=2)


class DividedBlock(nn.Module):
  """Pre-norm block of time attention, space attention and MLP (SpaceTimeBlock).

  The space attention's result is added to the block's input, as in Frozen's code.

  time_init: either way the time attention gives 0 at first, so that the model
    starts as an image model. "frozen" is the code's: query, key and value 0,
    output 1; the gradient of query and key is then exactly 0 for ever, and the
    attention stays a mean over time. "output" sets only the output to 0 (ours).
  """

  size: TransformerConfig
  compute: Compute
  kind: BlockConfig
  slices: int
  time_init: str

  @nn.compact
  def __call__(
    self, x: Float[Array, "b n d"], valid: None = None
  ) -> Float[Array, "b n d"]:
    dtype = self.compute.dtype
    norm = functools.partial(LayerNorm, self.kind.epsilon, dtype)
    attention = functools.partial(
      DividedAttention, self.size.num_heads, self.compute, self.slices
    )
    time = attention("time", TIME_INITS[self.time_init], name="time_attention")
    after_time = x + time(norm(name="norm_time")(x))
    space = attention("space", (_XAVIER, _XAVIER), name="attention")
    y = space(norm(name="norm_attention")(after_time))
    x = x + y
    mlp = Mlp(self.size.mlp_dim, dtype, self.kind.gelu, name="mlp")
    x += mlp(norm(name="norm_mlp")(x))
    return activation(x)
