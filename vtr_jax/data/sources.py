"""Prepared data: the schema of a record, and random access to the records."""

import concurrent.futures
import functools
import hashlib
import itertools
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module  # pyright: ignore

from vtr_jax.core import io
from vtr_jax.core.config import nearest
from vtr_jax.core.errors import BadSample, DataError, one_line
from vtr_jax.core.paths import anywhere, is_bucket, near
from vtr_jax.data.captions import blank


def features() -> tfds.features.FeaturesDict:
  """The schema of the records of every prepared data set.

  id: name that is unique in the data set. video: bytes of the encoded file (mp4
  and the like); `features.Video` would import TensorFlow. captions: one or more
  sentences. label: name of the class, or empty.
  """
  return tfds.features.FeaturesDict(
    dict(
      id=tfds.features.Text(),
      video=tfds.features.Tensor(shape=(), dtype=np.object_),
      captions=tfds.features.Sequence(tfds.features.Text()),
      label=tfds.features.Text(),
    )
  )


class Annotation(NamedTuple):
  """A record without its video."""

  id: str
  captions: list[str]
  label: str


@runtime_checkable
class Records(Protocol):
  """Random access to records: a `Split`, or several joined."""

  directory: str

  def __len__(self) -> int: ...
  def __getitem__(self, index: int) -> dict: ...


class Split:
  """Random access to the records of one prepared split; may be pickled.

  `split[i]` is a dict: id (str), video (bytes), captions (list of str, without blank
  ones), label (str). Raises BadSample where the shard or the record is damaged or a
  text is not UTF-8.
  """

  def __init__(self, directory: str, name: str, records):
    """Takes the data source of the serialised records."""
    self.directory = directory
    self.name = name
    self._records = records

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> dict:
    return self._read(index, tuple(_TO_PYTHON))

  def annotation(self, index: int) -> Annotation:
    """The record without its video; raises BadSample as `split[index]`."""
    return Annotation(**self._read(index, Annotation._fields))

  def _read(self, index: int, keys: tuple[str, ...]) -> dict:
    try:
      record: Any = _features(keys).deserialize_example_np(self._records[index])
    except RuntimeError as e:  # array_record has no error class of its own
      raise BadSample(f"damaged shard ({one_line(e)})") from e
    except Exception as e:  # TFDS passes on any error of protobuf and NumPy
      raise BadSample(f"damaged record ({one_line(e)})") from e
    try:
      return {key: _TO_PYTHON[key](record[key]) for key in keys}
    except UnicodeDecodeError as e:
      raise BadSample(f"text is not UTF-8 ({one_line(e)})") from e
    except TypeError as e:
      raise BadSample("damaged record (a feature is missing)") from e

  @property
  def place(self) -> str:
    """Directory and name, for messages."""
    return f"{self.directory}: split {self.name!r}"

  def __repr__(self) -> str:
    return f"Split({self.directory!r}, {self.name!r}, {len(self)} records)"


@functools.cache
def _features(keys: tuple[str, ...]) -> tfds.features.FeaturesDict:
  return tfds.features.FeaturesDict({key: features()[key] for key in keys})


_TO_PYTHON: dict[str, Callable[[Any], Any]] = dict(
  id=bytes.decode,
  video=bytes,
  captions=lambda texts: [t for t in map(bytes.decode, texts) if not blank(t)],
  label=bytes.decode,
)


def annotations(split: Split) -> Iterator[Annotation]:
  """The annotations of all records, in order.

  A shard stores a record's video next to its texts: the bytes are read, not decoded.

  Raises:
    DataError: (while iterating) a record cannot be read.
  """
  for index in range(len(split)):
    try:
      yield split.annotation(index)
    except BadSample as e:
      raise unusable(split, index, e) from e


def rows(directory: str | os.PathLike) -> dict[str, list[dict[str, Any]]]:
  """The rows of records.jsonl by split, in order; empty if prepare wrote none.

  Raises:
    DataError: the file is damaged.
  """
  path = anywhere(directory) / "records.jsonl"
  found: dict[str, list[dict[str, Any]]] = {}
  if not path.exists():
    return found
  try:
    with path.open("rb") as lines:
      for line in lines:
        row = io.mapping(line)
        found.setdefault(row["split"], []).append(row)
  except (OSError, ValueError, KeyError, TypeError) as e:
    raise DataError(f"{path}: damaged ({one_line(e)}); copy it again") from e
  return found


def ids(directory: str | os.PathLike) -> dict[str, list[str]]:
  """The ids of all records by split, in order, as `labels` reads classes.

  Raises:
    DataError: as `open_split`, or records.jsonl is damaged.
  """
  directory = os.fspath(directory)
  kept, found = rows(directory), {}
  for base, info in _builder(directory).info.splits.items():
    names = [row.get("id", "") for row in kept.get(base, ())]
    if len(names) != info.num_examples:
      names = [a.id for a in annotations(open_split(directory, base))]
    found[base] = names
  return found


def places(directory: str | os.PathLike, split: str) -> list[tuple[str, int]]:
  """(split, number) of each record, such as of "train[4:10]", without reading it.

  Raises:
    DataError: as `open_split`, except that no shard is opened.
  """
  directory = os.fspath(directory)
  builder = _builder(directory)
  instructions = _instructions(builder, directory, split)
  first = {}
  for base in _bases(split):
    info = builder.info.splits[base]
    counts = itertools.accumulate(info.shard_lengths, initial=0)
    for path, count in zip(info.filepaths, counts, strict=False):
      first[os.fspath(path)] = base, count
  found = []
  for part in instructions:
    base, count = first[os.fspath(part.filename)]
    found += [(base, count + i) for i in range(part.skip, part.skip + part.take)]
  return found


def labels(directory: str | os.PathLike, split: str) -> list[str]:
  """The class of each record of a split, in order; empty where there is none.

  They are read from records.jsonl. Data sets that are older, or not made by prepare,
  have none there: each record is then read, as by `annotations`.

  Raises:
    DataError: as `open_split`, or records.jsonl is damaged.
  """
  directory = os.fspath(directory)
  content = fingerprint(directory, split)
  path = os.path.join(directory, "records.jsonl")
  stat = os.stat(path) if os.path.exists(path) else None  # never of a bucket
  stamp = stat and (stat.st_size, stat.st_mtime_ns)
  return list(_labels(directory, split, (content, stamp)))


@functools.lru_cache(maxsize=8)  # ours: the splits of a mixture
def _labels(directory: str, split: str, content: Any) -> tuple[str, ...]:
  """`labels`, read once for the same content: a start of a run asks four times."""
  del content
  where = places(directory, split)
  kept = {base: [row.get("label") for row in r] for base, r in rows(directory).items()}
  try:
    found = [kept[base][number] for base, number in where]
  except (KeyError, IndexError):
    found = []
  if found and None not in found:
    return tuple(map(str, found))
  return tuple(a.label for a in annotations(open_split(directory, split)))


def name_problem(records: Records, index: int, error: BadSample) -> str:
  """ "id: reason"; the index stands in for an id that cannot be read."""
  try:
    name = records[index]["id"]
  except BadSample:
    name = f"record {index}"
  return f"{name}: {error}"


def unusable(split: Split, index: int, error: BadSample) -> DataError:
  """The error of a record that must be used, as in evaluation."""
  where = f"{split.directory}: record {index} of {split.name!r}"
  problem = name_problem(split, index, error)
  return DataError(f"{where} cannot be used ({problem}); repair or remove it")


def named(data: str) -> str:
  """A name for `find` of what a flag gives: a directory, then absolute, or a name."""
  return os.path.abspath(data) if os.path.isdir(data) else data


def find(root: str | os.PathLike, name: str) -> str:
  """Directory of the newest version of the data set `name` under `root`.

  Args:
    root: directory of all prepared data sets; it may be in a bucket.
    name: "data_set", "data_set/config" or either followed by "/1.0.0".

  Raises:
    DataError: nothing is prepared there.
  """
  base = name if is_bucket(name) else os.path.join(root, name)
  if (anywhere(base) / "dataset_info.json").exists():
    return base
  found = [p.name for p in anywhere(base).iterdir()] if anywhere(base).is_dir() else []
  versions = [d for d in found if re.fullmatch(r"\d+(\.\d+)*", d)]
  if not versions:
    raise DataError(f"{base}: no prepared data set; set data.dir and data.name")
  return os.path.join(base, max(versions, key=lambda v: [*map(int, v.split("."))]))


def open_split(directory: str | os.PathLike, split: str) -> Split:
  """Opens a split of the prepared data set in `directory`.

  Args:
    directory: holds dataset_info.json and the ArrayRecord shards.
    split: name, a slice such as "train[:1000]", or several such as "train+test".

  Raises:
    DataError: the directory, the split or a shard is missing, empty, cut short
      or of another schema.
  """
  directory = os.fspath(directory)
  builder = _builder(directory)
  _check_features(builder.info.features, directory)
  instructions = _instructions(builder, directory, split)
  # Opening a truncated shard succeeds; only reading it fails.
  with concurrent.futures.ThreadPoolExecutor(16) as pool:
    list(pool.map(_check_shard, instructions))
  raw = tfds.decode.DeserializeMethod.RAW_BYTES
  records = builder.as_data_source(split=split, deserialize_method=raw)  # pyright: ignore
  return Split(directory, split, records)


def fingerprint(directory: str | os.PathLike, split: str) -> str:
  """16 hex digits that change when the split's records do.

  Computed from names, version, bytes and shard lengths of the split, and from
  checksum.json where it exists; no record is read.

  Raises:
    DataError: the directory or the split is missing.
  """
  directory = os.fspath(directory)
  builder = _builder(directory)
  _check_split(builder.info.splits, directory, split)
  identity = [builder.info.full_name, split]
  for base in _bases(split):
    info = builder.info.splits[base]
    identity += [info.num_bytes, info.shard_lengths]
  checksum = anywhere(directory) / "checksum.json"
  return digest(identity, checksum.read_bytes() if checksum.exists() else b"")


def digest(identity: list, more: bytes = b"") -> str:
  """16 hex digits of a list of plain values."""
  return hashlib.sha256(repr(identity).encode() + more).hexdigest()[:16]


def _builder(directory: str) -> tfds.core.DatasetBuilder:
  if not (anywhere(directory) / "dataset_info.json").exists():
    cause = "no dataset_info.json; correct data.dir and data.name"
    if not anywhere(directory).is_dir():
      cause = "no such directory; correct data.dir and data.name"
      cause += near(directory)
    raise DataError(f"{directory}: {cause}")
  try:
    return tfds.builder_from_directory(directory)
  except Exception as e:  # TFDS raises whatever its JSON parsers raise
    raise DataError(
      f"{directory}: dataset_info.json or features.json is damaged "
      f"({one_line(e)}); prepare it again"
    ) from e


def _check_features(stored, directory: str) -> None:
  """The four features must exist and have their types; others are ignored."""
  cure = "it must be as sources.features()"
  for key, feature in features().items():
    if not isinstance(stored, tfds.features.FeaturesDict) or key not in stored:
      raise DataError(f"{directory}: records have no feature {key!r}; {cure}")
    expected, actual = feature.get_tensor_info(), stored[key].get_tensor_info()
    # TFDS compares only values that have a shape; a group of features has none.
    if type(expected) is not type(actual) or expected != actual:
      raise DataError(
        f"{directory}: feature {key!r} is {actual}, not {expected}; {cure}"
      )


def _check_split(splits, directory: str, split: str) -> None:
  for base in _bases(split):
    if base not in splits:
      raise DataError(f"{directory}: no split {split!r}; {nearest(base, splits)}")


def _instructions(builder, directory: str, split: str) -> list:
  """The parts of shards that a split consists of; at least one record."""
  _check_split(builder.info.splits, directory, split)
  try:
    instructions = builder.info.splits[split].file_instructions
  except ValueError as e:
    raise DataError(f"{directory}: split {split!r}: {one_line(e)}") from e
  if not sum(i.take for i in instructions):
    raise DataError(f"{directory}: split {split!r} holds no record; prepare it again")
  return instructions


def _check_shard(instruction) -> None:
  path, expected = os.fspath(instruction.filename), instruction.examples_in_shard
  if not anywhere(path).exists():
    raise DataError(f"{path}: shard is missing; copy it again or prepare it again")
  try:
    reader = array_record_module.ArrayRecordReader(path)
    readable = reader.num_records()
    reader.close()
  except RuntimeError:
    readable = 0
  if readable != expected:
    raise DataError(
      f"{path}: shard is damaged: {readable} of {expected} records can be read; "
      "copy it again or prepare it again"
    )


def _bases(split: str) -> list[str]:
  """Names of the splits that "train[:10%]+test" consists of."""
  return list(dict.fromkeys(p.split("[")[0].strip() for p in split.split("+")))
