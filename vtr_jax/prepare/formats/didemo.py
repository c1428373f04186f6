"""DiDeMo (Hendricks et al. 2017), paragraph to video.

{train,val,test}_data.json hold {video, description} in rows; the descriptions of a
video are joined to one caption in the file's order. {train,val,test}_list.txt, where
they are there, choose the videos (1,065 and 1,004 for validation and test).
"""

import os
from collections.abc import Iterator

from vtr_jax.prepare.formats import media, parse
from vtr_jax.prepare.formats.base import Item, Request

# CLIP4Clip: annotators saw the first 30 s of a video, and it reads 31.
END = 31.0
_DATA = dict(train="train_data.json", validation="val_data.json", test="test_data.json")
_LISTS = dict(train="train_list.txt", validation="val_list.txt", test="test_list.txt")


def read(request: Request) -> Iterator[Item]:
  """One item a video, with its first 31 s and one paragraph."""
  files = media.Files(request.source)
  for split, path in parse.by_split(request, _DATA):
    texts = _texts(path)
    if listed := parse.optional(request, _LISTS[split]):
      names = parse.ids(listed)
    else:
      texts = _same_stem(texts)
      names = {name: path for name in texts}
    for name, where in names.items():
      stem = os.path.splitext(name)[0]
      video = files.find(name, where, stem)
      paragraph = parse.sentences(" ".join(texts.get(name, ())), where)
      yield Item(stem, split, video, paragraph, start=0.0, end=END)


def _same_stem(texts: dict[str, list[str]]) -> dict[str, list[str]]:
  """Joins what stands under two endings of a name, as it does for 29 and 33 videos.

  The lists choose one of the two, and with it that one's descriptions (CLIP4Clip).
  """
  names = {}
  for name in texts:
    names.setdefault(os.path.splitext(name)[0], []).append(name)
  return {same[0]: [t for name in same for t in texts[name]] for same in names.values()}


def _texts(path: str) -> dict[str, list[str]]:
  texts = {}
  for i, row in enumerate(parse.as_list(parse.load_json(path), path)):
    where = f"{path}: [{i}]"
    row = parse.as_object(row, where, "video", "description")
    name = parse.as_text(row["video"], where, "video")
    texts.setdefault(name, []).extend(parse.sentences(row["description"], where))
  return texts
