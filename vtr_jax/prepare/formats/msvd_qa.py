"""MSVD-QA (Xu et al. 2017): questions about the videos of MSVD, without captions.

{train,val,test}_qa.json, lists of {video_id, id, question, answer}, or HQGA's
{train,val,test}.csv with columns video, qid, question and answer; and
youtube_mapping.txt with lines "<clip> vid<number>". 30,933, 6,415 and 13,157 questions
about 1,161, 245 and 504 videos. Of the 245, retrieval has 98 in validation and 147 in
test.
"""

from collections.abc import Iterator
from typing import Any

from vtr_jax.prepare.formats import media, parse
from vtr_jax.prepare.formats.base import Item, Note, Request

_FILES = dict(
  train=("train_qa.json", "train.csv"),
  validation=("val_qa.json", "val.csv"),
  test=("test_qa.json", "test.csv"),
)
_MAPPING = ("youtube_mapping.txt", "youtube_video_to_id_mapping.txt")
_TYPES = ("what", "who", "how", "when", "where")


def read(request: Request) -> Iterator[Item]:
  """One item a video, called by its clip's name, with all its questions."""
  files = media.Files(request.source)
  names = _names(parse.required(request, *_MAPPING))
  for split, path in parse.by_split(request, _FILES):
    videos: dict[str, list[Note]] = {}
    places: dict[str, str] = {}
    for where, number, note in _questions(path):
      parse.require(number in names, where, f"a video of the mapping, got {number!r}")
      places.setdefault(number, where)
      videos.setdefault(number, []).append(note)
    for number, notes in videos.items():
      clip = names[number]
      video = files.find(clip, places[number], f"vid{number}")
      yield Item(clip, split, video, (), notes=tuple(notes))


def _names(path: str) -> dict[str, str]:
  """{number: clip} of the lines "<clip> vid<number>"."""
  names = {}
  for where, line in parse.lines(path):
    clip, _, video = line.partition(" ")
    number = video.strip().removeprefix("vid")
    parse.require(number.isdecimal(), where, "<clip> vid<number>")
    parse.require(number not in names, where, f"each video once, got vid{number} again")
    names[number] = clip
  return names


def _questions(path: str) -> Iterator[tuple[str, str, Note]]:
  """(file and line or key, number of the video, question)."""
  if path.endswith(".csv"):
    for where, row in parse.table(path, ("video", "qid", "question", "answer")):
      yield where, row["video"], _question(where, row, "qid")
    return
  for i, row in enumerate(parse.as_list(parse.load_json(path), path)):
    where = f"{path}: [{i}]"
    row = parse.as_object(row, where, "video_id", "id", "question", "answer")
    yield where, str(row["video_id"]), _question(where, row, "id")


def _question(where: str, row: dict[str, Any], key: str) -> Note:
  text = parse.as_text(row["question"], where, "question")
  first = text.split()[0].lower()
  kind = first if first in _TYPES else "other"
  return parse.note(where, "question", row[key], text, answer=row["answer"], type=kind)
