"""Pickles as annotation files: only when asked for, and only plain data."""

import io
import pickle
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from vtr_jax.core import safe_pickle
from vtr_jax.core.errors import DataError, one_line
from vtr_jax.core.safe_pickle import Call, UnsafePickle
from vtr_jax.prepare.formats import parse


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
      program = f.read()
    safe_pickle.check(program)
    return _Plain(io.BytesIO(program), encoding="utf-8").load()
  except OSError as e:
    raise parse.unreadable(path, e) from e
  except UnsafePickle as e:
    raise DataError(f"{path}: refused: {one_line(e)}, not plain data") from e
  except Exception as e:  # a damaged pickle raises nearly anything
    raise DataError(f"{path}: not a pickle ({one_line(e)}); {parse.LOOK}") from e


def _dtype(kind: Any, *_: Any) -> np.dtype:
  dtype = np.dtype(kind, copy=True)  # the state, which follows, sets its byte order
  if dtype.kind not in "biufSU":
    raise UnsafePickle(f"it has an array of {dtype}")
  return dtype


_BUILTINS = {
  k.__name__: k for k in (set, frozenset, list, dict, tuple, int, float, str)
}
_MULTIARRAY = dict(
  # Empty: its numbers come later, with its shape.
  _reconstruct=Call(lambda *_: np.zeros(0, np.int8)),
  scalar=Call(lambda dtype, data: np.frombuffer(data, dtype)[0]),
)


class _Plain(pickle.Unpickler):
  """Builds nothing that could run code."""

  _KNOWN: Mapping[str, Mapping[str, Any]] = {
    "builtins": _BUILTINS,
    "__builtin__": _BUILTINS,  # Python 2
    "collections": dict(OrderedDict=OrderedDict, defaultdict=defaultdict),
    # Were it the class, it could be asked for an array of any size.
    "numpy": dict(ndarray="ndarray", dtype=Call(_dtype)),
    "numpy.core.multiarray": _MULTIARRAY,  # NumPy 1
    "numpy._core.multiarray": _MULTIARRAY,
    # Bytes of an array, of protocol 2.
    "_codecs": dict(encode=Call(lambda text, *_: text.encode("latin1"))),
  }

  def find_class(self, module: str, name: str) -> Any:
    known = self._KNOWN.get(module, {})
    if name not in known:
      raise UnsafePickle(f"it asks for {module}.{name}")
    return known[name]
