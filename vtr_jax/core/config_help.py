"""`--help` with `--config=FILE`: the config's keys, their values and their comments."""

import ast
import contextlib
import dataclasses
import inspect
import pathlib
import re
import sys
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from vtr_jax.core.config import default, flatten, section, variant
from vtr_jax.core.errors import ConfigError

_SOURCE = re.compile(r"(^|; )(ours|paper|code)\b.*")  # of a default, in its comment


def text(
  path: str, values: Mapping[str, Any], fields: Mapping[str, str] | None = None
) -> str:
  """One line per key: flag, value, and the comment of the config file or of the field.

  Args:
    path: of the config file, without variant.
    values: the resolved config.
    fields: comments of the dataclass fields that read it; see `field_comments`.
  """
  flat = flatten(values)
  notes = {**(fields or {}), **comments(path, flat)}
  lines = [f"{path}: set a key by its flag."]
  for key, value in flat.items():
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

  Args:
    cls: a dataclass.
    prefix: of its keys.
    values: of its keys. They select the dataclasses of sections that have a choice, see
      `config.variant`; the comment of one that is not the field's default omits the
      source, which is the default's.
  """
  values = values or {}
  with contextlib.suppress(ConfigError):  # reported when the config is read
    cls = variant(cls, values)
  notes: dict[str, str] = {}
  for base in reversed(cls.__mro__):
    if dataclasses.is_dataclass(base):
      notes |= {prefix + name: note for name, note in _own_comments(base)}
  for field in dataclasses.fields(cls):
    key = prefix + field.name
    if key in notes and values.get(field.name, default(field)) != default(field):
      notes[key] = _SOURCE.sub("", notes[key])
  for name, kind in typing.get_type_hints(cls).items():
    if inner := section(kind):
      given = values.get(name)
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


def comments(path: str, values: Mapping[str, Any]) -> dict[str, str]:
  """Dotted key -> comment of its line, from nested `dict(key=value,  # comment`.

  Where functions of a file set a key more than once, the first comment of this value
  counts, and "ours" if the config's own are all of other values. An update
  (`c |= dict(...)`) counts if it has these values only. Files that the config imports
  from the same folder (`common`, a base recipe) are read too.

  Args:
    path: of the config file.
    values: of dotted keys.
  """
  notes: dict[str, str] = {}
  others: set[str] = set()  # keys with comments of other values
  for source in (path, *_imported(path)):
    try:
      with open(source, encoding="utf-8") as f:
        code = f.read()
      tree = ast.parse(code)
    except (OSError, SyntaxError, ValueError):
      continue
    lines = code.splitlines()
    for node in ast.walk(tree):
      pairs = list(_keys(node))
      fits = [_may_be(keyword.value, values.get(key)) for key, keyword in pairs]
      if isinstance(node, ast.AugAssign) and not all(fits):
        continue  # the changes of another variant
      for (key, keyword), fit in zip(pairs, fits, strict=True):
        _, mark, note = lines[keyword.lineno - 1].partition("  # ")
        if mark and fit:
          notes.setdefault(key, note.strip())
        elif mark and source == path:
          others.add(key)
  return dict.fromkeys(others, "ours") | notes


def _keys(node: ast.AST) -> Iterator[tuple[str, ast.keyword]]:
  """Keys of `return dict(...)`, `c |= dict(...)` and `c["section"] |= dict(...)`."""
  if not isinstance(node, ast.Return | ast.AugAssign):
    return
  target = getattr(node, "target", None)
  name = target.slice if isinstance(target, ast.Subscript) else None
  prefix = f"{name.value}." if isinstance(name, ast.Constant) else ""
  if isinstance(node.value, ast.Call):
    yield from _keywords(node.value, prefix)


def _keywords(call: ast.Call, prefix: str) -> Iterator[tuple[str, ast.keyword]]:
  for keyword in call.keywords:
    if keyword.arg is not None:
      yield prefix + keyword.arg, keyword
      if isinstance(keyword.value, ast.Call):
        yield from _keywords(keyword.value, f"{prefix}{keyword.arg}.")


def _may_be(node: ast.expr, value: Any) -> bool:
  """Whether the value of an expression is this one; true if it needs names."""
  if any(isinstance(n, ast.Name) for n in ast.walk(node)):
    return True
  return eval(compile(ast.Expression(node), "", "eval")) == value  # constants only


def _imported(path: str) -> list[str]:
  """Files that the config has imported from its own folder, or of recipes."""
  own, files = pathlib.Path(path).resolve(), []
  folders = ("configs.", "vtr_jax.configs.")
  for name, module in list(sys.modules.items()):
    file = vars(module).get("__file__") if isinstance(module, types.ModuleType) else ""
    source = pathlib.Path(file or "").resolve()
    if (
      file
      and source != own
      and (source.parent == own.parent or name.startswith(folders))
    ):
      files.append(str(source))
  return files
