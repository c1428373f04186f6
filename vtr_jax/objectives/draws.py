"""The rows and tubelets that SimVTP draws: false pairs, a share of what is predicted.

A row's draw depends on `batch["row"]` alone, not on where the row lies in the arrays.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, Num

from vtr_jax.core import sharding
from vtr_jax.core.arrays import AnyArray
from vtr_jax.core.batch import Batch


def other_rows(
  batch: Batch, key: jax.Array, group: int, logits: Float[Array, "b b"] | None
) -> Int32[Array, " b"]:
  """For each row the index of another one of its group of rows (0 = all).

  It is drawn with probability softmax(logits[row]), None = uniform; a padding row only
  where the group has no other.
  """
  row, valid = jnp.asarray(batch["row"]), jnp.asarray(batch["valid"])
  group = group or len(row)
  others = row[:, None] // group * group + jnp.arange(group, dtype=row.dtype)[None]
  index = jnp.argsort(row)[others]  # in the arrays
  noise = lambda row: jax.random.gumbel(jax.random.fold_in(key, row), (group,))
  scores = jax.vmap(noise)(row)  # the largest is a sample of the softmax
  if logits is not None:
    scores += jnp.take_along_axis(logits, index, axis=1)
  scores = jnp.where(valid[index], scores, scores - 1e9)
  scores = jnp.where(others == row[:, None], -jnp.inf, scores)
  choice = scores.argmax(axis=1, keepdims=True)
  return jnp.take_along_axis(index, choice, axis=1)[:, 0]


def take_rows(
  x: Num[AnyArray, "b ..."], idx: Int32[AnyArray, " m"], group: int
) -> Num[Array, "m ..."]:
  """x[idx]; idx are of the rows 0, n, 2n ... of their groups, n = b / m.

  Nothing is communicated where each device holds whole groups.
  """
  rows = len(x)
  if group == 0 or rows // sharding.row_shards() % group:
    return jnp.take(x, idx, axis=0)
  in_groups = lambda y: y.reshape(rows // group, -1, *y.shape[1:])
  taken = jax.vmap(lambda x, i: x[i])(in_groups(x), in_groups(idx % group))
  return taken.reshape(len(idx), *x.shape[1:])


def every(x: Num[AnyArray, "b ..."] | Bool[AnyArray, "b ..."], n: int) -> Any:
  """Rows 0, n, 2n ... of `x`, without communication where devices hold whole groups."""
  return x if n == 1 else x.reshape(len(x) // n, n, *x.shape[1:])[:, 0]


def choose_masked(batch: Batch, key: jax.Array, one_in: int) -> Int32[AnyArray, "b p"]:
  """One masked tubelet in so many, which is predicted; sorted."""
  masked = batch["video_mask_idx"]
  if one_in == 1:
    return masked
  count = -(-masked.shape[1] // one_in)
  key = jax.random.split(key)[1]  # negatives are drawn from `key`

  def choose(row: Array, masked: Array) -> Array:
    drawn = jax.random.permutation(jax.random.fold_in(key, row), masked)
    return jnp.sort(drawn[:count])

  return jax.vmap(choose)(jnp.asarray(batch["row"]), jnp.asarray(masked))
