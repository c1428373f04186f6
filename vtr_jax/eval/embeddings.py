"""Embeddings of a split in a directory: ours, or those of any other model.

video.npy     [clips, width] float32; any norm, not zero
videos.jsonl  a line for each row: {"id": "video7020", "label": ""}
text.npy      [texts, width] float32
texts.jsonl   a line for each row: {"id": "video7020", "caption": "a man sings"};
              "class" in place of "id" for a class of recognition; with "right":
              true or false where it is one of a clip's candidate sentences
bank.npy, bank.jsonl    of training captions, as texts; for QB-norm, may be absent
manifest.json           what made them, any keys; may be absent
video.parquet, text.parquet   the same rows, written where pyarrow is installed,
                              never read
"""

import dataclasses
import hashlib
import json
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from vtr_jax.core import io
from vtr_jax.core.errors import DataError, one_line


@dataclasses.dataclass(frozen=True)
class Embeddings:
  """Clips and texts of a split; rows have unit norm."""

  video: Float[np.ndarray, "v e"]
  ids: list[str]  # of the clips, unique
  labels: list[str]  # of the clips; "" = none
  text: Float[np.ndarray, "t e"]
  texts: list[str]
  owner: Int[np.ndarray, " t"]  # clip or class that the text is of
  names: list[str]  # what `owner` counts: ids, or names of classes
  right: Bool[np.ndarray, " t"] | None = None  # candidates: whether it is the answer
  bank: Float[np.ndarray, "q e"] | None = None  # training captions
  bank_ids: list[str] = dataclasses.field(default_factory=list)  # clips of the bank
  manifest: dict[str, Any] = dataclasses.field(default_factory=dict)


def check_vacant(directory: str | pathlib.Path) -> None:
  """Refuses a directory that `save` would.

  Raises:
    DataError: it is there already.
  """
  if pathlib.Path(directory).exists():
    raise DataError(f"{directory}: is there already; name another --save_embeddings")


def save(directory: str | pathlib.Path, e: Embeddings) -> None:
  """Writes the directory; it is whole or not there.

  Raises:
    DataError: it is there already, or cannot be written.
  """
  place = pathlib.Path(directory)
  check_vacant(place)
  staging = place.with_name(place.name + ".tmp")
  key = "id" if e.names is e.ids else "class"
  clips = [dict(id=i, label=label) for i, label in zip(e.ids, e.labels, strict=True)]
  texts = [
    {key: e.names[o], "caption": t} for o, t in zip(e.owner, e.texts, strict=True)
  ]
  if e.right is not None:
    texts = [t | dict(right=bool(r)) for t, r in zip(texts, e.right, strict=True)]
  try:
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    _write(staging, "video", "videos", e.video, clips)
    _write(staging, "text", "texts", e.text, texts)
    if e.bank is not None:
      _write(staging, "bank", "bank", e.bank, [dict(id=i) for i in e.bank_ids])
    (staging / "manifest.json").write_text(json.dumps(e.manifest, indent=1) + "\n")
    staging.rename(place)
  except OSError as error:
    raise DataError(
      f"{place}: cannot be written ({error.strerror}); choose another directory"
    ) from error


def load(directory: str | pathlib.Path) -> Embeddings:
  """Reads and checks the directory; rows are normalised.

  Raises:
    DataError: a file is missing, damaged or does not fit another; a line names an
      unknown clip or one that is named twice; an embedding is zero or not finite.
  """
  place = pathlib.Path(directory)
  clips, texts = _lines(place / "videos.jsonl"), _lines(place / "texts.jsonl")
  ids = _strings(place / "videos.jsonl", clips, "id")
  labels = [str(clip.get("label", "")) for clip in clips]
  first = {name: row for row, name in reversed(list(enumerate(ids)))}
  for row, name in enumerate(ids):
    if first[name] != row:
      raise DataError(
        f"{place / 'videos.jsonl'}: lines {first[name] + 1} and {row + 1} have one id "
        f"({name!r}); give each clip its own"
      )
  names, owner = _owners(place / "texts.jsonl", texts, ids, first)
  bank, bank_ids = None, []
  if (place / "bank.npy").exists():
    lines = _lines(place / "bank.jsonl")
    bank = _matrix(place / "bank.npy", len(lines))
    bank_ids = _strings(place / "bank.jsonl", lines, "id")
  return Embeddings(
    video=_matrix(place / "video.npy", len(clips)),
    ids=ids,
    labels=labels,
    text=_matrix(place / "text.npy", len(texts)),
    texts=[str(text.get("caption", "")) for text in texts],
    owner=owner,
    names=names,
    right=_rights(place / "texts.jsonl", texts),
    bank=bank,
    bank_ids=bank_ids,
    manifest=_manifest(place / "manifest.json"),
  )


def fingerprint(e: Embeddings) -> str:
  """16 hex digits that change with any embedding, id or text."""
  digest = hashlib.sha256(repr([e.ids, e.labels, e.texts, e.names]).encode())
  for values in (e.video, e.text, e.owner):
    digest.update(np.ascontiguousarray(values).tobytes())
  return digest.hexdigest()[:16]


def _write(
  place: pathlib.Path, name: str, plural: str, values: np.ndarray, lines: list[dict]
) -> None:
  np.save(place / f"{name}.npy", values.astype(np.float32))
  text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
  (place / f"{plural}.jsonl").write_text(text, encoding="utf-8")
  try:
    import pyarrow as pa
    from pyarrow import parquet
  except ImportError:  # an extra: npy and jsonl say the same
    return
  columns = {key: [line[key] for line in lines] for key in lines[0]}
  flat = pa.array(np.ascontiguousarray(values, np.float32).reshape(-1))
  columns["embedding"] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
  parquet.write_table(pa.table(columns), place / f"{name}.parquet")


def _lines(path: pathlib.Path) -> list[dict]:
  try:
    # Not splitlines: a caption may hold U+2028, which is no end of a JSON line.
    lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
  except (OSError, UnicodeDecodeError) as e:
    raise DataError(
      f"{path}: cannot be read ({e}); docs/evaluation.md has the layout"
    ) from e
  if lines == [""]:
    raise DataError(f"{path}: empty; give one line for each embedding")
  found = []
  for number, line in enumerate(lines, 1):
    try:
      found.append(io.loads(line))
    except ValueError as e:
      raise DataError(f"{path}, line {number}: no JSON ({e}); fix it") from e
    if not isinstance(found[-1], dict):
      raise DataError(f'{path}, line {number}: expected an object such as {{"id": ""}}')
  return found


def _strings(path: pathlib.Path, lines: list[dict], key: str) -> list[str]:
  for number, line in enumerate(lines, 1):
    if not isinstance(line.get(key), str):
      raise DataError(f"{path}, line {number}: no string {key!r}; add it")
  return [line[key] for line in lines]


def _owners(
  path: pathlib.Path, texts: list[dict], ids: list[str], rows: dict[str, int]
) -> tuple[list[str], np.ndarray]:
  """(what the texts are of, the number in it of each text's own)."""
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
  """Whether each candidate is the answer; None where no text is a candidate."""
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
    # Mapped: of an array larger than its file, np.load takes the memory first.
    values = np.lib.format.open_memmap(path, mode="r")
  except Exception as e:  # the header is an expression of Python, parsed as such
    raise DataError(
      f"{path}: cannot be read ({one_line(e)}); save it with numpy.save, as float32"
    ) from e
  if values.ndim != 2 or len(values) != count or values.dtype.kind != "f":
    raise DataError(
      f"{path}: {values.dtype} of shape {values.shape}; give float32 [{count}, width], "
      "a row for each line of its jsonl"
    )
  with np.errstate(over="ignore"):  # to infinity, which is refused
    norm = np.linalg.norm(values.astype(np.float64), axis=1, keepdims=True)
  bad = ~(np.isfinite(norm) & (norm > 0))[:, 0]
  if bad.any():
    row = int(bad.argmax())
    raise DataError(
      f"{path}: row {row} has the norm {norm[row, 0]:g}; embed it again, or drop it"
    )
  return (values / norm).astype(np.float32)


def _manifest(path: pathlib.Path) -> dict[str, Any]:
  if not path.exists():
    return {}
  try:
    return io.mapping(path.read_bytes())
  except ValueError as e:
    raise DataError(f"{path}: damaged ({e}); fix or delete it") from e


def rows(e: Embeddings, picked: Sequence[int] | np.ndarray) -> Embeddings:
  """The same clips with the picked texts only."""
  picked = np.asarray(picked)
  return dataclasses.replace(
    e,
    text=e.text[picked],
    texts=[e.texts[i] for i in picked],
    owner=e.owner[picked],
    right=None if e.right is None else e.right[picked],
  )
