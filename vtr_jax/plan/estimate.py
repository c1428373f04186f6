"""Plans by arithmetic alone, where no compiler for the chips is installed."""

import math
from typing import Any

import jax

from vtr_jax.core import sharding
from vtr_jax.plan.chips import Target
from vtr_jax.plan.costs import Costs
from vtr_jax.plan.problem import Problem, on_one

# Ours, against compiled plans of the three recipes (docs/scale.md): a value that is
# kept for the backward pass is written once and read twice; a parameter's own step
# reads and writes it, its gradient and both moments, and casts it for two passes.
_PASSES = 3
_UPDATE = 9


def costs(problem: Problem, target: Target) -> Costs:
  """Estimates of what `compiled.costs` reads off the compiler."""
  held, limit = problem.held(), target.chip.memory
  kept = activations(problem)
  grads = held["parameters"]
  peak = sum(held.values()) + grads + kept
  one = on_one(problem)
  return Costs(
    how="arithmetic",
    fits=not limit or peak <= limit,
    held=held,
    peak=peak,
    limit=limit,
    flops=one.flops() / problem.mesh.size,
    temporary=grads + kept,
    bytes=_PASSES * kept * problem.config.micro_batches + _UPDATE * held["parameters"],
  )


def activations(problem: Problem) -> float:
  """Bytes that a device keeps for the backward pass, of one part of the batch.

  What automatic differentiation saves, before a compiler joins or drops any of it; the
  matrix of similarities, rows x rows, is among it.
  """
  one = on_one(problem)
  micro = one.config.micro_batches
  shapes, _ = one.parts.abstract(one.mesh)
  spec = {
    k: jax.ShapeDtypeStruct((v.shape[0] // micro, *v.shape[1:]), v.dtype)
    for k, v in one.parts.spec.items()
  }
  loss = one.parts.loss(one.devices)

  def back(params: Any, teacher: Any, batch: Any) -> Any:
    total = lambda p: loss.total(p, teacher, batch, jax.random.key(0))[0]
    return jax.vjp(total, params)[1]

  with sharding.scope(one.devices):
    saved = jax.eval_shape(back, shapes.params, shapes.teacher, spec)
  size = lambda x: math.prod(x.shape) * x.dtype.itemsize
  total = sum(map(size, jax.tree.leaves(saved)))
  # Parameters are saved too, but are there anyway.
  total -= sum(map(size, jax.tree.leaves(shapes.params)))
  return max(total, 0) / problem.row_devices
