"""MCQ's and MILES' tsv of WebVid and CC3M (Ge et al. 2022).

webvid_training_success_full_noun_verb.tsv and the like: a header, then caption,
path, nouns, verbs by position. Media are SOURCE/{train,val}/<path>.mp4 for WebVid,
and SOURCE/{training,validation}/<path> for CC3M.
"""

import os
from collections.abc import Iterator

from vtr_jax.prepare.formats import media, parse
from vtr_jax.prepare.formats.base import Item, Media, Request

VARIANTS = ("webvid", "cc3m")
_FOLDERS = dict(
  webvid=dict(train="train", validation="val"),
  cc3m=dict(train="training", validation="validation"),
)


def read(request: Request) -> Iterator[Item]:
  """One item a row, called by its path."""
  name = f"{request.variant}_*.tsv"
  for split, path in parse.listed(request, name, os.path.join("meta_data", name)):
    folder = _FOLDERS[request.variant].get(split, split)
    root = media.below(request.source, folder)
    for i, (where, row) in enumerate(parse.rows(path, "\t")):
      expected = "four fields between tabs: caption, path, nouns, verbs"
      parse.require(len(row) == 4, where, f"{expected}; got {len(row)}")
      if i == 0:  # the header
        continue
      file = row[1] + ".mp4" if request.variant == "webvid" else row[1]
      clip = Media(media.inside(root, file, where))
      parse.require(row[1].strip(), where, "a path, got an empty one")
      yield Item(row[1], split, clip, parse.sentences(row[0], where))
