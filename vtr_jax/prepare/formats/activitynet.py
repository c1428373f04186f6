"""ActivityNet Captions (Krishna et al. 2017), paragraph to video.

train.json and val_1.json (or val_2.json, by variant) hold {"v_<file>": {duration,
timestamps, sentences}}; the sentences of a video are joined to one caption, and the
item is the full video. As in CLIP4Clip, val_1 is the test set: 10,009 and 4,917.
"""

from collections.abc import Iterator

from vtr_jax.prepare.formats import media, parse
from vtr_jax.prepare.formats.base import Item, Request

VARIANTS = ("val_1", "val_2")


def read(request: Request) -> Iterator[Item]:
  """One item a video, with one paragraph."""
  files = media.Files(request.source)
  lists = dict(train="train.json", test=f"{request.variant}.json")
  for split, path in parse.by_split(request, lists):
    videos = parse.as_object(parse.load_json(path), path)
    for name, video in videos.items():
      where = f"{path}: {name!r}"
      texts = parse.as_object(video, where, "sentences")["sentences"]
      paragraph = " ".join(parse.sentences(texts, where))
      file = files.find(name.removeprefix("v_"), where, name)
      yield Item(name, split, file, parse.sentences(paragraph, where))
