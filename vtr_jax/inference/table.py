"""Writes a table to one file, whose ending selects its format.

  .csv       a header and rows; an embedding is the columns embedding_0, embedding_1 ...
  .jsonl     one object per row; an embedding is a list
  .parquet   one column each; an embedding is a list of fixed length; needs pyarrow
  .npz       NumPy: one array per column

Numbers are float32 or float64; the two text formats have 7 decimals of them.
"""

import csv
import importlib.util
import io
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Shaped

from vtr_jax.core.config import choose, require
from vtr_jax.core.io import atomic_write

Column = Shaped[np.ndarray, " n"] | Shaped[np.ndarray, "n e"]  # strings or numbers
_DECIMALS = 7  # ours: what float32 can hold of numbers in [-1, 1]


def check(path: str | os.PathLike) -> None:
  """Rejects what `write` could not write, before anything is computed.

  Raises:
    ConfigError: the ending is unknown, its package is not installed, or no file can be
      written there.
  """
  ending = pathlib.Path(path).suffix.lower()
  choose(ending, _FORMATS, f"--out: the ending of {os.fspath(path)}")
  require(
    not os.path.isdir(path), f"--out: {os.fspath(path)} is a folder; name a file in it"
  )
  folder = os.path.dirname(os.path.abspath(path))
  while not os.path.exists(folder):  # made when it is written
    folder = os.path.dirname(folder)
  require(
    os.path.isdir(folder) and os.access(folder, os.W_OK),
    f"--out: {folder} is no folder that can be written to; name a file elsewhere",
  )
  require(
    ending != ".parquet" or importlib.util.find_spec("pyarrow") is not None,
    "--out: .parquet needs pyarrow; pip install pyarrow, or choose .csv or .jsonl",
  )


def write(path: str | os.PathLike, columns: Mapping[str, Column]) -> None:
  """Replaces the file by a table, atomically.

  Args:
    path: its ending is one that `check` accepts.
    columns: of the same length, by name.

  Raises:
    OSError: see `core.io.atomic_write`.
  """
  atomic_write(path, _FORMATS[pathlib.Path(path).suffix.lower()](columns))


def _plain(column: np.ndarray) -> list:
  """Python's strings and numbers."""
  if column.dtype.kind == "f":
    column = np.round(column.astype(np.float64), _DECIMALS)
  return column.tolist()


def _csv(columns: Mapping[str, np.ndarray]) -> bytes:
  flat = {}
  for name, column in columns.items():
    if column.ndim == 1:
      flat[name] = _plain(column)
    else:
      flat |= {f"{name}_{i}": _plain(part) for i, part in enumerate(column.T)}
  out = io.StringIO(newline="")
  writer = csv.writer(out, lineterminator="\n")
  writer.writerow(flat)
  writer.writerows(zip(*flat.values(), strict=True))
  return out.getvalue().encode(errors="surrogateescape")  # as file names are


def _jsonl(columns: Mapping[str, np.ndarray]) -> bytes:
  rows = zip(*map(_plain, columns.values()), strict=True)
  return "".join(
    json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows
  ).encode()


def _npz(columns: Mapping[str, np.ndarray]) -> bytes:
  out, arrays = io.BytesIO(), dict[str, Any](columns)
  np.savez(out, **arrays)
  return out.getvalue()


def _parquet(columns: Mapping[str, np.ndarray]) -> bytes:
  import pyarrow as pa
  from pyarrow import parquet

  def array(column: np.ndarray) -> "pa.Array":
    if column.ndim == 2:
      flat = pa.array(np.ascontiguousarray(column).reshape(-1))
      return pa.FixedSizeListArray.from_arrays(flat, column.shape[1])
    if column.dtype.kind == "U":  # of file names, only what is UTF-8 is kept
      column = np.array([text.encode(errors="replace").decode() for text in column])
    return pa.array(column)

  out = io.BytesIO()
  table = pa.table({name: array(column) for name, column in columns.items()})
  parquet.write_table(table, out)
  return out.getvalue()


_FORMATS = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet, ".npz": _npz}
