"""YouCook2 (Zhou et al. 2018): youcookii_annotations_trainval.json.

{"database": {video: {subset, annotations: [{segment: [start, end], id, sentence}]}}};
segments are in seconds of the whole video.
"""

from collections.abc import Iterator

from vtr_jax.formats import media, parse
from vtr_jax.formats.base import Item, Request


def read(request: Request) -> Iterator[Item]:
  """One item a segment, called <video>_<id>."""
  files = media.Files(request.source)
  for _, path in parse.listed(request, "youcookii_annotations_*.json"):
    data = parse.load_json(path)
    videos = data.get("database") if isinstance(data, dict) else None
    parse.require(isinstance(videos, dict), path, "an object with 'database'")
    for name, video in videos.items():
      where = f"{path}: {name!r}"
      ok = isinstance(video, dict) and {"subset", "annotations"} <= set(video)
      parse.require(ok, where, "an object with subset and annotations")
      split, found = parse.split_named(video["subset"]), files.find(name, where)
      for part in video["annotations"]:
        yield _segment(part, name, split, found, where)


def _segment(part, name, split, found, where) -> Item:
  ok = isinstance(part, dict) and {"segment", "id", "sentence"} <= set(part)
  parse.require(ok, where, "annotations with segment, id and sentence")
  start, end = parse.segment(part["segment"], where)
  captions = parse.sentences(part["sentence"], where)
  return Item(f"{name}_{part['id']}", split, found, captions, "", start, end)
