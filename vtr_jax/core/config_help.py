"""`--help` with `--config=FILE`: the config's keys, their values and their comments."""

import ast
import contextlib
import dataclasses
import inspect
import pathlib
import sys
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from vtr_jax.core.config import flatten, section, variant
from vtr_jax.core.errors import ConfigError


def text(
  path: str, values: Mapping[str, Any], fields: Mapping[str, str] | None = None
) -> str:
  """One line per key: flag, value, and the comment of the config file or of the field.

  Args:
    path: of the config file, without variant.
    values: the resolved config.
    fields: comments of the dataclass fields that read it; see `field_comments`.
  """
  notes = {**(fields or {}), **comments(path)}
  lines = [
    f"{path}: set a key by its flag. Comments are the recipe's, values the variant's."
  ]
  for key, value in flatten(values).items():
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    note = _note(key, notes)
    lines.append(f"  --config.{key}={shown}" + (f"  # {note}" if note else ""))
  return "\n".join(lines)


def _note(key: str, notes: Mapping[str, str]) -> str:
  """The key's comment; a key of a plain dictionary has that of the dictionary."""
  while key and key not in notes:
    key = key.rpartition(".")[0]
  return notes.get(key, "")


def field_comments(
  cls: type, prefix: str = "", values: Mapping[str, Any] | None = None
) -> dict[str, str]:
  """Dotted key -> comment of its field: the lines above it, then the one after it.

  `values` select the dataclasses of sections that have a choice, see `config.variant`.
  """
  with contextlib.suppress(ConfigError):  # reported when the config is read
    cls = variant(cls, values or {})
  notes: dict[str, str] = {}
  for base in reversed(cls.__mro__):
    if dataclasses.is_dataclass(base):
      notes |= {prefix + name: note for name, note in _own_comments(base)}
  for name, kind in typing.get_type_hints(cls).items():
    if inner := section(kind):
      given = values.get(name) if values else None
      given = given if isinstance(given, Mapping) else None
      notes |= field_comments(inner, f"{prefix}{name}.", given)
  return notes


def _own_comments(cls: type) -> Iterator[tuple[str, str]]:
  """(name, comment) of each field that the class itself declares with one."""
  code = textwrap.dedent(inspect.getsource(cls))
  lines = code.splitlines()
  for node in ast.walk(ast.parse(code)):
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
      first = node.lineno - 1
      while lines[first - 1].strip().startswith("#"):
        first -= 1
      notes = [line.strip(" #") for line in lines[first : node.lineno - 1]]
      notes.append(lines[node.lineno - 1].partition("  # ")[2])
      if any(notes):
        yield node.target.id, " ".join(filter(None, notes))


def comments(path: str) -> dict[str, str]:
  """Dotted key -> comment of its line, from nested `dict(key=value,  # comment`.

  Where functions of a file set a key more than once, the first one's comment counts;
  files that it imports from the same folder (`common`, a base recipe) are read too.
  """
  notes: dict[str, str] = {}
  for source in (path, *_imported(path)):
    try:
      with open(source, encoding="utf-8") as f:
        code = f.read()
      tree = ast.parse(code)
    except (OSError, SyntaxError, ValueError):
      continue
    lines = code.splitlines()
    for node in ast.walk(tree):
      if isinstance(node, ast.Return) and isinstance(node.value, ast.Call):
        for key, line in _keys(node.value):
          _, mark, note = lines[line - 1].partition("  # ")
          if mark:
            notes.setdefault(key, note.strip())
  return notes


def _keys(call: ast.Call, prefix: str = "") -> Iterator[tuple[str, int]]:
  for keyword in call.keywords:
    if keyword.arg is not None:
      yield prefix + keyword.arg, keyword.lineno
      if isinstance(keyword.value, ast.Call):
        yield from _keys(keyword.value, f"{prefix}{keyword.arg}.")


def _imported(path: str) -> list[str]:
  """Files that the config has imported from its own folder, or from `configs`."""
  own, files = pathlib.Path(path).resolve(), []
  for name, module in list(sys.modules.items()):
    file = vars(module).get("__file__") if isinstance(module, types.ModuleType) else ""
    source = pathlib.Path(file or "").resolve()
    if (
      file
      and source != own
      and (source.parent == own.parent or name.startswith("configs."))
    ):
      files.append(str(source))
  return files
