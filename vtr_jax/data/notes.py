"""Questions, labels and moments of records, in files next to the shards.

notes-SET-SPLIT.jsonl   one line per note, in the order of the split's records
manifest.json           notes: {SET: {splits: {SPLIT: {notes, sha256}}}}

A set is what one annotation format has read, such as msvd_qa. A data set may have
several; none of them changes the records.
"""

import collections
import hashlib
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from vtr_jax.core import io
from vtr_jax.core.config import choose
from vtr_jax.core.errors import DataError, one_line
from vtr_jax.core.paths import anywhere
from vtr_jax.data import sources
from vtr_jax.data.captions import blank

KINDS = ("question", "label", "moment")


class Note(NamedTuple):
  """One question, label or moment of a record.

  kind: one of `KINDS`. id: as published; unique in its kind and set. text: the
  question, the name of the class, or the sentence that describes the moment. answer: of
  a question; one of `options` if there are some. type: a group for reports, such as
  "what"; may be empty. options: the answers to choose from. windows: (start, end) of
  the moment in seconds from the record's beginning; may reach beyond its end. duration:
  of the annotated video in seconds; 0 is not known. saliency: (number of a clip of two
  seconds, score of each rater) of the clips that raters scored; QVHighlights.
  """

  kind: str
  id: str
  text: str
  answer: str = ""
  type: str = ""
  options: tuple[str, ...] = ()
  windows: tuple[tuple[float, float], ...] = ()
  duration: float = 0.0
  saliency: tuple[tuple[int, ...], ...] = ()


class Row(NamedTuple):
  """A line of a file: a note of the record with this id and number in its split.

  split: that of the annotations, which may be another than the record's.
  """

  record: str
  index: int
  split: str
  note: Note


def frequent(answers: Sequence[str], count: int = 0) -> list[str]:
  """The most frequent answers, all if `count` is 0; of equals, the first ones."""
  counts = collections.Counter(answers)
  return [answer for answer, _ in counts.most_common(count or None)]


def problem(note: Note) -> str:
  """What was expected of an invalid note; empty if it is valid."""
  texts = (note.kind, note.id, note.text, note.answer, note.type, *note.options)
  try:
    " ".join(texts).encode()
  except (TypeError, UnicodeEncodeError):
    named = zip(
      (*Note._fields[:5], *["options"] * len(note.options)), texts, strict=True
    )
    field, value = next((f, x) for f, x in named if not _is_text(x))
    return f"a UTF-8 text for {field}, got {repr(value)[:40]}"
  if note.kind not in KINDS:
    return f"a kind of {', '.join(KINDS)}, got {note.kind!r}"
  if not note.id or blank(note.text):
    return f"an id and a text of the {note.kind}, got {note.id!r} and {note.text!r}"
  if note.kind == "question" and blank(note.answer):
    return "an answer of the question, got an empty one"
  if note.options and note.answer not in note.options:
    return f"an answer among the options, got {note.answer!r}"
  if note.kind == "moment" and not note.windows:
    return "a window of the moment, got none"
  for window in note.windows:
    if not (len(window) == 2 and 0 <= window[0] < window[1] < math.inf):
      return f"0 <= start < end, got {window!r}"
  if not 0 <= note.duration < math.inf:
    return f"a duration in seconds, got {note.duration!r}"
  if note.saliency and not _rated(note.saliency):
    return "a clip's number and the score of each rater, the same number of all clips"
  return ""


def _is_text(value: Any) -> bool:
  """Whether this is a text that can be written as UTF-8."""
  try:
    value.encode()
  except (AttributeError, UnicodeEncodeError):
    return False
  return True


def _rated(saliency: tuple[tuple[int, ...], ...]) -> bool:
  """Whether these are a number and the same raters' scores of each clip."""
  numbers = [x for clip in saliency for x in clip]
  whole = all(type(x) is int and 0 <= x <= 10**6 for x in numbers)
  return whole and len({len(clip) for clip in saliency}) == 1 and len(saliency[0]) > 1


def to_json(note: Note) -> dict[str, Any]:
  """The fields that are not empty."""
  return {key: value for key, value in note._asdict().items() if value}


def from_json(value: dict[str, Any]) -> Note:
  """The inverse of `to_json`; other keys are ignored.

  Raises:
    ValueError: a field is missing or invalid.
  """
  try:
    fields: dict[str, Any] = {key: value[key] for key in Note._fields if key in value}
    for key in ("kind", "answer", "type"):  # few different ones, kept once
      fields[key] = sys.intern(fields.get(key, ""))
    fields["options"] = tuple(fields.get("options", ()))
    windows = fields.get("windows", ())
    fields["windows"] = tuple((float(start), float(end)) for start, end in windows)
    fields["duration"] = float(fields.get("duration", 0))
    fields["saliency"] = tuple(map(tuple, fields.get("saliency", ())))
    note = Note(**fields)
    wrong = problem(note)
  except (TypeError, ValueError, OverflowError) as e:
    raise ValueError(f"not a note: {one_line(e)}") from e
  if wrong:
    raise ValueError(f"not a note: expected {wrong}")
  return note


def lines(record: str, index: int, split: str, notes: Iterable[dict]) -> str:
  """The lines of a record's notes, each given as `to_json` does; see `Row`."""
  head = dict(record=record, index=index, split=split)
  texts = (json.dumps(head | note, ensure_ascii=False) for note in notes)
  return "".join(f"{text}\n" for text in texts)


def file(directory: str | os.PathLike, name: str, split: str) -> str:
  """Path of the notes of the set `name` on a split's records."""
  return os.path.join(directory, f"notes-{name}-{split}.jsonl")


def save(
  directory: str | os.PathLike, name: str, texts: dict[str, str]
) -> dict[str, dict[str, Any]]:
  """Writes one file per split; returns {split: {notes, sha256}} for the manifest.

  Args:
    directory: of the prepared data set.
    name: of the set, which is the format's.
    texts: what `lines` has returned for all records, by split.

  Raises:
    OSError: a file cannot be written.
  """
  entries = {}
  for split, text in texts.items():
    io.atomic_write(file(directory, name, split), text)
    entries[split] = facts(text)
  return entries


def facts(text: str) -> dict[str, Any]:
  """What the manifest holds of a file's content."""
  sha256 = hashlib.sha256(text.encode()).hexdigest()
  return dict(notes=text.count("\n"), sha256=sha256)


def listed(directory: str | os.PathLike) -> dict[str, dict[str, dict[str, Any]]]:
  """{set: {split: {notes, sha256}}} of the manifest; empty without one.

  Raises:
    DataError: the manifest is damaged.
  """
  path = anywhere(directory) / "manifest.json"
  if not path.exists():
    return {}
  try:
    sets = io.mapping(path.read_bytes()).get("notes", {})
    return {
      name: {split: dict(entry) for split, entry in kept["splits"].items()}
      for name, kept in sets.items()
    }
  except (ValueError, KeyError, TypeError, AttributeError) as e:
    raise DataError(f"{path}: damaged ({one_line(e)}); copy it again") from e


def rows(
  directory: str | os.PathLike, name: str, split: str, entry: dict[str, Any]
) -> Iterator[Row]:
  """The rows of one file; `entry` is the manifest's.

  Raises:
    DataError: the file is missing, or is not what the manifest says.
  """
  path = file(directory, name, split)
  cure = f"copy it again, or add it with --format={name} --notes_of={directory}"
  try:
    data = anywhere(path).read_bytes()
  except OSError as e:
    raise DataError(f"{path}: {e.strerror or e}; {cure}") from e
  if hashlib.sha256(data).hexdigest() != entry.get("sha256"):
    raise DataError(f"{path}: not the bytes that manifest.json describes; {cure}")
  for number, line in enumerate(data.splitlines(), 1):
    try:
      row = io.mapping(line)
      yield Row(row["record"], row["index"], row["split"], from_json(row))
    except (ValueError, KeyError) as e:
      raise DataError(f"{path}:{number}: damaged ({one_line(e)}); {cure}") from e


def read(
  directory: str | os.PathLike,
  split: str,
  kind: str | None = None,
  *,
  name: str | None = None,
  own_split: str | None = None,
) -> list[tuple[Note, ...]]:
  """The notes of each record of a split, in the order of the records.

  Annotations may divide videos otherwise than the records: part of MSVD-QA's validation
  videos is in the test split of retrieval. Notes of another split than the record's are
  therefore left out, unless `own_split` asks for them: `read(directory,
  "validation+test", own_split="validation")`.

  Args:
    directory: of the prepared data set.
    split: as for `sources.open_split`; also a slice.
    kind: one of `KINDS`; None takes all.
    name: the set, as msvd_qa; None takes all, in alphabetical order.
    own_split: the annotations' split; None takes the record's.

  Returns:
    One tuple per record, empty if it has no notes.

  Raises:
    ConfigError: `kind` is unknown.
    DataError: the split is missing, it has no such notes, or a file is missing or
      damaged.
  """
  if kind is not None:
    choose(kind, KINDS, "kind")
  places = sources.places(directory, split)
  bases = {base for base, _ in places}
  found: dict[tuple[str, int], list[Note]] = {}
  others = set()
  for made, splits in sorted(listed(directory).items()):
    if name not in (None, made):
      continue
    for base in bases & set(splits):
      for row in rows(directory, made, base, splits[base]):
        if kind not in (None, row.note.kind):
          continue
        if row.split == (own_split or base):
          found.setdefault((base, row.index), []).append(row.note)
        else:
          others.add(row.split)
  if not found:
    wanted = " ".join(filter(None, (name, kind, "notes")))
    cure = (
      f"add them with python -m vtr_jax.prepare --format={name or 'FORMAT'} "
      f"--notes_of={directory}"
    )
    if others:
      cure = f"they are of {', '.join(sorted(others))}; choose one with own_split"
    raise DataError(f"{directory}: split {split!r} has no {wanted}; {cure}")
  return [tuple(found.get(place, ())) for place in places]
