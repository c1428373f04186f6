"""Writes PyTorch's file format without PyTorch: a pickle and raw arrays in a zip."""

import pathlib
import struct
import zipfile
from typing import Any

import numpy as np

_STORAGES = dict(float32="Float", float16="Half", int64="Long")


class Global:
  """A global that a pickle names, and calls if there are `args`."""

  def __init__(self, module: str, name: str, *args: Any):
    self.module, self.name, self.args = module, name, args


def write(path: pathlib.Path, value: Any, compress: bool = False) -> None:
  """Writes `value`: dicts, tuples, strings, ints, None, arrays and Globals."""
  numbers: list[np.ndarray] = []
  program = b"\x80\x02" + _emit(value, numbers) + b"."
  kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
  with zipfile.ZipFile(path, "w", kind) as archive:
    archive.writestr("archive/data.pkl", program)
    archive.writestr("archive/byteorder", "little")
    for i, array in enumerate(numbers):
      archive.writestr(f"archive/data/{i}", array.tobytes())
    archive.writestr("archive/version", "3\n")


def _emit(value: Any, numbers: list[np.ndarray]) -> bytes:
  """Opcodes of protocol 2, see the standard library's pickletools."""
  each = lambda values: b"".join(_emit(v, numbers) for v in values)
  if value is None:
    return b"N"
  if isinstance(value, bool):
    return b"\x88" if value else b"\x89"
  if isinstance(value, int):
    return b"J" + struct.pack("<i", value)
  if isinstance(value, str):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data
  if isinstance(value, tuple):
    return b"(" + each(value) + b"t"
  if isinstance(value, dict):
    return b"}(" + each(x for pair in value.items() for x in pair) + b"u"
  if isinstance(value, Global):
    name = f"c{value.module}\n{value.name}\n".encode()
    return name + each([value.args]) + b"R"
  numbers.append(np.array(value, order="C"))
  kind = f"ctorch\n{_STORAGES[value.dtype.name]}Storage\n".encode()
  key = str(len(numbers) - 1)
  storage = b"(" + each(["storage"]) + kind + each([key, "cpu", value.size]) + b"tQ"
  strides = tuple(n // value.itemsize for n in np.array(value, order="C").strides)
  ordered = b"ccollections\nOrderedDict\n)R"
  shape = each([0, value.shape, strides, False])
  return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + shape + ordered + b"tR"
