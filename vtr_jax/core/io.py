"""Atomic writes, and JSON from untrusted files: every defect is a ValueError."""

import json
import os
import uuid
from pathlib import Path
from typing import Any


def atomic_write(path: str | os.PathLike, data: bytes | str) -> None:
  """Replace the file, atomically and durably: readers see the old or the new file.

  The temporary file, .NAME.*.tmp, lies in the same folder and is removed when the write
  fails. Processes of several hosts may write the same file.

  Raises:
    OSError: the folder is missing or not writable, or the disk is full.
  """
  path = Path(path)
  data = data.encode() if isinstance(data, str) else data
  temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
  try:
    with open(temporary, "wb") as f:
      f.write(data)
      f.flush()
      os.fsync(f.fileno())
    os.replace(temporary, path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise
  sync(path.parent)


def sync(path: str | os.PathLike) -> None:
  """Returns when the file, or the folder's list of files, is on the disk."""
  handle = os.open(path, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)


def write_json(path: str | os.PathLike, value: Any, indent: int | None = 2) -> None:
  """Replace the file by a JSON text; see `atomic_write`.

  Raises:
    TypeError: the value is not JSON.
    OSError: as `atomic_write`.
  """
  atomic_write(path, json.dumps(value, indent=indent) + "\n")


def loads(data: str | bytes) -> Any:
  """The value of a JSON text.

  Raises:
    ValueError: not JSON, not UTF-8, nested too deeply, or too long a number.
  """
  try:
    return json.loads(data)
  except RecursionError:
    raise ValueError("nested too deeply") from None


def mapping(data: str | bytes) -> dict[str, Any]:
  """The value of a JSON text that is an object; raises ValueError otherwise."""
  value = loads(data)
  if not isinstance(value, dict):
    raise ValueError("not a JSON object")
  return value
