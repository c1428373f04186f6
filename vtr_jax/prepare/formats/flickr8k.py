"""Flickr8k (Hodosh et al. 2013), images with five captions each.

Flickr_8k.{train,dev,test}Images.txt and Flickr8k.token.txt ("<image>#<n>", a tab,
the caption), or captions.csv or captions.txt with the columns image, caption.
"""

from collections.abc import Iterator

from vtr_jax.prepare.formats import media, parse
from vtr_jax.prepare.formats.base import Item, Request

# subset: the listed images that lie in the source, for those who hold a part.
VARIANTS = ("full", "subset")
_LISTS = dict(
  train="Flickr_8k.trainImages.txt",
  validation="Flickr_8k.devImages.txt",
  test="Flickr_8k.testImages.txt",
)


def read(request: Request) -> Iterator[Item]:
  """One item an image, with all its captions."""
  files = media.Files(request.source, media.IMAGE)
  path = parse.required(request, "Flickr8k.token.txt", "captions.csv", "captions.txt")
  captions = tokens(path) if path.endswith("token.txt") else _table(path)
  for split, listed in parse.by_split(request, _LISTS):
    for name, where in parse.ids(listed).items():
      image = files.find(name, where)
      if request.variant == "full" or media.exists(image):
        texts = tuple(captions.get(name, ()))
        yield Item(media.stem(name), split, image, texts)


def tokens(path: str) -> dict[str, list[str]]:
  """{image: captions} of lines such as "1.jpg#0<tab>a dog"."""
  captions = {}
  for where, (name, *rest) in parse.tabbed(path):
    parse.require(rest and "#" in name, where, "<image>#<number>, a tab and a caption")
    texts = captions.setdefault(name.rsplit("#", 1)[0], [])
    texts.extend(parse.sentences("\t".join(rest), where))
  return captions


def _table(path: str) -> dict[str, list[str]]:
  captions = {}
  for where, row in parse.table(path, ("image", "caption")):
    texts = captions.setdefault(row["image"], [])
    texts.extend(parse.sentences(row["caption"], where))
  return captions
