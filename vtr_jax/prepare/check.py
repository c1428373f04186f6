"""Verifies prepared data: shards are readable, records decode, checksums agree."""

import concurrent.futures
import dataclasses
import os
import pathlib
import sys
import threading
from typing import Any, NamedTuple

import tensorflow_datasets as tfds
from array_record.python import array_record_module  # pyright: ignore

from vtr_jax.core.errors import BadSample, ConfigError, DataError, one_line
from vtr_jax.core.progress import Bar
from vtr_jax.data import notes, sources
from vtr_jax.data.video.image import HEAD, is_image
from vtr_jax.prepare import image, video
from vtr_jax.prepare.formats.base import Item, Media
from vtr_jax.prepare.options import Options, digest
from vtr_jax.prepare.shards import read_json


class Bad(NamedTuple):
  """A record that cannot be used."""

  split: str
  index: int
  id: str
  file: str
  reason: str


class _Shard(NamedTuple):
  split: str
  path: str
  first: int  # number of its first record within the split
  count: int


def check(directory: str, workers: int = 0) -> None:
  """Reads a prepared data set and prints a line for each bad record.

  Data sets not made by prepare have no checksums; their records need only decode.
  Notes must have their checksums and be of the records that they name.

  Args:
    directory: holds dataset_info.json.
    workers: threads; 0 is one per core. Decoding releases the GIL.

  Raises:
    DataError: a record or a note is bad, or the metadata cannot be read.
  """
  shards = _shards(directory)
  rows = _rows(directory, shards)
  options = _options(directory)
  total = sum(shard.count for shard in shards)
  bad = []
  with (
    concurrent.futures.ThreadPoolExecutor(workers or None) as pool,
    Bar(total=total, unit="record", desc="check") as bar,
  ):
    for shard in shards:
      verify = _Verifier(shard, rows[shard.split], options)
      for result in pool.map(verify, range(shard.count)):
        bar.update()
        if result:
          bad.append(result)
          Bar.write("  ".join(map(str, result)), file=sys.stdout)
  if bad:
    raise DataError(
      f"{directory}: {len(bad)} of {total} records are bad, listed above; copy these "
      "shards again or prepare it again"
    )
  _check_notes(directory)
  print(f"{directory}: all {total} records are good", file=sys.stderr)


def _shards(directory: str) -> list[_Shard]:
  try:
    builder = tfds.builder_from_directory(directory)
    splits = [
      (split, zip(info.filepaths, info.shard_lengths, strict=True))
      for split, info in builder.info.splits.items()
    ]
  except Exception as e:  # TFDS raises whatever its JSON parsers raise
    raise DataError(
      f"{directory}: no prepared data set, or its metadata is damaged ({one_line(e)}); "
      "name the directory that holds dataset_info.json"
    ) from e
  shards = []
  for split, files in splits:
    first = 0
    for path, count in files:
      shards.append(_Shard(split, os.fspath(path), first, count))
      first += count
  return shards


def _rows(directory: str, shards: list[_Shard]) -> dict[str, list[dict]]:
  """The rows of records.jsonl by split; empty without that file."""
  found = sources.rows(directory)
  rows = {shard.split: found.get(shard.split, []) for shard in shards}
  for split, noted in rows.items():
    count = sum(shard.count for shard in shards if shard.split == split)
    if found and len(noted) != count:
      path = os.path.join(directory, "records.jsonl")
      raise DataError(f"{path}: {len(noted)} of {count} records of {split}")
  return rows


def _options(directory: str) -> Options:
  """The limits under which it was made, to check the bytes as they are."""
  path = pathlib.Path(directory) / "manifest.json"
  if not path.exists():
    return Options(copy=True)
  try:
    options = read_json(path).get("options", {})  # none if it only lists notes
    return dataclasses.replace(Options(**options), copy=True)
  except (TypeError, ConfigError) as e:
    raise DataError(f"{path}: damaged options ({one_line(e)}); copy it again") from e


def _check_notes(directory: str) -> None:
  """Raises DataError at the first note that is damaged or names another record."""
  sets = notes.listed(directory)
  ids = sources.ids(directory) if sets else {}
  for name, splits in sets.items():
    for split, entry in splits.items():
      for row in notes.rows(directory, name, split, entry):
        known = ids.get(split, [])
        if not (0 <= row.index < len(known) and known[row.index] == row.record):
          raise DataError(
            f"{notes.file(directory, name, split)}: record {row.index} of {split} is "
            f"not {row.record!r}; add them again with --notes_of={directory}"
          )


class _Verifier:
  """Verifies the records of one shard; may be called by several threads."""

  def __init__(self, shard: _Shard, rows: list[dict], options: Options):
    self._shard, self._options = shard, options
    self._rows = rows[shard.first : shard.first + shard.count]
    self._lock = threading.Lock()
    self._features = sources.features()
    self._reader, self._broken = None, ""
    if not os.path.exists(shard.path):  # the reader would report an empty file
      self._broken = "no such file"
      return
    try:
      self._reader = array_record_module.ArrayRecordReader(shard.path)
      readable = self._reader.num_records()
      if readable != shard.count:
        self._broken = f"damaged shard: {readable} of {shard.count} records"
    except RuntimeError as e:
      self._broken = f"damaged shard ({one_line(e)})"

  def __call__(self, index: int) -> Bad | None:
    row = self._rows[index] if self._rows else {}
    try:
      if self._broken:
        raise BadSample(self._broken)
      self._verify(self._record(index), row)
    except BadSample as e:
      number, name = self._shard.first + index, row.get("id", "?")
      return Bad(self._shard.split, number, name, self._shard.path, str(e))
    return None

  def _record(self, index: int) -> Any:
    try:
      with self._lock:
        assert self._reader is not None  # opened, or `_broken` names the reason
        (data,) = self._reader.read([index])
      return self._features.deserialize_example_np(data)
    except Exception as e:  # both libraries raise any type
      raise BadSample(f"damaged record ({one_line(e)})") from e

  def _verify(self, record: dict, row: dict) -> None:
    """Raises BadSample if the record differs from its row, or is not a video."""
    try:
      texts = tuple(text.decode() for text in record["captions"])
      name, label = record["id"].decode(), record["label"].decode()
      data = bytes(record["video"])
    except UnicodeDecodeError as e:
      raise BadSample(f"text is not UTF-8 ({one_line(e)})") from e
    except (AttributeError, TypeError) as e:
      raise BadSample("damaged record (a feature is missing)") from e
    item = Item(name, self._shard.split, Media(""), texts, label)
    if row.get("label", label) != label:
      raise BadSample("has another label in records.jsonl")
    if row and digest(item, data) != row["sha256"]:
      raise BadSample("not the bytes that were written")
    encode = image.encode if is_image(data[:HEAD]) else video.encode
    frames = encode(data, self._options).frames
    if row and frames != row["frames"]:
      raise BadSample(f"{frames} of {row['frames']} frames can be decoded")
