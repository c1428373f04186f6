"""The loss over the global batch, whole or in microbatches, and its gradient."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from vtr_jax.core import sharding
from vtr_jax.core.batch import Batch
from vtr_jax.core.config import nearest
from vtr_jax.core.errors import ConfigError, printable
from vtr_jax.objectives.base import Objective, Params
from vtr_jax.objectives.contrastive import DENSE, ContrastConfig, contrast
from vtr_jax.train import guard

Metrics = guard.Metrics


def check_weights(weights: Mapping[str, float], objective: Objective) -> None:
  """Refuses weights of terms that the objective does not have, or that lack one."""
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
  """What is made small: the contrastive loss of the global batch, and other terms.

  With `micro_batches` the batch is embedded in parts, the contrastive loss is taken
  over all of them, and each part is embedded once more for its share of the gradient
  (GradCache, arXiv 2101.06983): memory of one part, the gradient of all. Other terms
  are means over the parts, weighted by their valid rows; SimVTP's false pairs are of
  one part.
  """

  objective: Objective
  weights: Mapping[str, float]
  contrast: ContrastConfig = DENSE
  micro_batches: int = 1
  mesh: Mesh | None = None

  def gradient(
    self, params: Params, teacher: Params | None, batch: Batch, key: jax.Array
  ) -> tuple[Metrics, Params]:
    """(total, each term, and how alike embeddings are; gradient).

    A term of weight 0 is not computed.
    """
    if self.micro_batches == 1:
      total = lambda params: self.total(params, teacher, batch, key)
      (_, metrics), grads = jax.value_and_grad(total, has_aux=True)(params)
      return metrics, grads
    return self._in_parts(params, teacher, batch, key)

  def total(
    self, params: Params, teacher: Params | None, batch: Batch, key: jax.Array
  ) -> tuple[Float[Array, ""], Metrics]:
    """(weighted sum, metrics) of the whole batch at once."""
    out = self.objective.forward(params, teacher, batch, key)
    vtc = self._vtc(out.video, out.text, out.scale, batch["valid"])
    terms = self._weighed(out.terms) | ({"vtc": vtc} if self.weights["vtc"] else {})
    total = self._sum(terms)
    alike = _anisotropy(out.video, out.text, batch["valid"])
    return total, _named(terms | {"total": total}) | alike

  def _in_parts(self, params, teacher, batch, key) -> tuple[Metrics, Params]:
    parts = sharding.split_rows(batch, self.micro_batches, self.mesh)
    keys = jax.random.split(key, self.micro_batches)
    valid = parts["valid"]
    share = valid.sum(axis=1) / jnp.maximum(valid.sum(), 1)

    def embed(_, part):
      out = self.objective.forward(params, teacher, *part)
      return None, (out.video, out.text, jnp.float32(out.scale))

    _, (video, text, scale) = jax.lax.scan(embed, None, (parts, keys))

    def vtc(video, text, scale):
      rows = sharding.merge_rows((video, text, valid), self.mesh)
      return self._vtc(*rows[:2], scale, rows[2])

    alike = _anisotropy(*sharding.merge_rows((video, text, valid), self.mesh))
    vtc, (to_video, to_text, to_scale) = jax.value_and_grad(vtc, (0, 1, 2))(
      video, text, scale[0]
    )

    def replay(grads, part):
      rows, key, share, to_video, to_text = part

      def local(params):
        out = self.objective.forward(params, teacher, rows, key)
        terms = {k: share * v for k, v in self._weighed(out.terms).items()}
        # Every part sees the whole scale: each gives its share of that gradient.
        pull = to_scale * out.scale / self.micro_batches
        pull += (to_video * out.video).sum() + (to_text * out.text).sum()
        return self.weights["vtc"] * pull + self._sum(terms), terms

      more, terms = jax.grad(local, has_aux=True)(params)
      return jax.tree.map(jnp.add, grads, more), terms

    zeros = jax.tree.map(jnp.zeros_like, params)
    each = (parts, keys, share, to_video, to_text)
    grads, terms = jax.lax.scan(replay, zeros, each)
    terms = {k: v.sum() for k, v in terms.items()}
    if self.weights["vtc"]:
      terms["vtc"] = vtc
    return _named(terms | {"total": self._sum(terms)}) | alike, grads

  def _vtc(self, video, text, scale, valid) -> Float[Array, ""]:
    with jax.named_scope("vtc"):
      return contrast(self.contrast, video, text, scale, valid)

  def _weighed(self, terms: Metrics) -> Metrics:
    return {k: v for k, v in terms.items() if self.weights[k]}

  def _sum(self, terms: Metrics) -> Float[Array, ""]:
    return sum((self.weights[k] * v for k, v in terms.items()), jnp.float32(0))


def _named(terms: Metrics) -> Metrics:
  return {f"loss/{k}": v for k, v in terms.items()}


def _anisotropy(video: Array, text: Array, valid: Array) -> Metrics:
  sides = {"video": video, "text": text}
  return {f"anisotropy/{k}": guard.anisotropy(x, valid) for k, x in sides.items()}
