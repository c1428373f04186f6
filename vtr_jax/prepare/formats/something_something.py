"""Something-Something v1 and v2 (Goyal et al. 2017).

something-something-v2-{train,validation,test}.json: a list of {id, label, template};
the label is a sentence of its own, and the template without brackets is the class
(174 in v2), which *-labels.json must have, if it exists. Videos are <id>.webm.
"""

import glob
import os
from collections.abc import Iterator
from typing import Any

from vtr_jax.prepare.formats import media, parse
from vtr_jax.prepare.formats.base import Item, Request


def read(request: Request) -> Iterator[Item]:
  """One item a video: caption = its sentence, label = its class; none in test."""
  files = media.Files(request.source, (".webm", *media.VIDEO))
  classes = _classes(request)
  paths = parse.listed(request, "something-something-*.json")
  for split, path in paths:
    if os.path.basename(path).endswith("labels.json"):
      continue
    for i, row in enumerate(parse.as_list(parse.load_json(path), path)):
      where = f"{path}: [{i}]"
      row = parse.as_object(row, where, "id")
      name, template = str(row["id"]), row.get("template", "")
      parse.require(isinstance(template, str), where, "a template that is a text")
      label = template.replace("[", "").replace("]", "")
      known = not (label and classes) or label in classes
      parse.require(known, where, f"a template of *-labels.json, got {label[:60]!r}")
      captions = parse.sentences(row.get("label", ""), where)
      yield Item(name, split, files.find(name, where), captions, label)


def _classes(request: Request) -> dict[str, Any]:
  """{class: number} of *-labels.json next to the lists; empty if there is none."""
  folder = glob.escape(parse.folder(request))
  paths = glob.glob(os.path.join(folder, "something-something-*labels.json"))
  return {
    name: number
    for path in paths
    for name, number in parse.as_object(parse.load_json(path), path).items()
  }
