"""Moments in the lines of QVHighlights (Lei et al. 2021), and of lighthouse.

*_{train,val,test}_release.jsonl, with a line each of {qid, query, duration, vid,
relevant_windows} and, in QVHighlights, {relevant_clip_ids, saliency_scores}: scores of
three raters for clips of two seconds. lighthouse has Charades-STA, TACoS and
ActivityNet Captions in this layout. QVHighlights: 7,218, 1,550 and 1,542 queries; of a
test file without windows nothing is read.
"""

from collections.abc import Iterator
from typing import Any

from vtr_jax.data.notes import Note
from vtr_jax.prepare.formats import activitynet, media, parse
from vtr_jax.prepare.formats.base import Item, Request


def read(request: Request) -> Iterator[Item]:
  """One item a video, with all its moments, called by their qid."""
  files = media.Files(request.source)
  for split, path in parse.listed(request, "*_release.jsonl"):
    yield from parse.noted(files, split, _moments(path))


def _moments(path: str) -> Iterator[tuple[str, str, Note | None]]:
  """(file and line, video, moment; None without windows)."""
  for where, row in parse.json_lines(path):
    row = parse.as_object(row, where, "qid", "query", "vid")
    video = parse.as_text(row["vid"], where, "vid")
    yield where, video, _moment(where, row) if "relevant_windows" in row else None


def _moment(where: str, row: dict[str, Any]) -> Note:
  windows = parse.as_list(row["relevant_windows"], where, "relevant_windows")
  length = row.get("duration")
  duration = 0.0 if length is None else activitynet.number(length, where, "duration")
  clips = parse.as_list(row.get("relevant_clip_ids", []), where, "relevant_clip_ids")
  scores = parse.as_list(row.get("saliency_scores", []), where, "saliency_scores")
  if scores:  # lighthouse's other sets may have the clips alone
    same = len(clips) == len(scores)
    parse.require(same, where, f"{len(clips)} saliency_scores, got {len(scores)}")
    lists = all(isinstance(score, list) for score in scores)
    parse.require(lists, where, "a list of scores for each clip")
  return parse.note(
    *(where, "moment", row["qid"], row["query"]),
    windows=tuple(parse.segment(window, where) for window in windows),
    duration=duration,
    saliency=tuple((c, *s) for c, s in zip(clips, scores, strict=False)),
  )
