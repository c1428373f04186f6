"""Estimates a plan by arithmetic, if no compiler for the chips is installed."""

import math
from typing import Any

import jax

from vtr_jax.core import sharding
from vtr_jax.plan.chips import Target
from vtr_jax.plan.costs import Costs
from vtr_jax.plan.problem import Problem, on_one

# Ours, checked against compiled plans of the three recipes (docs/scale.md): a saved
# activation is written once and read twice; the update of a parameter reads and writes
# it, its gradient and both moments, and casts it for two passes.
_PASSES = 3
_UPDATE = 9


def costs(problem: Problem, target: Target) -> Costs:
  """Estimates of the costs that `compiled.costs` gets from the compiler."""
  held, limit = problem.held(), target.chip.memory
  saved = activations(problem)
  grads = held["parameters"]
  peak = sum(held.values()) + grads + saved
  one = on_one(problem)
  return Costs(
    how="arithmetic",
    fits=not limit or peak <= limit,
    held=held,
    peak=peak,
    limit=limit,
    flops=one.flops() / problem.mesh.size,
    temporary=grads + saved,
    bytes=_PASSES * saved * problem.config.micro_batches + _UPDATE * held["parameters"],
  )


def activations(problem: Problem) -> float:
  """Bytes of activations that a device saves for the backward pass of a microbatch.

  As saved by automatic differentiation, before a compiler fuses or drops any of them;
  they include the similarity matrix of the batch.
  """
  one = on_one(problem)
  micro = one.config.micro_batches
  shapes, _ = one.parts.abstract(one.mesh)
  spec = {
    k: jax.ShapeDtypeStruct((v.shape[0] // micro, *v.shape[1:]), v.dtype)
    for k, v in one.parts.spec.items()
  }
  loss = one.parts.loss(one.devices)

  def backward(params: Any, teacher: Any, batch: Any) -> Any:
    total = lambda p: loss.total(p, teacher, batch, jax.random.key(0))[0]
    return jax.vjp(total, params)[1]

  with sharding.scope(one.devices):
    saved = jax.eval_shape(backward, shapes.params, shapes.teacher, spec)
  size = lambda x: math.prod(x.shape) * x.dtype.itemsize
  total = sum(map(size, jax.tree.leaves(saved)))
  # Parameters are among them, but are counted separately.
  total -= sum(map(size, jax.tree.leaves(shapes.params)))
  return max(total, 0) / problem.row_devices
