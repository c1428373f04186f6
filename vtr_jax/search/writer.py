"""Writes an index: one process at a time, each commit complete or absent.

Files are appended to; `commit` replaces the manifest, which makes additions part of the
index. A killed writer leaves the index of its last commit.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import re
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float

from vtr_jax.core import io
from vtr_jax.core.errors import DataError
from vtr_jax.search import store

_TEMPORARY = re.compile(r"\.manifest\.json\..*\.tmp")  # of `io.atomic_write`


class Writer:
  """Extends or creates an index; one writer at a time. A context manager.

  Readers see no additions before `commit`, which the end of the context calls too.
  """

  def __init__(self, directory: str | os.PathLike, header: store.Header):
    """Locks the directory and opens its index; `header` must match the index's.

    Raises:
      DataError: another process writes to it, its header differs, it is damaged, or
        the directory holds something else.
    """
    self.directory, self.header = pathlib.Path(directory), header
    self._complete = True  # False within an `add`
    self._lock = _acquire_lock(self.directory)
    try:
      self._open()
    except BaseException:
      self._lock.close()
      raise

  def __enter__(self) -> "Writer":
    return self

  def __exit__(self, *error) -> None:
    try:
      if self._complete:
        self.commit()
    finally:
      self._close()
      self._lock.close()

  def add(
    self,
    file: store.File,
    vectors: Float[np.ndarray, "n e"],
    times: Float[np.ndarray, "n 2"],
  ) -> None:
    """Adds a file, or new content of one; its `row` and `clips` are set here."""
    self._complete = False
    self._put("vectors", np.ascontiguousarray(vectors, store.VECTOR).tobytes())
    self._put("times", np.ascontiguousarray(times, store.TIME).tobytes())
    self.note(file._replace(row=self._rows, clips=len(vectors)))
    self._rows += len(vectors)
    self._complete = True

  def note(self, file: store.File) -> None:
    """Adds a file whose rows exist already, or that has none."""
    complete, self._complete = self._complete, False
    self.files[file.path] = file
    self._journal(list(file))
    self._complete = complete

  def drop(self, path: str) -> None:
    """Removes a file."""
    complete, self._complete = self._complete, False
    del self.files[path]
    self._journal([path])
    self._complete = complete

  def rows(self, file: store.File) -> tuple[np.ndarray, np.ndarray]:
    """Vectors and times of a committed file."""
    rows = slice(file.row, file.row + file.clips)
    return self._committed.vectors[rows], self._committed.times[rows]

  def commit(self) -> None:
    """Makes all additions part of the index."""
    if not self._changed:
      return
    with self._writing():
      for out in self._out.values():
        out.flush()
        os.fsync(out.fileno())
      manifest = self._state()
      manifest |= dict(check=store.checksum(manifest))
      io.write_json(self.directory / "manifest.json", manifest)
    self._changed = False

  def compact(self) -> None:
    """Commits, and rewrites the files if more rows are dead than alive."""
    self.commit()
    if 2 * sum(file.clips for file in self.files.values()) >= self._rows:
      return
    self._committed = store.open(self.directory)
    old = [*self._out]
    self._close()
    self._generation += 1
    files, self.files = sorted(self.files.values(), key=lambda f: f.row), {}
    with self._writing():
      self._new_generation()
    for file in files:
      self.add(file, *self.rows(file))
      self._complete = False  # only some of the files are copied
    self._complete = True
    self.commit()
    for kind in old:
      store.file_path(self.directory, kind, self._generation - 1).unlink()

  def _open(self) -> None:
    """Opens the files of the index after their last committed byte."""
    manifest = store.read_manifest(self.directory)
    if manifest is None:
      self.files, self._generation = {}, 1
      self._new_generation()
      self._committed = store.open(self.directory)
      return
    try:
      self._committed = store.Index(self.directory, manifest)
    except FileNotFoundError as e:
      raise store.damaged(pathlib.Path(e.filename), "missing") from e
    _check_header(self.directory, self._committed.header, self.header)
    self.files = dict(self._committed.files)
    self._generation, self._rows = manifest["generation"], manifest["rows"]
    self._sums, self._sizes = dict(manifest["checksums"]), dict(manifest["sizes"])
    self._changed = self._committed.header != self.header
    self._out = {}
    for kind, size in self._sizes.items():
      out = store.file_path(self.directory, kind, self._generation).open("r+b")
      out.truncate(size)  # leftovers of a killed writer
      out.seek(size)
      self._out[kind] = out
    current = {
      store.file_path(self.directory, k, self._generation).name for k in store.KINDS
    }
    for path in self.directory.iterdir():
      old = store.INDEX_FILE.fullmatch(path.name) and path.name not in current
      if old or _TEMPORARY.fullmatch(path.name):
        path.unlink()  # of a killed writer, or of a finished `compact`

  def _new_generation(self) -> None:
    """Starts an empty generation."""
    self._rows, self._sums = 0, dict.fromkeys(store.KINDS, 0)
    self._sizes, self._changed = dict.fromkeys(store.KINDS, 0), True
    self._out = {
      k: store.file_path(self.directory, k, self._generation).open("w+b")
      for k in store.KINDS
    }
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
    """Raises DataError if the disk cannot be written."""
    try:
      yield
    except OSError as e:
      self._complete = False
      raise DataError(
        f"{self.directory}: cannot be written ({e.strerror}); fix that and run it "
        "again: it resumes from the last commit"
      ) from e

  def _journal(self, entry: list) -> None:
    self._put("files", json.dumps(entry).encode() + b"\n")

  def _state(self) -> dict[str, Any]:
    return dict(
      format=store.FORMAT,
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
      # `commit` has flushed the committed bytes.
      with contextlib.suppress(OSError):
        out.close()


def _acquire_lock(directory: pathlib.Path) -> BinaryIO:
  """Locks out other writers until closed; the kernel closes it after SIGKILL."""
  if directory.exists() and not (directory / "manifest.json").exists():
    expected = (_TEMPORARY, store.INDEX_FILE, re.compile("lock"))
    unexpected = directory.is_file() or [
      p.name
      for p in directory.iterdir()
      if not any(pattern.fullmatch(p.name) for pattern in expected)
    ]
    if unexpected:
      raise DataError(f"{directory}: is not an index; choose another --out")
  directory.mkdir(parents=True, exist_ok=True)
  lock = (directory / "lock").open("ab")
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as e:
    lock.close()
    raise DataError(
      f"{directory}: another process is writing to it; wait for it to end"
    ) from e
  return lock


def _check_header(
  directory: pathlib.Path, before: store.Header, now: store.Header
) -> None:
  """Raises DataError if the headers differ; the checkpoint may have moved."""
  for key in ("model", "dim", "root", "window", "overlap", "shots"):
    old, new = getattr(before, key), getattr(now, key)
    moved = key == "root" and not os.path.isdir(old)
    if old != new and not moved:
      raise DataError(
        f"{directory}: was made with another {key} ({old}, now {new}); use the same, "
        "or choose another --out"
      )
