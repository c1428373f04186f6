"""WebVid-2M and -10M: results_2M_train.csv and the like (Bain et al. 2021).

Columns are read by name, so that both published orders, with and without
page_idx, are read. Videos lie where Frozen in Time puts them:
SOURCE/videos/<page_dir>/<videoid>.mp4, or without "videos".
"""

import os
from collections.abc import Iterator

from vtr_jax.prepare.formats import media, parse
from vtr_jax.prepare.formats.base import Item, Media, Request

VARIANTS = ("2M", "10M")


def read(request: Request) -> Iterator[Item]:
  """One item a row; a row without a name has no caption."""
  root = media.below(request.source, "videos")
  name = f"results_{request.variant}_*.csv"
  for split, path in parse.listed(request, name, os.path.join("metadata", name)):
    for where, row in parse.table(path, ("videoid", "name", "page_dir")):
      parse.filled(row, ("videoid", "page_dir"), where)
      file = os.path.join(row["page_dir"], row["videoid"] + ".mp4")
      yield Item(
        row["videoid"],
        split,
        Media(media.inside(root, file, where)),
        parse.sentences(row["name"], where),
      )
