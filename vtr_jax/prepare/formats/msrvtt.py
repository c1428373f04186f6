"""MSR-VTT as Frozen in Time keeps it: MSR_VTT.json and lists of ids.

The cuts: jsfusion is "1k-A" with one sentence for each of 1,000 test videos, given by
jsfusion_val_caption_idx.pkl; miech is "1k-B"; full is the data set's own, with 497
videos for validation and 2,990 for test.
"""

import os
from collections.abc import Iterator

from vtr_jax.prepare.formats import media, parse, pickles
from vtr_jax.prepare.formats.base import Item, Request

VARIANTS = ("jsfusion", "miech", "full")
_LISTS = dict(
  jsfusion=dict(train="train_list_jsfusion.txt", test="val_list_jsfusion.txt"),
  miech=dict(train="train_list_miech.txt", test="test_list_miech.txt"),
  full=dict(
    train="train_list_full.txt",
    validation="val_list_full.txt",
    test="test_list_full.txt",
  ),
)
_CHOSEN = "jsfusion_val_caption_idx.pkl"
_FOLDER = os.path.join("high-quality", "structured-symlinks")


def read(request: Request) -> Iterator[Item]:
  """One item a video with all its captions; in jsfusion's test with one."""
  files = media.Files(media.below(request.source, os.path.join("videos", "all")))
  path = parse.required(
    request, os.path.join("annotation", "MSR_VTT.json"), "MSR_VTT.json"
  )
  captions = captions_of(path, "annotations", "image_id")
  lists = {k: _places(v) for k, v in _LISTS[request.variant].items()}
  for split, listed in parse.by_split(request, lists):
    chosen = None
    if request.variant == "jsfusion" and split == "test":
      chosen = _chosen(request)
    for name, where in parse.ids(listed).items():
      texts = captions.get(name, ())
      if chosen is not None:
        texts = _one(texts, chosen, name, where)
      yield Item(name, split, files.find(name, where), tuple(texts))


def captions_of(path: str, key: str, name: str) -> dict[str, list[str]]:
  """{video: its captions in the file's order} of {key: [{name, "caption"}]}."""
  data = parse.as_object(parse.load_json(path), path, key)
  captions = {}
  for i, row in enumerate(parse.as_list(data[key], path)):
    where = f"{path}: {key}[{i}]"
    row = parse.as_object(row, where, name, "caption")
    video = parse.as_text(row[name], where, name)
    captions.setdefault(video, []).extend(parse.sentences(row["caption"], where))
  return captions


def _places(name: str) -> tuple[str, str]:
  return os.path.join(_FOLDER, name), name


def _chosen(request: Request) -> dict:
  """{video: which of its captions is the query}."""
  path = parse.required(request, *_places(_CHOSEN))
  chosen = pickles.load(path, request.allow_pickle)
  parse.require(isinstance(chosen, dict), path, "a dict from video to caption number")
  return chosen


def _one(texts, chosen: dict, name: str, where: str) -> tuple[str, ...]:
  """The caption that 1k-A asks for; none if the video has none."""
  if not texts:
    return ()
  number = chosen.get(name)
  expected = f"a caption number below {len(texts)} in {_CHOSEN}, got {number!r}"
  # NumPy's integers are numbers too.
  index = int(number) if hasattr(number, "__index__") else -1  # pyright: ignore
  parse.require(0 <= index < len(texts), where, expected)
  return (texts[index],)
