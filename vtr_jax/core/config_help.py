"""`--help` with `--config=FILE`: the config's keys, their values and their comments."""

import ast
import inspect
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from vtr_jax.core.config import flatten


def text(path: str, values: Mapping[str, Any]) -> str:
  """One line a key: flag, value, and the comment of the config file.

  Args:
    path: of the config file, without variant.
    values: the resolved config.
  """
  notes = comments(path)
  lines = [
    f"{path}: set a key by its flag. Comments are the recipe's, values the variant's."
  ]
  for key, value in flatten(values).items():
    note = notes.get(key, "")
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    lines.append(f"  --config.{key}={shown}" + (f"  # {note}" if note else ""))
  return "\n".join(lines)


def comments(path: str) -> dict[str, str]:
  """Dotted key -> comment of its line, from nested `dict(key=value,  # comment`.

  Where functions of a file set a key more than once, the first one's comment counts;
  files that it imports from the same folder (`common`, a base recipe) are read too.
  """
  found: dict[str, str] = {}
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
            found.setdefault(key, note.strip())
  return found


def _keys(call: ast.Call, prefix: str = "") -> Iterator[tuple[str, int]]:
  for word in call.keywords:
    if word.arg is not None:
      yield prefix + word.arg, word.lineno
      if isinstance(word.value, ast.Call):
        yield from _keys(word.value, f"{prefix}{word.arg}.")


def _imported(path: str) -> list[str]:
  """Files that the config has imported from its own folder."""
  package = [
    file
    for name, module in list(sys.modules.items())
    if name.startswith("configs.") and (file := inspect.getsourcefile(module))
  ]
  return [file for file in package if file != path]
