"""MSVD-QA (Xu et al. 2017): questions about the videos of MSVD, without captions.

{train,val,test}_qa.json, lists of {video_id, id, question, answer}; HQGA's
{train,val,test}.csv with columns video, qid, question and answer; or ALPRO's
{train,val,test}.jsonl of {video_id, question, answer}, whose questions are called
<split>-<number>. youtube_mapping.txt has lines "<clip> vid<number>"; without it, videos
are called vid<number>. 30,933, 6,415 and 13,157 questions about 1,161, 245 and 504
videos. Of the 245, retrieval has 98 in validation and 147 in test.
"""

from collections.abc import Callable, Iterator
from typing import Any

from vtr_jax.prepare.formats import media, parse
from vtr_jax.prepare.formats.base import Item, Note, Request

_FILES = dict(
  train=("train_qa.json", "train.csv", "train.jsonl"),
  validation=("val_qa.json", "val.csv", "val.jsonl"),
  test=("test_qa.json", "test.csv", "test.jsonl"),
)
_MAPPING = ("youtube_mapping.txt", "youtube_video_to_id_mapping.txt")
_TYPES = ("what", "who", "how", "when", "where")


def read(request: Request) -> Iterator[Item]:
  """One item a video, called by its clip's name, with all its questions."""
  path = parse.optional(request, *_MAPPING)
  names = _names(path) if path else {}
  clips = set(names.values())

  def clip(where: str, video: str) -> tuple[str, str]:
    if not path or video in clips:
      return (f"vid{video}" if video.isdecimal() else video), video
    parse.require(video in names, where, f"a video of the mapping, got {video!r}")
    return names[video], f"vid{video}"

  yield from items(request, clip)


def items(
  request: Request, clip: Callable[[str, str], tuple[str, ...]]
) -> Iterator[Item]:
  """One item a video, with all its questions.

  Args:
    request: of files with the names and in the layouts above.
    clip: (file and line or key, video as the file names it) -> id of the item, and
      other names of its file.
  """
  files = media.Files(request.source)

  def name(where: str, video: str) -> tuple[str, ...]:
    names = clip(where, video)
    return names[0], *names

  for split, path in parse.by_split(request, _FILES):
    yield from parse.noted(files, split, _questions(path, split), name)


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


def _questions(path: str, split: str) -> Iterator[tuple[str, str, Note]]:
  """(file and line or key, video as the file names it, question)."""
  if path.endswith(".csv"):
    for where, row in parse.table(path, ("video", "qid", "question", "answer")):
      yield where, row["video"], question(where, row["qid"], row)
    return
  if path.endswith(".jsonl"):
    for i, (where, row) in enumerate(parse.json_lines(path)):
      row = parse.as_object(row, where, "video_id", "question", "answer")
      yield where, str(row["video_id"]), question(where, f"{split}-{i}", row)
    return
  for i, row in enumerate(parse.as_list(parse.load_json(path), path)):
    where = f"{path}: [{i}]"
    row = parse.as_object(row, where, "video_id", "id", "question", "answer")
    yield where, str(row["video_id"]), question(where, row["id"], row)


def question(where: str, name: object, row: dict[str, Any]) -> Note:
  """The note of a row's question and answer; its type is the first word."""
  text = parse.as_text(row["question"], where, "question")
  first = text.split()[0].lower()
  kind = first if first in _TYPES else "other"
  return parse.note(where, "question", name, text, answer=row["answer"], type=kind)
