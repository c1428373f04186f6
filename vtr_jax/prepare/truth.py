"""The notes that predictions are scored against: prepared ones, or annotations."""

import os
from collections.abc import Iterator
from typing import NamedTuple

from vtr_jax.core.config import require
from vtr_jax.core.errors import DataError
from vtr_jax.core.paths import near
from vtr_jax.data import notes, sources
from vtr_jax.data.notes import Note
from vtr_jax.eval.noted import Truth
from vtr_jax.eval.protocols import Protocol
from vtr_jax.prepare.formats import base, parse

_KINDS = dict(answers="question", moments="moment")


class _Found(NamedTuple):
  """A note of a record. split: of the annotations. place: (split, number) if known."""

  record: str
  split: str
  note: Note
  place: tuple[str, int] | None = None


def read(protocol: Protocol, data: str = "", annotations: str = "") -> Truth:
  """The notes of the protocol's split, and those of train.

  Args:
    protocol: of task answers or moments; `notes` names the format.
    data: directory of prepared data with these notes; or
    annotations: the published files, a directory or a file. No video is needed.

  Raises:
    ConfigError: not exactly one of the two is given, or the format is unknown.
    DataError: the files are missing or damaged, or hold no such notes.
  """
  given = bool(data) != bool(annotations)
  require(given, "--data, --annotations: give exactly one with --predictions")
  require(bool(protocol.notes), "notes: missing; name the format by --set=notes=")
  found = _prepared(protocol, data) if data else _published(protocol, annotations)
  kind, types = _KINDS[protocol.task], protocol.types
  test, records, training, places = [], [], [], []
  for record, split, note, place in found:
    if note.kind != kind or (types and note.type not in types):
      continue
    if split == protocol.split:
      test.append(note)
      records.append(record)
      places += [place] if place else []
    elif split == "train":
      training.append(note)
  if not test:
    raise DataError(
      f"{data or annotations}: split {protocol.split!r} has no {kind} of "
      f"{protocol.notes}; look at the files and at --protocol"
    )
  return Truth(test, records, training, places)


def _prepared(protocol: Protocol, data: str) -> Iterator[_Found]:
  """The notes by whatever split their record is in."""
  name = protocol.notes
  try:
    directory = sources.find("", data)
  except DataError:
    raise DataError(
      f"--data: {data} is no directory of prepared data{near(data)}; give one, such as "
      f"data/{name}"
    ) from None
  sets = notes.listed(directory)
  if name not in sets:
    known = ", ".join(sorted(sets)) or "none"
    raise DataError(
      f"{data}: has no notes of {name} (it has {known}); add them with python -m "
      f"vtr_jax.prepare --format={name} --notes_of={data}"
    )
  for split, entry in sets[name].items():
    for row in notes.rows(directory, name, split, entry):
      yield _Found(row.record, row.split, row.note, (split, row.index))


def _published(protocol: Protocol, annotations: str) -> Iterator[_Found]:
  folder = parse.folder(base.Request("", annotations))
  # Formats look for the media; here nothing depends on what they find.
  request = base.Request(os.path.abspath(folder), annotations, protocol.notes_variant)
  for item in base.open(protocol.notes, request):
    for note in item.notes:
      yield _Found(item.id, item.split, note)
