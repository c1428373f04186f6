"""Paths as users write them: ~ is a home directory, addresses are rejected."""

import difflib
import os
import pathlib
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from vtr_jax.core.errors import ConfigError

_ADDRESS = re.compile(r"(?:\w+:)?([A-Za-z][A-Za-z0-9+.-]+)://(.*)")
_HOME = re.compile(r"(\w+:)?(~[^,/]*(?:/.*)?)")
_KEYS = (("data", "dir"), ("tokenizer",), ("init_from",))  # paths of a config


def local(text: str, name: str) -> str:
  """A path, or several with commas, each perhaps as KIND:PATH, with ~ expanded.

  Args:
    text: as given.
    name: of the flag or key, for the message.

  Raises:
    ConfigError: one is an address, as gs://bucket/run, which nothing here reads.
  """
  parts = text.split(",")
  for part in parts:
    if found := _ADDRESS.fullmatch(part):
      scheme, rest = found.groups()
      cure = "copy it here, or mount it as a directory, and give that path"
      if scheme == "file":
        cure = f"give the path alone, {rest}"
      raise ConfigError(f"{name}: {part}: not a path; {cure}")
  return ",".join(map(_expanded, parts))


def _expanded(part: str) -> str:
  found = _HOME.fullmatch(part)
  return (found[1] or "") + os.path.expanduser(found[2]) if found else part


def near(path: str | os.PathLike) -> str:
  """The end of a message about a missing path: the nearest name, or "".

  Names are compared without case, and in the same Unicode form.
  """
  path = pathlib.Path(path)
  if path.is_symlink():
    return "; it is a link to a file that does not exist"
  if path.exists():
    return ""
  while path.name and not path.parent.is_dir():
    path = path.parent
  spelled = lambda name: unicodedata.normalize("NFC", name).casefold()
  try:
    names = {spelled(name): name for name in os.listdir(path.parent)}
  except OSError:
    return ""
  close = difflib.get_close_matches(spelled(path.name), sorted(names), n=1, cutoff=0.7)
  return f"; did you mean {str(path.parent / names[close[0]])!r}?" if close else ""


def of_config(values: Mapping[str, Any]) -> dict[str, Any]:
  """A config whose paths are `local` ones.

  Raises:
    ConfigError: see `local`.
  """
  values = dict(values)
  for *section, key in _KEYS:
    inner: Any = values
    for name in section:
      inner[name] = dict(inner.get(name) or {})
      inner = inner[name]
    if isinstance(inner.get(key), str):
      inner[key] = local(inner[key], ".".join(["config", *section, key]))
  return values


def arguments(argv: list[str], names: frozenset[str]) -> list[str]:
  """A command line whose flags of these names have `local` paths.

  Args:
    argv: the program, flags as --NAME=VALUE or --NAME VALUE, and other words, which
      are left to the command.
    names: of flags that are paths.

  Raises:
    ConfigError: see `local`.
  """
  result, waiting = argv[:1], ""
  for text in argv[1:]:
    name, equals, value = text.partition("=")
    if waiting:
      text = local(text, waiting)
    elif equals and text.startswith("-") and name.lstrip("-") in names:
      text = f"{name}={local(value, name)}"
    flag = not waiting and not equals and text.startswith("-")
    waiting = text if flag and text.lstrip("-") in names else ""
    result.append(text)
  return result
