"""The loss over the global batch, in one pass or in microbatches, and its gradient."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from vtr_jax.core import sharding
from vtr_jax.core.arrays import AnyArray
from vtr_jax.core.batch import Batch
from vtr_jax.core.config import nearest
from vtr_jax.core.errors import ConfigError, printable
from vtr_jax.objectives.base import Objective, Params
from vtr_jax.objectives.contrastive import DENSE, ContrastConfig, contrast
from vtr_jax.train import guard

Metrics = guard.Metrics


def check_weights(weights: Mapping[str, float], objective: Objective) -> None:
  """Raises ConfigError unless there is a weight >= 0 for each of the terms."""
  terms = {"vtc", *objective.terms}
  for name in weights:
    if name not in terms:
      where = f"config.loss_weights.{printable(name)}"
      raise ConfigError(f"{where}: no such term; {nearest(name, terms)}")
  if not any(weights.values()) or not all(w >= 0 for w in weights.values()):
    raise ConfigError(
      f"config.loss_weights: {dict(weights)}; none may be negative, not all 0"
    )
  for name in sorted(terms - set(weights)):
    raise ConfigError(
      f"config.loss_weights.{name}: missing; set it, 0 leaves the term out"
    )


@dataclasses.dataclass(frozen=True)
class Loss:
  """Contrastive loss over the global batch plus the objective's weighted terms.

  With `micro_batches` the microbatches are embedded one by one, the contrastive loss is
  taken over all of them, and each is embedded once more for its contribution to the
  gradient (GradCache, arXiv 2101.06983): the memory of one microbatch, the gradient of
  the full batch. Other terms are means over microbatches, weighted by their numbers of
  valid examples; SimVTP draws false pairs within a microbatch.
  """

  objective: Objective
  weights: Mapping[str, float]
  contrast: ContrastConfig = DENSE
  micro_batches: int = 1
  mesh: Mesh | None = None

  def gradient(
    self, params: Params, teacher: Params | None, batch: Batch, key: jax.Array
  ) -> tuple[Metrics, Params]:
    """(metrics: total loss, each term, anisotropy of the embeddings; gradient).

    A term of weight 0 is not computed.
    """
    if self.micro_batches == 1:
      total = lambda params: self.total(params, teacher, batch, key)
      (_, metrics), grads = jax.value_and_grad(total, has_aux=True)(params)
      return metrics, grads
    return self._in_microbatches(params, teacher, batch, key)

  def total(
    self, params: Params, teacher: Params | None, batch: Batch, key: jax.Array
  ) -> tuple[Float[Array, ""], Metrics]:
    """(weighted sum, metrics) of the full batch in one pass."""
    out = self.objective.forward(params, teacher, batch, key)
    valid = batch["valid"]
    vtc = self._vtc(out.video, out.text, out.scale, valid)
    terms = self._nonzero(out.terms) | ({"vtc": vtc} if self.weights["vtc"] else {})
    total = self._sum(terms)
    anisotropy = _anisotropy(out.video, out.text, valid)
    return total, _named(terms | {"total": total}) | anisotropy

  def _in_microbatches(self, params, teacher, batch, key) -> tuple[Metrics, Params]:
    mesh = self.mesh
    assert mesh is not None, "microbatches need a mesh"
    micro = sharding.split_rows(batch, self.micro_batches, mesh)
    keys = jax.random.split(key, self.micro_batches)
    valid = micro["valid"]
    fraction = valid.sum(axis=1) / jnp.maximum(valid.sum(), 1)

    def embed(_, inputs):
      out = self.objective.forward(params, teacher, *inputs)
      return None, (out.video, out.text, jnp.float32(out.scale))

    _, (video, text, scale) = jax.lax.scan(embed, None, (micro, keys))

    def vtc(video, text, scale):
      video, text, all_valid = sharding.merge_rows((video, text, valid), mesh)
      return self._vtc(video, text, scale, all_valid)

    anisotropy = _anisotropy(*sharding.merge_rows((video, text, valid), mesh))
    vtc, (d_video, d_text, d_scale) = jax.value_and_grad(vtc, (0, 1, 2))(
      video, text, scale[0]
    )

    def backward(grads, inputs):
      rows, key, fraction, d_video, d_text = inputs

      def local(params):
        out = self.objective.forward(params, teacher, rows, key)
        terms = {k: fraction * v for k, v in self._nonzero(out.terms).items()}
        # The scale enters each microbatch: each contributes an equal part of its
        # gradient.
        surrogate = d_scale * out.scale / self.micro_batches
        surrogate += (d_video * out.video).sum() + (d_text * out.text).sum()
        return self.weights["vtc"] * surrogate + self._sum(terms), terms

      more, terms = jax.grad(local, has_aux=True)(params)
      return jax.tree.map(jnp.add, grads, more), terms

    zeros = jax.tree.map(jnp.zeros_like, params)
    inputs = (micro, keys, fraction, d_video, d_text)
    grads, terms = jax.lax.scan(backward, zeros, inputs)
    terms = {k: v.sum() for k, v in terms.items()}
    if self.weights["vtc"]:
      terms["vtc"] = vtc
    return _named(terms | {"total": self._sum(terms)}) | anisotropy, grads

  def _vtc(self, video, text, scale, valid) -> Float[Array, ""]:
    with jax.named_scope("vtc"):
      return contrast(self.contrast, video, text, scale, valid)

  def _nonzero(self, terms: Metrics) -> Metrics:
    return {k: v for k, v in terms.items() if self.weights[k]}

  def _sum(self, terms: Metrics) -> Float[Array, ""]:
    return sum((self.weights[k] * v for k, v in terms.items()), jnp.float32(0))


def _named(terms: Metrics) -> Metrics:
  return {f"loss/{k}": v for k, v in terms.items()}


def _anisotropy(video: Array, text: Array, valid: AnyArray) -> Metrics:
  sides = {"video": video, "text": text}
  return {f"anisotropy/{k}": guard.anisotropy(x, valid) for k, x in sides.items()}
