"""Pickles as annotation files: only when asked for, and only plain data."""

import pickle
from collections.abc import Mapping
from typing import Any

from vtr_jax.errors import DataError, one_line
from vtr_jax.formats import parse


def load(path: str, allowed: bool) -> Any:
  """A pickle of plain data: containers, texts, numbers, NumPy arrays.

  Raises:
    DataError: not `allowed`, or it asks for anything else.
  """
  if not allowed:
    raise DataError(
      f"{path}: is a pickle, which can run code when it is read; "
      "pass --allow_pickle if you trust it"
    )
  try:
    with open(path, "rb") as f:
      return _Plain(f, encoding="utf-8").load()
  except OSError as e:
    raise parse.unreadable(path, e) from e
  except DataError as e:
    raise DataError(f"{path}: {e}") from e
  except Exception as e:  # a damaged pickle raises nearly anything
    raise DataError(f"{path}: not a pickle ({one_line(e)}); {parse.LOOK}") from e


_BUILTINS = {"set", "frozenset", "list", "dict", "tuple", "int", "float", "str"}


class _Plain(pickle.Unpickler):
  """Builds nothing that could run code."""

  _KNOWN: Mapping[str, set[str]] = {
    "builtins": _BUILTINS,
    "__builtin__": _BUILTINS,  # Python 2
    "collections": {"OrderedDict", "defaultdict"},
    "numpy": {"ndarray", "dtype"},
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "_codecs": {"encode"},  # bytes of an array in pickles of protocol 2
  }

  def find_class(self, module: str, name: str) -> Any:
    if name not in self._KNOWN.get(module, ()):
      raise DataError(f"the pickle asks for {module}.{name}, not plain data; refused")
    # NumPy 2 warns of its old module name.
    return super().find_class(module.replace("numpy.core.", "numpy._core."), name)
