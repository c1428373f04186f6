"""Paths as users write them: ~ is a home directory, gs:// a bucket, nothing else."""

import bisect
import difflib
import functools
import importlib.util
import os
import pathlib
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from vtr_jax.core.errors import ConfigError

_ADDRESS = re.compile(r"(?:\w+:)?([A-Za-z][A-Za-z0-9+.-]+)://(.*)")
_HOME = re.compile(r"(\w+:)?(~[^,/]*(?:/.*)?)")
_COMPARED = 25  # ours: names on each side of a missing one, in a sorted folder
_BUCKET = re.compile(r"gs://[a-z0-9][a-z0-9._-]+(/[^/]+)*/?")
AnyPath = Any  # pathlib.Path, or epath.Path, which has its methods
# Paths of a config, and whether they may be in a bucket.
_KEYS = ((("data", "dir"), True), (("tokenizer",), False), (("init_from",), True))
# What makes a directory of an address.
_CURES = dict(
  gs="copy it here (gcloud storage cp -r), or mount it (gcsfuse)",
  s3="copy it here (aws s3 sync), or mount it (mount-s3)",
  hf="copy it here (hf download)",
)


def is_bucket(path: str | os.PathLike) -> bool:
  """Whether a path is in a bucket of Google Cloud Storage, as gs://bucket/run."""
  return os.fspath(path).startswith("gs://")


def anywhere(path: str | os.PathLike) -> Any:
  """A pathlib.Path, or one with its methods for reading in a bucket (epath.Path)."""
  if not is_bucket(path):
    return pathlib.Path(path)
  from etils import epath

  return epath.Path(path)


def absolute(path: Any) -> Any:
  """The absolute path; of one in a bucket, that path."""
  return path if is_bucket(path) else path.absolute()


def local(text: str, name: str, buckets: bool = False) -> str:
  """A path, or several with commas, each perhaps as KIND:PATH, with ~ expanded.

  Args:
    text: as given.
    name: of the flag or key, for the message.
    buckets: whether gs://bucket/path is accepted too.

  Raises:
    ConfigError: one is another address, or the packages for buckets are missing.
  """
  parts = text.split(",")
  for part in parts:
    if buckets and _BUCKET.fullmatch(part):
      if not importlib.util.find_spec("gcsfs"):
        raise ConfigError(f"{name}: {part}: needs a package; pip install gcsfs")
    elif found := _ADDRESS.fullmatch(part):
      scheme, rest = found.groups()
      cure = _CURES.get(scheme, "copy it here, or mount it as a directory")
      cure += ", and give that path"
      if scheme == "file":
        cure = f"give the path alone, {rest}"
      raise ConfigError(f"{name}: {part}: not a path; {cure}")
  return ",".join(map(_expanded, parts))


def _expanded(part: str) -> str:
  found = _HOME.fullmatch(part)
  return (found[1] or "") + os.path.expanduser(found[2]) if found else part


def near(path: str | os.PathLike) -> str:
  """The end of a message about a missing path: the nearest name, or "".

  Names are compared without case, and in the same Unicode form. Of a large folder, it
  may miss a name that differs at both ends. Listings are kept: it may be called often.
  """
  if is_bucket(path):
    return ""
  path = pathlib.Path(path)
  if path.is_symlink():
    return "; it is a link to a file that does not exist"
  if path.exists():
    return ""
  while path.name and not path.parent.is_dir():
    path = path.parent
  try:
    folder = str(path.parent)
    names, forwards, backwards = _listed(folder, os.stat(folder).st_mtime_ns)
  except OSError:
    return ""
  name = _spelled(path.name)
  # Those that begin or end in the same way, since comparing is slow.
  around = _around(forwards, name)
  around += [other[::-1] for other in _around(backwards, name[::-1])]
  others = sorted({other for other in around if not _renumbered(name, other)})
  close = difflib.get_close_matches(name, others, n=1, cutoff=0.7)
  return f"; did you mean {str(path.parent / names[close[0]])!r}?" if close else ""


def _spelled(name: str) -> str:
  return unicodedata.normalize("NFC", name).casefold()


@functools.lru_cache(maxsize=8)
def _listed(folder: str, changed: int) -> tuple[dict[str, str], list[str], list[str]]:
  """Names of a folder as they are compared, and these sorted by beginning and by end.

  `changed` is its time of change: a newer listing is another one.
  """
  names = {_spelled(name): name for name in os.listdir(folder)}
  return names, sorted(names), sorted(name[::-1] for name in names)


def _renumbered(name: str, other: str) -> bool:
  """Whether two names differ in their numbers alone, as files of a series do."""
  number = re.compile("0*([0-9]+)")
  same_words = number.sub("0", name) == number.sub("0", other)
  return same_words and number.findall(name) != number.findall(other)


def _around(ordered: list[str], name: str) -> list[str]:
  at = bisect.bisect_left(ordered, name)
  return ordered[max(at - _COMPARED, 0) : at + _COMPARED]


def of_config(values: Mapping[str, Any]) -> dict[str, Any]:
  """A config whose paths are `local` ones.

  Raises:
    ConfigError: see `local`.
  """
  values = dict(values)
  for (*section, key), buckets in _KEYS:
    inner: Any = values
    for name in section:
      inner[name] = dict(inner.get(name) or {})
      inner = inner[name]
    if isinstance(inner.get(key), str):
      name = ".".join(["config", *section, key])
      inner[key] = local(inner[key], name, buckets)
  return values


def arguments(
  argv: list[str], names: frozenset[str], buckets: frozenset[str] = frozenset()
) -> list[str]:
  """A command line whose flags of these names have `local` paths.

  Args:
    argv: the program, flags as --NAME=VALUE or --NAME VALUE, and other words, which
      are left to the command.
    names: of flags that are paths.
    buckets: those of them that may be in a bucket.

  Raises:
    ConfigError: see `local`.
  """
  result, waiting = argv[:1], ""
  for text in argv[1:]:
    name, equals, value = text.partition("=")
    if waiting:
      text = local(text, waiting, waiting.lstrip("-") in buckets)
    elif equals and text.startswith("-") and name.lstrip("-") in names:
      text = f"{name}={local(value, name, name.lstrip('-') in buckets)}"
    flag = not waiting and not equals and text.startswith("-")
    waiting = text if flag and text.lstrip("-") in names else ""
    result.append(text)
  return result
