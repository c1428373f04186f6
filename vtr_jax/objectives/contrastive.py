"""The contrastive loss over the global batch, in three equivalent forms.

dense    the full matrix of similarities; the compiler places the collectives.
chunked  `chunk` rows of that matrix at a time, recomputed for their gradient.
ring     each device holds its embeddings and passes the other side's around a ring
         (shard_map, ppermute); it holds `chunk` rows of similarities to one device's
         candidates at a time.

Losses: InfoNCE, the sum of both directions as Frozen's NormSoftmaxLoss; or SigLIP's
pairwise sigmoid (arXiv 2303.15343), a binary classification of each pair.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float

from vtr_jax.core.arrays import AnyArray
from vtr_jax.core.config import choose, require
from vtr_jax.core.sharding import ROWS, row_devices

_MASKED = -1e9  # logit of candidates that are not valid


@dataclasses.dataclass(frozen=True)
class ContrastConfig:
  """Section `contrastive` of the config."""

  loss: str = "info_nce"  # info_nce | sigmoid; paper: MAC, MILES, SimVTP
  form: str = "dense"  # dense | chunked | ring: same value, less memory; ours
  chunk: int = 1024  # rows of similarities at once on a device; not used by dense; ours
  # sigmoid: added to cosine / temperature; paper: SigLIP's initial value, learned there
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
  """The loss of the global batch; positives are on the diagonal.

  Args:
    config: loss and form.
    video: unit-norm embeddings.
    text: unit-norm embeddings; text[i] describes video[i].
    scale: 1 / temperature.
    valid: examples that count, as anchors and as negatives.
  """
  video, text = (x.astype(jnp.float32) for x in (video, text))
  shift = config.bias if config.loss == "sigmoid" else 0.0
  form = dict(dense=_dense, chunked=_chunked, ring=_ring)[config.form]
  one_way = functools.partial(form, config, jnp.float32(scale), jnp.float32(shift))
  total = one_way(text, video, valid)
  if config.loss == "info_nce":
    total += one_way(video, text, valid)
  return total / jnp.maximum(valid.sum(dtype=jnp.float32), 1)


def _logits(scale, shift, anchors, candidates) -> Float[Array, "a c"]:
  """In full precision, as the positives in `_sum_losses`, or they would not cancel."""
  highest = jax.lax.Precision.HIGHEST
  return scale * jnp.matmul(anchors, candidates.T, precision=highest) + shift


def _sum_losses(reduced, scale, shift, anchors, candidates, valid) -> Float[Array, ""]:
  """Sum over valid anchors of `reduced` minus the positive's logit."""
  positive = scale * (anchors * candidates).sum(axis=1) + shift
  return jnp.where(valid, reduced - positive, 0).sum()


def _reduce(
  loss: str, logits: Float[Array, "a c"], valid: Bool[AnyArray, " c"]
) -> Float[Array, " a"]:
  """Each anchor's logits reduced over valid candidates; see `_merge`."""
  logits = jnp.where(valid[None, :], logits, _MASKED)
  if loss == "info_nce":
    return jax.nn.logsumexp(logits, axis=1)
  return jax.nn.softplus(logits).sum(axis=1)


def _merge(loss: str, left: Array, right: Array) -> Array:
  """`_reduce` over the candidates of both sides."""
  return jnp.logaddexp(left, right) if loss == "info_nce" else left + right


def _dense(config, scale, shift, anchors, candidates, valid) -> Float[Array, ""]:
  """Sum of the losses of valid anchors, as `_chunked` and `_ring`."""
  logits = _logits(scale, shift, anchors, candidates)
  reduced = _reduce(config.loss, logits, valid)
  return _sum_losses(reduced, scale, shift, anchors, candidates, valid)


def _chunked(config, scale, shift, anchors, candidates, valid) -> Float[Array, ""]:
  reduced = _reduce_chunks(config, scale, shift, anchors, candidates, valid)
  return _sum_losses(reduced, scale, shift, anchors, candidates, valid)


def _ring(config, scale, shift, anchors, candidates, valid) -> Float[Array, ""]:
  mesh = jax.sharding.get_abstract_mesh()
  count = row_devices(mesh)
  to_next = [(i, (i + 1) % count) for i in range(count)]

  def local(scale, shift, anchors, candidates, valid):
    def rotate(carry, _):
      reduced, remote, remote_valid = carry
      remote, remote_valid = jax.lax.ppermute((remote, remote_valid), ROWS, to_next)
      more = _reduce_chunks(config, scale, shift, anchors, remote, remote_valid)
      return (_merge(config.loss, reduced, more), remote, remote_valid), None

    own = _reduce_chunks(config, scale, shift, anchors, candidates, valid)
    carry = (own, candidates, valid)
    (reduced, *_), _ = jax.lax.scan(rotate, carry, length=count - 1)
    total = _sum_losses(reduced, scale, shift, anchors, candidates, valid)
    return jax.lax.psum(total, ROWS)

  rows, full = PartitionSpec(ROWS), PartitionSpec()
  over_devices = jax.shard_map(
    local, in_specs=(full, full, rows, rows, rows), out_specs=full, check_vma=False
  )
  return over_devices(scale, shift, anchors, candidates, valid)


def _reduce_chunks(
  config, scale, shift, anchors, candidates, valid
) -> Float[Array, " a"]:
  """`_reduce` for `chunk` anchors at a time, recomputed for the gradient."""
  rows = anchors.shape[0]
  chunk = min(config.chunk, rows)

  @jax.checkpoint
  def reduce_chunk(anchors: Float[Array, "r e"]) -> Float[Array, " r"]:
    logits = _logits(scale, shift, anchors, candidates)
    return _reduce(config.loss, logits, valid)

  # The last chunk is padded; the padding's results are cut off.
  padded = jnp.pad(anchors, ((0, -rows % chunk), (0, 0)))
  chunks = padded.reshape(-1, chunk, anchors.shape[1])
  return jax.lax.map(reduce_chunk, chunks).reshape(-1)[:rows]
