"""The entries of a JSON file of predictions, each with its line.

A list, an object by id, or one JSON value a line; the outermost level alone is told
apart here. An entry that does not fit is then named by file and line.
"""

import json
import pathlib
import re
from typing import Any, NamedTuple

from vtr_jax.core.errors import DataError, one_line

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


class Entry(NamedTuple):
  """key: of an object by id; None in lists. at: where it begins in the text."""

  key: str | None
  value: Any
  at: int


class Entries:
  """The entries of a file, in its order."""

  def __init__(
    self, path: str, flag: str = "--predictions", entries: str = "predictions"
  ):
    """Reads the file.

    Args:
      path: of the file.
      flag: that gives it.
      entries: what the file holds, for messages.

    Raises:
      DataError: it cannot be read, is not JSON, or has no entries.
    """
    self.path = path
    try:
      self._text = pathlib.Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as e:
      line = e.object[: e.start].count(b"\n") + 1
      raise DataError(f"{path}:{line}: not UTF-8; save it as UTF-8") from e
    except OSError as e:
      raise DataError(f"{path}: {e.strerror or e}; fix {flag}") from e
    self.entries = self._read()
    if not self.entries:
      raise DataError(f"{path}: no {entries}; docs/evaluation.md has the layouts")

  def where(self, entry: Entry) -> str:
    """File and line of an entry."""
    line = self._text.count("\n", 0, entry.at) + 1
    return f"{self.path}:{line}"

  def error(self, entry: Entry, message: str) -> DataError:
    """The error of an entry that does not fit."""
    return DataError(f"{self.where(entry)}: {message}")

  def _read(self) -> list[Entry]:
    at = self._skip(0)
    if at == len(self._text):
      return []
    try:
      if self._text[at : at + 1] == "[":
        return self._list(at)
      first, end = _DECODER.raw_decode(self._text, at)
      ids = isinstance(first, dict) and not {"qid", "question_id", "id"} & set(first)
      if ids and self._skip(end) == len(self._text):
        return self._object(at)
      return self._lines(at)
    except json.JSONDecodeError as e:
      raise DataError(f"{self.path}:{e.lineno}: not JSON ({e.msg}); fix it") from e
    except (ValueError, RecursionError) as e:  # a number of more than 4,300 digits
      raise DataError(f"{self.path}: not JSON ({one_line(e)}); fix it") from e

  def _skip(self, at: int) -> int:
    found = _SPACE.match(self._text, at)
    return found.end() if found else at

  def _list(self, at: int) -> list[Entry]:
    """The values between brackets."""
    entries, at = [], self._skip(at + 1)
    while self._text[at : at + 1] != "]":
      value, end = _DECODER.raw_decode(self._text, at)
      entries.append(Entry(None, value, at))
      at = self._next(end, "]")
    self._ended(at + 1)
    return entries

  def _object(self, at: int) -> list[Entry]:
    """The values by key; a key may occur again, which is for the reader to reject."""
    entries, at = [], self._skip(at + 1)
    while self._text[at : at + 1] != "}":
      key, end = _DECODER.raw_decode(self._text, at)
      colon = self._skip(end)
      value, end = _DECODER.raw_decode(self._text, self._skip(colon + 1))
      entries.append(Entry(key, value, at))
      at = self._next(end, "}")
    return entries

  def _lines(self, at: int) -> list[Entry]:
    entries = []
    while at < len(self._text):
      value, end = _DECODER.raw_decode(self._text, at)
      entries.append(Entry(None, value, at))
      at = self._skip(end)
    return entries

  def _next(self, at: int, close: str) -> int:
    """Where the next value begins, or the end is."""
    at = self._skip(at)
    mark = self._text[at : at + 1]
    if mark == ",":
      following = self._skip(at + 1)
      if self._text[following : following + 1] == close:
        raise json.JSONDecodeError("Illegal trailing comma", self._text, at)
      return following
    if mark != close:
      raise json.JSONDecodeError("Expecting ',' delimiter", self._text, at)
    return at

  def _ended(self, at: int) -> None:
    if self._skip(at) != len(self._text):
      raise json.JSONDecodeError("Extra data", self._text, self._skip(at))
