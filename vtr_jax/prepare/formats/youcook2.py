"""YouCook2 (Zhou et al. 2018): youcookii_annotations_trainval.json.

{"database": {video: {subset, annotations: [{segment: [start, end], id, sentence}]}}};
segments are in seconds of the full video.
"""

from collections.abc import Iterator

from vtr_jax.prepare.formats import media, parse
from vtr_jax.prepare.formats.base import Item, Request


def read(request: Request) -> Iterator[Item]:
  """One item a segment, called <video>_<id>."""
  files = media.Files(request.source)
  for _, path in parse.listed(request, "youcookii_annotations_*.json"):
    data = parse.as_object(parse.load_json(path), path, "database")
    for name, video in parse.as_object(data["database"], path).items():
      where = f"{path}: {name!r}"
      video = parse.as_object(video, where, "subset", "annotations")
      split = parse.split_named(parse.as_text(video["subset"], where, "subset"))
      file = files.find(name, where)
      for part in parse.as_list(video["annotations"], where):
        part = parse.as_object(part, where, "segment", "id", "sentence")
        start, end = parse.segment(part["segment"], where)
        captions = parse.sentences(part["sentence"], where)
        part_name = f"{name}_{part['id']}"
        yield Item(part_name, split, file, captions, start=start, end=end)
