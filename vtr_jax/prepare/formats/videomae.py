"""VideoMAE's lists, also MMAction2's: lines of "path label", between spaces.

train.csv, val.csv, test.csv; a third number (frames) is left out. The label is a
number from 0; its name is read from a *label_map*.txt of one class a line next to the
list, if it exists.
"""

import glob
import os
import re
from collections.abc import Iterator

from vtr_jax.core.errors import DataError
from vtr_jax.prepare.formats import media, parse
from vtr_jax.prepare.formats.base import Item, Request

# A path may hold spaces.
_LINE = re.compile(r"(?P<path>.+?)[ ,\t](?P<label>-?\d{1,9})(?:[ ,\t]-?\d+)?")


def read(request: Request) -> Iterator[Item]:
  """One item a line, called by its path, with its label and no caption."""
  files = media.Files(request.source)
  classes = _classes(parse.folder(request))
  for split, path in parse.listed(request, "*.csv", "*list*.txt"):
    for where, line in parse.lines(path):
      match = _LINE.fullmatch(line)
      name, label = match.group("path", "label") if match else ("", "")
      parse.require(match, where, f"'path label', got {line[:60]!r}")
      if classes:
        ok = 0 <= int(label) < len(classes)
        parse.require(ok, where, f"a label below {len(classes)}, got {label}")
        label = classes[int(label)]
      # Lists often hold absolute paths; an id must not depend on the machine.
      name = os.path.relpath(media.inside(request.source, name, where), request.source)
      yield Item(name, split, files.find(name, where), (), label)


def _classes(folder: str) -> list[str]:
  """Names of the classes by number; empty without a label map."""
  maps = sorted(glob.glob(os.path.join(glob.escape(folder), "*label_map*.txt")))
  if len(maps) > 1:
    raise DataError(f"{folder}: has {len(maps)} files *label_map*.txt; keep one")
  return [line for path in maps for _, line in parse.lines(path)]
