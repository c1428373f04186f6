"""Arrays of a weights file by name: safetensors, or PyTorch's zip files.

Arrays of PyTorch's files are not copied: they lie in the mapped file until used.
"""

import mmap
import pathlib
import pickle
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from vtr_jax.core.errors import WeightsError, one_line
from vtr_jax.weights import pickles

Arrays = dict[str, np.ndarray]

# Under which name a training program keeps its weights beside other things.
_INSIDE = ("state_dict", "model", "module", "model_state_dict")
_RESAVE = (
  "with PyTorch, where you trust the file, keep its tensors alone: "
  "torch.save(torch.load(FILE, weights_only=False)['state_dict'], NEW); of a whole "
  "module, .state_dict()"
)
_DEEP = 20  # levels of dicts and modules; ours: real files have ten


def read(path: str | pathlib.Path) -> Arrays:
  """The file's weights; `.safetensors`, or `.pth`, `.pt`, `.bin` of PyTorch 1.6 on.

  Raises:
    WeightsError: it is missing, of no known kind, damaged, or would run code.
  """
  path = pathlib.Path(path)
  try:
    with open(path, "rb") as f:
      start = f.read(9)
  except OSError as e:
    raise WeightsError(f"{path}: cannot be read ({e.strerror})") from e
  if start.startswith(b"PK\x03\x04"):
    return _torch(path)
  if start[8:9] == b"{":
    return _safetensors(path)
  if start.startswith((b"\x80", b"\x8a")):
    raise WeightsError(
      f"{path}: a bare pickle, as PyTorch before 1.6 wrote; take the safetensors file "
      "if there is one, or torch.save(torch.load(FILE, weights_only=True), NEW)"
    )
  raise WeightsError(f"{path}: neither safetensors nor a PyTorch zip file")


def _safetensors(path: pathlib.Path) -> Arrays:
  try:
    import safetensors
  except ImportError:
    raise WeightsError(
      f"{path}: needs the package safetensors; pip install safetensors"
    ) from None
  try:
    with safetensors.safe_open(path, framework="numpy") as file:
      return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
  except Exception as e:
    raise WeightsError(
      f"{path}: not whole, or of numbers that NumPy does not have ({one_line(e)}); "
      "copy it again, or save it as float32"
    ) from e


def _torch(path: pathlib.Path) -> Arrays:
  try:
    with zipfile.ZipFile(path) as archive, open(path, "rb") as f:
      mapped = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
      arrays = _tensors(pickles.load(_Members(archive, mapped)))
  except pickles.Refused as e:
    raise WeightsError(f"{path}: refused: {e}; {_RESAVE}") from None
  except (zipfile.BadZipFile, pickle.UnpicklingError, EOFError, KeyError) as e:
    raise WeightsError(f"{path}: not whole ({one_line(e)}); copy it again") from e
  except Exception as e:  # bytes that no program wrote lead anywhere
    raise WeightsError(f"{path}: no weights file ({one_line(e)})") from e
  if not arrays:
    raise WeightsError(f"{path}: holds no tensors")
  return arrays


class _Members:
  """Members of a zip file, each found below its single top folder, uncopied."""

  def __init__(self, archive: zipfile.ZipFile, mapped: mmap.mmap):
    self._mapped, self._infos = mapped, {}
    for info in archive.infolist():
      self._infos[info.filename.partition("/")[2]] = info

  def __getitem__(self, name: str) -> memoryview:
    info = self._infos[name]
    if info.compress_type != zipfile.ZIP_STORED:
      raise ValueError(f"{name} is compressed")
    # The local header's own lengths say where its data begin (PKWARE APPNOTE 4.3.7).
    at = info.header_offset
    name_length, extra_length = np.frombuffer(self._mapped, "<u2", 2, at + 26)
    begin = at + 30 + int(name_length) + int(extra_length)
    if begin + info.file_size > len(self._mapped):
      raise EOFError(f"{name} ends behind the file")
    return memoryview(self._mapped)[begin : begin + info.file_size]

  def __contains__(self, name: str) -> bool:
    return name in self._infos


def _tensors(found: Any) -> Arrays:
  """Of the weights in what a file holds, without what a program keeps beside them."""
  for _ in range(_DEEP):
    names = [n for n in _INSIDE if isinstance(found, Mapping) and found.get(n)]
    inside = [n for n in names if isinstance(found[n], Mapping)]
    if not inside:
      break
    found = found[inside[0]]
  arrays, seen, todo = {}, set(), [("", found, 0)]
  while todo:
    prefix, value, depth = todo.pop()
    if isinstance(value, pickles.Tensor):
      arrays[prefix.removesuffix(".")] = value.array
      continue
    if isinstance(value, pickles.Record):  # a module of a TorchScript file
      value = vars(value)
    if isinstance(value, Mapping) and value:
      if depth > _DEEP:
        raise ValueError(f"dicts in dicts, {depth} levels deep")
      if id(value) in seen:  # it may hold itself
        continue
      seen.add(id(value))
      todo += [(f"{prefix}{name}.", x, depth + 1) for name, x in value.items()]
  return dict(reversed(arrays.items()))
