"""The clips nearest to a query: exact, in chunks of rows, from memory-mapped files.

Scores are products of float32 queries and float16 rows, which are cast to float32 in
pieces that fit into the cache: memory traffic is the rows' bytes alone. On CPU, chunks
are JAX arrays that alias the file's pages; nothing is copied.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

CHUNK = 2**14  # rows per call: 4 MB of scores for 64 queries
_PIECE = 2**11  # rows cast at once; measured, see docs/performance.md
_BLOCK = 128  # scores per block of the first pass over maxima


class Rows:
  """Rows of an index, ready to be searched."""

  def __init__(self, vectors: Float[np.ndarray, "n e"]):
    """Takes vectors in float16 or float32; a memory map is not read yet."""
    self.count, self.dim = vectors.shape
    full = self.count - self.count % CHUNK
    chunks = [vectors[i : i + CHUNK] for i in range(0, full, CHUNK)]
    if full < self.count:
      # The last chunk is padded to one of few lengths, each of which is compiled.
      last = vectors[full:]
      padded = np.zeros((_padded_length(len(last)), self.dim), vectors.dtype)
      padded[: len(last)] = last
      chunks.append(padded)
    resident = jax.default_backend() == "cpu"  # other devices may lack memory
    self._chunks = [jax.device_put(c) for c in chunks] if resident else chunks

  def top(
    self,
    queries: Float[np.ndarray, "q e"],
    k: int,
    allowed: Bool[np.ndarray, " n"] | None = None,
  ) -> tuple[Float[np.ndarray, "q k"], Int[np.ndarray, "q k"]]:
    """The k best rows of each query, best first; ties in the order of rows.

    Args:
      queries: float32.
      k: number of rows; fewer if fewer are allowed.
      allowed: mask of the rows to search; None = all.

    Returns:
      Scores and row numbers.
    """
    allowed = np.ones(self.count, bool) if allowed is None else allowed
    k = min(k, int(np.count_nonzero(allowed)))
    if not k or not len(queries):
      return np.zeros((len(queries), k), np.float32), np.zeros((len(queries), k), int)
    wide = 1 << max(k - 1, 15).bit_length()  # so that few widths are compiled
    best = (
      jnp.full((len(queries), wide), -jnp.inf, jnp.float32),
      jnp.zeros((len(queries), wide), jnp.int32),
    )
    queries_on_device = jnp.asarray(queries, jnp.float32)
    for number, chunk in enumerate(self._chunks):
      first = number * CHUNK
      mask = np.zeros(len(chunk), bool)
      local = allowed[first : first + CHUNK]
      mask[: len(local)] = local
      if mask.any():
        best = _merge(best, queries_on_device, chunk, mask, np.int32(first))
    scores, rows = (np.asarray(x)[:, :k] for x in best)
    return scores, rows.astype(int)


def best(
  results: Sequence[tuple[Float[np.ndarray, "q _"], Int[np.ndarray, "q _"]]], k: int
) -> tuple[Float[np.ndarray, "q k"], Int[np.ndarray, "q k"], Int[np.ndarray, "q k"]]:
  """Scores, index numbers and row numbers of the k best results of `top`, per index."""
  scores = np.concatenate([s for s, _ in results], 1)
  rows = np.concatenate([r for _, r in results], 1)
  numbers = np.concatenate([np.full(r.shape, i) for i, (_, r) in enumerate(results)], 1)
  order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
  take = functools.partial(np.take_along_axis, indices=order, axis=1)
  return take(scores), take(numbers), take(rows)


def _padded_length(rows: int) -> int:
  """The number of rows, rounded up to a power of two of pieces."""
  return _PIECE << max(-(-rows // _PIECE) - 1, 0).bit_length()


@functools.partial(jax.jit, donate_argnums=0)
def _merge(
  best: tuple[Float[Array, "q k"], Int[Array, "q k"]],
  queries: Float[Array, "q e"],
  chunk: Float[Array, "c e"],
  mask: Bool[Array, " c"],
  first: Int[Array, ""],
) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
  """The best of `best` and of a chunk whose first row has number `first`."""
  k = best[0].shape[1]
  scores, rows = _top(jnp.where(mask, _scores(queries, chunk), -jnp.inf), k)
  # top_k keeps the first of equal scores: earlier chunks, with lower row numbers.
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
  """`lax.top_k` in two passes: over the maxima of blocks, then over the best blocks.

  The k blocks with the largest maxima, the first of equal ones, contain the k best
  scores: any score of another block ranks after the maxima of these k.
  """
  count = scores.shape[1]
  if k * _BLOCK >= count:
    values, position = lax.top_k(scores, min(k, count))  # JAX returns a list
    return values, position
  blocks = scores.reshape(len(scores), -1, _BLOCK)
  _, chosen = lax.top_k(blocks.max(-1), k)
  chosen = jnp.sort(chosen, 1)  # so that ties stay in the order of rows
  rest = jnp.take_along_axis(blocks, chosen[:, :, None], 1).reshape(len(scores), -1)
  values, position = lax.top_k(rest, k)
  block = jnp.take_along_axis(chosen, position // _BLOCK, 1)
  return values, block * _BLOCK + position % _BLOCK
