"""MSVD: {train,val,test}_list.txt and the captions; every caption is a query.

Captions are read from the first of captions.jsonl ({"id", "captions"} a line),
captions_msvd.json ({id: captions}), raw-captions.json and raw-captions.pkl ({id:
lists of tokens}; CLIP4Clip) next to the lists, else next to the videos.
"""

import dataclasses
from collections.abc import Iterator

from vtr_jax.prepare.formats import media, parse, pickles
from vtr_jax.prepare.formats.base import Item, Request

# subset: the listed videos that lie in the source, for those who hold a part.
VARIANTS = ("full", "subset")
_LISTS = dict(train="train_list.txt", validation="val_list.txt", test="test_list.txt")
_CAPTIONS = (
  *("captions.jsonl", "captions_msvd.json", "raw-captions.json"),
  "raw-captions.pkl",
)


def read(request: Request) -> Iterator[Item]:
  """One item a video with all its captions."""
  files = media.Files(request.source)
  captions = _captions(request)
  for split, path in parse.by_split(request, _LISTS):
    for name, where in parse.ids(path).items():
      video = files.find(name, where)
      if request.variant == "full" or media.exists(video):
        yield Item(name, split, video, captions.get(name, ()))


def _captions(request: Request) -> dict[str, tuple[str, ...]]:
  videos = dataclasses.replace(request, annotations="")
  path = parse.optional(request, *_CAPTIONS) or parse.optional(videos, *_CAPTIONS)
  path = path or parse.required(request, *_CAPTIONS)
  if path.endswith(".jsonl"):
    return dict(_json_lines(path))
  return token_captions(path, request.allow_pickle)


def _json_lines(path: str) -> Iterator[tuple[str, tuple[str, ...]]]:
  for where, row in parse.json_lines(path):
    row = parse.as_object(row, where, "id", "captions")
    yield parse.as_text(row["id"], where, "id"), parse.sentences(row["captions"], where)


def token_captions(path: str, allow_pickle: bool) -> dict[str, tuple[str, ...]]:
  """{id: captions} of JSON or a pickle; a caption is a text or a list of tokens."""
  if path.endswith(".pkl"):
    data = pickles.load(path, allow_pickle)
  else:
    data = parse.load_json(path)
  captions = {}
  for name, texts in parse.as_object(data, path).items():
    where = f"{path}: {name!r}"
    parse.require(isinstance(texts, list | tuple), where, "a list of captions")
    joined = [" ".join(t) if _tokens(t) else t for t in texts]
    captions[name] = parse.sentences(joined, where)
  return captions


def _tokens(value: object) -> bool:
  return isinstance(value, list | tuple) and all(isinstance(t, str) for t in value)
