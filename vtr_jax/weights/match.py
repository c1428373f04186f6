"""A foreign file against one model: every key and every parameter is accounted for."""

import collections
import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from vtr_jax.core.errors import WeightsError, printable
from vtr_jax.models.dual_encoder import DualEncoder
from vtr_jax.objectives.simvtp import SimVTP
from vtr_jax.weights import resize
from vtr_jax.weights.entries import Entry
from vtr_jax.weights.registry import Patterns, Renames, Source

Flat = dict[str, np.ndarray]
_FEW = 0.1  # of the keys: a file with fewer that are known is of another kind; ours
_SHOWN = 10  # problems in the error's line; the report has all


@dataclasses.dataclass(frozen=True)
class Line:
  """What became of one key of the file."""

  key: str  # as the file has it
  status: str  # used | unused | missing
  shape: tuple[int, ...] | None
  ours: tuple[str, ...] = ()
  notes: tuple[str, ...] = ()  # renamed, resized, allowed, why


@dataclasses.dataclass(frozen=True)
class Report:
  """Of one file, and which parameters it leaves as they are."""

  title: str
  lines: tuple[Line, ...]
  fresh: tuple[str, ...]  # paths of ours that start at random, all of them allowed
  problems: tuple[str, ...]

  def summary(self) -> str:
    """One line of counts."""
    count = collections.Counter(line.status for line in self.lines)
    noted = lambda word: sum(n.startswith(word) for x in self.lines for n in x.notes)
    used, unused, missing = (count[k] for k in ("used", "unused", "missing"))
    return (
      f"{self.title}: {used} of {used + unused} keys used ({noted('renamed')} renamed, "
      f"{noted('resized')} resized), {unused} unused, {missing} missing; "
      f"{len(self.fresh)} parameters not in the file"
    )

  def text(self) -> str:
    """A row for each key, and the parameters that the file does not give."""
    rows = [self.summary(), ""]
    for line in self.lines:
      shape = "" if line.shape is None else "x".join(map(str, line.shape)) or "number"
      ours = ", ".join(line.ours) or "-"
      notes = f"  ({'; '.join(line.notes)})" if line.notes else ""
      rows.append(f"{line.status:8}{printable(line.key)} {shape} -> {ours}{notes}")
    rows += [f"fresh   {path}" for path in self.fresh]
    rows += [f"PROBLEM {problem}" for problem in self.problems]
    return "\n".join(rows) + "\n"

  def check(self) -> None:
    """Raises WeightsError if anything is missing or unused without leave."""
    if self.problems:
      more = len(self.problems) - _SHOWN
      shown = [*self.problems[:_SHOWN], *([f"and {more} more"] if more > 0 else [])]
      listed = printable("; ".join(shown))
      raise WeightsError(
        f"{self.title}: {listed}. Fix the names, or allow them: --allow, or "
        "config.init_allow"
      )


def match(
  title: str,
  name: str,
  source: Source,
  arrays: Mapping[str, np.ndarray],
  model: DualEncoder | SimVTP,
  wanted: Mapping[str, Any],
  allow: Patterns = (),
) -> tuple[Flat, Report]:
  """Our parameters from a file's arrays, and what became of each key.

  Args:
    title: of the report and its errors, such as the file's path.
    name, source: the kind of file, see sources.py.
    arrays: the file's, by key.
    model: that the parameters are for.
    wanted: path -> anything with a shape, of all its parameters; not stacked.
    allow: regular expressions of keys that may be missing or unused, and of our paths
      that may start at random; matched from their first letter on.

  Returns:
    float32 arrays by path, those alone that the file gives; and the report, which
    the caller must `check`.

  Raises:
    WeightsError: no such file fits such a model, or two keys are one.
  """
  named, spelled = rename(arrays, source.renames)
  entries = choose(source.layouts(name, model), model, named)
  # Of parameters that this model does not have, the keys are told as unused.
  entries = [entry for entry in entries if set(entry.ours) & set(wanted)]
  explained = {key for entry in entries for key in entry.theirs}
  log = _Log(named, spelled, allow)
  found: Flat = {}
  for entry in entries:
    there = [key for key in entry.theirs if key in named]
    absent = [key for key in entry.theirs if key not in [*there, *entry.spare]]
    for key in absent:
      near = _nearest(key, set(named) - explained, spelled)
      if not log.add(key, "missing", entry.ours, known=source.optional):
        log.problems.append(f"{key} is missing{near}")
    if absent:
      for key in there:
        without = f"of no use without {absent[0]}"
        if not log.add(key, "unused", notes=(without,)):
          log.problems.append(f"{spelled[key]} is {without}")
      continue
    try:
      made, changes = _take(entry, named, wanted, model)
    except ValueError as e:
      shapes = ", ".join(f"{key} {named[key].shape}" for key in there)
      log.problems.append(f"{shapes} does not fit ({e})")
      made, changes = {}, [f"does not fit: {e}"]
    found |= made
    notes = [entry.note] if entry.note else []
    for key in there:
      first = changes if key == there[0] else []
      log.add(key, "used" if made else "unused", entry.ours, (*first, *notes))
  for key in sorted(set(named) - explained):
    if not log.add(key, "unused", known=source.unused):
      log.problems.append(f"{spelled[key]} is not used")
  fresh = sorted(set(wanted) - set(found))
  if len(explained & set(named)) < _FEW * len(named):
    known = f"{len(explained & set(named))} of its {len(named)} keys"
    log.problems[:] = [f"hardly a file of kind {name!r}, which explains {known}"]
  given = {path for entry in entries for path in entry.ours}
  for path in fresh:
    if path not in given and not log.allowed(path, source.fresh):
      log.problems.append(f"nothing in it gives {path}")
  return found, Report(title, tuple(log.lines), tuple(fresh), tuple(log.problems))


class _Log:
  """Lines of a report, and what is wrong."""

  def __init__(self, named: Flat, spelled: Mapping[str, str], allow: Patterns):
    self.lines: list[Line] = []
    self.problems: list[str] = []
    self._named, self._spelled = named, spelled
    try:
      self._allow = [re.compile(pattern) for pattern in allow]
    except re.error as e:
      raise WeightsError(
        f"allow: {e.pattern!r} is no regular expression ({e})"
      ) from None
    for pattern in self._allow:
      if pattern.match(""):
        raise WeightsError(f"allow: {pattern.pattern!r} allows everything; name a part")

  def allowed(self, text: str, known: Patterns) -> bool:
    """Whether the source (the whole of it) or the user (its begin) names `text`."""
    whole = any(re.fullmatch(pattern, text) for pattern in known)
    return whole or any(pattern.match(text) for pattern in self._allow)

  def add(
    self,
    key: str,
    status: str,
    ours: Iterable[str] = (),
    notes: Iterable[str] = (),
    known: Patterns = (),
  ) -> bool:
    """Adds a line, and says whether the key is allowed by name."""
    spelled = self._spelled.get(key, key)
    free = self.allowed(key, known) or self.allowed(spelled, known)
    notes = [*([f"renamed to {key}"] if spelled != key else []), *notes]
    if free and status != "used":
      notes.append("allowed")
    shape = self._named[key].shape if key in self._named else None
    self.lines.append(Line(spelled, status, shape, tuple(ours), tuple(notes)))
    return free


def _take(
  entry: Entry, named: Flat, wanted: Mapping[str, Any], model: Any
) -> tuple[Flat, list[str]]:
  """(our arrays of an entry, what was resized); raises ValueError."""
  made, changes = {}, []
  parts = entry.load(
    *(_float(named[key]) if key in named else None for key in entry.theirs)
  )
  for path, array in zip(entry.ours, parts, strict=True):
    if not np.isfinite(array).all():
      raise ValueError("it holds numbers that are not finite")
    made[path], how = resize.fit(path, array, wanted[path].shape, model)
    changes += [f"resized: {how}"] if how else []
  return made, changes


def choose(layouts: Iterable, model: Any, named: Mapping[str, Any]) -> list[Entry]:
  """Entries of the layout that knows most of the keys."""
  made = [list(layout(model)) for layout in layouts]
  hits = lambda entries: sum(key in named for e in entries for key in e.theirs)
  return max(made, key=hits)


def rename(
  arrays: Mapping[str, np.ndarray], renames: Renames
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """(arrays by the layouts' spelling, that spelling -> the file's own)."""
  named, original = {}, {}
  around = _wrapping(arrays)
  for key, array in arrays.items():
    new = key.removeprefix(around)
    for pattern, by in renames:
      new = re.sub(pattern, by, new)
    if new in named:
      raise WeightsError(f"{key} and {original[new]} are two spellings of {new}")
    named[new], original[new] = array, key
  return named, original


def _wrapping(keys: Iterable[str]) -> str:
  """What PyTorch's wrappers put before every key, such as "module._orig_mod."."""
  around, keys = "", list(keys)
  while keys:
    first = re.match(r"(module|_orig_mod|model)\.", keys[0].removeprefix(around))
    if not first or not all(key.startswith(around + first[0]) for key in keys):
      break
    around += first[0]
  return around


def _nearest(key: str, left: Iterable[str], spelled: Mapping[str, str]) -> str:
  close = difflib.get_close_matches(key, sorted(left), n=1, cutoff=0.6)
  if not close:
    return ""
  return f", the nearest that is there and not used is {spelled[close[0]]}"


def _float(array: np.ndarray) -> np.ndarray:
  if array.dtype.kind not in "fVbiu":
    raise ValueError(f"numbers of type {array.dtype}")
  with np.errstate(over="ignore"):  # what is infinite then is told
    return np.asarray(array, np.float32)
