"""ActivityNet-QA (Yu et al. 2019): questions about the videos of ActivityNet.

{train,val,test}_q.json, lists of {video_name, question, question_id}, and
{train,val,test}_a.json, lists of {question_id, answer, type}. Items are called
v_<video_name>, as in `activitynet`. 32,000, 18,000 and 8,000 questions about 3,200,
1,800 and 800 videos.
"""

from collections.abc import Iterator
from typing import Any

from vtr_jax.prepare.formats import media, parse
from vtr_jax.prepare.formats.base import Item, Note, Request

_FILES = dict(train="train_q.json", validation="val_q.json", test="test_q.json")
# By the number in the files.
TYPES = (
  *("motion", "spatial", "temporal", "yes/no", "colour", "object", "location"),
  *("number", "other"),
)


def read(request: Request) -> Iterator[Item]:
  """One item a video, with all its questions."""
  files = media.Files(request.source)
  name = lambda where, video: (f"v_{video}", video, f"v_{video}")
  for split, path in parse.by_split(request, _FILES):
    yield from parse.noted(files, split, _questions(path), name)


def _questions(path: str) -> Iterator[tuple[str, str, Note]]:
  """(file and key, video, question); each has one answer, and each answer is used."""
  answers = _answers(path.removesuffix("_q.json") + "_a.json")
  for where, row in _rows(path, "video_name", "question", "question_id"):
    video = parse.as_text(row["video_name"], where, "video_name").removeprefix("v_")
    name = str(row["question_id"])
    parse.require(name in answers, where, f"an answer to {name!r}, the file has none")
    place, answer, kind = answers.pop(name)
    text = row["question"]
    yield (
      where,
      video,
      parse.note(place, "question", name, text, answer=answer, type=kind),
    )
  for name, (place, *_) in answers.items():
    parse.require(False, place, f"a question {name!r} of {path}, it has none")


def _answers(path: str) -> dict[str, tuple[str, str, str]]:
  """{question: (file and key, answer, type)}."""
  answers = {}
  for where, row in _rows(path, "question_id", "answer", "type"):
    name, number = str(row["question_id"]), row["type"]
    parse.require(name not in answers, where, f"one answer to {name!r}, got another")
    known = type(number) is int and 0 <= number < len(TYPES)
    parse.require(known, where, f"a type of 0 to {len(TYPES) - 1}, got {number!r}")
    answers[name] = (where, row["answer"], TYPES[number])
  return answers


def _rows(path: str, *keys: str) -> Iterator[tuple[str, dict[str, Any]]]:
  for i, row in enumerate(parse.as_list(parse.load_json(path), path)):
    where = f"{path}: [{i}]"
    yield where, parse.as_object(row, where, *keys)
