"""Charades-STA (Gao et al. 2017): moments of the videos of Charades.

charades_sta_{train,test}.txt with lines "<video> <start> <end>##<sentence>": 12,408 and
3,720 moments of 5,338 and 1,334 videos. Durations are read from Charades'
Charades_v1_{train,test}.csv (columns id and length) if it is there. 1,802 and 562
windows end after their video, and are kept as published; those that end before they
start are left out.
"""

import collections
import math
from collections.abc import Iterator

from vtr_jax.data.notes import Note
from vtr_jax.prepare.formats import activitynet, media, parse
from vtr_jax.prepare.formats.base import Item, Request

_FILES = dict(train="charades_sta_train.txt", test="charades_sta_test.txt")


def read(request: Request) -> Iterator[Item]:
  """One item a video, with all its moments, called video#number."""
  files = media.Files(request.source)
  for split, path in parse.by_split(request, _FILES):
    yield from parse.noted(files, split, _moments(path, _lengths(request, split)))


def _moments(
  path: str, lengths: dict[str, float]
) -> Iterator[tuple[str, str, Note | None]]:
  """(file and line, video, moment; None if it ends before it starts)."""
  count: dict[str, int] = collections.Counter()
  left = []
  for where, line in parse.lines(path):
    head, mark, sentence = line.partition("##")
    fields = head.split()
    expected = f"'<video> <start> <end>##<sentence>', got {line[:60]!r}"
    parse.require(mark and len(fields) == 3, where, expected)
    video, window = fields[0], _window(fields[1:], where)
    name, timed = f"{video}#{count[video]}", dict(duration=lengths.get(video, 0.0))
    count[video] += 1
    made = window and parse.note(
      *(where, "moment", name, sentence), windows=(window,), **timed
    )
    if not made:
      left.append(where)
    yield where, video, made
  parse.warn_left_out(path, left)


def _window(times: list[str], where: str) -> tuple[float, float] | None:
  """Start and end; None if it ends before it starts."""
  try:
    start, end = map(float, times)
  except ValueError:
    start, end = -1.0, -1.0
  real = 0 <= start < math.inf and 0 <= end < math.inf
  parse.require(real, where, f"two times in seconds, got {times!r}")
  return parse.segment((start, end), where) if start < end else None


def _lengths(request: Request, split: str) -> dict[str, float]:
  path = parse.optional(request, f"Charades_v1_{split}.csv")
  if path is None:
    return {}
  lengths = {}
  for where, row in parse.table(path, ("id", "length")):
    try:
      lengths[row["id"]] = activitynet.number(float(row["length"]), where, "length")
    except ValueError:
      parse.require(False, where, f"a number for length, got {row['length']!r}")
  return lengths
