"""Karpathy's splits of COCO, Flickr30k and Flickr8k (Karpathy and Fei-Fei 2015).

dataset_coco.json and the like: {"images": [{filepath, filename, split, sentences:
[{raw}]}]}; restval counts as train, as usual. Or jsonl with {"image", "caption"} a
line and the split in the file's name.
"""

import os
from collections.abc import Iterator

from vtr_jax.formats import media, parse
from vtr_jax.formats.base import Item, Request


def read(request: Request) -> Iterator[Item]:
  """One item an image, with all its captions."""
  files = media.Files(request.source, media.IMAGE)
  for split, path in parse.listed(request, "dataset_*.json", "*karpathy*.jsonl"):
    rows = _dataset(path) if path.endswith(".json") else _lines(path, split)
    for name, where, part, captions in rows:
      # Only the file's name counts: the folders are of another machine.
      found = files.find(os.path.basename(name), where)
      yield Item(media.stem(name), part, found, parse.sentences(captions, where))


def _dataset(path: str) -> Iterator[tuple]:
  data = parse.load_json(path)
  images = data.get("images") if isinstance(data, dict) else None
  parse.require(isinstance(images, list), path, "an object with the list 'images'")
  for i, image in enumerate(images):
    where = f"{path}: images[{i}]"
    ok = isinstance(image, dict) and {"filename", "split", "sentences"} <= set(image)
    parse.require(ok, where, "an object with filename, split and sentences")
    split = "train" if image["split"] == "restval" else image["split"]
    texts = image["sentences"]
    ok = isinstance(texts, list) and all(isinstance(t, dict) for t in texts)
    parse.require(ok, where, "sentences that are a list of objects with raw")
    captions = [t.get("raw") for t in texts]
    yield image["filename"], where, parse.split_named(split), captions


def _lines(path: str, split: str) -> Iterator[tuple]:
  for where, row in parse.json_lines(path):
    ok = isinstance(row, dict) and {"image", "caption"} <= set(row)
    parse.require(ok, where, "an object with image and caption")
    yield row["image"], where, split, row["caption"]
