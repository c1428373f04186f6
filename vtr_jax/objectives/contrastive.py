"""The contrastive loss over the global batch, in three forms that are equal.

dense    all pairs' similarities at once; the compiler places the collectives.
chunked  `chunk` rows of that matrix at a time, recomputed for their gradient.
ring     each device holds its own rows and sees the others' as they come round
         (shard_map, ppermute): what is held is `chunk` rows by a device's share of the
         columns, and no embedding but its own and a visitor's.

Losses: InfoNCE, the sum of both directions as Frozen's NormSoftmaxLoss; or SigLIP's
pairwise sigmoid (arXiv 2303.15343), each pair a question of its own.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float

from vtr_jax.core.arrays import AnyArray
from vtr_jax.core.config import choose, require
from vtr_jax.core.sharding import ROWS

_MASKED = -1e9  # instead of a similarity that does not count


@dataclasses.dataclass(frozen=True)
class ContrastConfig:
  """Section `contrastive` of the config."""

  loss: str = "info_nce"  # info_nce | sigmoid; paper: MAC, MILES, SimVTP
  form: str = "dense"  # dense | chunked | ring: same value, less memory; ours
  chunk: int = 1024  # rows of similarities at once on a device; not dense; ours
  # sigmoid: added to cosine / temperature; paper: SigLIP's first value, learned there
  bias: float = -10.0

  def __post_init__(self):
    choose(self.loss, ("info_nce", "sigmoid"), "loss")
    choose(self.form, ("dense", "chunked", "ring"), "form")
    require(self.chunk > 0, f"chunk: {self.chunk} must be positive")


DENSE = ContrastConfig("info_nce", "dense", chunk=1, bias=0.0)  # as the papers' code


def contrast(
  config: ContrastConfig,
  video: Float[Array, "b e"],
  text: Float[Array, "b e"],
  scale: Float[Array, ""] | float,
  valid: Bool[AnyArray, " b"],
) -> Float[Array, ""]:
  """The loss of the global batch; pairs lie on the diagonal.

  Args:
    config: which loss, and how it is computed.
    video: unit-norm embeddings.
    text: unit-norm embeddings; text[i] describes video[i].
    scale: 1 / temperature.
    valid: rows that take part, as anchors and as negatives.
  """
  video, text = (x.astype(jnp.float32) for x in (video, text))
  shift = config.bias if config.loss == "sigmoid" else 0.0
  form = dict(dense=_dense, chunked=_chunked, ring=_ring)[config.form]
  one_way = functools.partial(form, config, jnp.float32(scale), jnp.float32(shift))
  total = one_way(text, video, valid)
  if config.loss == "info_nce":
    total += one_way(video, text, valid)
  return total / jnp.maximum(valid.sum(), 1)


def _similarities(scale, shift, anchors, others) -> Float[Array, "a o"]:
  """In full precision: rounded otherwise than `_over_anchors`, losses would be off."""
  highest = jax.lax.Precision.HIGHEST
  return scale * jnp.matmul(anchors, others.T, precision=highest) + shift


def _over_anchors(rivals, scale, shift, anchors, others, valid) -> Float[Array, ""]:
  """Sum of the losses; the matrix's diagonal is each device's from its own rows."""
  positive = scale * (anchors * others).sum(axis=1) + shift
  return jnp.where(valid, rivals - positive, 0).sum()


def _per_anchor(
  loss: str, logits: Float[Array, "a o"], valid: Bool[AnyArray, " o"]
) -> Float[Array, " a"]:
  """What the rivals of each anchor amount to; `_join` puts parts of them together."""
  logits = jnp.where(valid[None, :], logits, _MASKED)
  if loss == "info_nce":
    return jax.nn.logsumexp(logits, axis=1)
  return jax.nn.softplus(logits).sum(axis=1)


def _join(loss: str, left: Array, right: Array) -> Array:
  return jnp.logaddexp(left, right) if loss == "info_nce" else left + right


def _dense(config, scale, shift, anchors, others, valid) -> Float[Array, ""]:
  """Sum over valid anchors of their loss; so are the next two."""
  logits = _similarities(scale, shift, anchors, others)
  rivals = _per_anchor(config.loss, logits, valid)
  return _over_anchors(rivals, scale, shift, anchors, others, valid)


def _chunked(config, scale, shift, anchors, others, valid) -> Float[Array, ""]:
  rivals = _rivals(config, scale, shift, anchors, others, valid)
  return _over_anchors(rivals, scale, shift, anchors, others, valid)


def _ring(config, scale, shift, anchors, others, valid) -> Float[Array, ""]:
  mesh = jax.sharding.get_abstract_mesh()
  count = math.prod(mesh.shape[axis] for axis in ROWS)
  onward = [(i, (i + 1) % count) for i in range(count)]

  def local(scale, shift, anchors, others, valid):
    def turn(carry, _):
      held, visitors, counts = carry
      visitors, counts = jax.lax.ppermute((visitors, counts), ROWS, onward)
      met = _rivals(config, scale, shift, anchors, visitors, counts)
      return (_join(config.loss, held, met), visitors, counts), None

    own = _rivals(config, scale, shift, anchors, others, valid)
    (rivals, *_), _ = jax.lax.scan(turn, (own, others, valid), length=count - 1)
    here = _over_anchors(rivals, scale, shift, anchors, others, valid)
    return jax.lax.psum(here, ROWS)

  rows, whole = PartitionSpec(ROWS), PartitionSpec()
  over = jax.shard_map(
    local, in_specs=(whole, whole, rows, rows, rows), out_specs=whole, check_vma=False
  )
  return over(scale, shift, anchors, others, valid)


def _rivals(config, scale, shift, anchors, others, valid) -> Float[Array, " a"]:
  """`_per_anchor` of `chunk` rows at once, recomputed for the gradient."""
  rows = anchors.shape[0]
  chunk = min(config.chunk, rows)

  @jax.checkpoint
  def part(anchors: Float[Array, "c e"]) -> Float[Array, " c"]:
    logits = _similarities(scale, shift, anchors, others)
    return _per_anchor(config.loss, logits, valid)

  # The last chunk is filled up with rows that are cut off again.
  filled = jnp.pad(anchors, ((0, -rows % chunk), (0, 0)))
  parts = filled.reshape(-1, chunk, anchors.shape[1])
  return jax.lax.map(part, parts).reshape(-1)[:rows]
