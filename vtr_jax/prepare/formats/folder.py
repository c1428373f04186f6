"""A folder of videos and images, with or without captions in sidecar files.

clip.mp4 takes its captions from clip.txt (one a line) or clip.json (a text, a list
of texts, or an object with caption or captions). A first folder called train, val,
test or the like is the split.
"""

import os
from collections.abc import Iterator

from vtr_jax.prepare.formats import media, parse
from vtr_jax.prepare.formats.base import Item, Media, Request


def read(request: Request) -> Iterator[Item]:
  """One item a file, called by its path, sorted by folder and name."""
  parse.no_annotations(request, "folder")
  endings = media.VIDEO + media.IMAGE
  for path in media.walk(request.source, endings, (".txt", ".json")):
    name = os.path.relpath(path, request.source)
    first = parse.split_named(name.split(os.sep)[0])
    is_split = first in ("train", "validation", "test") and os.sep in name
    split = first if is_split else request.split or "train"
    yield Item(name.replace(os.sep, "/"), split, Media(path), _captions(path))


def _captions(path: str) -> tuple[str, ...]:
  base = os.path.splitext(path)[0]
  if os.path.isfile(base + ".txt"):
    return tuple(line for _, line in parse.lines(base + ".txt"))
  if os.path.isfile(base + ".json"):
    return parse.caption_in(parse.load_json(base + ".json"), base + ".json")
  return ()
