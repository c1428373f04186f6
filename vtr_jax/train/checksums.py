"""Checksums of arrays, equal on every mesh: detect reads that differ from writes."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@jax.jit
def tree_checksums(tree: Any) -> jax.Array:
  """Sum of each array's bits, modulo 2**32, in the order of the tree's leaves."""

  def bits(x: jax.Array) -> jax.Array:
    if x.dtype == bool:  # cannot be bitcast
      return x.astype(jnp.uint32).sum()
    kind = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
    return jax.lax.bitcast_convert_type(x, kind).astype(jnp.uint32).sum()

  return jnp.stack([bits(x) for x in jax.tree.leaves(tree)])


def host_checksum(x: np.ndarray) -> int:
  """The checksum of one array, by NumPy."""
  bits = np.ascontiguousarray(x).reshape(-1).view(f"uint{8 * x.dtype.itemsize}")
  return int(bits.sum(dtype=np.uint64)) % 2**32


def compare(tree: Any, saved: Sequence[int], restored: Sequence[int]) -> None:
  """Raises ValueError with the paths of arrays whose checksums differ."""
  paths = [
    jax.tree_util.keystr(p, simple=True, separator="/")
    for p, _ in jax.tree_util.tree_leaves_with_path(tree)
  ]
  wrong = [p for p, a, b in zip(paths, saved, restored, strict=True) if a != b]
  if wrong:
    more = f" and {len(wrong) - 1} more" if wrong[1:] else ""
    raise ValueError(f"{wrong[0]}{more}: values differ from those saved")
