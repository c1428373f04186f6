"""Divided space-time attention as in Frozen in Time (arXiv 2104.00650).

Tokens are [class token ; frame 0 ; frame 1 ; ...], with the same patches of every
frame: all of them, or those that one mask leaves visible. A frame is one time index of
the grid of tubelets.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from vtr_jax.models.attention import ALL, attend, resolve
from vtr_jax.models.layers import (
  BlockConfig,
  Compute,
  Mlp,
  TransformerConfig,
  activation,
  drop_path,
  multi_head,
)
from vtr_jax.models.norm_gelu import LayerNorm

_ZEROS, _ONES = nn.initializers.zeros_init(), nn.initializers.ones_init()
_XAVIER = nn.initializers.xavier_uniform()
# Tokens up to which a TPU computes the scores of all pairs: planned for 785 (MILES'
# recipe, docs/scale.md); at 3,137 they would double a layer's FLOPs; ours.
_MOST_PAIRED = 1024
# Kernels of the time attention: (query, key, value), then output.
TIME_INITS = dict(frozen=(_ZEROS, _ONES), output=(_XAVIER, _ZEROS))


class DividedAttention(nn.Module):
  """Attention within a frame or along time (Frozen's VarAttention).

  The class token attends to every token of the clip; a patch attends to the class
  token and to the patches of its frame (`over="space"`) or to those at its position
  in all frames (`over="time"`).
  """

  num_heads: int
  compute: Compute
  num_frames: int
  over: str  # space | time
  inits: tuple[Callable, Callable]  # of the kernels of (query, key, value); of output

  @nn.compact
  def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
    heads, dtype = self.num_heads, self.compute.dtype
    return multi_head(self, self._mix, x, x, heads, dtype, self.inits)

  def _mix(self, query: Array, key: Array, value: Array) -> Float[Array, "b n h e"]:
    implementation = resolve(self.compute.attention, query, key)
    mix = functools.partial(attend, implementation=self.compute.attention)
    flat = lambda y: y.reshape(-1, *y.shape[2:])
    with jax.named_scope(f"attend_{self.over}"):
      if implementation == "pallas" and query.shape[1] <= _MOST_PAIRED:
        # Scores of all pairs, most of them masked, take a TPU less time than moving
        # tokens into groups and back (docs/scale.md).
        numbers = self._group_numbers(query.shape[1] - 1)
        return attend(query, key, value, implementation="pallas", groups=numbers)
      cls = mix(query[:, :1], key, value)
      groups = self._group(query)
      keys, values = self._with_cls(key), self._with_cls(value)
      patches = mix(flat(groups), flat(keys), flat(values)).reshape(groups.shape)
      if self.over == "time":
        patches = patches.swapaxes(1, 2)
      return jnp.concatenate([cls, patches.reshape(query[:, 1:].shape)], axis=1)

  def _group_numbers(self, patches: int) -> Int32[np.ndarray, "1 n"]:
    """Number of each token's group; ALL for the class token."""
    frame, position = np.divmod(np.arange(patches), patches // self.num_frames)
    numbers = position if self.over == "time" else frame
    return np.concatenate([[ALL], numbers])[None].astype(np.int32)

  def _group(self, y: Float[Array, "b n h e"]) -> Float[Array, "b g m h e"]:
    """Groups of patches that attend to each other."""
    y = y[:, 1:].reshape(y.shape[0], self.num_frames, -1, *y.shape[2:])
    return y.swapaxes(1, 2) if self.over == "time" else y

  def _with_cls(self, y: Float[Array, "b n h e"]) -> Float[Array, "b g m h e"]:
    groups = self._group(y)
    shape = (*groups.shape[:2], 1, *groups.shape[3:])
    return jnp.concatenate([jnp.broadcast_to(y[:, :1, None], shape), groups], axis=2)


class DividedBlock(nn.Module):
  """Pre-norm block of time attention, space attention and MLP (SpaceTimeBlock).

  The output of space attention is added to the block's input, as in Frozen's code. Drop
  path is that of space attention and MLP, since time attention is no residual branch.

  time_init: both choices make the output of time attention 0 at initialisation, so
    that the model starts as an image model. "frozen" (Frozen's code): query, key and
    value kernels 0, output 1; the gradient of query and key is then exactly 0 for
    ever, and the attention stays a mean over time. "output" (ours): output kernel 0.
  """

  size: TransformerConfig
  compute: Compute
  kind: BlockConfig
  num_frames: int
  time_init: str

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "b n d"],
    valid: None = None,
    drop_rate: Float[Array, ""] | None = None,
  ) -> Float[Array, "b n d"]:
    dtype = self.compute.dtype
    norm = functools.partial(LayerNorm, self.kind.epsilon, dtype)
    attention = functools.partial(
      DividedAttention, self.size.num_heads, self.compute, self.num_frames
    )
    time = attention("time", TIME_INITS[self.time_init], name="time_attention")
    after_time = x + time(norm(name="norm_time")(x))
    space = attention("space", (_XAVIER, _XAVIER), name="attention")
    y = space(norm(name="norm_attention")(after_time))
    x = x + drop_path(self, y, drop_rate)
    mlp = Mlp(self.size.mlp_dim, dtype, self.kind.gelu, name="mlp")
    x += drop_path(self, mlp(norm(name="norm_mlp")(x)), drop_rate)
    return activation(x)
