"""The index of a folder on disk: vectors and times of clips, a journal of files.

  manifest.json     header, committed size of each file, checksums
  vectors-N.f16     float16 [rows dim], unit norm, one row per clip
  times-N.f64       float64 [rows 2], start and end of each clip, seconds
  files-N.jsonl     journal of the files; a later line replaces an earlier one
  lock              held by the process that writes

Numbered files are append-only; bytes beyond the manifest's sizes are ignored. A killed
writer (writer.py) leaves the index of its last `commit`, and readers need no lock. Rows
that no file owns are dead; if most are, the files are rewritten with the next N.
"""

import dataclasses
import itertools
import json
import os
import pathlib
import re
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from vtr_jax.core import io
from vtr_jax.core.config import read, require
from vtr_jax.core.errors import ConfigError, DataError, one_line

FORMAT = 1
# Ours: half the bytes of float32 take half the time to read, and no first hit of the
# demo changes; with bfloat16 some do. docs/search.md has the measurements.
VECTOR = np.dtype("<f2")
TIME = np.dtype("<f8")
_BLOCK = 2**24  # bytes read at a time


@dataclasses.dataclass(frozen=True)
class Header:
  """Model and options of an index."""

  model: str  # LoadedModel.id
  checkpoint: str  # directory of the run when the index was made
  dim: int  # width of the vectors
  root: str  # absolute path of the folder
  window: float  # see windows.Options
  overlap: float
  shots: bool
  dtype: str = VECTOR.name  # of the vectors


class File(NamedTuple):
  """A file of the folder and the rows of its clips."""

  path: str  # below the folder, with /
  size: int  # bytes
  mtime_ns: int
  digest: str  # of the content
  row: int  # of the first clip
  clips: int  # number of rows; 0 if it cannot be read
  error: str = ""  # why clips are missing; "" = none are


@dataclasses.dataclass(frozen=True)
class _Manifest:
  """Fields of manifest.json, without its own checksum."""

  format: int
  header: Header
  generation: int
  rows: int
  clips: int
  files: int
  sizes: dict[str, int]  # committed bytes, by kind of file
  checksums: dict[str, int]

  def __post_init__(self):
    require(0 < self.generation < 2**31, f"generation: {self.generation}")
    require(0 <= self.rows < 2**48, f"rows: {self.rows}")
    require(0 < self.header.dim < 2**31, f"header.dim: {self.header.dim}")
    kinds = self.sizes.keys() == self.checksums.keys() == KINDS.keys()
    require(kinds, f"sizes: not of {', '.join(KINDS)}")
    require(min(self.sizes.values()) >= 0, f"sizes: {self.sizes}")


class Index:
  """A snapshot of an index when opened; later commits are not visible."""

  def __init__(self, directory: pathlib.Path, manifest: dict[str, Any]):
    self.directory, self.generation = directory, manifest["generation"]
    self.header = Header(**manifest["header"])
    self.rows: int = manifest["rows"]
    self.files = _replay(directory, manifest)
    self.vectors = _map(directory, manifest, "vectors", VECTOR, self.header.dim)
    self.times = _map(directory, manifest, "times", TIME, 2)
    self.live = self.under("")
    owners = [file for file in self.files.values() if file.clips]
    self._owners = sorted(owners, key=lambda file: file.row)
    for left, right in itertools.pairwise(self._owners):
      if left.row + left.clips > right.row:
        why = f"{left.path!r} and {right.path!r} have the same clips"
        raise damaged(file_path(directory, "files", self.generation), why)
    self._first = np.array([file.row for file in self._owners], np.int64)

  def under(self, folder: str) -> Bool[np.ndarray, " n"]:
    """Mask of rows that are clips of files whose path begins with `folder`."""
    mask = np.zeros(self.rows, bool)
    for file in self.files.values():
      if file.path.startswith(folder):
        mask[file.row : file.row + file.clips] = True
    return mask

  def owner(self, row: int) -> File:
    """The file of a row.

    Raises:
      DataError: there is no such row, or it is dead.
    """
    if not (0 <= row < self.rows and self.live[row]):
      raise DataError(f"{self.directory}: no clip has number {row}; repeat the query")
    return self._owners[int(np.searchsorted(self._first, row, "right")) - 1]

  def path(self, file: File) -> str:
    """Absolute path of a file."""
    return os.path.join(self.header.root, *file.path.split("/"))


def open(directory: str | os.PathLike) -> Index:
  """Opens an index for reading; a writer may run meanwhile.

  Raises:
    DataError: there is none, or it is damaged.
  """
  directory = pathlib.Path(directory)
  for _ in range(10):
    try:
      return Index(directory, _require_manifest(directory))
    except FileNotFoundError as e:
      # A writer may have compacted the index meanwhile.
      missing = e.filename
  raise DataError(
    f"{missing}: is missing; delete {directory} and index the folder again"
  )


def header(directory: str | os.PathLike) -> Header:
  """The header of an index; its vectors are not read.

  Raises:
    DataError: there is none, or its manifest is damaged.
  """
  return Header(**_require_manifest(pathlib.Path(directory))["header"])


KINDS = dict(vectors="f16", times="f64", files="jsonl")
INDEX_FILE = re.compile("|".join(rf"{kind}-\d+\.{end}" for kind, end in KINDS.items()))


def file_path(directory: pathlib.Path, kind: str, generation: int) -> pathlib.Path:
  return directory / f"{kind}-{generation}.{KINDS[kind]}"


def read_manifest(directory: pathlib.Path) -> dict[str, Any] | None:
  """The manifest, or None where there is none."""
  path = directory / "manifest.json"
  try:
    text = path.read_text()
  except (FileNotFoundError, NotADirectoryError):
    return None
  except UnicodeDecodeError as e:
    raise damaged(path, "not UTF-8") from e
  try:
    manifest = io.loads(text)
    if manifest["format"] != FORMAT or manifest["header"]["dtype"] != VECTOR.name:
      version = one_line(f"format {manifest['format']}, {manifest['header']['dtype']}")
      raise DataError(
        f"{path}: an index of another version ({version}; this one reads {FORMAT}, "
        f"{VECTOR.name}); index the folder into another --out"
      )
    if manifest.pop("check") != checksum(manifest):
      raise ValueError("its checksum differs")
    read(_Manifest, manifest, "manifest")
    return manifest
  except (ValueError, KeyError, TypeError, ConfigError) as e:
    raise damaged(path, one_line(e)) from e


def _require_manifest(directory: pathlib.Path) -> dict[str, Any]:
  if (manifest := read_manifest(directory)) is None:
    raise DataError(
      f"{directory}: not an index; create one with python -m vtr_jax.search index "
      f"FOLDER --out={directory}"
    )
  return manifest


def checksum(manifest: dict[str, Any]) -> int:
  return zlib.crc32(json.dumps(manifest, sort_keys=True).encode())


def _map(
  directory: pathlib.Path,
  manifest: dict[str, Any],
  kind: str,
  dtype: np.dtype,
  width: int,
) -> np.ndarray:
  """Memory map of the committed rows, after one pass to check their checksum."""
  path, shape = (
    file_path(directory, kind, manifest["generation"]),
    (manifest["rows"], width),
  )
  if not shape[0]:
    return np.zeros(shape, dtype)
  _verify(path, manifest, kind, shape[0] * width * dtype.itemsize)
  return np.memmap(path, dtype, "r", 0, shape)


def _verify(path: pathlib.Path, manifest: dict[str, Any], kind: str, size: int) -> None:
  actual = path.stat().st_size
  if manifest["sizes"][kind] != size or actual < size:
    raise damaged(path, f"{actual} of {size} bytes")
  total = 0
  for piece in _pieces(path, size):
    total = zlib.crc32(piece, total)
  if total != manifest["checksums"][kind]:
    raise damaged(path, "its checksum differs")


def _pieces(path: pathlib.Path, size: int) -> Iterator[bytes]:
  with path.open("rb") as f:
    while size > 0 and (piece := f.read(min(size, _BLOCK))):
      size -= len(piece)
      yield piece


def _replay(directory: pathlib.Path, manifest: dict[str, Any]) -> dict[str, File]:
  """Files by path, in the order in which they were added."""
  size = manifest["sizes"]["files"]
  path, files = file_path(directory, "files", manifest["generation"]), {}
  _verify(path, manifest, "files", size)
  with path.open("rb") as f:
    data = f.read(size)
  if data and not data.endswith(b"\n"):
    raise damaged(path, "its last line is incomplete")
  for number, line in enumerate(data.splitlines(), 1):
    try:
      _take(files, io.loads(line), manifest["rows"])
    except ValueError as e:
      raise damaged(path, f"line {number}: {one_line(e)}") from e
  return files


def _take(files: dict[str, File], values: Any, rows: int) -> None:
  """Applies one line of the journal; raises ValueError if it is not a valid one."""
  kinds = [type(v) for v in values] if isinstance(values, list) else []
  if kinds not in ([str], [str, int, int, str, int, int, str]):
    raise ValueError("not a file entry")
  files.pop(values[0], None)
  if len(values) > 1:
    file = files[values[0]] = File(*values)
    if not 0 <= file.row <= file.row + file.clips <= rows:
      raise ValueError(f"clips {file.row} to {file.row + file.clips} of {rows}")


def damaged(path: pathlib.Path, why: str) -> DataError:
  return DataError(
    f"{path}: damaged ({why}); delete {path.parent} and index the folder again"
  )
