"""LSMDC (Rohrbach et al. 2017), as CLIP4Clip or as Frozen in Time keeps it.

clip4clip: LSMDC16_annos_training.csv, LSMDC16_annos_val.csv and
LSMDC16_challenge_1000_publictect.csv: no header, six fields between tabs, which are
clip, start and end aligned, start and end extracted, sentence. A clip may stand in
several lines. frozen: {train,val,test}_list.txt and raw-captions.pkl. Clips are
files of their own, usually <movie>/<clip>.avi.
"""

import os
from collections.abc import Iterator

from vtr_jax.prepare.formats import media, msvd, parse
from vtr_jax.prepare.formats.base import Item, Request

VARIANTS = ("clip4clip", "frozen")
_TABLES = dict(
  train="LSMDC16_annos_training.csv",
  validation="LSMDC16_annos_val.csv",
  test="LSMDC16_challenge_1000_publictect.csv",
)
_FOLDER = "structured-symlinks"  # Frozen in Time


def read(request: Request) -> Iterator[Item]:
  """One item a clip, with all its sentences."""
  files = media.Files(request.source)
  rows = _tables if request.variant == "clip4clip" else _lists
  for split, clip, where, captions in rows(request):
    yield Item(clip, split, files.find(clip, where), captions)


def _tables(request: Request) -> Iterator[tuple]:
  for split, path in parse.by_split(request, _TABLES):
    clips = {}
    for where, fields in parse.tabbed(path):
      expected = f"six fields between tabs, got {len(fields)}"
      parse.require(len(fields) == 6, where, expected)
      clip, sentence = fields[0], fields[5]
      parse.require(clip, where, "the name of a clip, got an empty one")
      clips.setdefault(clip, (where, []))[1].append(sentence)
    for clip, (where, texts) in clips.items():
      yield split, clip, where, parse.sentences(texts, where)


def _lists(request: Request) -> Iterator[tuple]:
  lists = dict(train="train_list.txt", validation="val_list.txt", test="test_list.txt")
  both = {k: (os.path.join(_FOLDER, v), v) for k, v in lists.items()}
  name = "raw-captions.pkl"
  path = parse.required(request, os.path.join(_FOLDER, name), name)
  captions = msvd.token_captions(path, request.allow_pickle)
  for split, listed in parse.by_split(request, both):
    for clip, where in parse.ids(listed).items():
      yield split, clip, where, captions.get(clip, ())
