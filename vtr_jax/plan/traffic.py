"""Bytes that a compiled program reads and writes, from its HLO text.

XLA's own count includes the body of a loop once. `traffic` counts by the same rules
(the slices of operands that a fusion reads, and its outputs), with and without the trip
counts of loops: the ratio of both corrects the compiler's count. What a fusion passes
on unchanged, such as the buffers of an exchange in flight, is neither read nor written.
"""

import re

from vtr_jax.plan.hlo import (
  COLLECTIVES,
  Computation,
  Instruction,
  Module,
  arrays,
  called,
  counted,
  executed,
  size,
)
from vtr_jax.plan.kernels import launched

# Their shapes hold the source too: (target, source, context) or (sources, targets).
_WITH_SOURCE = {
  "copy-start",
  "all-gather-start",
  "reduce-scatter-start",
  "collective-permute-start",
}
# GPU libraries list their workspace among the results.
_LIBRARY = re.compile(r'custom_call_target="__cu')
_WORKSPACE = re.compile(r", (?:/\*index=\d+\*/)?[su]8\[\d+\]\{0\}$")


def traffic(module: Module, loops: bool = True, fast: bool = True) -> float:
  """Bytes that a run reads and writes; see `executed` and `size`."""
  each = {}
  total = 0.0
  for computation, instruction, times in executed(module, loops):
    key = id(instruction)
    if key not in each:
      each[key] = _moved(module, computation, instruction, fast)
    total += times * each[key]
  return total


def _moved(module: Module, inside: Computation, i: Instruction, fast: bool) -> float:
  if not launched(i):
    return 0.0
  shapes = [inside.instructions[name].shape for name in i.operands]
  counts = [counted(arrays(s)[0][1], fast) if arrays(s) else False for s in shapes]
  if i.opcode in _WITH_SOURCE:
    return size(i.shape, fast)
  if i.opcode == "fusion":
    (name,) = called(i, "calls")
    return _fused(module, module.computations[name], inside, i, fast)
  if i.opcode == "slice-start":  # (sources, slices, context)
    slices = arrays(i.shape)[len(shapes) : -1]
    pairs = zip(counts, slices, strict=False)
    return sum(n * (read + counted(layout, fast)) for read, (n, layout) in pairs)
  if i.opcode in ("dynamic-slice", "slice", "gather"):
    return size(i.shape, fast) + counts[0] * min(size(shapes[0]), size(i.shape))
  if i.opcode == "dynamic-update-slice":
    return size(shapes[1], fast) + counts[0] * size(shapes[1])
  library = i.opcode == "custom-call" and _LIBRARY.search(i.attributes)
  shape = _WORKSPACE.sub("", i.shape) if library else i.shape
  return size(shape, fast) + sum(size(s, fast) for s in shapes)


def _fused(
  module: Module, body: Computation, inside: Computation, call: Instruction, fast: bool
) -> float:
  """Bytes of a fusion: it reads slices of its operands, and may update in place."""
  root = body.root
  if _ends_exchange(root):
    return 0.0
  parameters = [i for i in body.instructions.values() if i.opcode == "parameter"]
  total = 0.0
  for parameter in parameters:
    operand = inside.instructions[call.operands[int(parameter.attributes)]]
    # Memory space and layout are those of the operand.
    fraction = _fraction_read(module, body, parameter)
    total += fraction * size(operand.shape, fast)
  roots = [body.instructions[n] for n in root.operands]
  roots = roots if root.opcode == "tuple" else [root] * len(arrays(call.shape))
  passed = _aliased(call) if root.opcode == "custom-call" else set()
  for index, (output, (full, layout)) in enumerate(
    zip(roots, arrays(call.shape), strict=False)
  ):
    if counted(layout, fast) and index not in passed:
      total += full * _fraction_written(module, body, output)
  return total


def _ends_exchange(root: Instruction) -> bool:
  return 'custom_call_target="AsyncCollectiveDone"' in root.attributes


def _aliased(call: Instruction) -> set[int]:
  """Indices of the outputs that are an operand's buffer."""
  aliases = re.search(r"output_to_operand_aliasing=\{(.*?\))\}", call.attributes)
  return {int(n) for n in re.findall(r"\{(\d+)\}: \(", aliases[1] if aliases else "")}


def _through(body: Computation, name: str) -> list[tuple[Instruction, str]]:
  """(user, its operand) of a value, looking through bitcasts and reshapes.

  One that is a fusion's result is a user: whatever takes that result reads the value.
  """
  users = []
  for user in body.users[name]:
    if user.opcode in ("bitcast", "reshape") and not user.root:
      users += _through(body, user.name)
    else:
      users.append((user, name))
  return users


def _fraction_read(module: Module, body: Computation, parameter: Instruction) -> float:
  """Fraction of a parameter that is read; 1 unless all its users slice it."""
  full = size(parameter.shape)
  if not full:
    return 0.0
  fraction = 0.0
  for user, name in _through(body, parameter.name):
    if user.opcode in ("dynamic-slice", "slice", "gather"):
      fraction += size(user.shape) / full
    elif user.opcode == "fusion":  # fusions are nested
      (inner,) = called(user, "calls")
      for index in (i for i, n in enumerate(user.operands) if n == name):
        fraction += _fraction_read(module, *_parameter(module, inner, index))
    elif not (
      (user.opcode == "dynamic-update-slice" and user.operands[0] == name)
      or (user.opcode == "tuple" and user.root)
      or _in_flight(body, user)
    ):
      return 1.0
    # Else it is updated in place, passed on or exchanged, and need not be read.
  return min(fraction, 1.0)


def _parameter(module: Module, name: str, index: int) -> tuple:
  body = module.computations[name]
  parameters = (i for i in body.instructions.values() if i.opcode == "parameter")
  return body, next(p for p in parameters if int(p.attributes) == index)


def _fraction_written(module: Module, body: Computation, output: Instruction) -> float:
  """Fraction of a fusion's output that is written; below 1 for updates in place."""
  if body.root.opcode == "tuple" and _passed_on(body, output):
    return 0.0
  while output.opcode in ("bitcast", "reshape", "copy"):
    output = body.instructions[output.operands[0]]
  if output.opcode == "fusion":
    inner = module.computations[called(output, "calls")[0]]
    return (
      1.0
      if inner.root.opcode == "tuple"
      else _fraction_written(module, inner, inner.root)
    )
  if _in_flight(body, output):
    return 0.0
  if output.opcode != "dynamic-update-slice":
    return 1.0
  return size(body.instructions[output.operands[1]].shape) / max(size(output.shape), 1)


def _passed_on(body: Computation, output: Instruction) -> bool:
  """Whether an output is a parameter's buffer."""
  while output.opcode == "bitcast":
    output = body.instructions[output.operands[0]]
  return output.opcode == "parameter"


def _in_flight(body: Computation, i: Instruction) -> bool:
  """Whether an instruction carries on an exchange that another fusion has started."""
  if i.opcode not in COLLECTIVES or body.root.opcode != "tuple":
    return False
  passed = [n for n in body.root.operands if _passed_on(body, body.instructions[n])]
  return any(n in passed for n in i.operands)
