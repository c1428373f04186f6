"""From an ml_collections config to frozen, checked dataclasses.

Users write and override `ConfigDict`s, which accept anything. Each part of the
program declares what it reads as a dataclass next to the code that uses it, and
`read` turns one into the other: unknown keys, missing keys and wrong types are
rejected before any device work, with the nearest known name. A key whose field has a
default need not be written: `complete` adds it.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from vtr_jax.core.errors import ConfigError, printable

T = TypeVar("T")


def read(
  cls: type[T], values: Mapping[str, Any], where: str = "config", finite: bool = True
) -> T:
  """Builds dataclass `cls` from `values`, checking every key and type.

  Args:
    cls: a dataclass; nested dataclass fields are read the same way.
    values: a mapping such as a ConfigDict.
    where: dotted path of `values`, used in messages.
    finite: whether to reject infinities and NaN.

  Raises:
    ConfigError: a key is unknown or missing, a value has the wrong type or is not
      finite, or the dataclass's own `__post_init__` rejects it.
  """
  try:
    cls = variant(cls, values)
  except ConfigError as e:
    raise ConfigError(f"{where}.{e}") from None
  hints, fields = typing.get_type_hints(cls), keys(cls)
  for key in values:
    if key not in fields:
      name = f"{where}.{printable(str(key))}"
      raise ConfigError(f"{name}: unknown key; {nearest(key, fields)}")
  kwargs = {}
  for name, field in fields.items():
    if name in values:
      kwargs[name] = _convert(hints[name], values[name], f"{where}.{name}", finite)
    elif default(field) is dataclasses.MISSING:
      raise ConfigError(f"{where}.{name}: missing; add it to the config file")
  try:
    return cls(**kwargs)
  except ConfigError as e:
    raise ConfigError(f"{where}.{e}") from None


def complete(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
  """`values`, and the defaults of dataclass `cls` for keys that are missing, nested.

  Nothing is checked: unknown keys and wrong types are left to `read`.
  """
  try:
    cls = variant(cls, values)
  except ConfigError:
    return dict(values)
  full, hints = dict(values), typing.get_type_hints(cls)
  for name, field in keys(cls).items():
    if name not in full and (value := default(field)) is not dataclasses.MISSING:
      full[name] = to_dict(value)
    inner = section(hints[name])
    if inner and isinstance(full.get(name), Mapping):
      full[name] = complete(inner, full[name])
  return full


def variant(cls: type[T], values: Any) -> type[T]:
  """The dataclass that reads `values`: `cls`, or the one that its `variant` selects.

  Raises:
    ConfigError: it selects none; the message starts with a key.
  """
  return vars(cls)["variant"].__func__(values) if "variant" in vars(cls) else cls


def keys(cls: type) -> dict[str, dataclasses.Field]:
  """Fields of a dataclass that a config sets, by name."""
  return {
    f.name: f
    for f in dataclasses.fields(cls)
    if f.init and not f.metadata.get("derived")
  }


def section(kind: Any) -> type | None:
  """The dataclass in an annotation `Section` or `Section | None`; None without one."""
  for inner in (kind, *typing.get_args(kind)):
    if isinstance(inner, type) and dataclasses.is_dataclass(inner):
      return inner
  return None


def default(field: dataclasses.Field) -> Any:
  """The field's default; dataclasses.MISSING if it has none."""
  factory = field.default_factory
  return field.default if factory is dataclasses.MISSING else factory()


def to_dict(value: Any) -> Any:
  """The inverse of `read`: dataclasses to dicts, without derived fields."""
  if isinstance(value, tuple | list):
    return type(value)(to_dict(v) for v in value)
  if not dataclasses.is_dataclass(value):
    return value
  return {
    f.name: to_dict(getattr(value, f.name))
    for f in dataclasses.fields(value)
    if not f.metadata.get("derived")
  }


def choose(value: object, allowed: Iterable[str], name: str) -> None:
  """Rejects a `value` that is not among `allowed`; for `__post_init__`."""
  allowed = list(allowed)
  if value not in allowed:
    raise ConfigError(f"{name}: {value!r} is unknown; {nearest(str(value), allowed)}")


def require(ok: bool, message: str) -> None:
  """Rejects a field; `message` starts with the field's name."""
  if not ok:
    raise ConfigError(message)


def nearest(name: str, known: Iterable[str]) -> str:
  """One clause with the closest known name, or with all of them."""
  known = sorted(str(k) for k in known)
  close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
  if close:
    return f"did you mean {close[0]!r}?"
  return "known: " + ", ".join(map(printable, known))


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """{'a': {'b': 1}} -> {'a.b': 1}; lists become tuples."""
  flat = {}
  for key, value in values.items():
    if isinstance(value, Mapping):
      flat |= flatten(value, f"{prefix}{key}.")
    else:
      flat[prefix + key] = tuple(value) if isinstance(value, list) else value
  return flat


def _convert(kind: Any, value: Any, where: str, finite: bool) -> Any:
  """Checks `value` against the annotation `kind`; ints may stand for floats."""
  origin, args = typing.get_origin(kind), typing.get_args(kind)
  if kind is Any:
    return value
  if dataclasses.is_dataclass(kind):
    if not isinstance(value, Mapping):
      raise ConfigError(f"{where}: expected a group of keys, got {value!r}")
    return read(typing.cast(type, kind), value, where, finite)
  if origin in (typing.Union, types.UnionType):
    if value is None and type(None) in args:
      return None
    (inner,) = (a for a in args if a is not type(None))
    return _convert(inner, value, where, finite)
  if origin is typing.Literal:
    choose(value, args, where)
    return value
  if origin is dict:
    if not isinstance(value, Mapping):
      raise ConfigError(f"{where}: expected a group of keys, got {value!r}")
    named = lambda k: f"{where}.{printable(str(k))}"
    return {k: _convert(args[1], v, named(k), finite) for k, v in value.items()}
  if origin is tuple:
    if not isinstance(value, tuple | list):
      raise ConfigError(f"{where}: expected a tuple, got {value!r}")
    inner = args[:1] * len(value) if args[1:] == (...,) else args
    if len(inner) != len(value):
      raise ConfigError(f"{where}: expected {len(inner)} values, got {len(value)}")
    return tuple(
      _convert(a, v, f"{where}[{i}]", finite)
      for i, (a, v) in enumerate(zip(inner, value, strict=True))
    )
  if kind is float and isinstance(value, int) and not isinstance(value, bool):
    try:
      return float(value)
    except OverflowError:
      raise ConfigError(f"{where}: too large a number") from None
  if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
    got = f"{value!r} ({type(value).__name__})"
    raise ConfigError(f"{where}: expected {kind.__name__}, got {got}")
  if finite and kind is float and not math.isfinite(value):
    raise ConfigError(f"{where}: {value} is not finite")
  return value
