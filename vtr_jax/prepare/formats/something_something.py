"""Something-Something v1 and v2 (Goyal et al. 2017).

something-something-v2-{train,validation,test}.json: a list of {id, label, template};
the label is a sentence of its own, and the template without brackets is the class
(174 in v2). Videos are <id>.webm.
"""

import os
from collections.abc import Iterator

from vtr_jax.prepare.formats import media, parse
from vtr_jax.prepare.formats.base import Item, Request


def read(request: Request) -> Iterator[Item]:
  """One item a video: caption = its sentence, label = its class; none in test."""
  files = media.Files(request.source, (".webm", *media.VIDEO))
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
      captions = parse.sentences(row.get("label", ""), where)
      yield Item(name, split, files.find(name, where), captions, label)
