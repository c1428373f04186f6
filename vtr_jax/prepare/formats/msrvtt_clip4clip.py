"""MSR-VTT as CLIP4Clip keeps it: 1k-A with 9,000 or 7,010 videos for training.

MSRVTT_train.9k.csv or MSRVTT_train.7k.csv, MSRVTT_JSFUSION_test.csv with one sentence
a video, and MSRVTT_data.json, which holds the captions of training.
"""

from collections.abc import Iterator

from vtr_jax.prepare.formats import media, msrvtt, parse
from vtr_jax.prepare.formats.base import Item, Request

VARIANTS = ("9k", "7k")


def read(request: Request) -> Iterator[Item]:
  """One item a video: all captions in training, the one sentence in test."""
  files = media.Files(request.source)
  lists = dict(
    train=f"MSRVTT_train.{request.variant}.csv", test="MSRVTT_JSFUSION_test.csv"
  )
  for split, path in parse.by_split(request, lists):
    if split == "test":
      for where, row in parse.table(path, ("video_id", "sentence")):
        captions = parse.sentences(row["sentence"], where)
        yield _item(row["video_id"], split, captions, files, where)
      continue
    data = parse.required(request, "MSRVTT_data.json")
    captions_of = msrvtt.captions_of(data, "sentences", "video_id")
    for where, row in parse.table(path, ("video_id",)):
      captions = tuple(captions_of.get(row["video_id"], ()))
      yield _item(row["video_id"], split, captions, files, where)


def _item(name, split, captions, files, where) -> Item:
  parse.require(name.strip(), where, "a video_id, got an empty one")
  return Item(name, split, files.find(name, where), captions)
