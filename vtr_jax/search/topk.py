"""The clips nearest to a query: exact, in chunks of rows, from memory-mapped files.

Scores are products of float32 queries and float16 rows that are widened to float32
piece by piece, each piece small enough for the cache: the rows' bytes are all that
memory has to bring. On CPU, chunks are JAX arrays that alias the file's pages; nothing
is copied.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

CHUNK = 2**14  # rows of one call: 4 MB of scores for 64 queries
_PIECE = 2**11  # rows that are widened at once; measured, see docs/performance.md
_BLOCK = 128  # scores of which the largest stands for all, at first


class Rows:
  """Rows of an index, ready to be searched."""

  def __init__(self, vectors: Float[np.ndarray, "n e"]):
    """Takes rows of one width, in float16 or float32; a memory map is not read."""
    self.count, self.dim = vectors.shape
    whole = self.count - self.count % CHUNK
    parts = [vectors[i : i + CHUNK] for i in range(0, whole, CHUNK)]
    if whole < self.count:
      # The last one in a length of which there are few, so that few are compiled.
      last = vectors[whole:]
      filled = np.zeros((_length(len(last)), self.dim), vectors.dtype)
      filled[: len(last)] = last
      parts.append(filled)
    resident = jax.default_backend() == "cpu"  # elsewhere it may not fit: see `top`
    self._chunks = [jax.device_put(part) for part in parts] if resident else parts

  def top(
    self,
    queries: Float[np.ndarray, "q e"],
    k: int,
    allowed: Bool[np.ndarray, " n"] | None = None,
  ) -> tuple[Float[np.ndarray, "q k"], Int[np.ndarray, "q k"]]:
    """The k best rows of each query, best first; of equal ones the first.

    Args:
      queries: float32, of the rows' width.
      k: how many; fewer come if fewer rows are allowed.
      allowed: rows that may be found; None = all.

    Returns:
      Scores and row numbers.
    """
    allowed = np.ones(self.count, bool) if allowed is None else allowed
    k = min(k, int(np.count_nonzero(allowed)))
    if not k or not len(queries):
      return np.zeros((len(queries), k), np.float32), np.zeros((len(queries), k), int)
    wide = 1 << max(k - 1, 15).bit_length()  # few widths are compiled
    best = (
      jnp.full((len(queries), wide), -jnp.inf, jnp.float32),
      jnp.zeros((len(queries), wide), jnp.int32),
    )
    asked = jnp.asarray(queries, jnp.float32)
    for number, chunk in enumerate(self._chunks):
      first = number * CHUNK
      mask = np.zeros(len(chunk), bool)
      part = allowed[first : first + CHUNK]
      mask[: len(part)] = part
      if mask.any():
        best = _merge(best, asked, chunk, mask, np.int32(first))
    scores, rows = (np.asarray(x)[:, :k] for x in best)
    return scores, rows.astype(int)


def best(
  found: Sequence[tuple[Float[np.ndarray, "q k"], Int[np.ndarray, "q k"]]], k: int
) -> tuple[Float[np.ndarray, "q k"], Int[np.ndarray, "q k"], Int[np.ndarray, "q k"]]:
  """Scores, index numbers and row numbers of the k best of what `top` found in each."""
  scores = np.concatenate([s for s, _ in found], 1)
  rows = np.concatenate([r for _, r in found], 1)
  numbers = np.concatenate([np.full(r.shape, i) for i, (_, r) in enumerate(found)], 1)
  order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
  take = functools.partial(np.take_along_axis, indices=order, axis=1)
  return take(scores), take(numbers), take(rows)


def _length(rows: int) -> int:
  """A power of two of pieces."""
  return _PIECE << max(-(-rows // _PIECE) - 1, 0).bit_length()


@functools.partial(jax.jit, donate_argnums=0)
def _merge(
  best: tuple[Float[Array, "q k"], Int[Array, "q k"]],
  queries: Float[Array, "q e"],
  chunk: Float[Array, "c e"],
  mask: Bool[Array, " c"],
  first: Int[Array, ""],
) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
  """The best of before and of one more chunk, whose first row has number `first`."""
  k = best[0].shape[1]
  scores, rows = _top(jnp.where(mask, _scores(queries, chunk), -jnp.inf), k)
  # top_k takes the first of equal ones: what was found before, which has lower numbers.
  scores = jnp.concatenate([best[0], scores], 1)
  rows = jnp.concatenate([best[1], rows + first], 1)
  scores, chosen = lax.top_k(scores, k)
  return scores, jnp.take_along_axis(rows, chosen, 1)


def _scores(
  queries: Float[Array, "q e"], chunk: Float[Array, "c e"]
) -> Float[Array, "q c"]:
  def product(piece: Float[Array, "p e"]) -> Float[Array, "q p"]:
    wide = piece.astype(jnp.float32)
    return jnp.matmul(queries, wide.T, precision=lax.Precision.HIGHEST)

  pieces = chunk.reshape(-1, _PIECE, chunk.shape[1])
  return jnp.moveaxis(lax.map(product, pieces), 0, 1).reshape(len(queries), -1)


def _top(
  scores: Float[Array, "q c"], k: int
) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
  """`lax.top_k`, which reads little more than the maxima of blocks.

  The k blocks of largest maxima, the first of equal ones, hold the k best scores: one
  outside of them has k scores before it, one of each of these blocks.
  """
  count = scores.shape[1]
  if k * _BLOCK >= count:
    return lax.top_k(scores, min(k, count))
  blocks = scores.reshape(len(scores), -1, _BLOCK)
  _, chosen = lax.top_k(blocks.max(-1), k)
  chosen = jnp.sort(chosen, 1)  # so that of equal scores the first comes first
  held = jnp.take_along_axis(blocks, chosen[:, :, None], 1).reshape(len(scores), -1)
  values, at = lax.top_k(held, k)
  block = jnp.take_along_axis(chosen, at // _BLOCK, 1)
  return values, block * _BLOCK + at % _BLOCK
