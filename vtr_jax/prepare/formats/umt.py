"""JSON of UMT, VindLU and Singularity: a list of {"image" or "video", "caption"}.

A caption is a text or a list of them; entries of the same file are one item.
"""

from collections.abc import Iterator

from vtr_jax.prepare.formats import media, parse
from vtr_jax.prepare.formats.base import Item, Request


def read(request: Request) -> Iterator[Item]:
  """One item an image or video, called by its path, with all its captions."""
  files = media.Files(request.source, media.VIDEO + media.IMAGE)
  for split, path in parse.listed(request, "*.json"):
    captions = {}
    for i, row in enumerate(parse.as_list(parse.load_json(path), path)):
      where = f"{path}: [{i}]"
      row = parse.as_object(row, where, "caption")
      name = row.get("video") or row.get("image")
      name = parse.as_text(name, where, "image or video")
      _, texts = captions.setdefault(name, (where, []))
      texts.extend(parse.sentences(row["caption"], where))
    for name, (where, texts) in captions.items():
      yield Item(name, split, files.find(name, where), tuple(texts))
