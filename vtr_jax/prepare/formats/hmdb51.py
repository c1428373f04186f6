"""HMDB51 (Kuehne et al. 2011): <class>_test_split1.txt, one file a class.

The variant is the number of the split. Each line is a file and 1 (train), 2 (test)
or 0 (neither): 3,570 and 1,530 videos.
"""

import glob
import os
from collections.abc import Iterator

from vtr_jax.prepare.formats import media, parse
from vtr_jax.prepare.formats.base import Item, Request

VARIANTS = ("1", "2", "3")
_SPLITS = {"1": "train", "2": "test", "0": ""}


def read(request: Request) -> Iterator[Item]:
  """One item a video, with its label and no caption."""
  files = media.Files(request.source)
  ending = f"_test_split{request.variant}.txt"
  for path in _paths(request, ending):
    label = os.path.basename(path).removesuffix(ending)
    for where, line in parse.lines(path):
      name, _, part = line.rpartition(" ")
      parse.require(name and part in _SPLITS, where, "<file> 0, 1 or 2")
      if split := _SPLITS[part]:
        video = files.find(os.path.join(label, name), where)
        yield Item(media.stem(name), split, video, (), label)


def _paths(request: Request, ending: str) -> list[str]:
  folder = parse.folder(request)
  return sorted(glob.glob(os.path.join(glob.escape(folder), "*" + ending))) or [
    parse.required(request, "<class>" + ending)
  ]
