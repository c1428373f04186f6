"""JSON of UMT, VindLU and Singularity: a list of {"image" or "video", "caption"}.

A caption is a text or a list of them; entries of the same file are one item.
"""

from collections.abc import Iterator

from vtr_jax.formats import media, parse
from vtr_jax.formats.base import Item, Request


def read(request: Request) -> Iterator[Item]:
  """One item an image or video, called by its path, with all its captions."""
  files = media.Files(request.source, media.VIDEO + media.IMAGE)
  for split, path in parse.listed(request, "*.json"):
    captions, rows = {}, parse.load_json(path)
    parse.require(isinstance(rows, list), path, "a list of objects")
    for i, row in enumerate(rows):
      where = f"{path}: [{i}]"
      ok = isinstance(row, dict) and ("video" in row) != ("image" in row)
      name = (row.get("video") or row.get("image")) if ok else None
      parse.require(isinstance(name, str), where, "an object with image or video")
      parse.require("caption" in row, where, "an object with caption")
      _, texts = captions.setdefault(name, (where, []))
      texts.extend(parse.sentences(row["caption"], where))
    for name, (where, texts) in captions.items():
      yield Item(name, split, files.find(name, where), tuple(texts))
