"""Reads and writes the embeddings of a split: of our models, or of any other.

video.npy     [clips, width] float32; any norm, not zero
videos.jsonl  one line per row: {"id": "video7020", "label": ""}
text.npy      [texts, width] float32
texts.jsonl   one line per row: {"id": "video7020", "caption": "a man sings"};
              "class" instead of "id" for recognition; plus "right": true or false
              for the candidate sentences of a multiple choice
bank.npy, bank.jsonl    training captions, as text.npy and texts.jsonl, for QB-norm;
                        optional
manifest.json           provenance, any keys; optional
video.parquet, text.parquet   the same rows, written if pyarrow is installed, never
                              read
"""

import dataclasses
import hashlib
import json
import pathlib
import shutil
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from vtr_jax.core import io
from vtr_jax.core.errors import DataError, one_line


@dataclasses.dataclass(frozen=True)
class Embeddings:
  """Embeddings of the clips and texts of a split; rows have unit norm."""

  video: Float[np.ndarray, "v e"]
  ids: list[str]  # of the clips; unique
  labels: list[str]  # classes of the clips; "" = none
  text: Float[np.ndarray, "t e"]
  texts: list[str]
  owner: Int[np.ndarray, " t"]  # index of each text's clip or class in `names`
  names: list[str]  # `ids` itself, or the class names
  right: Bool[np.ndarray, " t"] | None = None  # of candidate sentences: the answer
  bank: Float[np.ndarray, "q e"] | None = None  # training captions
  bank_ids: list[str] = dataclasses.field(default_factory=list)  # clips of the bank
  manifest: dict[str, Any] = dataclasses.field(default_factory=dict)


def check_vacant(directory: str | pathlib.Path) -> None:
  """Rejects a directory that exists, as `save` does.

  Raises:
    DataError: the directory exists.
  """
  if pathlib.Path(directory).exists():
    raise DataError(f"{directory}: already exists; name another --save_embeddings")


def save(directory: str | pathlib.Path, e: Embeddings) -> None:
  """Writes the directory atomically.

  Raises:
    DataError: the directory exists or cannot be written.
  """
  target = pathlib.Path(directory)
  check_vacant(target)
  staging = target.with_name(target.name + ".tmp")
  key = "id" if e.names is e.ids else "class"
  clips = [dict(id=i, label=label) for i, label in zip(e.ids, e.labels, strict=True)]
  texts = [
    {key: e.names[i], "caption": text} for i, text in zip(e.owner, e.texts, strict=True)
  ]
  if e.right is not None:
    texts = [
      text | dict(right=bool(right)) for text, right in zip(texts, e.right, strict=True)
    ]
  try:
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    _write(staging, "video", "videos", e.video, clips)
    _write(staging, "text", "texts", e.text, texts)
    if e.bank is not None:
      _write(staging, "bank", "bank", e.bank, [dict(id=i) for i in e.bank_ids])
    (staging / "manifest.json").write_text(json.dumps(e.manifest, indent=1) + "\n")
    staging.rename(target)
  except OSError as error:
    raise DataError(
      f"{target}: cannot be written ({error.strerror}); choose another directory"
    ) from error


def load(directory: str | pathlib.Path) -> Embeddings:
  """Reads and checks the directory; normalises the rows.

  Raises:
    DataError: a file is missing, damaged or does not fit the others; a line has an
      unknown or duplicate clip; an embedding is zero or not finite.
  """
  source = pathlib.Path(directory)
  clips, texts = _records(source / "videos.jsonl"), _records(source / "texts.jsonl")
  ids = _strings(source / "videos.jsonl", clips, "id")
  labels = [str(clip.get("label", "")) for clip in clips]
  first = {name: row for row, name in reversed(list(enumerate(ids)))}
  for row, name in enumerate(ids):
    if first[name] != row:
      raise DataError(
        f"{source / 'videos.jsonl'}: lines {first[name] + 1} and {row + 1} have one id "
        f"({name!r}); ids must be unique"
      )
  names, owner = _owners(source / "texts.jsonl", texts, ids, first)
  bank, bank_ids = None, []
  if (source / "bank.npy").exists():
    records = _records(source / "bank.jsonl")
    bank = _matrix(source / "bank.npy", len(records))
    bank_ids = _strings(source / "bank.jsonl", records, "id")
  return Embeddings(
    video=_matrix(source / "video.npy", len(clips)),
    ids=ids,
    labels=labels,
    text=_matrix(source / "text.npy", len(texts)),
    texts=[str(text.get("caption", "")) for text in texts],
    owner=owner,
    names=names,
    right=_rights(source / "texts.jsonl", texts),
    bank=bank,
    bank_ids=bank_ids,
    manifest=_manifest(source / "manifest.json"),
  )


def fingerprint(e: Embeddings) -> str:
  """16 hex digits that change with any embedding, id or text."""
  digest = hashlib.sha256(repr([e.ids, e.labels, e.texts, e.names]).encode())
  for values in (e.video, e.text, e.owner):
    digest.update(np.ascontiguousarray(values).tobytes())
  return digest.hexdigest()[:16]


def _write(
  directory: pathlib.Path,
  name: str,
  plural: str,
  values: np.ndarray,
  records: list[dict],
) -> None:
  np.save(directory / f"{name}.npy", values.astype(np.float32))
  text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
  (directory / f"{plural}.jsonl").write_text(text, encoding="utf-8")
  try:
    import pyarrow as pa
    from pyarrow import parquet
  except ImportError:  # optional: npy and jsonl hold the same data
    return
  columns = {key: [record[key] for record in records] for key in records[0]}
  flat = pa.array(np.ascontiguousarray(values, np.float32).reshape(-1))
  columns["embedding"] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
  parquet.write_table(pa.table(columns), directory / f"{name}.parquet")


def _records(path: pathlib.Path) -> list[dict]:
  try:
    # Not splitlines: a caption may contain U+2028, which does not end a JSON line.
    lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
  except (OSError, UnicodeDecodeError) as e:
    raise DataError(
      f"{path}: cannot be read ({e}); docs/evaluation.md has the layout"
    ) from e
  if lines == [""]:
    raise DataError(f"{path}: empty; give one line per embedding")
  records = []
  for number, line in enumerate(lines, 1):
    try:
      records.append(io.loads(line))
    except ValueError as e:
      raise DataError(f"{path}, line {number}: not valid JSON ({e}); fix it") from e
    if not isinstance(records[-1], dict):
      raise DataError(f'{path}, line {number}: expected an object such as {{"id": ""}}')
  return records


def _strings(path: pathlib.Path, records: list[dict], key: str) -> list[str]:
  for number, record in enumerate(records, 1):
    if not isinstance(record.get(key), str):
      raise DataError(f"{path}, line {number}: no string {key!r}; add it")
  return [record[key] for record in records]


def _owners(
  path: pathlib.Path, texts: list[dict], ids: list[str], rows: dict[str, int]
) -> tuple[list[str], np.ndarray]:
  """(ids or class names, index of each text's own in them)."""
  if "class" in texts[0]:
    classes = _strings(path, texts, "class")
    names = list(dict.fromkeys(classes))
    index = {name: i for i, name in enumerate(names)}
    return names, np.array([index[name] for name in classes])
  owners = _strings(path, texts, "id")
  for number, name in enumerate(owners, 1):
    if name not in rows:
      raise DataError(
        f"{path}, line {number}: no clip {name!r} in videos.jsonl; add its embedding, "
        "or drop the text"
      )
  return ids, np.array([rows[name] for name in owners])


def _rights(path: pathlib.Path, texts: list[dict]) -> np.ndarray | None:
  """Whether each candidate is the answer; None if the texts are not candidates."""
  if not any("right" in text for text in texts):
    return None
  for number, text in enumerate(texts, 1):
    if not isinstance(text.get("right"), bool):
      raise DataError(
        f'{path}, line {number}: expected "right": true or false; give it to all '
        "texts or to none"
      )
  return np.array([text["right"] for text in texts])


def _matrix(path: pathlib.Path, count: int) -> np.ndarray:
  """[count, width] float32 of unit norm."""
  try:
    # Memory-mapped: np.load would allocate a header's shape before reading the file.
    values = np.lib.format.open_memmap(path, mode="r")
  except Exception as e:  # the header is parsed as a Python expression
    raise DataError(
      f"{path}: cannot be read ({one_line(e)}); save it with numpy.save, as float32"
    ) from e
  if values.ndim != 2 or len(values) != count or values.dtype.kind != "f":
    raise DataError(
      f"{path}: {values.dtype} of shape {values.shape}; give float32 [{count}, width], "
      "one row per line of its jsonl"
    )
  with np.errstate(over="ignore"):  # to infinity, which is rejected
    norm = np.linalg.norm(values.astype(np.float64), axis=1, keepdims=True)
  invalid = ~(np.isfinite(norm) & (norm > 0))[:, 0]
  if invalid.any():
    row = int(invalid.argmax())
    raise DataError(
      f"{path}: row {row} has norm {norm[row, 0]:g}; embed it again, or drop it"
    )
  return (values / norm).astype(np.float32)


def _manifest(path: pathlib.Path) -> dict[str, Any]:
  if not path.exists():
    return {}
  try:
    return io.mapping(path.read_bytes())
  except ValueError as e:
    raise DataError(f"{path}: damaged ({e}); fix or delete it") from e


def select_texts(e: Embeddings, indices: Int[np.ndarray, " n"]) -> Embeddings:
  """All clips, with only the texts at `indices`."""
  return dataclasses.replace(
    e,
    text=e.text[indices],
    texts=[e.texts[i] for i in indices],
    owner=e.owner[indices],
    right=None if e.right is None else e.right[indices],
  )
