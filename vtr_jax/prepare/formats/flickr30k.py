"""Flickr30k (Young et al. 2014), images with five captions each.

{train,validation,test}.json of {image: captions}, or {train,val,test}.txt of ids with
results_20130124.token. Karpathy's dataset_flickr30k.json is format coco_karpathy.
"""

from collections.abc import Iterator

from vtr_jax.prepare.formats import flickr8k, media, parse
from vtr_jax.prepare.formats.base import Item, Request

_FILES = dict(
  train=("train.json", "train.txt"),
  validation=("validation.json", "val.json", "validation.txt", "val.txt"),
  test=("test.json", "test.txt"),
)
_TOKENS = "results_20130124.token"


def read(request: Request) -> Iterator[Item]:
  """One item an image, with all its captions."""
  files = media.Files(request.source, media.IMAGE)
  for split, path in parse.by_split(request, _FILES):
    rows = _json(path) if path.endswith(".json") else _listed(path, request)
    for name, where, texts in rows:
      image = files.find(name, where)
      yield Item(media.stem(name), split, image, parse.sentences(texts, where))


def _json(path: str) -> Iterator[tuple[str, str, list[str]]]:
  for name, texts in parse.as_object(parse.load_json(path), path).items():
    where = f"{path}: {name!r}"
    texts = parse.as_list(texts, where, "captions")
    # The files that are about end each list with the image's own path.
    yield name, where, [t for t in texts if not str(t).endswith("/" + name)]


def _listed(path: str, request: Request) -> Iterator[tuple[str, str, list[str]]]:
  captions = flickr8k.tokens(parse.required(request, _TOKENS))
  for name, where in parse.ids(path).items():
    file = f"{media.stem(name)}.jpg"
    yield file, where, captions.get(file, [])
