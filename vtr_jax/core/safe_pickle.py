"""What it takes to read a pickle, which is a program, without harm."""

import dataclasses
import io
import pickle
import pickletools
from collections.abc import Callable
from typing import Any

_MEMOS = ("PUT", "BINPUT", "LONG_BINPUT")


class Refused(Exception):
  """The pickle names or does something that is not on the list."""


class Fixed:
  """What a pickle may pass on, and not change."""

  def __setstate__(self, state: Any) -> None:
    raise Refused(f"it changes a {type(self).__name__}")


@dataclasses.dataclass(frozen=True)
class Call(Fixed):
  """A function that a pickle may call, and not change: BUILD sets what it can."""

  function: Callable

  def __call__(self, *args: Any) -> Any:
    return self.function(*args)


def check(program: bytes | memoryview) -> None:
  """Rejects a pickle that takes memory out of proportion to its length.

  Python takes all that an instruction asks for before it looks what is there.

  Raises:
    UnpicklingError: it does, or it is damaged.
  """
  codes: dict[str, Any] = pickletools.code2op  # pyright: ignore
  file = io.BytesIO(program)
  for code in iter(lambda: file.read(1), b"."):
    step, value = codes.get(code.decode("latin1")), 0
    try:
      if step is None:
        raise ValueError(f"it has no end, or an unknown instruction {code!r}")
      if step.name == "STRING":  # Python 2's, which pickletools takes for ASCII
        file.readline()
      elif step.arg:
        value = step.arg.reader(file)
    except ValueError as e:
      raise pickle.UnpicklingError(str(e)) from e
    if step.name in _MEMOS and not 0 <= int(value) < len(program):
      raise pickle.UnpicklingError(f"{len(program)} bytes ask for {value} places")
