"""SimVTP's JSON: {path: caption}, or {path: captions}."""

from collections.abc import Iterator

from vtr_jax.prepare.formats import media, parse
from vtr_jax.prepare.formats.base import Item, Request


def read(request: Request) -> Iterator[Item]:
  """One item a path, called by it."""
  files = media.Files(request.source)
  for split, path in parse.listed(request, "*.json"):
    captions = parse.as_object(parse.load_json(path), path)
    for name, texts in captions.items():
      where = f"{path}: {name!r}"
      yield Item(name, split, files.find(name, where), parse.sentences(texts, where))
