"""Reading annotation files: every error names the file, the line and the fix."""

import csv
import glob
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from vtr_jax.core.config import choose
from vtr_jax.core.errors import ConfigError, DataError, one_line
from vtr_jax.core.paths import near
from vtr_jax.core.shutdown import warn
from vtr_jax.data.captions import blank
from vtr_jax.data.notes import Note, problem
from vtr_jax.prepare.formats.base import Item, Request
from vtr_jax.prepare.formats.media import Files

LOOK = "look at the file and at --format"
csv.field_size_limit(2**31 - 1)  # its own of 131,072 would reject a long transcript
# Names of the splits in published files.
_SPLITS = dict(
  train="train",
  training="train",
  val="validation",
  valid="validation",
  validate="validation",
  validation="validation",
  dev="validation",
  test="test",
  testing="test",
)


def split_named(name: str) -> str:
  """train, validation or test for one of their usual names; others unchanged."""
  return _SPLITS.get(name.lower(), name)


def place(request: Request) -> str:
  """Directory or file of the annotations."""
  return request.annotations or request.source


def folder(request: Request) -> str:
  """Directory of the annotations, also where a single file was given."""
  where = place(request)
  return os.path.dirname(where) or "." if os.path.isfile(where) else where


def no_annotations(request: Request, name: str) -> None:
  """Raises ConfigError if --annotations is given, which this format does not use."""
  if request.annotations:
    raise ConfigError(f"annotations: {name} reads --source alone; omit it")


def optional(request: Request, *names: str) -> str | None:
  """The first of the files `names` that exists in the annotations' directory."""
  paths = (os.path.join(folder(request), name) for name in names)
  return next((path for path in paths if os.path.isfile(path)), None)


def required(request: Request, *names: str) -> str:
  """As `optional`; raises DataError with all the names if no file exists."""
  path = optional(request, *names)
  if path is None:
    raise DataError(
      f"{folder(request)}: holds no {' or '.join(names)}; "
      "set --annotations to the directory that does"
    )
  return path


def by_split(request: Request, names: Mapping[str, str | tuple]) -> list[tuple]:
  """[(split, path)] of the existing files, one a split.

  Args:
    request: where the files are; its split, if any, is the only one.
    names: file names in the annotations' directory, or alternatives, by split.
  """
  if request.split:
    choose(request.split, names, "split")
    names = {request.split: names[request.split]}
  options = {k: (v,) if isinstance(v, str) else v for k, v in names.items()}
  paths = [(k, optional(request, *v)) for k, v in options.items()]
  paths = [(split, path) for split, path in paths if path]
  if not paths:
    required(request, *(v[0] for v in options.values()))
  return paths


def listed(request: Request, *patterns: str) -> list[tuple[str, str]]:
  """[(split, path)] of the annotations' file, or of all that match `patterns`.

  The split follows from a file's name, such as results_2M_val.csv; otherwise it is the
  request's, or train (ours).
  """
  where = place(request)
  if os.path.isfile(where):
    return [(split_of(where) or request.split or "train", where)]
  if not os.path.isdir(where):
    name = "annotations" if request.annotations else "source"
    cure = f"correct --{name}{near(where)}"
    raise DataError(f"{where}: no such file or directory; {cure}")
  within = os.path.join(glob.escape(where), "")
  paths = {p for pattern in patterns for p in glob.glob(within + pattern)}
  if not paths:
    raise DataError(
      f"{where}: holds no {' or '.join(patterns)}; set --annotations to the file, "
      "or to the directory that holds it"
    )
  return [(split_of(p) or request.split or "train", p) for p in sorted(paths)]


def split_of(path: str) -> str:
  """The split in a file's name, such as train_list.txt; otherwise empty."""
  words = re.findall("[a-z]+", os.path.basename(path).lower())
  return next((_SPLITS[word] for word in words if word in _SPLITS), "")


def require(ok: object, where: str, expected: str) -> None:
  """Raises DataError for the file at `where` (file and line or key) unless `ok`."""
  if not ok:
    raise DataError(f"{where}: expected {expected}; {LOOK}")


def as_list(value: Any, where: str, of: str = "objects") -> list:
  """`value` if it is a list; raises DataError otherwise."""
  require(isinstance(value, list), where, f"a list of {of}")
  return value


def as_object(value: Any, where: str, *keys: str) -> dict[str, Any]:
  """`value` if it is a JSON object with `keys`; raises DataError otherwise."""
  ok = isinstance(value, dict) and all(key in value for key in keys)
  require(ok, where, f"an object with {' and '.join(keys)}" if keys else "an object")
  return value


def as_text(value: Any, where: str, what: str) -> str:
  """`value` if it is a text that is not blank; raises DataError otherwise."""
  require(isinstance(value, str) and not blank(value), where, f"a text for {what}")
  return value


def sentences(value: Any, where: str) -> tuple[str, ...]:
  """Captions of a text or a list of texts; blank ones, null and NaN are dropped."""
  if isinstance(value, str):
    return () if blank(value) else (value.strip(),)
  texts = value if isinstance(value, list | tuple) else [value]
  texts = [t for t in texts if t is not None and t == t]  # NaN differs from itself
  require(all(isinstance(t, str) for t in texts), where, "a text or a list of texts")
  return tuple(t.strip() for t in texts if not blank(t))


def caption_in(value: Any, where: str) -> tuple[str, ...]:
  """Captions of a sidecar file: texts, or an object with caption or captions."""
  if isinstance(value, dict):
    value = value.get("captions") or value.get("caption") or ""
  return sentences(value, where)


def note(where: str, kind: str, name: object, text: object, **fields: Any) -> Note:
  """The note, if it is valid; raises DataError for the file at `where` otherwise.

  Args:
    where: file and line or key.
    kind: question | label | moment.
    name: the published id, a text or a number.
    text: of the question or moment, or the name of the class.
    fields: others of `Note`.
  """
  name = str(name) if isinstance(name, str | int) else ""
  values: dict[str, Any] = {key: _strip(value) for key, value in fields.items()}
  made = Note(kind, name, _strip(text), **values)
  expected = problem(made)
  require(not expected, where, expected)
  return made


def noted(
  files: Files,
  split: str,
  rows: Iterable[tuple[str, str, Note | None]],
  name: Callable[[str, str], tuple[str, ...]] = lambda where, video: (video, video),
) -> Iterator[Item]:
  """One item a video of a split, with all its notes.

  Args:
    files: of the media.
    split: of the items.
    rows: (file and line or key, video as the file names it, note); None = no note, but
      the video is an item.
    name: (file and line or key of its first row, video) -> id of the item, and names
      under which its file is looked for.
  """
  videos: dict[str, tuple[str, list[Note]]] = {}
  for where, video, made in rows:
    _, notes = videos.setdefault(video, (where, []))
    if made:
      notes.append(made)
  for video, (where, notes) in videos.items():
    key, *names = name(where, video)
    found = files.find(names[0], where, *names[1:])
    yield Item(key, split, found, (), notes=tuple(notes))


def warn_left_out(path: str, places: Sequence[str]) -> None:
  """Warns of the moments at these places of a file, if there are any."""
  if places:
    warn(
      f"{path}: moments left out: {len(places):,} (they end before they start, or have "
      f"no sentence); the first is {places[0]}"
    )


def _strip(value: Any) -> Any:
  if isinstance(value, tuple):
    return tuple(map(_strip, value))
  return value.strip() if isinstance(value, str) else value


def segment(value: object, where: str) -> tuple[float, float]:
  """Start and end in seconds, from two numbers or texts; also hours:minutes:seconds."""
  try:
    start, end = (_seconds(x) for x in value)  # pyright: ignore
  except (TypeError, ValueError, OverflowError):
    start, end = 0.0, -1.0
  require(0 <= start < end < math.inf, where, f"0 <= start < end, got {value!r}")
  return start, end


def _seconds(value: Any) -> float:
  """Raises ValueError, TypeError or OverflowError for what is no time."""
  parts = value.split(":") if isinstance(value, str) else [value]
  if len(parts) > 3 or any(float(part) < 0 for part in parts):
    raise ValueError(value)
  return sum(float(part) * 60**i for i, part in enumerate(reversed(parts)))


def text(path: str) -> str:
  """The content of a UTF-8 file.

  Raises:
    DataError: no such file, or a line is not UTF-8.
  """
  try:
    with open(path, encoding="utf-8-sig") as f:
      return f.read()
  except UnicodeDecodeError as e:
    raise _not_utf8(path) from e
  except OSError as e:
    raise unreadable(path, e) from e


def lines(path: str) -> Iterator[tuple[str, str]]:
  """("file:line", stripped text) of the lines that are not blank."""
  for where, line in _raw_lines(path):
    yield where, line.strip()


def tabbed(path: str) -> Iterator[tuple[str, list[str]]]:
  """("file:line", stripped fields) of unquoted lines; fields may be empty."""
  for where, line in _raw_lines(path):
    yield where, [field.strip() for field in line.split("\t")]


def _raw_lines(path: str) -> Iterator[tuple[str, str]]:
  try:
    with open(path, encoding="utf-8-sig") as f:
      for number, line in enumerate(f, 1):
        if line.strip():
          yield f"{path}:{number}", line
  except UnicodeDecodeError as e:
    raise _not_utf8(path) from e
  except OSError as e:
    raise unreadable(path, e) from e


def ids(path: str) -> dict[str, str]:
  """A list of one id per line: {id: "file:line"}, in the file's order."""
  places = {}
  for where, line in lines(path):
    require(len(line.split()) == 1, where, f"one id, got {line[:60]!r}")
    if line in places:
      raise DataError(f"{where}: id {line!r} is also at {places[line]}; remove one")
    places[line] = where
  return places


def rows(path: str, delimiter: str = ",") -> Iterator[tuple[str, list[str]]]:
  """("file:line", fields) of a quoted csv; a field may hold line ends."""
  number = 1
  try:
    with open(path, encoding="utf-8-sig", newline="") as f:
      reader = csv.reader(f, delimiter=delimiter, strict=True)
      for row in reader:
        if row:
          yield f"{path}:{number}", row
        number = reader.line_num + 1
  except csv.Error as e:
    raise DataError(f"{path}:{number}: {one_line(e)}; fix the quotes") from e
  except UnicodeDecodeError as e:
    raise _not_utf8(path) from e
  except OSError as e:
    raise unreadable(path, e) from e


def table(
  path: str, columns: Iterable[str], delimiter: str = ","
) -> Iterator[tuple[str, dict[str, str]]]:
  """("file:line", {column: text}) of a csv with a header that has `columns`."""
  header = None
  for where, row in rows(path, delimiter):
    if header is None:
      header = [name.strip() for name in row]
      need = ", ".join(columns)
      require(
        set(columns) <= set(header),
        where,
        f"columns {need}, got {','.join(row)[:80]!r}",
      )
      continue
    require(
      len(row) == len(header),
      where,
      f"{len(header)} fields as in line 1, got {len(row)}",
    )
    yield where, dict(zip(header, row, strict=True))


def filled(row: Mapping[str, str], columns: Iterable[str], where: str) -> None:
  """Raises DataError if one of `columns` is empty in the row."""
  for name in columns:
    require(row[name].strip(), where, f"a value in column {name!r}, got an empty one")


def load_json(path: str) -> Any:
  """The value of a JSON file; duplicate keys raise DataError."""
  return _json(text(path), path, 1)


def json_lines(path: str) -> Iterator[tuple[str, Any]]:
  """("file:line", value) of a file with one JSON value a line."""
  for where, line in lines(path):
    yield where, _json(line, path, int(where.rsplit(":", 1)[1]))


def _json(data: str, path: str, first_line: int) -> Any:
  def once(pairs):
    values = dict(pairs)
    if len(values) < len(pairs):
      keys = [k for k, _ in pairs]
      twice = next(k for i, k in enumerate(keys) if k in keys[:i])
      raise DataError(f"{path}: key {twice!r} occurs twice; remove one")
    return values

  try:
    value = json.loads(data, object_pairs_hook=once)
    if re.search(r"\\u[dD][89a-fA-F]", data):
      json.dumps(value, ensure_ascii=False).encode()
    return value
  except json.JSONDecodeError as e:
    line = first_line + e.lineno - 1
    raise DataError(f"{path}:{line}: not JSON ({e.msg}); {LOOK}") from e
  except UnicodeEncodeError as e:
    half = f"\\u{ord(e.object[e.start]):04x}"
    raise DataError(f"{path}: {half} is half of a character; {LOOK}") from e
  except ValueError as e:  # Python rejects numbers of more than 4,300 digits
    raise DataError(f"{path}: a number is too long; {LOOK}") from e
  except RecursionError as e:
    raise DataError(f"{path}: JSON is nested too deeply; {LOOK}") from e


def _not_utf8(path: str) -> DataError:
  """The error that names the first line that cannot be decoded."""
  with open(path, "rb") as f:
    for number, line in enumerate(f, 1):
      try:
        line.decode("utf-8")
      except UnicodeDecodeError as e:
        return DataError(
          f"{path}:{number}: not UTF-8 (byte {e.start + 1} of the line is "
          f"0x{line[e.start]:02x}); save the file as UTF-8"
        )
  return DataError(f"{path}: not UTF-8; save the file as UTF-8")


def unreadable(path: str, error: OSError) -> DataError:
  """The error for a file that cannot be opened."""
  hint = near(path) if isinstance(error, FileNotFoundError) else ""
  return DataError(f"{path}: {error.strerror or error}; look at --annotations{hint}")
