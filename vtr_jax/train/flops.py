"""FLOPs of a step, counted in its jaxpr, before compilation.

As usual, matrix products alone: one multiplication and one addition per term. The body
of a loop counts once per iteration, which XLA's own count does not do. Recomputation in
the backward pass (remat) counts as it is traced: for the model's FLOPs, trace a step
without remat.
"""

import math
from typing import Any

import jax
from jax.extend import core

# Peak of dense bfloat16 products of a device, FLOP/s, by `device_kind`; data sheets.
PEAKS = {
  "TPU v4": 275e12,
  "TPU v5 lite": 197e12,
  "TPU v5e": 197e12,
  "TPU v5": 459e12,
  "TPU v5p": 459e12,
  "TPU v6 lite": 918e12,
  "TPU v6e": 918e12,
  "TPU7x": 1153.5e12,  # half a chip is a device of JAX
  "NVIDIA A100-SXM4-40GB": 312e12,
  "NVIDIA A100-SXM4-80GB": 312e12,
  "NVIDIA H100 80GB HBM3": 989e12,
  "NVIDIA H100 PCIe": 756e12,
  "NVIDIA H200": 989e12,
  "NVIDIA RTX A6000": 155e12,
  "NVIDIA B200": 2250e12,
  "NVIDIA GB200": 2500e12,
  "NVIDIA B300": 2250e12,
}


def count_flops(function: Any, *args: Any) -> float:
  """FLOPs of `function(*args)`; arguments may be shapes (ShapeDtypeStruct)."""
  return jaxpr_flops(jax.make_jaxpr(function)(*args).jaxpr)


def jaxpr_flops(jaxpr: core.Jaxpr) -> float:
  """FLOPs of one run of `jaxpr`."""
  return sum(map(_of_equation, jaxpr.eqns))


def _of_equation(eqn: core.JaxprEqn) -> float:
  if eqn.primitive.name == "dot_general":
    return _of_product(eqn)
  inner = [jaxpr_flops(j) for j in _inner(eqn.params)]
  if eqn.primitive.name == "scan":
    return eqn.params["length"] * sum(inner)
  if eqn.primitive.name == "cond":
    return max(inner, default=0.0)
  if eqn.primitive.name == "pallas_call":  # its jaxpr is one step of its grid
    return float(getattr(eqn.params["cost_estimate"], "flops", 0))
  if eqn.primitive.name == "shard_map":  # the jaxpr is that of one device
    return sum(inner) * math.prod(eqn.params["mesh"].shape.values())
  return sum(inner)


def _inner(params: dict[str, Any]) -> list[core.Jaxpr]:
  """Jaxprs among an equation's parameters."""
  jaxprs = []
  for value in params.values():
    for item in value if isinstance(value, tuple | list) else [value]:
      if isinstance(item, core.ClosedJaxpr):
        jaxprs.append(item.jaxpr)
      elif isinstance(item, core.Jaxpr):
        jaxprs.append(item)
  return jaxprs


def _of_product(eqn: core.JaxprEqn) -> float:
  (contracted, _), _ = eqn.params["dimension_numbers"]
  left, out = (_shape(v) for v in (eqn.invars[0], eqn.outvars[0]))
  terms = math.prod(left[axis] for axis in contracted)
  return 2.0 * math.prod(out) * terms


def _shape(operand: Any) -> tuple[int, ...]:
  return operand.aval.shape  # a product's operands are arrays, and so have shapes
