"""Sums of arrays' bits: whether what was read is what was written, on any mesh."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@jax.jit
def of(tree: Any) -> jax.Array:
  """Of each array's bits, modulo 2**32, in the order of the tree's leaves."""

  def bits(x: jax.Array) -> jax.Array:
    if x.dtype == bool:  # has no bits that could be cast
      return x.astype(jnp.uint32).sum()
    kind = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
    return jax.lax.bitcast_convert_type(x, kind).astype(jnp.uint32).sum()

  return jnp.stack([bits(x) for x in jax.tree.leaves(tree)])


def on_host(x: np.ndarray) -> int:
  bits = np.ascontiguousarray(x).reshape(-1).view(f"uint{8 * x.dtype.itemsize}")
  return int(bits.sum(dtype=np.uint64)) % 2**32


def compare(tree: Any, saved: Sequence[int], found: Sequence[int]) -> None:
  """Raises ValueError with the names of arrays that have other sums."""
  paths = [
    jax.tree_util.keystr(p, simple=True, separator="/")
    for p, _ in jax.tree_util.tree_leaves_with_path(tree)
  ]
  wrong = [p for p, a, b in zip(paths, saved, found, strict=True) if a != b]
  if wrong:
    more = f" and {len(wrong) - 1} more" if wrong[1:] else ""
    raise ValueError(f"{wrong[0]}{more}: other values than were saved")
