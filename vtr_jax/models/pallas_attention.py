"""Attention for TPUs, in Pallas: scores never leave the fast memory (VMEM).

For the lengths that masking leaves, up to 3,200 tokens. Queries, keys and values are
read as products write them, [b, n, heads * size], 128 lanes at a time. Several heads
may lie in those; each one's product has the other lanes set to 0, which takes no more
of the matrix unit than a narrower product. So nothing is transposed or padded in
memory. The backward pass recomputes the probabilities from queries and keys.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int32

from vtr_jax.core import sharding
from vtr_jax.core.arrays import AnyArray
from vtr_jax.models.attention import ALL

_LANES = 128  # of a register
_HIDDEN = -(2**31)  # the group of keys that no query sees
_NEVER = -1e30  # score of a key that is not seen; finite, so that no row is NaN
# Ours, so that all chips' VMEM suffices and the compiler does not unroll for minutes:
_BLOCKS = (256, 128)  # queries at once, if a row has more scores than the first limit
_SCORES = 1 << 17, 1 << 18  # scores of a head: of a whole row, of a block of a row
_ROWS = 8  # maximum of rows at once; each is code of its own

_MOST = 3200 * 128 * 2  # bytes of a row's keys in 128 lanes; ours: all chips compile

_Masks = tuple[Array | None, Array | None]  # (groups of queries, groups of keys)


@dataclasses.dataclass(frozen=True)
class _How:
  """What is static in a call."""

  size: int  # of a head
  causal: bool
  interpret: bool


def attend(
  query: Float[Array, "b n h e"],
  key: Float[Array, "b m h e"],
  value: Float[Array, "b m h e"],
  valid: Bool[AnyArray, "b m"] | None = None,
  groups: Int32[AnyArray, "#b n"] | None = None,
  causal: bool = False,
  interpret: bool = False,
) -> Float[Array, "b n h e"]:
  """As `attention.attend`; `interpret` runs the kernel without a TPU."""
  how = _How(query.shape[-1], causal, interpret)
  masks = _masks(valid, groups)
  local = functools.partial(_one_device, how)
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return local(query, key, value, masks)
  # The compiler cannot partition a kernel: each device runs it on its rows and heads.
  b, _, h, _ = query.shape
  rows = sharding.ROWS if b % sharding.row_devices(mesh) == 0 else None
  heads = "tensor" if h % mesh.shape["tensor"] == 0 else None
  tokens = PartitionSpec(rows, None, heads)
  spec = lambda mask: PartitionSpec(rows if len(mask) > 1 else None)
  return jax.shard_map(
    local,
    in_specs=(tokens, tokens, tokens, jax.tree.map(spec, masks)),
    out_specs=tokens,
    check_vma=False,
  )(query, key, value, masks)


def supports(key: Float[Array, "b m h e"]) -> bool:
  """Whether heads fill registers and a row's keys and values fit into VMEM."""
  size = key.shape[3]
  fills = _LANES % size == 0 or size % _LANES == 0
  return fills and key.shape[1] * max(size, _LANES) * key.dtype.itemsize <= _MOST


def _masks(valid: AnyArray | None, groups: AnyArray | None) -> _Masks:
  """Groups of queries [b or 1, n, 1] and keys [b or 1, 1, m]; None: nothing to mask."""
  if valid is None and groups is None:
    return None, None
  keys = jnp.zeros((1, 1), jnp.int32) if groups is None else jnp.asarray(groups)
  if valid is not None:
    keys = jnp.where(valid, keys, _HIDDEN)
  queries = None if groups is None else jnp.asarray(groups)[:, :, None]
  return queries, keys[:, None, :]


def _one_device(
  how: _How, query: Array, key: Array, value: Array, masks: _Masks
) -> Array:
  flat = lambda x: x.reshape(*x.shape[:2], -1)
  out = _attend(how, flat(query), flat(key), flat(value), masks)
  assert isinstance(out, jax.Array)
  return out.reshape(query.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(how: _How, query: Array, key: Array, value: Array, masks: _Masks) -> Array:
  return _forward(how, query, key, value, masks)[0]


def _forward(
  how: _How, query: Array, key: Array, value: Array, masks: _Masks
) -> tuple[Array, tuple]:
  (out,) = _call(_forward_kernel, how, (query, key, value), masks, products=2)
  return out, (query, key, value, masks)


def _backward(how: _How, saved: tuple, g: Array) -> tuple:
  *tokens, masks = saved
  return *_call(_backward_kernel, how, (*tokens, g), masks, products=5), None


_attend.defvjp(_forward, _backward)


def _call(
  kernel: Callable[..., None],
  how: _How,
  inputs: Sequence[Array],
  masks: _Masks,
  products: int,
) -> tuple[Array, ...]:
  """Runs a kernel over (rows, lanes, queries).

  Args:
    kernel: gets a reference for each input, mask, output and sum.
    how: also for the kernel.
    inputs: query, key, value [b, n or m, d], and in the backward pass the gradient of
      the output. The outputs then are the gradients of the other three.
    masks: of `_masks`.
    products: matrix products of the size of the scores, for the compiler's count.
  """
  (b, n, d), m = inputs[0].shape, inputs[1].shape[1]
  lanes = math.lcm(_LANES, how.size)
  lanes = lanes if d % lanes == 0 else d
  rows, block = _sizes(b, n, m)
  queries = pl.BlockSpec((rows, block, lanes), lambda i, j, q: (i, q, j))
  keys = pl.BlockSpec((rows, m, lanes), lambda i, j, q: (i, 0, j))
  backward = len(inputs) > 3
  outputs = [
    jax.ShapeDtypeStruct(x.shape, x.dtype)
    for x in (inputs[:3] if backward else inputs[:1])
  ]
  return pl.pallas_call(
    functools.partial(kernel, how, n),
    out_shape=outputs,
    grid=(b // rows, d // lanes, pl.cdiv(n, block)),
    in_specs=[
      *[queries, keys, keys, queries][: len(inputs)],
      _specs(masks, rows, block),
    ],
    out_specs=[queries, keys, keys][: len(outputs)],
    scratch_shapes=[pltpu.VMEM((rows, m, lanes), jnp.float32)] * (2 * backward),
    interpret=how.interpret,
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "parallel", "arbitrary")
    ),
    cost_estimate=pl.CostEstimate(
      flops=2 * products * b * n * m * d,
      transcendentals=b * n * m * d // how.size,
      bytes_accessed=sum(x.size * x.dtype.itemsize for x in (*inputs, *outputs)),
    ),
  )(*inputs, masks)


def _sizes(b: int, n: int, m: int) -> tuple[int, int]:
  """(rows, queries) at once."""
  whole, part = _SCORES
  block = n
  if n * m > whole:
    block = next((s for s in _BLOCKS if s * m <= part), _BLOCKS[-1])
  most = min(_ROWS, part // (block * m))
  return max(r for r in range(1, b + 1) if b % r == 0 and r <= max(most, 1)), block


def _specs(masks: _Masks, rows: int, block: int) -> tuple:
  """Blocks of the masks that are not None."""
  queries, keys = masks
  first = lambda mask: (1, lambda i: 0) if len(mask) == 1 else (rows, lambda i: i)
  specs: list[pl.BlockSpec | None] = [None, None]
  if queries is not None:
    count, at = first(queries)
    specs[0] = pl.BlockSpec((count, block, 1), lambda i, j, q, at=at: (at(i), q, 0))
  if keys is not None:
    count, at = first(keys)
    shape = (count, 1, keys.shape[2])
    specs[1] = pl.BlockSpec(shape, lambda i, j, q, at=at: (at(i), 0, 0))
  return tuple(specs)


def _forward_kernel(how, length, query, key, value, masks, out):
  del length
  for r in range(query.shape[0]):
    q, k, v = query[r] * how.size**-0.5, key[r], value[r]
    seen = _seen(how, masks, r, len(q), len(k))
    total = jnp.zeros(q.shape, jnp.float32)
    for head in _heads(q.shape[1], how.size):
      weights, norm = _softmax(_only(head, q), k, seen)
      total += _only(head, _product(weights.astype(v.dtype), v, 1, 0) * norm)
    out[r] = total.astype(out.dtype)


def _backward_kernel(
  how, length, query, key, value, grad, masks, to_query, to_key, to_value, *sums
):
  at, count = pl.program_id(2), pl.num_programs(2)

  @pl.when(at == 0)
  def _():
    for total in sums:
      total[...] = jnp.zeros(total.shape, total.dtype)

  block = query.shape[1]
  for r in range(query.shape[0]):
    q, k, v, g = query[r] * how.size**-0.5, key[r], value[r], grad[r]
    if length % block:  # behind the last query there may be anything
      row = at * block + jax.lax.broadcasted_iota(jnp.int32, (block, 1), 0)
      q, g = (jnp.where(row < length, x, 0) for x in (q, g))
    seen = _seen(how, masks, r, block, len(k))
    to_q = jnp.zeros(q.shape, jnp.float32)
    for head in _heads(q.shape[1], how.size):
      mine, pull = _only(head, q), _only(head, g)
      weights, norm = _softmax(mine, k, seen)
      probs = weights * norm
      to_probs = _product(pull, v, 1, 1)
      mean = jnp.sum(probs * to_probs, axis=1, keepdims=True)
      to_scores = (probs * (to_probs - mean)).astype(q.dtype)
      to_q += _product(to_scores, _only(head, k), 1, 0)
      sums[0][r] += _product(to_scores, mine, 0, 0)
      sums[1][r] += _product(probs.astype(q.dtype), pull, 0, 0)
    to_query[r] = (to_q * how.size**-0.5).astype(to_query.dtype)

  @pl.when(at == count - 1)
  def _():
    for total, out in zip(sums, (to_key, to_value), strict=True):
      out[...] = total[...].astype(out.dtype)


def _softmax(
  query: Float[Array, "n d"], key: Float[Array, "m d"], seen: Array | None
) -> tuple[Float[Array, "n m"], Float[Array, "n 1"]]:
  """(weights of keys, what they are multiplied by to sum to 1), in float32."""
  scores = _product(query, key, 1, 1)
  if seen is not None:
    scores = jnp.where(seen, scores, _NEVER)
  weights = jnp.exp(scores - jnp.max(scores, axis=1, keepdims=True))
  return weights, 1 / jnp.sum(weights, axis=1, keepdims=True)


def _seen(how: _How, masks, row: int, n: int, m: int) -> Array | None:
  """Which keys [m] queries [n] of a row see; one axis may be 1. None = all."""
  queries, keys = (x if x is None else x[row if x.shape[0] > 1 else 0] for x in masks)
  seen = None
  if keys is not None:
    seen = keys != _HIDDEN
  if queries is not None:
    seen &= (queries == keys) | (queries == ALL) | (keys == ALL)
  if how.causal:
    first = pl.program_id(2) * n
    index = functools.partial(jax.lax.broadcasted_iota, jnp.int32, (n, m))
    earlier = first + index(0) >= index(1)
    seen = earlier if seen is None else seen & earlier
  return seen


def _heads(lanes: int, size: int) -> Iterator[Array | None]:
  """A mask of the lanes of each head; None if there is one."""
  if lanes == size:
    yield None
    return
  lane = jax.lax.broadcasted_iota(jnp.int32, (1, lanes), 1)
  for first in range(0, lanes, size):
    yield (lane >= first) & (lane < first + size)


def _only(head: Array | None, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
  """x with the lanes of other heads set to 0."""
  return x if head is None else jnp.where(head, x, 0)


def _product(a: Array, b: Array, left: int, right: int) -> Float[Array, "n m"]:
  """Contracts axis `left` of a with `right` of b."""
  dims = (((left,), (right,)), ((), ()))
  return jax.lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)
