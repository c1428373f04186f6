"""Plans by compiling the training step for chips that need not be attached."""

import re

import jax

from vtr_jax.core.errors import ConfigError, one_line
from vtr_jax.plan import hlo, kernels
from vtr_jax.plan.chips import GIB, Target
from vtr_jax.plan.collectives import collectives
from vtr_jax.plan.costs import Costs
from vtr_jax.plan.problem import Problem
from vtr_jax.plan.traffic import traffic
from vtr_jax.train import flops

_UNITS = dict(K=2.0**10, M=2.0**20, G=GIB, T=2.0**40)
_AMOUNT = re.compile(r"\b([\d.]+)([KMGT])\b")


def costs(problem: Problem, target: Target) -> Costs:
  """Memory and time of one step on a device.

  Raises:
    ConfigError: the compiler rejects the step for a reason other than memory.
  """
  traced = problem.trace()
  step_flops = flops.jaxpr_flops(traced.jaxpr.jaxpr) / problem.mesh.size
  held = problem.held()
  try:
    compiled = traced.lower().compile(target.options)
  except jax.errors.JaxRuntimeError as e:
    needed, limit = out_of_memory(str(e))
    return Costs("compiled", False, held, needed, limit, step_flops)
  memory, limit = compiled.memory_analysis(), target.chip.memory
  assert memory is not None  # None only where a backend has no analysis
  temporary = float(memory.temp_size_in_bytes)
  fixed = memory.argument_size_in_bytes + memory.generated_code_size_in_bytes
  result = memory.output_size_in_bytes - memory.alias_size_in_bytes
  peak = float(fixed + result + temporary)
  module = hlo.parse(compiled.as_text() or "")
  slices = target.slice_of
  order = [slices[d.id] for d in problem.devices.devices.flat]
  platform = problem.devices.devices.flat[0].platform
  # The TPU compiler checks the limit itself.
  fits = platform == "tpu" or not limit or peak <= limit
  return Costs(
    how="compiled",
    fits=fits,
    held=held,
    peak=peak,
    limit=limit,
    flops=step_flops,
    temporary=temporary,
    code=float(memory.generated_code_size_in_bytes),
    # For a GPU that is not attached, the compiler has no count.
    bytes=moved(compiled.cost_analysis() or {}, module) or traffic(module),
    hbm=traffic(module, fast=False),
    kernels=kernels.launches(module) if platform == "gpu" else None,
    cycles=kernels.cycles(module),
    collectives=tuple(collectives(module, order)),
  )


def moved(analysis: dict[str, float], module: hlo.Module) -> float | None:
  """Bytes a step reads and writes: the compiler's count, corrected for loops.

  Its `optimal_seconds` is not used: it may be negative.
  """
  once = traffic(module, loops=False)
  count = analysis.get("bytes accessed", 0.0)
  return count * traffic(module) / once if once and count > 0 else None


def out_of_memory(message: str) -> tuple[float, float | None]:
  """(bytes required, bytes available) from XLA's error for a program that is too large.

  Raises:
    ConfigError: it is another error.
  """
  amounts = [float(n) * _UNITS[u] for n, u in _AMOUNT.findall(message)]
  if "RESOURCE_EXHAUSTED" not in message or not amounts:
    raise ConfigError(f"the compiler rejects this step: {one_line(Exception(message))}")
  return amounts[0], amounts[1] if len(amounts) > 1 else None
