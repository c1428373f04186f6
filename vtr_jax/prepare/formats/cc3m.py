"""Conceptual Captions 3M and 12M: csv or tsv of images.

Read are Google's tsv without a header (CC3M: caption, url; CC12M: url, caption) and
Frozen in Time's csv with one (caption, thumbnailUrl). The usual downloaders call an
image by the CRC-32 of its URL, with or without the row's number before it, in
`training` or `validation`.
"""

import os
import zlib
from collections.abc import Iterator

from vtr_jax.prepare.formats import media, parse
from vtr_jax.prepare.formats.base import Item, Media, Request

VARIANTS = ("cc3m", "cc12m")
_FILES = dict(cc3m=("Train_GCC*", "Validation_GCC*"), cc12m=("cc12m*.[ct]sv",))


def read(request: Request) -> Iterator[Item]:
  """One item a row, called by the split and the row's number from 0.

  Neither a URL nor its CRC-32 is unique among three million.
  """
  counts = {}
  for split, path in parse.listed(request, *_FILES[request.variant]):
    folder = "training" if split == "train" else "validation"
    root = media.below(request.source, folder)
    for row, (where, caption, url) in enumerate(_rows(path, request.variant)):
      parse.require(url.strip(), where, "a URL, got an empty one")
      number = counts[split] = counts.get(split, -1) + 1
      yield Item(
        f"{split}-{number}",
        split,
        Media(_file(root, url, row)),
        parse.sentences(caption, where),
      )


def _rows(path: str, variant: str) -> Iterator[tuple[str, str, str]]:
  """("file:line", caption, url)."""
  if path.endswith(".csv"):
    rows = parse.rows(path)
  else:  # Google's are not quoted
    rows = parse.tabbed(path)
  order = ("caption", "url") if variant == "cc3m" else ("url", "caption")
  for number, (where, row) in enumerate(rows):
    names = ["url" if name == "thumbnailUrl" else name for name in row]
    if number == 0 and "caption" in names:
      parse.require("url" in names, where, "a column url or thumbnailUrl")
      order = names
      continue
    parse.require(len(row) == len(order), where, f"{len(order)} fields, got {len(row)}")
    fields = dict(zip(order, row, strict=True))
    yield where, fields["caption"], fields["url"]


def _file(root: str, url: str, row: int) -> str:
  """Path of the image, which may not exist."""
  crc = zlib.crc32(url.encode())
  numbered = os.path.join(root, f"{row}_{crc}")
  return numbered if os.path.isfile(numbered) else os.path.join(root, str(crc))
