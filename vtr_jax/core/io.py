"""Atomic writes, and JSON from untrusted files: every defect is a ValueError."""

import json
import os
import threading
from pathlib import Path
from typing import Any


def atomic_write(path: str | os.PathLike, data: bytes | str) -> None:
  """Replace the file, atomically and durably: readers see the old or the new file.

  The temporary file lies in the same folder and is removed when the write fails.

  Raises:
    OSError: the folder is missing or not writable, or the disk is full.
  """
  path = Path(path)
  data = data.encode() if isinstance(data, str) else data
  temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
  try:
    with open(temporary, "wb") as f:
      f.write(data)
      f.flush()
      os.fsync(f.fileno())
    os.replace(temporary, path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise
  folder = os.open(path.parent, os.O_RDONLY)
  try:
    os.fsync(folder)
  finally:
    os.close(folder)


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
