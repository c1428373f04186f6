"""Reads any model's predictions, in the layouts that peers write.

Answers: a list of {"question_id", "answer"} (UMT, VindLU, Singularity, ActivityNet-QA),
where "prediction" or "pred" goes before "answer"; {id: answer}; {id: {"prediction": n,
"answer": n}} (HQGA); one answer a question, in their order; or one object a line.
Moments: a line each of {"qid", "pred_relevant_windows": [[start, end, score]],
"pred_saliency_scores"} (QVHighlights, lighthouse); the last, and scores, are optional.

Every query needs exactly one prediction. The first entry that does not fit is an error
with its line.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from vtr_jax.core.config import nearest
from vtr_jax.core.errors import DataError, NotFiniteError
from vtr_jax.data.captions import blank
from vtr_jax.data.notes import Note
from vtr_jax.eval.entries import Entries, Entry

_PLURAL = dict(question="questions", query="queries")
_IDS = ("question_id", "qid", "id")
_ANSWERS = ("prediction", "pred", "answer")
_SHOWN = 80  # characters of a value in a message; ours
_SLACK = 0.01  # seconds; published windows and durations are rounded to hundredths


class Moments(NamedTuple):
  """Predictions of each query, in the order of the queries.

  windows: [start, end] or [start, end, score]. saliency: score of each clip of two
  seconds; None if no query has them. beyond: windows that end after their video.
  """

  windows: list[list[list[float]]]
  saliency: list[list[float]] | None
  beyond: int


def answer_list(path: str) -> list[str]:
  """The texts that predicted numbers stand for.

  Raises:
    DataError: not a JSON list of texts, or a text occurs twice.
  """
  entries = Entries(path, "--answers", "answers")
  texts: dict[str, int] = {}
  for entry in entries.entries:
    if entry.key is not None or not isinstance(entry.value, str):
      raise entries.error(entry, "not a text; give a JSON list of the answers")
    if entry.value in texts:
      raise entries.error(entry, f"answer {entry.value!r} occurs twice; remove one")
    texts[entry.value] = len(texts)
  return list(texts)


def answers(path: str, questions: Sequence[Note], words: Sequence[str] = ()) -> list:
  """The answer to each question, in their order: a text, or None for "unknown".

  Args:
    path: of the file.
    questions: of one split. Of those with options, numbers are places of options, from
      0.
    words: the texts that numbers stand for. They count from 0 in lists, from 1 in an
      object by id, where 0 is unknown (HQGA).

  Raises:
    DataError: see the module.
  """
  entries = Entries(path)
  found: list = [None] * len(questions)
  for row, entry, value in _rows(entries, questions, "question"):
    note, told = questions[row], None
    if isinstance(value, dict):
      key = next((key for key in _ANSWERS if key in value), None)
      if key is None:
        raise entries.error(entry, f"no answer to question {note.id!r}; add it")
      told = value.get("answer") if key != "answer" else None
      value = value[key]
    # HQGA's numbers count from 1; those of lists, as in VIOLET, from 0.
    first = 0 if note.options or entry.key is None else 1
    texts = note.options or words
    found[row] = _answer(entries, entry, note, value, texts, first)
    if type(told) is int:
      _compare(entries, entry, note, told, texts, first)
  return found


def counts(path: str, questions: Sequence[Note]) -> list[float]:
  """The number that is predicted for each question, in their order.

  Raises:
    DataError: see the module; NotFiniteError: a number is not finite.
  """
  entries = Entries(path)
  found = [0.0] * len(questions)
  for row, entry, value in _rows(entries, questions, "question"):
    if isinstance(value, dict):
      value = next((value[key] for key in _ANSWERS if key in value), None)
    what = f"the answer to question {questions[row].id!r}"
    found[row] = _number(entries, entry, value, what)
  return found


def moments(path: str, queries: Sequence[Note], padded: float = 0.0) -> Moments:
  """The predicted windows of each query, in the order of the queries.

  Args:
    path: of the file.
    queries: of one split; the duration of each, if known, limits its windows.
    padded: seconds to which windows may reach in shorter videos, too.

  Raises:
    DataError: see the module; NotFiniteError: a time or a score is not finite.
  """
  entries = Entries(path)
  windows: list[list[list[float]]] = [[] for _ in queries]
  saliency: list[list[float] | None] = [None] * len(queries)
  beyond, width, clips = 0, 0, None
  for row, entry, value in _rows(entries, queries, "query"):
    note = queries[row]
    listed = value.get("pred_relevant_windows") if isinstance(value, dict) else None
    if not isinstance(listed, list):
      raise entries.error(
        entry, f"no list pred_relevant_windows for query {note.id!r}; add it"
      )
    for window in listed:
      times = _window(entries, entry, note, window, width)
      width, limit = len(times), max(note.duration, padded) + _SLACK
      if note.duration and times[1] > limit:
        raise entries.error(
          entry,
          f"window {_short(window)} of query {note.id!r} ends after its video, at "
          f"{note.duration:g} s; cut it",
        )
      beyond += bool(note.duration) and times[1] > note.duration + _SLACK
      windows[row].append(times)
    saliency[row] = _saliency(entries, entry, note, value, clips)
    clips = saliency[row] is not None
  return Moments(windows, [s or [] for s in saliency] if clips else None, beyond)


def _rows(
  entries: Entries, notes: Sequence[Note], what: str
) -> Iterator[tuple[int, Entry, Any]]:
  """(number of the query, entry, its value), each query once.

  Raises:
    DataError: an entry has no id, an unknown one, or one that came before; a query has
      no entry.
  """
  rows = {note.id: i for i, note in enumerate(notes)}
  first = entries.entries[0]
  plain = first.key is None and not isinstance(first.value, dict)
  if plain and len(entries.entries) != len(notes):
    raise DataError(
      f"{entries.path}: {len(entries.entries):,} answers without ids, for "
      f"{len(notes):,} questions; give one a question, in their order"
    )
  seen: dict[int, Entry] = {}
  for number, entry in enumerate(entries.entries):
    if plain and isinstance(entry.value, dict):
      raise entries.error(entry, "an object among answers without ids; give all an id")
    row = number if plain else rows.get(name := _id(entries, entry))
    if row is None:
      raise entries.error(
        entry,
        f"{what} {_short(name)} is not in the {len(notes):,} of the split; "
        f"{_closest(name[:_SHOWN], rows)}",
      )
    if row in seen:
      raise entries.error(
        entry,
        f"{what} {notes[row].id!r} was already at {entries.where(seen[row])}; "
        "remove one",
      )
    seen[row] = entry
    yield row, entry, entry.value
  missing = [note.id for i, note in enumerate(notes) if i not in seen]
  if missing:
    raise DataError(
      f"{entries.path}: no prediction for {len(missing):,} of {len(notes):,} "
      f"{_PLURAL[what]}, the first is {missing[0]!r}; predict all of the split"
    )


def _short(value: Any) -> str:
  """As Python writes it, cut to what fits in a line."""
  text = repr(value)
  return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _closest(name: str, known: dict[str, int]) -> str:
  """Of few, the nearest; comparing with tens of thousands takes seconds."""
  if len(known) <= 1000:
    return nearest(name, known)
  return f"they are called like {next(iter(known))!r}; look at the split"


def _id(entries: Entries, entry: Entry) -> str:
  value = entry.value
  found = [value[k] for k in _IDS if k in value] if isinstance(value, dict) else []
  if entry.key is not None:
    # Its "id" may be that of a video.
    own = [value[k] for k in _IDS[:-1] if k in value] if found else []
    if own and str(own[0]) != entry.key:
      raise entries.error(
        entry, f"{own[0]!r} below the key {entry.key!r}; give one id of the two"
      )
    return entry.key
  if not found or type(found[0]) not in (int, str):
    raise entries.error(entry, f"no id; add {', '.join(_IDS[:-1])} or {_IDS[-1]}")
  return str(found[0])


def _answer(entries, entry, note: Note, value: Any, texts: Sequence[str], first: int):
  """The text of an answer; None for HQGA's 0, unknown."""
  if type(value) is int:
    if not texts:
      raise entries.error(
        entry,
        f"answer {_short(value)} to question {note.id!r} is a number; give --answers",
      )
    if first <= value < len(texts) + first:
      return texts[value - first]
    if first and value == 0:
      return None
    raise entries.error(
      entry,
      f"answer {_short(value)} to question {note.id!r}, but there are {len(texts):,} "
      f"answers, numbered from {first}; give the list of this model",
    )
  if not isinstance(value, str) or blank(value):
    raise entries.error(
      entry, f"no answer to question {note.id!r}, but {_short(value)}"
    )
  text = value.strip()
  if note.options and text not in note.options:
    raise entries.error(
      entry, f"answer {_short(text)} to question {note.id!r} is none of its options"
    )
  return text


def _compare(entries, entry, note: Note, told: int, texts, first: int) -> None:
  """Rejects a list of answers that another number of the entry contradicts."""
  own = told - first
  named = texts[own] if 0 <= own < len(texts) else None
  if named == note.answer or (named is None and note.answer not in texts):
    return
  raise entries.error(
    entry,
    f"question {note.id!r} has answer {told}, {named!r} of the {len(texts):,} answers, "
    f"but it is {note.answer!r}; give the list of this model",
  )


def _number(entries, entry, value: Any, what: str) -> float:
  """A finite number, or the text of one."""
  try:
    number = math.nan if isinstance(value, bool) else float(value)
  except (TypeError, ValueError, OverflowError):
    raise entries.error(entry, f"{what} is {_short(value)}; give a number") from None
  if not math.isfinite(number):
    raise NotFiniteError(f"{entries.where(entry)}: {what} is {value}; give a number")
  return number


def _window(entries, entry, note: Note, window: Any, width: int) -> list[float]:
  """[start, end] or [start, end, score], as the others of the file."""
  if not isinstance(window, list) or len(window) not in (2, 3):
    raise entries.error(
      entry, f"window {_short(window)} of query {note.id!r} is not [start, end, score]"
    )
  what = f"window {_short(window)} of query {note.id!r}"
  if width and len(window) != width:
    raise entries.error(entry, f"{what} has {len(window)} numbers, others {width}")
  numbers = [_number(entries, entry, x, f"a number of {what}") for x in window]
  if -_SLACK <= numbers[0] < 0:
    numbers[0] = 0.0
  if not 0 <= numbers[0] < numbers[1]:
    raise entries.error(entry, f"{what}: expected 0 <= start < end")
  return numbers


def _saliency(entries, entry, note: Note, value: dict, others: bool | None):
  """Scores of the clips; None without them, as for all other queries."""
  scores = value.get("pred_saliency_scores")
  if others is not None and others != (scores is not None):
    raise entries.error(
      entry, f"query {note.id!r}: pred_saliency_scores must be of all queries or none"
    )
  if scores is None:
    return None
  if not isinstance(scores, list):
    raise entries.error(entry, f"query {note.id!r}: pred_saliency_scores is not a list")
  what = f"a score of pred_saliency_scores of query {note.id!r}"
  return [_number(entries, entry, score, what) for score in scores]
