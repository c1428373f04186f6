"""A folder of videos and images, with captions or in folders of their classes.

A first folder called train, val, test or the like is the split. clip.mp4 takes its
captions from clip.txt (one a line) or clip.json (a text, a list of texts, or an object
with caption or captions) next to it. If no file has captions, the next folder is the
label of all that is in it: train/jump/clip.mp4. A label's folder without any clip is
named on standard error.
"""

import os
from collections.abc import Iterator

from vtr_jax.core.errors import printable
from vtr_jax.core.shutdown import print_line
from vtr_jax.prepare.formats import media, parse
from vtr_jax.prepare.formats.base import Item, Media, Request

_SPLITS = ("train", "validation", "test")
_SIDECARS = (".txt", ".json")


def read(request: Request) -> Iterator[Item]:
  """One item a file, called by its path, sorted by folder and name."""
  parse.no_annotations(request, "folder")
  items = [
    _item(request, path)
    for path in media.walk(request.source, media.VIDEO + media.IMAGE, _SIDECARS)
  ]
  if any(item.captions for item in items):
    items = [item._replace(label="") for item in items]
  elif empty := sorted(_label_folders(request.source) - {i.label for i in items}):
    more = ", ..." if len(empty) > 5 else ""
    listed = ", ".join(map(printable, empty[:5])) + more
    print_line(f"{request.source}: labels without a video or image: {listed}")
  yield from items


def _item(request: Request, path: str) -> Item:
  """A file, with its folder as the label."""
  name = os.path.relpath(path, request.source)
  *folders, _ = name.split(os.sep)
  split = parse.split_named(folders[0]) if folders else ""
  if split in _SPLITS:
    folders = folders[1:]
  else:
    split = request.split or "train"
  text, label = _text(name.replace(os.sep, "/")), _text(folders[0] if folders else "")
  return Item(text, split, Media(path), _captions(path), label)


def _text(name: str) -> str:
  """A name without the bytes that are not UTF-8, which a record cannot hold."""
  return name.encode(errors="backslashreplace").decode()


def _label_folders(source: str) -> set[str]:
  """Names of the folders that stand for labels."""

  def inside(path: str) -> set[str]:
    try:
      entries = list(os.scandir(path))
    except OSError:  # as `media.walk`, which finds nothing there
      return set()
    names = (e.name for e in entries if e.is_dir())
    return {name for name in names if not media.is_litter(name)}

  labels = set()
  for name in inside(source):
    is_split = parse.split_named(name) in _SPLITS
    labels |= inside(os.path.join(source, name)) if is_split else {name}
  return set(map(_text, labels))


def _captions(path: str) -> tuple[str, ...]:
  base = os.path.splitext(path)[0]
  if os.path.isfile(base + ".txt"):
    return tuple(line for _, line in parse.lines(base + ".txt"))
  if os.path.isfile(base + ".json"):
    return parse.caption_in(parse.load_json(base + ".json"), base + ".json")
  return ()
