"""Karpathy's splits of COCO, Flickr30k and Flickr8k (Karpathy and Fei-Fei 2015).

dataset_coco.json and the like: {"images": [{filepath, filename, split, sentences:
[{raw}]}]}; restval counts as train, as usual. Or jsonl with {"image", "caption"} a
line and the split in the file's name.
"""

import os
from collections.abc import Iterator

from vtr_jax.prepare.formats import media, parse
from vtr_jax.prepare.formats.base import Item, Request


def read(request: Request) -> Iterator[Item]:
  """One item an image, with all its captions."""
  files = media.Files(request.source, media.IMAGE)
  for split, path in parse.listed(request, "dataset_*.json", "*karpathy*.jsonl"):
    rows = _dataset(path) if path.endswith(".json") else _lines(path, split)
    for name, where, part, captions in rows:
      # Only the file's name counts: the folders are of another machine.
      image = files.find(os.path.basename(name), where)
      yield Item(media.stem(name), part, image, parse.sentences(captions, where))


def _dataset(path: str) -> Iterator[tuple]:
  data = parse.as_object(parse.load_json(path), path, "images")
  for i, image in enumerate(parse.as_list(data["images"], path)):
    where = f"{path}: images[{i}]"
    image = parse.as_object(image, where, "filename", "split", "sentences")
    name = parse.as_text(image["filename"], where, "filename")
    split = parse.as_text(image["split"], where, "split")
    split = "train" if split == "restval" else parse.split_named(split)
    texts = parse.as_list(image["sentences"], where)
    yield name, where, split, [parse.as_object(t, where, "raw")["raw"] for t in texts]


def _lines(path: str, split: str) -> Iterator[tuple]:
  for where, row in parse.json_lines(path):
    row = parse.as_object(row, where, "image", "caption")
    yield parse.as_text(row["image"], where, "image"), where, split, row["caption"]
