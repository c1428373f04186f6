"""Compiled programs, read from their HLO text: instructions, loops and sizes."""

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

COLLECTIVES = (
  "all-reduce",
  "all-gather",
  "reduce-scatter",
  "all-to-all",
  "ragged-all-to-all",
  "collective-permute",
  "collective-broadcast",
)
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


def called(instruction: Instruction, key: str) -> list[str]:
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
        for body in called(i, "body"):
          yield from walk(body, times * length)
      elif i.opcode in ("call", "conditional", "async-start"):
        keys = ("to_apply", "calls", "branch_computations", "true_computation")
        for body in itertools.chain.from_iterable(called(i, k) for k in keys):
          yield from walk(body, times)

  return walk(module.entry, 1)


def trip_count(module: Module, loop: Instruction) -> int:
  """Iterations of a `while`; 1 if unknown."""
  if match := re.search(r'known_trip_count":\{"n":"(\d+)"', loop.attributes):
    return int(match[1])
  bounds = set()
  for name in called(loop, "condition"):
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
  return sum(n for n, layout in arrays(shape) if counted(layout, fast))


def counted(layout: str, fast: bool) -> bool:
  """Whether an array of this layout counts; see `size`."""
  return fast or "S(1)" not in layout
