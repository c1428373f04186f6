"""Bytes that a compiled program reads and writes, from its HLO text.

XLA's own count includes the body of a loop once. `traffic` counts by the same rules
(the slices of operands that a fusion reads, and its outputs), with and without the trip
counts of loops: the ratio of both corrects the compiler's count.
"""

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Iterator

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_ARRAY = re.compile(r"([a-z]+\d*\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_BYTES = dict(pred=1, s4=0.5, u4=0.5, bf16=2, c64=8, c128=16, token=0, opaque=0)

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
}
_BOOKKEEPING = re.compile(r'custom_call_target="(AllocateBuffer|ConcatBitcast)"')
_MEGASCALE = re.compile(r'_xla_megascale_transfer_type="(\w+)"')


@dataclasses.dataclass(frozen=True)
class Instruction:
  name: str
  opcode: str
  shape: str  # HLO's, layouts and all
  operands: tuple[str, ...]
  attributes: str
  root: bool


@dataclasses.dataclass
class Computation:
  """Instructions by name, in order."""

  instructions: dict[str, Instruction] = dataclasses.field(default_factory=dict)

  @property
  def root(self) -> Instruction:
    return next(i for i in self.instructions.values() if i.root)

  @functools.cached_property
  def users(self) -> dict[str, list[Instruction]]:
    """Instructions that read each instruction."""
    users = {name: [] for name in self.instructions}
    for instruction in self.instructions.values():
      for name in set(instruction.operands):
        users[name].append(instruction)
    return users


@dataclasses.dataclass
class Module:
  computations: dict[str, Computation]
  entry: str


def parse(text: str) -> Module:
  """Reads `compiled.as_text()`."""
  computations, entry, current = {}, "", None
  for line in text.splitlines():
    if current is None:
      if header := _HEADER.match(line):
        current = computations[header[2]] = Computation()
        entry = header[2] if header[1] else entry
    elif line.startswith("}"):
      current = None
    elif match := _INSTRUCTION.match(line):
      shape, rest = _cut_shape(line[match.end() :])
      opcode, _, rest = rest.partition("(")
      inside, attributes = _cut_parenthesis(rest)
      names = tuple(re.findall(r"%([\w.\-]+)", inside))
      if opcode.strip() in ("constant", "parameter"):
        names, attributes = (), inside  # a constant's value
      current.instructions[match[2]] = Instruction(
        match[2], opcode.strip(), shape, names, attributes, bool(match[1])
      )
  return Module(computations, entry)


def _cut_shape(text: str) -> tuple[str, str]:
  if text.startswith("("):
    shape, rest = _cut_parenthesis(text[1:])
    return shape, rest.lstrip()
  shape, _, rest = text.partition(" ")
  return shape, rest


def _cut_parenthesis(text: str) -> tuple[str, str]:
  """The parts before and after the ")" that closes the text's "(", which is cut off."""
  depth = 1
  for i, character in enumerate(text):
    depth += (character == "(") - (character == ")")
    if not depth:
      return text[:i], text[i + 1 :]
  return text, ""


def _called(instruction: Instruction, key: str) -> list[str]:
  """Computations that an attribute names."""
  match = re.search(key + r"=(\{[^}]*\}|%?[\w.\-]+)", instruction.attributes)
  return re.findall(r"[\w.\-]+", match[1]) if match else []


def executed(module: Module, loops: bool = True) -> Iterator[tuple]:
  """(computation, instruction, number of executions); a fusion is one instruction.

  Args:
    module: a program.
    loops: whether to count the iterations of loops, or their bodies once.
  """

  def walk(name: str, times: int) -> Iterator[tuple]:
    computation = module.computations[name]
    for i in computation.instructions.values():
      yield computation, i, times
      if i.opcode == "while":
        length = trip_count(module, i) if loops else 1
        for body in _called(i, "body"):
          yield from walk(body, times * length)
      elif i.opcode in ("call", "conditional", "async-start"):
        keys = ("to_apply", "calls", "branch_computations", "true_computation")
        for body in itertools.chain.from_iterable(_called(i, k) for k in keys):
          yield from walk(body, times)

  return walk(module.entry, 1)


def trip_count(module: Module, loop: Instruction) -> int:
  """Iterations of a `while`; 1 if unknown."""
  if match := re.search(r'known_trip_count":\{"n":"(\d+)"', loop.attributes):
    return int(match[1])
  bounds = set()
  for name in _called(loop, "condition"):
    for i in module.computations[name].instructions.values():
      if i.opcode == "constant" and i.shape.startswith(("s32[]", "s64[]", "u32[]")):
        bounds.add(int(i.attributes))
  return bounds.pop() if len(bounds) == 1 else 1


def arrays(shape: str) -> list[tuple[float, str]]:
  """(bytes, layout) of each array in a shape."""
  sizes = []
  for kind, dims, layout in _ARRAY.findall(shape):
    bits = re.search(r"\d+", kind)
    each = _BYTES.get(kind, int(bits[0]) / 8 if bits else 0)
    if kind.startswith("f8"):
      each = 1
    sizes.append((each * math.prod(int(d) for d in dims.split(",") if d), layout))
  return sizes


def size(shape: str, fast: bool = True) -> float:
  """Bytes of a shape.

  Args:
    shape: as in HLO.
    fast: whether to count arrays in the chip's fast memory (VMEM, space 1).
  """
  return sum(n for n, layout in arrays(shape) if fast or "S(1)" not in layout)


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
  of = lambda name: size(inside.instructions[name].shape, fast)
  if i.opcode in _FREE or i.opcode.endswith("-done"):
    return 0.0
  if i.opcode == "custom-call" and _BOOKKEEPING.search(i.attributes):
    return 0.0
  if i.opcode == "copy-start":  # its shape: (target, source, context)
    return size(i.shape, fast)
  if i.opcode == "fusion":
    (name,) = _called(i, "calls")
    return _fused(module, module.computations[name], inside, i, fast)
  if i.opcode == "slice-start":  # (sources, slices, context)
    return 2 * sum(n for n, _ in arrays(i.shape)[len(i.operands) : -1])
  if i.opcode in ("dynamic-slice", "slice", "gather"):
    source, part = of(i.operands[0]), size(i.shape, fast)
    return part + min(source, part)
  if i.opcode == "dynamic-update-slice":
    return 2 * of(i.operands[1])
  return size(i.shape, fast) + sum(map(of, i.operands))


def _fused(
  module: Module, body: Computation, inside: Computation, call: Instruction, fast: bool
) -> float:
  """Bytes of a fusion: it reads slices of its operands, and may update in place."""
  parameters = [i for i in body.instructions.values() if i.opcode == "parameter"]
  read = 0.0
  for parameter in parameters:
    operand = inside.instructions[call.operands[int(parameter.attributes)]]
    # Memory space and layout are those of the operand.
    fraction = _fraction_read(module, body, parameter)
    read += fraction * size(operand.shape, fast)
  root = body.root
  roots = [body.instructions[n] for n in root.operands]
  roots = roots if root.opcode == "tuple" else [root]
  ignored = lambda layout: not fast and "S(1)" in layout
  sizes = [0.0 if ignored(layout) else n for n, layout in arrays(call.shape)]
  total = read
  for output, full in zip(roots, sizes, strict=False):
    total += full * _fraction_written(module, body, output)
  return total


def _through(body: Computation, name: str) -> list[tuple[Instruction, str]]:
  """(user, its operand) of a value, looking through bitcasts and reshapes."""
  users = []
  for user in body.users[name]:
    if user.opcode in ("bitcast", "reshape"):
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
      (inner,) = _called(user, "calls")
      for index in (i for i, n in enumerate(user.operands) if n == name):
        fraction += _fraction_read(module, *_parameter(module, inner, index))
    elif user.opcode != "dynamic-update-slice" or user.operands[0] != name:
      return 1.0
    # Else it is updated in place, and need not be read.
  return min(fraction, 1.0)


def _parameter(module: Module, name: str, index: int) -> tuple:
  body = module.computations[name]
  parameters = (i for i in body.instructions.values() if i.opcode == "parameter")
  return body, next(p for p in parameters if int(p.attributes) == index)


def _fraction_written(module: Module, body: Computation, output: Instruction) -> float:
  """Fraction of a fusion's output that is written; below 1 for updates in place."""
  while output.opcode in ("bitcast", "reshape", "copy"):
    output = body.instructions[output.operands[0]]
  if output.opcode == "fusion":
    inner = module.computations[_called(output, "calls")[0]]
    return (
      1.0
      if inner.root.opcode == "tuple"
      else _fraction_written(module, inner, inner.root)
    )
  if output.opcode != "dynamic-update-slice":
    return 1.0
  return size(body.instructions[output.operands[1]].shape) / max(size(output.shape), 1)
