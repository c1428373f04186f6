"""Reads the arrays of a weights file: safetensors, .npz, or PyTorch's zip files.

Arrays of PyTorch files are not copied: they are views of the memory-mapped file.
"""

import mmap
import pathlib
import pickle
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from vtr_jax.core.errors import WeightsError, one_line
from vtr_jax.core.paths import near
from vtr_jax.weights import pickles

Arrays = dict[str, np.ndarray]

# Names under which training programs store weights alongside other objects.
_WEIGHTS = ("state_dict", "model", "module", "model_state_dict")
_RESAVE = (
  "if you trust the file, save only its tensors with PyTorch: "
  "torch.save(torch.load(FILE, weights_only=False)['state_dict'], NEW); if it is a "
  "module, save its .state_dict()"
)
_MAX_DEPTH = 20  # of nested dicts and modules (ours; real files have ten levels)


def read(path: str | pathlib.Path) -> Arrays:
  """Reads `.safetensors`, `.npz`, or `.pth`, `.pt`, `.bin` of PyTorch 1.6 and later.

  Raises:
    WeightsError: it is missing, of an unknown format, damaged, or would run code.
  """
  path = pathlib.Path(path)
  try:
    with open(path, "rb") as f:
      start = f.read(9)
  except OSError as e:
    hint = near(path) if isinstance(e, FileNotFoundError) else ""
    raise WeightsError(f"{path}: cannot be read ({e.strerror}){hint}") from e
  if start.startswith(b"PK\x03\x04"):
    return _npz(path) if _is_npz(path) else _torch(path)
  if start[8:9] == b"{":
    return _safetensors(path)
  if start.startswith((b"\x80", b"\x8a")):
    raise WeightsError(
      f"{path}: a bare pickle, written by PyTorch before 1.6; use the safetensors "
      "file if there is one, or torch.save(torch.load(FILE, weights_only=True), NEW)"
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
      f"{path}: damaged, or of a dtype that NumPy lacks ({one_line(e)}); copy it "
      "again, or save it as float32"
    ) from e


def _is_npz(path: pathlib.Path) -> bool:
  """Whether all members of a zip file are arrays of NumPy."""
  try:
    with zipfile.ZipFile(path) as archive:
      names = archive.namelist()
  except Exception:  # damaged: reported by the reader
    return path.suffix == ".npz"
  return bool(names) and all(name.endswith(".npy") for name in names)


def _npz(path: pathlib.Path) -> Arrays:
  try:
    # NumPy itself would leave a damaged file open.
    with open(path, "rb") as f, np.load(f, allow_pickle=False) as file:
      return {name: file[name] for name in file.files}
  except Exception as e:  # damaged bytes can raise anything
    raise WeightsError(f"{path}: damaged ({one_line(e)}); copy it again") from e


def _torch(path: pathlib.Path) -> Arrays:
  try:
    with zipfile.ZipFile(path) as archive, open(path, "rb") as f:
      mapped = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
      arrays = _tensors(pickles.load(_Members(archive, mapped)))
  except pickles.UnsafePickle as e:
    raise WeightsError(f"{path}: rejected: {e}; {_RESAVE}") from None
  except (zipfile.BadZipFile, pickle.UnpicklingError, EOFError, KeyError) as e:
    raise WeightsError(f"{path}: damaged ({one_line(e)}); copy it again") from e
  except Exception as e:  # damaged bytes can raise anything
    raise WeightsError(f"{path}: not a valid weights file ({one_line(e)})") from e
  if not arrays:
    raise WeightsError(f"{path}: contains no tensors")
  return arrays


class _Members:
  """Members of a zip file, by their path in its top folder; views, not copies."""

  def __init__(self, archive: zipfile.ZipFile, mapped: mmap.mmap):
    self._mapped, self._infos = mapped, {}
    for info in archive.infolist():
      self._infos[info.filename.partition("/")[2]] = info

  def __getitem__(self, name: str) -> memoryview:
    info = self._infos[name]
    if info.compress_type != zipfile.ZIP_STORED:
      raise ValueError(f"{name} is compressed")
    # The data follow the local header and its fields (PKWARE APPNOTE 4.3.7).
    header = info.header_offset
    name_length, extra_length = np.frombuffer(self._mapped, "<u2", 2, header + 26)
    start = header + 30 + int(name_length) + int(extra_length)
    if start + info.file_size > len(self._mapped):
      raise EOFError(f"{name} ends after the end of the file")
    return memoryview(self._mapped)[start : start + info.file_size]

  def __contains__(self, name: str) -> bool:
    return name in self._infos


def _tensors(value: Any) -> Arrays:
  """The weights in the unpickled `value`, without what is stored alongside them."""
  for _ in range(_MAX_DEPTH):
    if not isinstance(value, Mapping):
      break
    inner = [x for name in _WEIGHTS if (x := value.get(name))]
    mappings = [x for x in inner if isinstance(x, Mapping)]
    if not mappings:
      break
    value = mappings[0]
  arrays, visited, todo = {}, set(), [("", value, 0)]
  while todo:
    prefix, value, depth = todo.pop()
    if isinstance(value, pickles.Tensor):
      arrays[prefix.removesuffix(".")] = value.array
      continue
    if isinstance(value, pickles.Record):  # a module of a TorchScript file
      value = vars(value)
    if isinstance(value, Mapping) and value:
      if depth > _MAX_DEPTH:
        raise ValueError(f"nested dicts, {depth} levels deep")
      if id(value) in visited:  # a dict may contain itself
        continue
      visited.add(id(value))
      todo += [(f"{prefix}{name}.", x, depth + 1) for name, x in value.items()]
  return dict(reversed(arrays.items()))
