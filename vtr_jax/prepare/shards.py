"""Divides items into shards, and writes the results of a shard as ArrayRecord.

The order of the items depends only on the items, the seed and the size of a shard. A
shard is done when its report, NAME.json, exists; it is written last.
"""

import functools
import hashlib
import json
import pathlib
import re
import shutil
from typing import Any, NamedTuple

from array_record.python import array_record_module  # pyright: ignore
from tensorflow_datasets.proto import tf_example_pb2

from vtr_jax.core import io
from vtr_jax.core.errors import DataError, one_line
from vtr_jax.data import sources
from vtr_jax.data.notes import to_json
from vtr_jax.prepare import spool
from vtr_jax.prepare.formats.base import Item
from vtr_jax.prepare.options import Result, captions, digest

TRAIN = "train"  # the split that is shuffled, and whose captions train the tokenizer
_FIX = "copy it again, or prepare the data set again"


class Shard(NamedTuple):
  """Consecutive items of one split; `number` counts over all splits."""

  number: int
  split: str
  index: int
  items: tuple[Item, ...]

  @property
  def name(self) -> str:
    return shard_name(self.split, self.index)

  def result(self, work: pathlib.Path, position: int) -> pathlib.Path:
    """Path of the result of an item until the shard is done."""
    return work / self.name / f"{position:05d}"


def shard_name(split: str, index: int) -> str:
  return f"{split}-{index:05d}"


def cut(items: list[Item], size: int, seed: int) -> list[Shard]:
  """Divides all splits into shards of `size` items; `train` is shuffled by `seed`.

  Raises:
    DataError: the name of a split is not valid in file names.
  """
  splits: dict[str, list[Item]] = {}
  for item in items:
    splits.setdefault(item.split, []).append(item)
  shards = []
  for split, members in splits.items():
    if not re.fullmatch(r"\w+", split):
      raise DataError(
        f"split {split!r} ({members[0].id}): may have letters, digits and _ only; "
        "name it with --split"
      )
    if split == TRAIN:
      members.sort(key=functools.partial(_random, seed))
    for index, start in enumerate(range(0, len(members), size)):
      part = tuple(members[start : start + size])
      shards.append(Shard(len(shards), split, index, part))
  return shards


def _random(seed: int, item: Item) -> bytes:
  """A sort key. Not NumPy's generators, which may change between versions."""
  return hashlib.sha256(f"{seed} {item.id}".encode()).digest()


def report(work: pathlib.Path, name: str) -> dict[str, Any] | None:
  """The report of a shard that is done, or None."""
  path = work / f"{name}.json"
  return read_json(path) if path.exists() else None


def finish(shard: Shard, work: pathlib.Path) -> None:
  """Turns the results of all items into one ArrayRecord file and its report.

  Raises:
    DataError: a result is missing or damaged.
  """
  lists = ("rows", "captions", "notes", "refused", "warned")
  made: dict[str, Any] = {key: [] for key in lists} | dict(bytes=0)
  path = work / f"{shard.name}.array_record"
  part = path.with_suffix(".tmp")
  # One record a group for random access, as in TFDS; H.264 and JPEG do not compress.
  options = "group_size:1,uncompressed"
  writer = array_record_module.ArrayRecordWriter(str(part), options)
  for position, item in enumerate(shard.items):
    result = spool.read(shard.result(work, position))
    if result is None:
      writer.close()
      raise DataError(f"{shard.result(work, position)}: lost; run it again")
    record = _enter(made, item, result)
    if record:
      writer.write(record)
      made["bytes"] += len(record)
  writer.close()
  io.sync(part)
  part.rename(path)
  made["file_bytes"] = path.stat().st_size
  write_json(work / f"{shard.name}.json", made)
  shutil.rmtree(work / shard.name)


def _enter(made: dict[str, Any], item: Item, result: Result) -> bytes:
  """Adds a result to the report; returns its record, empty if it was refused."""
  note = dict(id=item.id, split=item.split, file=item.media.path)
  if result.refused:
    made["refused"].append(note | dict(reason=result.refused))
    return b""
  made["warned"] += [note | dict(reason=text) for text in result.warnings]
  item, facts = item._replace(captions=captions(item)), result._asdict()
  row = {key: facts[key] for key in ("frames", "seconds", "width", "height")}
  made["rows"].append(
    dict(
      id=item.id,
      split=item.split,
      label=item.label,
      **row,
      sha256=digest(item, result.data),
    )
  )
  made["captions"].append(item.captions)
  made["notes"].append([to_json(note) for note in item.notes])
  example = dict(
    id=item.id, video=result.data, captions=list(item.captions), label=item.label
  )
  data = _features().serialize_example(_features().encode_example(example))
  # Otherwise the order of the keys differs between processes.
  example_pb = tf_example_pb2.Example  # pyright: ignore[reportAttributeAccessIssue]: generated
  return example_pb.FromString(data).SerializeToString(deterministic=True)


@functools.cache
def _features():
  return sources.features()


def write_json(path: pathlib.Path, value: Any) -> None:
  """Replaces the file by a JSON text; see `io.atomic_write`."""
  text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
  # File names may hold bytes that are not UTF-8, which JSON has escapes for.
  io.atomic_write(path, text.encode(errors="backslashreplace"))


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """An object that `write_json` has written.

  Raises:
    DataError: the file is damaged.
    FileNotFoundError: the file does not exist.
  """
  try:
    return io.mapping(path.read_bytes())
  except ValueError as e:
    raise DataError(f"{path}: damaged ({one_line(e)}); {_FIX}") from e
