"""TGIF-QA (Jang et al. 2017): four tasks about GIFs of Tumblr.

{Train,Test}_{action,transition,frameqa,count}_question.csv, between tabs: gif_name,
question, a1 to a5 of the two with options, answer, type of frameqa, vid_id and key. Or
HQGA's {action,transition,frameqa}/{train,val,test}.csv: video, question, a0 to a4,
answer, qid. Answers of questions with options are their places, from 0; counts are 0 to
10. Questions: action 20,471 and 2,274, transition 52,704 and 6,232, frame 39,392 and
13,691, count 26,839 and 3,554 (train and test); the publishers have no validation.
"""

import os
from collections.abc import Iterator

from vtr_jax.core.config import choose
from vtr_jax.prepare.formats import media, parse
from vtr_jax.prepare.formats.base import Item, Note, Request

# all: the tasks whose files are there, as one set of notes.
VARIANTS = ("all", "action", "transition", "frame", "count")
_SPLITS = dict(
  train=("Train", "train"), validation=("Val", "val"), test=("Test", "test")
)
_FRAME_TYPES = ("object", "number", "colour", "location")


def read(request: Request) -> Iterator[Item]:
  """One item a GIF, with all its questions; their types are the tasks."""
  files = media.Files(request.source)
  tasks = VARIANTS[1:] if request.variant == "all" else (request.variant,)
  gifs: dict[tuple[str, str], list[Note]] = {}
  places: dict[tuple[str, str], str] = {}
  for task, split, path in _files(request, tasks):
    for where, gif, note in _questions(path, task):
      places.setdefault((split, gif), where)
      gifs.setdefault((split, gif), []).append(note)
  splits: dict[str, set[str]] = {}
  for split, gif in gifs:
    splits.setdefault(gif, set()).add(split)
  for (split, gif), notes in gifs.items():
    # Tasks divide the GIFs differently, and an item is in one split.
    name = gif if len(splits[gif]) == 1 else f"{gif}#{split}"
    found = files.find(gif, places[split, gif])
    yield Item(name, split, found, (), notes=tuple(notes))


def _files(request: Request, tasks: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
  """(task, split, path) of the existing files."""
  found, names = False, []
  if request.split:
    choose(request.split, _SPLITS, "split")
  for task in tasks:
    folder = dict(frame="frameqa").get(task, task)
    for split, (title, short) in _SPLITS.items():
      if request.split not in ("", split):
        continue
      names = [f"{title}_{folder}_question.csv", os.path.join(folder, f"{short}.csv")]
      if len(tasks) == 1:
        names.append(f"{short}.csv")
      if path := parse.optional(request, *names):
        found = True
        yield task, split, path
  if not found:
    parse.required(request, *names)


def _questions(path: str, task: str) -> Iterator[tuple[str, str, Note]]:
  """(file and line, GIF, question)."""
  choice = task in ("action", "transition")
  with_tabs = "\t" in next(parse.lines(path), ("", ""))[1]
  if with_tabs:
    columns = ["gif_name", "question", "answer", "vid_id", "key"]
    options = [f"a{i}" for i in range(1, 6)] if choice else []
    rows = _tabbed(path, columns + options)
  else:
    columns = ["video", "question", "answer", "qid"]
    options = [f"a{i}" for i in range(5)] if choice else []
    rows = parse.table(path, columns + options)
  for where, row in rows:
    answer, texts = row["answer"].strip(), tuple(row[o].strip() for o in options)
    if choice:
      known = answer in ("0", "1", "2", "3", "4")
      parse.require(known, where, f"an answer of 0 to 4, got {answer!r}")
      answer = texts[int(answer)]
    if task == "count":
      known = answer.isdecimal() and int(answer) <= 10
      parse.require(known, where, f"a count of 0 to 10, got {answer!r}")
    note = parse.note(
      *(where, "question", _id(row), row["question"]),
      answer=answer,
      options=texts,
      type=_type(where, row, task),
    )
    yield where, row["gif_name" if with_tabs else "video"], note


def _tabbed(path: str, columns: list[str]) -> Iterator[tuple[str, dict[str, str]]]:
  """("file:line", {column: text}) of unquoted lines with a header."""
  header: list[str] = []
  for where, fields in parse.tabbed(path):
    if not header:
      header, missing = fields, [name for name in columns if name not in fields]
      parse.require(not missing, where, f"columns {', '.join(columns)}")
      continue
    same = len(fields) == len(header)
    parse.require(same, where, f"{len(header)} fields as in line 1, got {len(fields)}")
    yield where, dict(zip(header, fields, strict=True))


def _id(row: dict[str, str]) -> str:
  """Such as COUNT12; the header of the publishers' files swaps vid_id and key."""
  if "qid" in row:
    return row["qid"]
  return row["key"] if row["vid_id"].isdecimal() else row["vid_id"]


def _type(where: str, row: dict[str, str], task: str) -> str:
  if task != "frame" or "type" not in row:
    return task
  known = row["type"] in ("0", "1", "2", "3")
  parse.require(known, where, f"a type of 0 to 3, got {row['type']!r}")
  return _FRAME_TYPES[int(row["type"])]
