"""The loss over the global batch, in one pass or in microbatches, and its gradient."""

import dataclasses
from collections.abc import Mapping
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from vtr_jax.core import sharding
from vtr_jax.core.batch import Batch
from vtr_jax.core.config import nearest
from vtr_jax.core.errors import ConfigError, printable
from vtr_jax.objectives.base import Objective, Outputs, Pairs, Params
from vtr_jax.objectives.contrastive import DENSE, ContrastConfig, contrast
from vtr_jax.train import guard

Metrics = guard.Metrics
T = TypeVar("T")


def check_weights(weights: Mapping[str, float], objective: Objective) -> None:
  """Raises ConfigError unless there is a weight >= 0 for each of the terms."""
  terms = set(objective.loss_names)
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
  gradient (GradCache, arXiv 2101.06983): the memory of one microbatch, the loss and
  gradient of the full batch. All terms are sums over what counts in the full batch.
  Dropout draws differ from those of one pass.
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
    terms = self._contrast(out.pairs)
    terms |= {k: term.mean() for k, term in self._nonzero(out.terms).items()}
    total = self._sum(terms)
    return total, _named(terms | {"total": total}) | _anisotropy(out.pairs)

  def _in_microbatches(self, params, teacher, batch, key) -> tuple[Metrics, Params]:
    mesh, objective = self.mesh, self.objective
    assert mesh is not None, "microbatches need a mesh"
    split = lambda batch: sharding.split_rows(batch, self.micro_batches, mesh)

    def forward(rows: Batch, params: Params = params) -> Outputs:
      return objective.forward(params, teacher, rows, key)

    # Only the pairs are used: what reads other rows (`join_rows`) is not right yet, and
    # the compiler leaves it out.
    pairs = jax.lax.map(lambda rows: _arrays(forward(rows).pairs), split(batch))
    pairs = {k: _merged(p, mesh) for k, p in pairs.items()}
    if objective.join_rows:
      batch = objective.join_rows(pairs, batch, key)
    micro = split(batch)
    # Counts depend on the batch alone: the compiler leaves the passes out.
    counted = lambda rows: {k: t.count for k, t in forward(rows).terms.items()}
    counts = {k: v.sum() for k, v in jax.lax.map(counted, micro).items()}

    def contrast(embeddings):
      joined = {k: p._replace(**embeddings[k]) for k, p in pairs.items()}
      terms = self._contrast(joined)
      return self._sum(terms), terms

    embeddings = {k: dict(a=p.a, b=p.b, scale=p.scale) for k, p in pairs.items()}
    (_, terms), slopes = jax.value_and_grad(contrast, has_aux=True)(embeddings)
    # The scale enters each microbatch: each contributes an equal part of its gradient.
    scales = {k: slope.pop("scale") / self.micro_batches for k, slope in slopes.items()}

    def backward(grads, inputs):
      rows, slopes = inputs

      def local(params):
        out = forward(rows, params)
        terms = {
          k: term.total / jnp.maximum(counts[k], 1)
          for k, term in self._nonzero(out.terms).items()
        }
        surrogate = self._sum(terms)
        for k, slope in slopes.items():
          p = out.pairs[k]
          surrogate += (slope["a"] * p.a).sum() + (slope["b"] * p.b).sum()
          surrogate += scales[k] * p.scale
        return surrogate, terms

      more, terms = jax.grad(local, has_aux=True)(params)
      return jax.tree.map(jnp.add, grads, more), terms

    zeros = jax.tree.map(jnp.zeros_like, params)
    grads, parts = jax.lax.scan(backward, zeros, (micro, split(slopes)))
    terms |= {k: v.sum() for k, v in parts.items()}
    metrics = _named(terms | {"total": self._sum(terms)})
    return metrics | _anisotropy(pairs), grads

  def _contrast(self, pairs: Mapping[str, Pairs]) -> Metrics:
    """The contrastive terms of the global batch."""
    terms = {}
    for name, (a, b, scale, valid) in self._nonzero(pairs).items():
      with jax.named_scope(name):
        terms[name] = contrast(self.contrast, a, b, scale, valid)
    return terms

  def _nonzero(self, terms: Mapping[str, T]) -> dict[str, T]:
    return {k: v for k, v in terms.items() if self.weights[k]}

  def _sum(self, terms: Metrics) -> Float[Array, ""]:
    return sum((self.weights[k] * v for k, v in terms.items()), jnp.float32(0))


def _arrays(pairs: Mapping[str, Pairs]) -> dict[str, Pairs]:
  return {k: p._replace(scale=jnp.float32(p.scale)) for k, p in pairs.items()}


def _merged(pairs: Pairs, mesh: Mesh) -> Pairs:
  """The pairs of the full batch, from those of its microbatches."""
  a, b, valid = sharding.merge_rows((pairs.a, pairs.b, pairs.valid), mesh)
  return Pairs(a, b, jnp.asarray(pairs.scale)[0], valid)


def _named(terms: Metrics) -> Metrics:
  return {f"loss/{k}": v for k, v in terms.items()}


def _anisotropy(pairs: Mapping[str, Pairs]) -> Metrics:
  """Of both sides; those of other pairs than video and text have the pair's name."""
  metrics = {}
  for name, p in pairs.items():
    sides = ("video", "text") if name == "vtc" else (f"{name}_a", f"{name}_b")
    for side, x in zip(sides, (p.a, p.b), strict=True):
      metrics[f"anisotropy/{side}"] = guard.anisotropy(x, p.valid)
  return metrics
