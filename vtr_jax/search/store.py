"""The index of a folder on disk: vectors and times of clips, a journal of files.

  manifest.json     what it was made with, how much of the others counts, checksums
  vectors-N.f16     float16 [rows dim], unit norm, one clip a row
  times-N.f64       float64 [rows 2], start and end of each, seconds
  files-N.jsonl     what became of each file; a later line replaces an earlier one
  lock              held by the one process that writes

The three grow at their ends only, and what is beyond the manifest's counts does not
exist: a writer that is killed leaves the index of its last `commit`, and readers are
never in its way. Rows that no file owns any more are dead; when they are more than the
others, all is written anew under the next N.
"""

import contextlib
import dataclasses
import fcntl
import itertools
import json
import os
import pathlib
import re
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from vtr_jax.core import io
from vtr_jax.core.config import read, require
from vtr_jax.core.errors import ConfigError, DataError, one_line

FORMAT = 1
# Ours: half of float32's bytes are read in half of the time, and no first hit of the
# demo changes; with bfloat16 some do. docs/search.md has the figures.
VECTOR = np.dtype("<f2")
TIME = np.dtype("<f8")
_BLOCK = 2**24  # bytes of one piece that is read or copied


@dataclasses.dataclass(frozen=True)
class Header:
  """What an index was made with."""

  model: str  # Model.id
  checkpoint: str  # directory of the run, as it was when the index was made
  dim: int  # width of the vectors
  root: str  # absolute path of the folder
  window: float  # see windows.Options
  overlap: float
  shots: bool
  dtype: str = VECTOR.name  # of the vectors


class File(NamedTuple):
  """A file of the folder, and which rows are its clips."""

  path: str  # below the folder, with /
  size: int  # bytes
  mtime_ns: int
  digest: str  # of its content
  row: int  # the first
  clips: int  # how many rows; 0 if it cannot be read
  error: str = ""  # why there are none, or not all


@dataclasses.dataclass(frozen=True)
class _Manifest:
  """What manifest.json holds besides its own checksum."""

  format: int
  header: Header
  generation: int
  rows: int
  clips: int
  files: int
  sizes: dict[str, int]  # bytes that count, by kind of file
  checksums: dict[str, int]

  def __post_init__(self):
    require(0 < self.generation < 2**31, f"generation: {self.generation}")
    require(0 <= self.rows < 2**48, f"rows: {self.rows}")
    require(0 < self.header.dim < 2**31, f"header.dim: {self.header.dim}")
    kinds = self.sizes.keys() == self.checksums.keys() == _KINDS.keys()
    require(kinds, f"sizes: not of {', '.join(_KINDS)}")
    require(min(self.sizes.values()) >= 0, f"sizes: {self.sizes}")


class Index:
  """An index as it was when it was opened; later changes do not show."""

  def __init__(self, place: pathlib.Path, manifest: dict[str, Any]):
    self.place, self.generation = place, manifest["generation"]
    self.header = Header(**manifest["header"])
    self.rows: int = manifest["rows"]
    self.files = _replay(place, manifest)
    self.vectors = _map(place, manifest, "vectors", VECTOR, self.header.dim)
    self.times = _map(place, manifest, "times", TIME, 2)
    self.live = self.under("")
    owners = [file for file in self.files.values() if file.clips]
    self._owners = sorted(owners, key=lambda file: file.row)
    for one, other in itertools.pairwise(self._owners):
      if one.row + one.clips > other.row:
        why = f"{one.path!r} and {other.path!r} have the same clips"
        raise _damaged(_path(place, "files", self.generation), why)
    self._first = np.array([file.row for file in self._owners], np.int64)

  def under(self, folder: str) -> Bool[np.ndarray, " n"]:
    """Which rows are clips of files whose path begins with `folder`."""
    found = np.zeros(self.rows, bool)
    for file in self.files.values():
      if file.path.startswith(folder):
        found[file.row : file.row + file.clips] = True
    return found

  def owner(self, row: int) -> File:
    """The file of a row.

    Raises:
      DataError: there is no such row, or its file is gone.
    """
    if not (0 <= row < self.rows and self.live[row]):
      raise DataError(f"{self.place}: no clip has number {row}; query it anew")
    return self._owners[int(np.searchsorted(self._first, row, "right")) - 1]

  def path(self, file: File) -> str:
    """Where a file lies, absolute."""
    return os.path.join(self.header.root, *file.path.split("/"))


def open(place: str | os.PathLike) -> Index:
  """Opens an index to read; whoever writes to it is not disturbed.

  Raises:
    DataError: there is none, or it is damaged.
  """
  place = pathlib.Path(place)
  for _ in range(10):
    try:
      return Index(place, _there(place))
    except FileNotFoundError as e:
      # It may have been written anew meanwhile.
      missing = e.filename
  raise DataError(f"{missing}: is gone; delete {place} and index the folder anew")


def header(place: str | os.PathLike) -> Header:
  """What an index was made with; its vectors are not read.

  Raises:
    DataError: there is none, or its manifest is damaged.
  """
  return Header(**_there(pathlib.Path(place))["header"])


class Writer:
  """Adds to an index, or makes it; the only one at a time. Used as a `with`.

  Nothing is there for others before `commit`, which the end of the `with` calls too.
  """

  def __init__(self, place: str | os.PathLike, header: Header):
    """Takes where and what; `header` must be what the index was made with.

    Raises:
      DataError: another process writes to it, it was made with something else, is
        damaged, or there is something that is no index.
    """
    self.place, self.header = pathlib.Path(place), header
    self._whole = True  # not in the midst of an `add`
    self._lock = _lock(self.place)
    try:
      self._begin()
    except BaseException:
      self._lock.close()
      raise

  def __enter__(self) -> "Writer":
    return self

  def __exit__(self, *error) -> None:
    try:
      if self._whole:
        self.commit()
    finally:
      self._close()
      self._lock.close()

  def add(
    self,
    file: File,
    vectors: Float[np.ndarray, "n e"],
    times: Float[np.ndarray, "n 2"],
  ) -> None:
    """A new file, or new content of a known one; its `row` and `clips` are set here."""
    self._whole = False
    self._put("vectors", np.ascontiguousarray(vectors, VECTOR).tobytes())
    self._put("times", np.ascontiguousarray(times, TIME).tobytes())
    self.note(file._replace(row=self._rows, clips=len(vectors)))
    self._rows += len(vectors)
    self._whole = True

  def note(self, file: File) -> None:
    """A file whose rows are there already, or that has none."""
    whole, self._whole = self._whole, False
    self.files[file.path] = file
    self._say(list(file))
    self._whole = whole

  def drop(self, path: str) -> None:
    """A file that is gone."""
    whole, self._whole = self._whole, False
    del self.files[path]
    self._say([path])
    self._whole = whole

  def rows(self, file: File) -> tuple[np.ndarray, np.ndarray]:
    """Vectors and times of a file that was committed."""
    part = slice(file.row, file.row + file.clips)
    return self._before.vectors[part], self._before.times[part]

  def commit(self) -> None:
    """Makes all that was added a part of the index."""
    if not self._changed:
      return
    with self._writing():
      for out in self._out.values():
        out.flush()
        os.fsync(out.fileno())
      _write_manifest(self.place, self._state())
    self._changed = False

  def compact(self) -> None:
    """Commits, and writes all anew if more rows are dead than alive."""
    self.commit()
    if 2 * sum(file.clips for file in self.files.values()) >= self._rows:
      return
    self._before = open(self.place)
    old = [*self._out]
    self._close()
    self._generation += 1
    files, self.files = sorted(self.files.values(), key=lambda f: f.row), {}
    with self._writing():
      self._fresh()
    for file in files:
      self.add(file, *self.rows(file))
      self._whole = False  # what is there by now is not all of it
    self._whole = True
    self.commit()
    for kind in old:
      _path(self.place, kind, self._generation - 1).unlink()

  def _begin(self) -> None:
    """Opens what is there, behind what counts of it."""
    manifest = _manifest(self.place)
    if manifest is None:
      self.files, self._generation = {}, 1
      self._fresh()
      self._before = open(self.place)
      return
    try:
      self._before = Index(self.place, manifest)
    except FileNotFoundError as e:
      raise _damaged(pathlib.Path(e.filename), "it is gone") from e
    _same(self.place, self._before.header, self.header)
    self.files = dict(self._before.files)
    self._generation, self._rows = manifest["generation"], manifest["rows"]
    self._sums, self._sizes = dict(manifest["checksums"]), dict(manifest["sizes"])
    self._changed = self._before.header != self.header
    self._out = {}
    for kind, size in self._sizes.items():
      out = _path(self.place, kind, self._generation).open("r+b")
      out.truncate(size)  # what a writer that was killed has left
      out.seek(size)
      self._out[kind] = out
    current = {_path(self.place, k, self._generation).name for k in _KINDS}
    for path in self.place.iterdir():
      if _OURS.fullmatch(path.name) and path.name not in current:
        path.unlink()  # of a rewriting that was killed, or its leavings

  def _fresh(self) -> None:
    """An empty generation."""
    self._rows, self._sums = 0, dict.fromkeys(_KINDS, 0)
    self._sizes, self._changed = dict.fromkeys(_KINDS, 0), True
    self._out = {k: _path(self.place, k, self._generation).open("w+b") for k in _KINDS}
    if self._generation == 1:
      self.commit()

  def _put(self, kind: str, data: bytes) -> None:
    with self._writing():
      self._out[kind].write(data)
    self._sums[kind] = zlib.crc32(data, self._sums[kind])
    self._sizes[kind] += len(data)
    self._changed = True

  @contextlib.contextmanager
  def _writing(self) -> Iterator[None]:
    """Raises DataError where the disk takes no more."""
    try:
      yield
    except OSError as e:
      self._whole = False
      raise DataError(
        f"{self.place}: cannot be written ({e.strerror}); mend that and run it again: "
        "it goes on from the last commit"
      ) from e

  def _say(self, line: list) -> None:
    self._put("files", json.dumps(line).encode() + b"\n")

  def _state(self) -> dict[str, Any]:
    return dict(
      format=FORMAT,
      header=dataclasses.asdict(self.header),
      generation=self._generation,
      rows=self._rows,
      clips=sum(file.clips for file in self.files.values()),
      files=len(self.files),
      sizes=self._sizes,
      checksums=self._sums,
    )

  def _close(self) -> None:
    for out in self._out.values():
      # What matters was flushed by `commit`; what is left does not count.
      with contextlib.suppress(OSError):
        out.close()


_KINDS = dict(vectors="f16", times="f64", files="jsonl")
_OURS = re.compile("|".join(rf"{kind}-\d+\.{end}" for kind, end in _KINDS.items()))


def _path(place: pathlib.Path, kind: str, generation: int) -> pathlib.Path:
  return place / f"{kind}-{generation}.{_KINDS[kind]}"


def _lock(place: pathlib.Path) -> BinaryIO:
  """Keeps other writers out until it is closed; the system does that after SIGKILL."""
  if place.exists() and not (place / "manifest.json").exists():
    known = ("lock", "manifest.json.new")
    strange = place.is_file() or [
      p.name
      for p in place.iterdir()
      if p.name not in known and not _OURS.fullmatch(p.name)
    ]
    if strange:
      raise DataError(f"{place}: is there and no index; choose another --out")
  place.mkdir(parents=True, exist_ok=True)
  lock = (place / "lock").open("ab")
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as e:
    lock.close()
    raise DataError(
      f"{place}: another process is writing to it; wait for it to end"
    ) from e
  return lock


def _same(place: pathlib.Path, before: Header, now: Header) -> None:
  """Refuses to go on with something else; where the weights lie may change."""
  for key in ("model", "dim", "root", "window", "overlap", "shots"):
    was, wanted = getattr(before, key), getattr(now, key)
    moved = key == "root" and not os.path.isdir(was)
    if was != wanted and not moved:
      raise DataError(
        f"{place}: was made with another {key} ({was}, now {wanted}); use the same, or "
        "choose another --out"
      )


def _manifest(place: pathlib.Path) -> dict[str, Any] | None:
  """The manifest, or None where there is none."""
  path = place / "manifest.json"
  try:
    text = path.read_text()
  except (FileNotFoundError, NotADirectoryError):
    return None
  except UnicodeDecodeError as e:
    raise _damaged(path, "it is no text") from e
  try:
    manifest = io.loads(text)
    if manifest["format"] != FORMAT or manifest["header"]["dtype"] != VECTOR.name:
      made = one_line(f"format {manifest['format']}, {manifest['header']['dtype']}")
      raise DataError(
        f"{path}: an index of another version ({made}; this one reads {FORMAT}, "
        f"{VECTOR.name}); index the folder into another --out"
      )
    if manifest.pop("check") != _check(manifest):
      raise ValueError("its checksum differs")
    read(_Manifest, manifest, "manifest")
    return manifest
  except (ValueError, KeyError, TypeError, ConfigError) as e:
    raise _damaged(path, one_line(e)) from e


def _there(place: pathlib.Path) -> dict[str, Any]:
  if (manifest := _manifest(place)) is None:
    raise DataError(
      f"{place}: no index; make it with python -m vtr_jax.search index FOLDER "
      f"--out={place}"
    )
  return manifest


def _write_manifest(place: pathlib.Path, manifest: dict[str, Any]) -> None:
  """At once, or not at all."""
  path, new = place / "manifest.json", place / "manifest.json.new"
  text = json.dumps(manifest | dict(check=_check(manifest)), indent=2)
  with new.open("w") as f:
    f.write(text + "\n")
    f.flush()
    os.fsync(f.fileno())
  new.replace(path)
  folder = os.open(place, os.O_RDONLY)  # so that a loss of power keeps the new name
  try:
    os.fsync(folder)
  finally:
    os.close(folder)


def _check(manifest: dict[str, Any]) -> int:
  return zlib.crc32(json.dumps(manifest, sort_keys=True).encode())


def _map(
  place: pathlib.Path, manifest: dict[str, Any], kind: str, dtype: np.dtype, width: int
) -> np.ndarray:
  """Rows that count, mapped; their checksum is compared, which reads them once."""
  path, shape = _path(place, kind, manifest["generation"]), (manifest["rows"], width)
  if not shape[0]:
    return np.zeros(shape, dtype)
  _verify(path, manifest, kind, shape[0] * width * dtype.itemsize)
  return np.memmap(path, dtype, "r", 0, shape)


def _verify(path: pathlib.Path, manifest: dict[str, Any], kind: str, size: int) -> None:
  there = path.stat().st_size
  if manifest["sizes"][kind] != size or there < size:
    raise _damaged(path, f"{there} of {size} bytes")
  total = 0
  for piece in _pieces(path, size):
    total = zlib.crc32(piece, total)
  if total != manifest["checksums"][kind]:
    raise _damaged(path, "its checksum differs")


def _pieces(path: pathlib.Path, size: int) -> Iterator[bytes]:
  with path.open("rb") as f:
    while size > 0 and (piece := f.read(min(size, _BLOCK))):
      size -= len(piece)
      yield piece


def _replay(place: pathlib.Path, manifest: dict[str, Any]) -> dict[str, File]:
  """Files by path, in the order in which they were added."""
  size = manifest["sizes"]["files"]
  path, files = _path(place, "files", manifest["generation"]), {}
  _verify(path, manifest, "files", size)
  with path.open("rb") as f:
    data = f.read(size)
  if data and not data.endswith(b"\n"):
    raise _damaged(path, "its last line has no end")
  for number, line in enumerate(data.splitlines(), 1):
    try:
      _take(files, io.loads(line), manifest["rows"])
    except ValueError as e:
      raise _damaged(path, f"line {number}: {one_line(e)}") from e
  return files


def _take(files: dict[str, File], values: Any, rows: int) -> None:
  """One line of the journal; raises ValueError if it is none."""
  kinds = [type(v) for v in values] if isinstance(values, list) else []
  if kinds not in ([str], [str, int, int, str, int, int, str]):
    raise ValueError("no file")
  files.pop(values[0], None)
  if len(values) > 1:
    file = files[values[0]] = File(*values)
    if not 0 <= file.row <= file.row + file.clips <= rows:
      raise ValueError(f"clips {file.row} to {file.row + file.clips} of {rows}")


def _damaged(path: pathlib.Path, why: str) -> DataError:
  return DataError(
    f"{path}: damaged ({why}); delete {path.parent} and index the folder anew"
  )
