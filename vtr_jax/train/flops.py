"""Arithmetic of a step, counted from what JAX traced, before any compiler touched it.

Matrix products alone, as is the custom: a multiplication and an addition for each of
their terms. A loop's body counts as often as it runs, which XLA's own count does not
tell. What a backward pass makes again (remat) is work of the machine, not of the model:
trace a step without remat for the model's.
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
  "TPU7x": 1153.5e12,  # half a chip: that is what JAX calls a device
  "NVIDIA A100-SXM4-40GB": 312e12,
  "NVIDIA A100-SXM4-80GB": 312e12,
  "NVIDIA H100 80GB HBM3": 989e12,
  "NVIDIA H100 PCIe": 756e12,
  "NVIDIA H200": 989e12,
}


def of(function: Any, *args: Any) -> float:
  """FLOPs of `function(*args)`; arguments may be shapes (ShapeDtypeStruct)."""
  return count(jax.make_jaxpr(function)(*args).jaxpr)


def count(jaxpr: core.Jaxpr) -> float:
  """FLOPs of one run of it."""
  return sum(map(_of_equation, jaxpr.eqns))


def _of_equation(eqn: core.JaxprEqn) -> float:
  if eqn.primitive.name == "dot_general":
    return _of_product(eqn)
  inner = [count(j) for j in _inner(eqn.params)]
  if eqn.primitive.name == "scan":
    return eqn.params["length"] * sum(inner)
  if eqn.primitive.name == "cond":
    return max(inner, default=0.0)
  if eqn.primitive.name == "shard_map":  # counted for one device
    return sum(inner) * math.prod(eqn.params["mesh"].shape.values())
  return sum(inner)


def _inner(params: dict[str, Any]) -> list[core.Jaxpr]:
  """Jaxprs among an equation's parameters."""
  found = []
  for value in params.values():
    for item in value if isinstance(value, tuple | list) else [value]:
      if isinstance(item, core.ClosedJaxpr):
        found.append(item.jaxpr)
      elif isinstance(item, core.Jaxpr):
        found.append(item)
  return found


def _of_product(eqn: core.JaxprEqn) -> float:
  (contracted, _), _ = eqn.params["dimension_numbers"]
  left = eqn.invars[0].aval.shape
  terms = math.prod(left[axis] for axis in contracted)
  return 2.0 * math.prod(eqn.outvars[0].aval.shape) * terms
