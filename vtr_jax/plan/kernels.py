"""What a device executes of a compiled program, and the cycles that XLA expects."""

import dataclasses
import re

from vtr_jax.plan.hlo import Instruction, Module, executed

_FREE = {
  "parameter",
  "constant",
  "tuple",
  "get-tuple-element",
  "bitcast",
  "while",
  "conditional",
  "call",
  "after-all",
  "partition-id",
  "replica-id",
  "opt-barrier",
  "iota",
  "send",
  "recv",
  "async-start",  # its computation is counted
  "async-update",
}
# Calls of libtpu's own that compute nothing.
_BOOKKEEPING = re.compile(
  r'custom_call_target="'
  r'(AllocateBuffer|AssumeGatherIndicesInBound|ConcatBitcast|ZeroCrop)"'
)
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


@dataclasses.dataclass(frozen=True)
class Cycles:
  """The compiler's estimate of a step, in cycles of a device."""

  count: float
  missing: int  # executed custom calls (Pallas), of which the compiler knows none


def launched(i: Instruction) -> bool:
  """Whether a device executes an instruction, rather than the schedule."""
  if i.opcode in _FREE or i.opcode.endswith("-done"):
    return False
  return i.opcode != "custom-call" or not _BOOKKEEPING.search(i.attributes)


def launches(module: Module) -> int:
  """Number of instructions that a step executes: a GPU launches a kernel for each."""
  return sum(times for _, i, times in executed(module) if launched(i))


def cycles(module: Module) -> Cycles | None:
  """The sum over all executed instructions; None if the compiler estimates none.

  Work that overlaps is counted in full, and waiting for an exchange not at all.
  """
  total, missing = 0.0, 0
  for _, i, times in executed(module):
    if match := _CYCLES.search(i.attributes):
      total += times * int(match[1])
    elif i.opcode == "custom-call" and launched(i):
      missing += times
  return Cycles(total, missing) if total else None
