"""Helpers to read pickles, which are programs, safely."""

import dataclasses
import io
import pickle
import pickletools
from collections.abc import Callable
from typing import Any

_MEMOS = ("PUT", "BINPUT", "LONG_BINPUT")


class UnsafePickle(Exception):
  """The pickle names or does something that is not on the list."""


class Immutable:
  """A value that a pickle may pass on, but not change."""

  def __setstate__(self, state: Any) -> None:
    raise UnsafePickle(f"it changes a {type(self).__name__}")


@dataclasses.dataclass(frozen=True)
class Call(Immutable):
  """A function that a pickle may call; BUILD cannot set its attributes."""

  function: Callable

  def __call__(self, *args: Any) -> Any:
    return self.function(*args)


def check(program: bytes | memoryview) -> None:
  """Rejects a pickle that takes memory out of proportion to its length.

  Python allocates the memory that an instruction names before it reads the data.

  Raises:
    UnpicklingError: it is rejected, or damaged.
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
      raise pickle.UnpicklingError(f"memo entry {value} in {len(program)} bytes")
