"""Matches a weights file to a model: every key and every parameter is accounted for."""

import collections
import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from vtr_jax.core.errors import WeightsError, printable
from vtr_jax.weights import resize
from vtr_jax.weights.entries import Entry
from vtr_jax.weights.registry import Patterns, Renames, Source

Flat = dict[str, np.ndarray]
_MIN_MATCHED = 0.1  # fraction of keys; below it the file is of another kind (ours)
_SHOWN = 10  # max problems in the error's line; the full report lists all


@dataclasses.dataclass(frozen=True)
class Line:
  """The outcome for one key of the file."""

  key: str  # as spelled in the file
  group: str  # top-level module of the parameters, else of the key
  status: str  # used | unused | missing
  shape: tuple[int, ...] | None
  paths: tuple[str, ...] = ()  # parameters of the model
  notes: tuple[str, ...] = ()  # renamed, resized, allowed, and reasons


@dataclasses.dataclass(frozen=True)
class Report:
  """The outcome for one file."""

  title: str
  lines: tuple[Line, ...]
  initialised: tuple[str, ...]  # paths of parameters that are not in the file
  problems: tuple[str, ...]
  warnings: tuple[str, ...] = ()  # of what the file's folder states, see facts.py

  def summary(self) -> str:
    """One line of counts."""
    count = collections.Counter(line.status for line in self.lines)
    noted = lambda word: sum(n.startswith(word) for x in self.lines for n in x.notes)
    used, unused, missing = (count[k] for k in ("used", "unused", "missing"))
    named = lambda x: f" ({printable(', '.join(sorted(set(x))))})" if x else ""
    ignored = named([x.group for x in self.lines if x.status == "unused"])
    return (
      f"{self.title}: {used} of {used + unused} keys used ({noted('renamed')} renamed, "
      f"{noted('resized')} resized), {unused} unused{ignored}, {missing} missing; "
      f"{len(self.initialised)} parameters not in the file"
      f"{named([_group(path) for path in self.initialised])}"
    )

  def table(self) -> str:
    """Counts by group: keys used, keys ignored, and parameters initialised."""
    count = collections.Counter((line.group, line.status) for line in self.lines)
    count.update((_group(path), "initialised") for path in self.initialised)
    columns = ("used", "unused", "initialised")
    groups = sorted({group for group, status in count if status in columns})
    width = max(map(len, [*groups, "group"]))
    rows = [f"{'group':{width}}  {'used':>6}  {'ignored':>7}  {'initialised':>11}"]
    for group in groups:
      used, ignored, initialised = (count[group, status] for status in columns)
      name = f"{printable(group):{width}}"
      rows.append(f"{name}  {used:6}  {ignored:7}  {initialised:11}")
    return "\n".join(rows) + "\n"

  def text(self) -> str:
    """Summary, table, and a row for each key, initialised parameter and problem."""
    rows = [self.summary(), "", self.table()]
    for line in self.lines:
      shape = "" if line.shape is None else "x".join(map(str, line.shape)) or "scalar"
      paths = ", ".join(line.paths) or "-"
      notes = f"  ({'; '.join(line.notes)})" if line.notes else ""
      rows.append(f"{line.status:12}{printable(line.key)} {shape} -> {paths}{notes}")
    rows += [f"{'initialised':12}{path}" for path in self.initialised]
    rows += [f"{'PROBLEM':12}{problem}" for problem in self.problems]
    return "\n".join(rows) + "\n"

  def check(self) -> None:
    """Raises WeightsError if a key is missing or unused and not allowed to be."""
    if self.problems:
      shown = list(self.problems[:_SHOWN])
      if len(self.problems) > _SHOWN:
        shown.append(f"and {len(self.problems) - _SHOWN} more (convert --verbose)")
      listed = printable("; ".join(shown))
      raise WeightsError(
        f"{self.title}: {listed}. Fix the names, or allow them: --allow, or "
        "config.init_allow; new heads: config.init_heads"
      )


def is_under(path: str, heads: Iterable[str]) -> bool:
  """Whether a parameter is one of `heads`, or in a group of that path."""
  return any(f"{path}/".startswith(f"{head}/") for head in heads)


def match(
  title: str,
  name: str,
  source: Source,
  arrays: Mapping[str, np.ndarray],
  model: nn.Module,
  expected: Mapping[str, Any],
  allow: Patterns = (),
  heads: tuple[str, ...] = (),
) -> tuple[Flat, Report]:
  """Parameters of the model from a file's arrays, and a report on every key.

  Args:
    title: of the report and its errors, such as the file's path.
    name, source: the kind of file, see registry.py.
    arrays: of the file, by key.
    model: linen module of the objective.
    expected: path -> anything with a shape, of all its parameters; layers not stacked.
    allow: regular expressions of keys that may be missing or unused, and of parameter
      paths that may be initialised at random; matched from the start of the name.
    heads: beginnings of paths of parameters that are initialised even if the file has
      them.

  Returns:
    float32 arrays by path, for parameters that are in the file; and the report, which
    the caller must `check`.

  Raises:
    WeightsError: this kind does not fit the model, or two keys are the same.
  """
  named, spelled = rename(arrays, source.renames)
  entries = choose(source.layouts(name, model), model, named)
  kept = {path for path in expected if is_under(path, heads)}
  of_heads = {key for entry in entries if kept & set(entry.paths) for key in entry.keys}
  # Keys of parameters that this model does not have are reported as unused.
  entries = [
    e for e in entries if set(e.paths) & set(expected) and kept.isdisjoint(e.paths)
  ]
  explained = {key for entry in entries for key in entry.keys}
  log = _Log(named, spelled, allow)
  params: Flat = {}
  for entry in entries:
    present = [key for key in entry.keys if key in named]
    absent = [key for key in entry.keys if key not in [*present, *entry.optional]]
    for key in absent:
      near = _nearest(key, set(named) - explained, spelled)
      if not log.add(key, "missing", entry.paths, allowed_by=source.optional):
        log.problems.append(f"{key} is missing{near}")
    if absent:
      for key in present:
        without = f"of no use without {absent[0]}"
        if not log.add(key, "unused", notes=(without,)):
          log.problems.append(f"{spelled[key]} is {without}")
      continue
    try:
      loaded, changes = _take(entry, named, expected, model)
    except ValueError as e:
      shapes = ", ".join(f"{key} {named[key].shape}" for key in present)
      log.problems.append(f"{shapes} does not fit ({e})")
      loaded, changes = {}, [f"does not fit: {e}"]
    params |= loaded
    notes = [entry.note] if entry.note else []
    for key in present:
      first = changes if key == present[0] else []
      log.add(key, "used" if loaded else "unused", entry.paths, (*first, *notes))
  for key in sorted(set(named) - explained):
    allowed_by = (".*",) if key in of_heads else source.ignores(model)
    if not log.add(key, "unused", allowed_by=allowed_by):
      log.problems.append(f"{spelled[key]} is not used")
  initialised = sorted(set(expected) - set(params))
  matched = len((explained | of_heads) & set(named))
  if matched < _MIN_MATCHED * len(named):
    log.problems[:] = [
      f"hardly a file of kind {name!r}, to which {matched} of {len(named)} keys belong"
    ]
  covered = {path for entry in entries for path in entry.paths}
  for path in initialised:
    if path not in covered | kept and not log.allowed(path, source.initialised):
      log.problems.append(f"parameter {path} is not in the file")
  return params, Report(
    title, tuple(log.lines), tuple(initialised), tuple(log.problems)
  )


class _Log:
  """Collects a report's lines and problems."""

  def __init__(self, named: Flat, spelled: Mapping[str, str], allow: Patterns):
    self.lines: list[Line] = []
    self.problems: list[str] = []
    self._named, self._spelled = named, spelled
    try:
      self._allow = [re.compile(pattern) for pattern in allow]
    except re.error as e:
      raise WeightsError(
        f"allow: {e.pattern!r} is not a valid regular expression ({e})"
      ) from None
    for pattern in self._allow:
      if pattern.match(""):
        raise WeightsError(
          f"allow: {pattern.pattern!r} allows everything; write part of a name"
        )

  def allowed(self, name: str, patterns: Patterns) -> bool:
    """Whether a pattern of the source (full match) or the user (prefix) allows it."""
    in_source = any(re.fullmatch(pattern, name) for pattern in patterns)
    return in_source or any(pattern.match(name) for pattern in self._allow)

  def add(
    self,
    key: str,
    status: str,
    paths: Iterable[str] = (),
    notes: Iterable[str] = (),
    allowed_by: Patterns = (),
  ) -> bool:
    """Adds a line; returns whether a pattern allows the key."""
    spelled = self._spelled.get(key, key)
    allowed = self.allowed(key, allowed_by) or self.allowed(spelled, allowed_by)
    notes = [*([f"renamed to {key}"] if spelled != key else []), *notes]
    if allowed and status != "used":
      notes.append("allowed")
    shape = self._named[key].shape if key in self._named else None
    paths = tuple(paths)
    group = _group(paths[0] if paths else key)
    self.lines.append(Line(spelled, group, status, shape, paths, tuple(notes)))
    return allowed


def _group(name: str) -> str:
  """Top-level module of a parameter's path or a file's key."""
  return re.split(r"[/.]", name, maxsplit=1)[0]


def _take(
  entry: Entry, named: Flat, expected: Mapping[str, Any], model: Any
) -> tuple[Flat, list[str]]:
  """(parameters of an entry, notes on resized ones); raises ValueError."""
  params, changes = {}, []
  arrays = entry.load(
    *(_float(named[key]) if key in named else None for key in entry.keys)
  )
  for path, array in zip(entry.paths, arrays, strict=True):
    if not np.isfinite(array).all():
      raise ValueError("it has values that are not finite")
    params[path], how = resize.fit(path, array, expected[path].shape, model)
    changes += [f"resized: {how}"] if how else []
  return params, changes


def choose(layouts: Iterable, model: Any, named: Mapping[str, Any]) -> list[Entry]:
  """Entries of the layout that has most of the keys."""
  candidates = [list(layout(model)) for layout in layouts]
  hits = lambda entries: sum(key in named for e in entries for key in e.keys)
  return max(candidates, key=hits)


def rename(
  arrays: Mapping[str, np.ndarray], renames: Renames
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """(arrays by the layouts' spelling, that spelling -> the file's own)."""
  named, spelled = {}, {}
  wrapper = _wrapper(arrays)
  for key, array in arrays.items():
    new = key.removeprefix(wrapper)
    for pattern, by in renames:
      new = re.sub(pattern, by, new)
    if new in named:
      raise WeightsError(f"{key} and {spelled[new]} are two spellings of {new}")
    named[new], spelled[new] = array, key
  return named, spelled


def _wrapper(keys: Iterable[str]) -> str:
  """The prefix that PyTorch's wrappers add to every key, as "module._orig_mod."."""
  prefix, keys = "", list(keys)
  while keys:
    first = re.match(r"(module|_orig_mod|model)\.", keys[0].removeprefix(prefix))
    if not first or not all(key.startswith(prefix + first[0]) for key in keys):
      break
    prefix += first[0]
  return prefix


def _nearest(key: str, unused: Iterable[str], spelled: Mapping[str, str]) -> str:
  close = difflib.get_close_matches(key, sorted(unused), n=1, cutoff=0.6)
  if not close:
    return ""
  return f", the closest unused key is {spelled[close[0]]}"


def _float(array: np.ndarray) -> np.ndarray:
  if array.dtype.kind not in "fVbiu":
    raise ValueError(f"values of type {array.dtype}")
  with np.errstate(over="ignore"):  # overflow to inf is reported by `_take`
    return np.asarray(array, np.float32)
