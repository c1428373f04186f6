"""Adds the notes of annotations to a prepared data set; no video is opened."""

import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from vtr_jax.core import processes
from vtr_jax.core.errors import DataBudgetError, DataError
from vtr_jax.data import notes, sources
from vtr_jax.prepare.formats.base import Item
from vtr_jax.prepare.shards import read_json, write_json


def add(
  directory: str | os.PathLike,
  items: Sequence[Item],
  origin: dict[str, Any],
  bad_budget: float,
) -> None:
  """Adds the notes of all items as one set, which replaces an earlier one.

  A killed run leaves the other sets as they are, and is completed by running it again.

  Args:
    directory: of the prepared data set.
    items: with the ids of its records.
    origin: description of the source for the manifest; its `format` names the set.
    bad_budget: fraction of the items with notes that may have no record.

  Raises:
    DataError: there are no notes, or the data set's metadata is damaged.
    DataBudgetError: too many items have no record; nothing is written.
  """
  directory, name = pathlib.Path(directory), origin["format"]
  with processes.locked(directory.parent / f".lock-{directory.name}", "run"):
    for path in directory.glob(".*.tmp"):  # of a run that was killed
      path.unlink()
    texts, absent = _texts(directory, items)
    _check_absent(directory, items, texts, absent, bad_budget)
    made = {split: notes.facts(text) for split, text in texts.items()}
    before = notes.listed(directory).get(name, {})
    if made == before and _intact(directory, name, before):
      print(f"{directory}: already has these notes of {name}", file=sys.stderr)
      return
    notes.save(directory, name, texts)
    path = directory / "manifest.json"
    manifest = read_json(path) if path.exists() else {}
    entry = dict(origin=origin, splits=made, not_prepared=absent)
    sets = manifest.get("notes", {}) | {name: entry}
    write_json(path, manifest | dict(notes=sets))
    for split in before.keys() - made.keys():
      pathlib.Path(notes.file(directory, name, split)).unlink(missing_ok=True)
  counts = ", ".join(f"{split} {entry['notes']}" for split, entry in made.items())
  print(
    f"{directory}: notes of {name}: {counts}; {len(absent)} items are not prepared",
    file=sys.stderr,
  )


def confirm(
  directory: str | os.PathLike, items: Sequence[Item], origin: dict[str, Any]
) -> None:
  """Checks that a prepared data set has the notes of these items, if they have any.

  Raises:
    DataError: it has other ones.
  """
  if not any(item.notes for item in items):
    return
  texts, _ = _texts(directory, items)
  before = notes.listed(directory).get(origin["format"])
  cure = f"--notes_of={directory} without --out and --name"
  if before is None:
    print(f"{directory}: has not these notes; add them by {cure}", file=sys.stderr)
  elif before != {split: notes.facts(text) for split, text in texts.items()}:
    raise DataError(f"{directory}: was made with other notes; replace them by {cure}")


def _texts(
  directory: str | os.PathLike, items: Sequence[Item]
) -> tuple[dict[str, str], list[str]]:
  """The content of the files by split, and the ids of items that have no record."""
  left = {item.id: item for item in items if item.notes}
  texts: dict[str, list[str]] = {}
  for split, names in sources.ids(directory).items():
    for index, name in enumerate(names):
      if item := left.pop(name, None):
        values = map(notes.to_json, item.notes)
        text = notes.lines(name, index, item.split, values)
        texts.setdefault(split, []).append(text)
  return {split: "".join(parts) for split, parts in texts.items()}, list(left)


def _check_absent(directory, items, texts, absent: list[str], bad_budget) -> None:
  """Lists the items that have no record; raises if they are too many."""
  total = sum(bool(item.notes) for item in items)
  if not total:
    raise DataError(f"{directory}: these annotations have no notes; look at --format")
  for name in absent:
    print(f"not prepared: {name}")
  if texts and len(absent) <= bad_budget * total:
    return
  known = next(name for names in sources.ids(directory).values() for name in names)
  raise DataBudgetError(
    f"{directory}: {len(absent)} of {total} items with notes are not prepared, listed "
    f"above (a prepared one is {known!r}); prepare them, or leave them out with "
    f"--bad_budget, now {bad_budget:g}"
  )


def _intact(directory: pathlib.Path, name: str, entries: dict[str, Any]) -> bool:
  try:
    for split, entry in entries.items():
      list(notes.rows(directory, name, split, entry))
  except DataError:
    return False
  return True
