"""Questions in the JSON of UMT, VindLU, Singularity and mmaction2.

{msrvtt,msvd,anet}_qa_{train,val,test}.json, lists of {video, question, question_id,
answer} and perhaps answer_type. Items are called by the file's name without its
folder and ending, as in `msrvtt`, `msvd` and `activitynet`.
"""

from collections.abc import Iterator
from typing import Any

from vtr_jax.prepare.formats import media, msvd_qa, parse
from vtr_jax.prepare.formats.base import Item, Note, Request

# any: all files of the directory, which must be of one data set.
VARIANTS = ("any", "msrvtt", "msvd", "anet")


def read(request: Request) -> Iterator[Item]:
  """One item a video, with all its questions."""
  files = media.Files(request.source)
  prefix = "*" if request.variant == "any" else request.variant
  for split, path in parse.listed(request, f"{prefix}_qa_*.json"):
    if path.endswith("answer_list.json"):
      continue
    paths: dict[str, str] = {}  # of the videos, by their names
    name = lambda where, video, paths=paths: (video, paths[video], video)
    yield from parse.noted(files, split, _questions(path, paths), name)


def _questions(path: str, paths: dict[str, str]) -> Iterator[tuple[str, str, Note]]:
  """(file and key, video's name, question); fills in `paths`."""
  for i, row in enumerate(parse.as_list(parse.load_json(path), path)):
    where = f"{path}: [{i}]"
    row = parse.as_object(row, where, "video", "question", "question_id", "answer")
    video = parse.as_text(row["video"], where, "video")
    paths.setdefault(media.stem(video), video)
    yield where, media.stem(video), _question(where, row)


def _question(where: str, row: dict[str, Any]) -> Note:
  note = msvd_qa.question(where, row["question_id"], row)
  kind = row.get("answer_type", note.type)
  return note._replace(type=kind) if isinstance(kind, str) else note
