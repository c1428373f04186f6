"""The items that every format yields, and opening a format by its name.

A format is a module in this folder with a docstring, `VARIANTS` if it has some, and
`read(request) -> Iterator[Item]`. `kinds` finds it; nothing else needs an edit.
"""

import dataclasses
import importlib
import pathlib
from typing import NamedTuple

from vtr_jax.core.config import choose
from vtr_jax.core.errors import DataError, one_line
from vtr_jax.core.progress import Bar
from vtr_jax.data.notes import Note, problem

_HELPERS = ("base", "media", "parse", "pickles")


class Media(NamedTuple):
  """Bytes of a file, or of a part of it such as a member of a tar.

  path: the file, which may not exist. offset: first byte. size: bytes; -1 takes
  all to the file's end.
  """

  path: str
  offset: int = 0
  size: int = -1


class Item(NamedTuple):
  """One video or image with its annotations.

  id: unique in the data set. split: train, validation, test or the files' own
  name. captions: may be empty. label: name of the class, empty if there is none.
  start, end: seconds of the annotated part; None is the file's own. notes: questions,
  labels and moments, with times counted from `start`.
  """

  id: str
  split: str
  media: Media
  captions: tuple[str, ...]
  label: str = ""
  start: float | None = None
  end: float | None = None
  notes: tuple[Note, ...] = ()


@dataclasses.dataclass(frozen=True)
class Request:
  """The files to read.

  source: directory of the media, or tar files. annotations: file or directory;
  empty is `source`. variant: one of the format's `VARIANTS`; empty is the first.
  split: the split, where the files name none; otherwise the only one to read.
  allow_pickle: read pickles; only plain data in them are loaded.
  """

  source: str
  annotations: str = ""
  variant: str = ""
  split: str = ""
  allow_pickle: bool = False


def kinds() -> list[str]:
  """Names of all formats."""
  files = pathlib.Path(__file__).parent.glob("[a-z]*.py")
  return sorted(f.stem for f in files if f.stem not in _HELPERS)


def open(name: str, request: Request) -> list[Item]:
  """Reads the annotations of a data set; no media file is opened.

  Items are in the order of the files, independent of the machine. Those whose media do
  not exist or that have no caption are included.

  Args:
    name: one of `kinds()`.
    request: where the files are, and which of them.

  Raises:
    ConfigError: the format or its variant is unknown.
    DataError: a file is missing or of another format, an id occurs twice, or no item
      is left.
  """
  choose(name, kinds(), "format")
  module = importlib.import_module(f"vtr_jax.prepare.formats.{name}")
  variants = getattr(module, "VARIANTS", ())
  if request.variant:
    choose(request.variant, variants, "variant")
  elif variants:
    request = dataclasses.replace(request, variant=variants[0])
  read = module.read(request)
  # Their number is known only at the end; no bar for short files.
  items = list(Bar(read, f"reading {name}", delay=2, unit="item"))
  _check_texts(items)
  _check_ids(items)
  _check_notes(items)
  return _take(items, request)


def _check_texts(items: list[Item]) -> None:
  for i, item in enumerate(items):
    try:
      " ".join((item.id, item.split, item.label, *item.captions)).encode()
    except UnicodeEncodeError as e:
      raise DataError(
        f"{_place(items, i)}: the name or a caption holds an invalid character "
        f"({one_line(e)}); write it as UTF-8"
      ) from e
    if not item.id:
      raise DataError(f"{_place(items, i)}: has no name; fix the annotations")


def _check_ids(items: list[Item]) -> None:
  first = {}
  for i, item in enumerate(items):
    if item.id in first:
      raise DataError(
        f"id {item.id!r} occurs twice: {_place(items, first[item.id])}, and "
        f"{_place(items, i)}; rename or remove one in the annotations"
      )
    first[item.id] = i


def _check_notes(items: list[Item]) -> None:
  seen = set()
  for i, item in enumerate(items):
    for note in item.notes:
      where = f"{_place(items, i)}: note {note.id!r}"
      if expected := problem(note):
        raise DataError(f"{where}: expected {expected}; fix the annotations")
      if (note.kind, note.id) in seen:
        raise DataError(
          f"{where}: occurs twice; rename or remove one, or give one of "
          "several annotation files"
        )
      seen.add((note.kind, note.id))


def _place(items: list[Item], i: int) -> str:
  where = f"({items[i].split}, {items[i].media.path})"
  return f"item {i + 1} {repr(where)[1:-1]}"


def _take(items: list[Item], request: Request) -> list[Item]:
  """The items of the requested split; all if none is named."""
  where = request.annotations or request.source
  if not items:
    raise DataError(f"{where}: no item; look at --source, --annotations and --format")
  if not request.split:
    return items
  taken = [item for item in items if item.split == request.split]
  if not taken:
    known = repr(", ".join(sorted({item.split for item in items})))[1:-1]
    raise DataError(f"{where}: no item of split {request.split!r}; there are: {known}")
  return taken
