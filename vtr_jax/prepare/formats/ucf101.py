"""UCF101 (Soomro et al. 2012): trainlist01.txt, testlist01.txt, classInd.txt.

The variant is the number of the split. Labels are the names of the classes, which
are those of the folders.
"""

from collections.abc import Iterator

from vtr_jax.prepare.formats import media, parse
from vtr_jax.prepare.formats.base import Item, Request

VARIANTS = ("1", "2", "3")


def read(request: Request) -> Iterator[Item]:
  """One item a video, with its label and no caption."""
  files = media.Files(request.source)
  classes = _classes(parse.required(request, "classInd.txt"))
  number = request.variant
  lists = dict(train=f"trainlist0{number}.txt", test=f"testlist0{number}.txt")
  for split, path in parse.by_split(request, lists):
    for where, line in parse.lines(path):
      name, _, index = line.partition(" ")
      label = name.split("/")[0]
      parse.require(label in classes, where, "<class of classInd.txt>/<file>")
      ok = index in ("", classes[label])
      parse.require(ok, where, f"class number {classes[label]}, got {index!r}")
      yield Item(media.stem(name), split, files.find(name, where), (), label)


def _classes(path: str) -> dict[str, str]:
  """{name: number} of lines such as "1 Archery"."""
  classes = {}
  for where, line in parse.lines(path):
    number, _, name = line.partition(" ")
    parse.require(number.isdigit() and name, where, "a number and a class")
    classes[name] = number
  return classes
