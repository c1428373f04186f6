"""LSMDC 2016's multiple choice (Torabi et al. 2016): which sentence is of the clip.

LSMDC16_multiple_choice_{train,valid}.csv: between tabs the clip, four times, the right
sentence and four others. LSMDC16_multiple_choice_test_randomized.csv: the clip, four
times, five sentences, the number of the right one from 1. 101,079, 7,408 and 10,053.
"""

import collections
from collections.abc import Iterator

from vtr_jax.prepare.formats import media, parse
from vtr_jax.prepare.formats.base import Item, Note, Request

_FILES = dict(
  train="LSMDC16_multiple_choice_train.csv",
  validation="LSMDC16_multiple_choice_valid.csv",
  test="LSMDC16_multiple_choice_test_randomized.csv",
)
_QUESTION = "which sentence describes the clip"  # ours: the files ask nothing


def read(request: Request) -> Iterator[Item]:
  """One item a clip; its questions are called by it, further ones clip#1 and so on."""
  files = media.Files(request.source)
  for split, path in parse.by_split(request, _FILES):
    yield from parse.noted(files, split, _questions(path, split))


def _questions(path: str, split: str) -> Iterator[tuple[str, str, Note]]:
  """(file and line, clip, question)."""
  counts: dict[str, int] = collections.Counter()
  columns = 11 if split == "test" else 10
  for where, fields in parse.tabbed(path):
    same = len(fields) == columns
    parse.require(same, where, f"{columns} fields between tabs, got {len(fields)}")
    clip, options = fields[0], tuple(fields[5:10])
    parse.require(clip, where, "the name of a clip, got an empty one")
    right = fields[10] if split == "test" else "1"
    known = right in ("1", "2", "3", "4", "5")
    parse.require(known, where, f"an answer of 1 to 5, got {right!r}")
    name = f"{clip}#{counts[clip]}" if counts[clip] else clip
    counts[clip] += 1
    fields = dict(answer=options[int(right) - 1], options=options)
    yield where, clip, parse.note(where, "question", name, _QUESTION, **fields)
