"""Attention by JAX's splash kernel for TPUs: scores stay in on-chip memory.

Its padding pays off for long clips only: at 316 tokens (four frames of 224 pixels, 60 %
masked) it moves as many bytes as "xla" of `attention.attend` (docs/scale.md).
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float

from vtr_jax.core.arrays import AnyArray
from vtr_jax.core.sharding import ROWS

_TILE = 128  # the kernel requires lengths that are multiples of it
_BLOCK = 512  # maximum; the kernel's default


def attend(
  query: Float[Array, "b n h e"],
  key: Float[Array, "b m h e"],
  value: Float[Array, "b m h e"],
  valid: Bool[AnyArray, "b m"] | None = None,
  causal: bool = False,
  interpret: bool = False,
) -> Float[Array, "b n h e"]:
  """As `attention.attend`; `interpret` runs the kernel without a TPU."""
  if valid is None:
    valid = jnp.ones(key.shape[:2], bool)

  def local(query, key, value, valid):
    return _one_device(query, key, value, valid, causal, interpret)

  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return local(query, key, value, valid)
  # The compiler cannot partition a kernel: each device runs it on its rows and heads.
  rows, heads = PartitionSpec(ROWS), PartitionSpec(ROWS, None, "tensor")
  return jax.shard_map(
    local,
    in_specs=(heads, heads, heads, rows),
    out_specs=heads,
    check_vma=False,
  )(query, key, value, valid)


def _one_device(query, key, value, valid, causal, interpret) -> Float[Array, "b n h e"]:
  length, heads, size = query.shape[1:]
  query = query * size**-0.5
  query, key, value = (_pad(x).swapaxes(1, 2) for x in (query, key, value))
  # Outputs of padding queries are cut off; padding keys are in another segment.
  segments = splash_attention.SegmentIds(
    jnp.ones((query.shape[0], query.shape[2]), jnp.int32),
    _pad(valid).astype(jnp.int32),
  )
  mask = splash_attention.CausalMask if causal else splash_attention.FullMask
  head_mask = mask((query.shape[2], key.shape[2]))
  kernel = splash_attention.make_splash_mha_single_device(
    mask=splash_attention.MultiHeadMask([head_mask] * heads),
    block_sizes=_blocks(query.shape[2], key.shape[2]),
    interpret=interpret,
  )
  out = jax.vmap(kernel)(query, key, value, segments)
  assert isinstance(out, jax.Array)  # a tuple only with save_residuals
  return out.swapaxes(1, 2)[:, :length]


def _pad(x: AnyArray) -> Array:
  """Zero-pads the tokens, axis 1, to a multiple of the tile."""
  padding = (0, -x.shape[1] % _TILE)
  return jnp.pad(x, [(0, 0), padding] + [(0, 0)] * (x.ndim - 2))


def _blocks(queries: int, keys: int) -> splash_attention.BlockSizes:
  """The largest blocks that divide the lengths."""
  q, k = (
    max(b for b in range(_TILE, _BLOCK + 1, _TILE) if n % b == 0)
    for n in (queries, keys)
  )
  return splash_attention.BlockSizes(
    block_q=q,
    block_kv=k,
    block_q_dkv=q,
    block_kv_dkv=k,
    block_q_dq=q,
    block_kv_dq=k,
  )
