"""Reads the pickle of a PyTorch zip file without running code from it.

A pickle is a program that can call any function by name. Here it can name only the few
that PyTorch's own files need, each replaced by a function that only creates arrays; any
other name is rejected. Modules of TorchScript files, such as OpenAI's CLIP, become
plain records.
"""

import collections
import dataclasses
import io
import math
import pickle
import re
from typing import Any, Protocol, runtime_checkable

import ml_dtypes
import numpy as np

from vtr_jax.core import safe_pickle
from vtr_jax.core.safe_pickle import Call, Immutable, UnsafePickle

_MAX_BYTES = 256 << 20  # of a pickle (ours; real ones have kilobytes)
_DTYPES = dict(
  Double="float64",
  Float="float32",
  Half="float16",
  BFloat16=ml_dtypes.bfloat16,
  Long="int64",
  Int="int32",
  Short="int16",
  Char="int8",
  Byte="uint8",
  Bool="bool",
)
# Objects that training programs store alongside weights; they become records.
_PLACEHOLDERS = re.compile(
  r"argparse\.Namespace|torch\.device|torch\.(b?float|u?int|complex)\d+|numpy\.ndarray|pathlib(\._local)?\.\w*Path|parse_config\w*\.ConfigParser"
  r"|__torch__(\.\w+)+"
)


class Record:
  """Placeholder for an object that is not a tensor; has its attributes."""

  def __new__(cls, *args: Any, **kwargs: Any) -> "Record":
    return super().__new__(cls)

  def __init__(self, *args: Any, **kwargs: Any):
    pass

  def __setstate__(self, state: Any) -> None:
    if isinstance(state, dict):
      self.__dict__.update({str(k): v for k, v in state.items()})


@dataclasses.dataclass(frozen=True)
class Tensor(Immutable):
  array: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Type(Immutable):
  dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class _Storage(Immutable):
  values: np.ndarray  # [n]


@runtime_checkable
class Files(Protocol):
  """The files of the archive, by name."""

  def __getitem__(self, name: str) -> memoryview: ...
  def __contains__(self, name: str) -> bool: ...


def load(files: Files) -> Any:
  """The object in data.pkl; its `Tensor`s are views of the files.

  Raises:
    UnsafePickle: it names anything that is not allowed.
    KeyError: a file is missing. pickle.UnpicklingError, ValueError, TypeError,
      EOFError: it is damaged.
  """
  program = files["data.pkl"]
  if len(program) > _MAX_BYTES:
    raise ValueError(f"data.pkl has {len(program)} bytes")
  if "byteorder" in files and bytes(files["byteorder"]) != b"little":
    raise ValueError("written by a big-endian machine")
  safe_pickle.check(program)
  return _Reader(io.BytesIO(program), files).load()


class _Reader(pickle.Unpickler):
  def __init__(self, program: io.BytesIO, files: Files):
    super().__init__(program)
    self._files = files

  def find_class(self, module: str, name: str) -> Any:
    full = f"{module}.{name}"
    if full in _ALLOWED:
      return _ALLOWED[full]
    dtype = re.fullmatch(r"torch\.(\w+)Storage", full)
    if dtype and dtype[1] in _DTYPES:
      return _Type(np.dtype(_DTYPES[dtype[1]]))
    if _PLACEHOLDERS.fullmatch(full):
      return Record
    raise UnsafePickle(f"it names {full}, which is not part of weights")

  def persistent_load(self, pid: Any) -> _Storage:
    """The values of tensors; `pid` is ("storage", type, key, device, count)."""
    kind, type_, key, _, count = pid
    if kind != "storage" or not isinstance(type_, _Type):
      raise UnsafePickle(f"it names a {kind!r}, which is not a tensor")
    data, dtype = self._files[f"data/{key}"], type_.dtype
    if not 0 <= count * dtype.itemsize <= len(data):
      raise EOFError(f"data/{key} has {len(data)} bytes, not {count * dtype.itemsize}")
    return _Storage(np.frombuffer(data, dtype, count))


def _tensor(storage: _Storage, offset: int, shape: tuple, strides: tuple, *_: Any):
  """torch._utils._rebuild_tensor_v2, with its bounds checked."""
  values = storage.values
  sizes = (offset, *shape, *strides)
  if len(shape) != len(strides) or any(type(n) is not int or n < 0 for n in sizes):
    raise ValueError(f"a tensor of shape {shape} and strides {strides}")
  if 0 in shape:
    return Tensor(np.zeros(shape, values.dtype))
  if math.prod(shape) > values.size:
    raise ValueError(f"a tensor of shape {shape} from {values.size} values")
  last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
  if last >= values.size:
    raise ValueError(f"a tensor of shape {shape} outside its {values.size} values")
  steps = [s * values.itemsize for s in strides]
  view = np.lib.stride_tricks.as_strided(values[offset:], shape, steps, writeable=False)
  return Tensor(view)


_record = Call(lambda *_: Record())  # part of an optimiser or a log, not a weight
_first = Call(lambda x, *_: x)
_ALLOWED: dict[str, Any] = {
  "collections.OrderedDict": collections.OrderedDict,
  "collections.defaultdict": Call(lambda *_: collections.OrderedDict()),
  "torch._utils._rebuild_tensor_v2": Call(_tensor),
  "torch._utils._rebuild_parameter": _first,
  "torch._utils._rebuild_parameter_with_state": _first,
  "torch.Size": tuple,
  "torch.jit._pickle.build_intlist": _first,
  "torch.jit._pickle.build_doublelist": _first,
  "torch.jit._pickle.build_boollist": _first,
  "builtins.set": set,
  "builtins.complex": complex,
  # For the bytes of a scalar.
  "_codecs.encode": Call(lambda text, *_: text.encode("latin1")),
  "numpy.dtype": Record,
  "numpy.core.multiarray.scalar": _record,
  "numpy._core.multiarray.scalar": _record,
  "numpy.core.multiarray._reconstruct": _record,
  "numpy._core.multiarray._reconstruct": _record,
}
