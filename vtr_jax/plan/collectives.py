"""Collectives of a compiled step: kinds, bytes, and which devices they join."""

import dataclasses
import math
import re
from collections.abc import Iterator

import numpy as np

from vtr_jax.plan.hlo import COLLECTIVES, Instruction, Module, called, executed, size

_MEGASCALE = re.compile(r'_xla_megascale_transfer_type="(\w+)"')


@dataclasses.dataclass(frozen=True)
class Collective:
  """All collectives of one kind and network in a step."""

  kind: str
  network: str  # ici (within a slice) | dcn (across slices)
  count: int  # per step
  size: float  # bytes that a device sends or receives per step, the larger


def collectives(module: Module, slice_of: list[int]) -> list[Collective]:
  """All collectives of a step, by kind and network, the largest first.

  Args:
    module: the compiled step.
    slice_of: slice of each device, in the order of the mesh.
  """
  totals = {}
  for computation, i, times in _exchanges(module):
    kind = i.opcode.removesuffix("-start")
    sent = sum(size(computation.instructions[n].shape) for n in i.operands)
    if kind in COLLECTIVES:
      received = size(i.shape) if kind == i.opcode else size(i.shape) - sent
      network = "dcn" if _across(i, slice_of) else "ici"
    elif i.opcode == "send" and (across := _MEGASCALE.search(i.attributes)):
      # A program is that of one slice; the hosts send data to other slices.
      kind, network, received = across[1].lower().replace("_", "-"), "dcn", 0.0
    else:
      continue
    key = kind, network
    count, total = totals.get(key, (0, 0.0))
    totals[key] = count + times, total + times * max(sent, received)
  result = [Collective(*key, *value) for key, value in totals.items()]
  return sorted(result, key=lambda c: -c.size)


def _exchanges(module: Module) -> Iterator[tuple]:
  """`executed`, with the exchanges in fusions; those that span several count once."""
  channels, fused = set(), {}
  for computation, i, times in executed(module):
    yield computation, i, times
    channels.add(_channel(i))
    for inside, exchange in _fused(module, i):
      key = _channel(exchange)
      if key not in fused or times > fused[key][2]:
        fused[key] = inside, exchange, times
  yield from (found for key, found in fused.items() if key not in channels)


def _channel(i: Instruction) -> str:
  """What identifies an exchange: its channel, or its name."""
  match = re.search(r"\bchannel_id=(\d+)", i.attributes)
  return match[1] if match else i.name


def _fused(module: Module, i: Instruction) -> Iterator[tuple]:
  """(computation, exchange) of each exchange in a fusion."""
  for name in called(i, "calls") if i.opcode == "fusion" else ():
    inside = module.computations[name]
    for inner in inside.instructions.values():
      yield from _fused(module, inner)
      if inner.opcode in COLLECTIVES:
        # As libtpu calls a sum of which each device keeps a slice.
        part = name.startswith("all-reduce-scatter")
        yield (
          inside,
          dataclasses.replace(inner, opcode="reduce-scatter") if part else inner,
        )


def _across(i: Instruction, slice_of: list[int]) -> bool:
  return any(
    len({slice_of[d] for d in group}) > 1
    for group in groups(i.attributes, len(slice_of))
  )


def groups(attributes: str, devices: int) -> list[list[int]]:
  """Groups of devices that communicate, from any of HLO's notations."""
  if pairs := re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", attributes):
    return [list(map(int, p)) for p in re.findall(r"(\d+),(\d+)", pairs[1])]
  if listed := re.search(r"replica_groups=\{(\{[\d,{}]*\})\}", attributes):
    rows = re.findall(r"\{([\d,]*)\}", listed[1])
    return [[int(d) for d in row.split(",") if d] for row in rows]
  if iota := re.search(
    r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes
  ):
    return _reshaped(*(_integers(x) for x in iota.groups()))
  if axes := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", attributes):
    return _of_mesh(axes[1], axes[2])
  return [list(range(devices))]  # none listed: one group of all devices


def _reshaped(
  shape: list[int], dims: list[int], permutation: list[int]
) -> list[list[int]]:
  ids = np.arange(math.prod(dims)).reshape(dims)
  return ids.transpose(permutation or range(len(dims))).reshape(shape).tolist()


def _of_mesh(mesh: str, over: str) -> list[list[int]]:
  """mesh['a'=4,'b'=2] {'b'}: groups along b, one for each index on a."""
  sizes = {name: int(n) for name, n in re.findall(r"'([\w]+)'=(\d+)", mesh)}
  names = re.findall(r"'(\w+)'", over)
  order = [n for n in sizes if n not in names] + names
  ids = np.arange(math.prod(sizes.values())).reshape(list(sizes.values()))
  ids = ids.transpose([list(sizes).index(n) for n in order])
  return ids.reshape(-1, math.prod(sizes[n] for n in names)).tolist()


def _integers(text: str | None) -> list[int]:
  return [int(n) for n in text.split(",")] if text else []
