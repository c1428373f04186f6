"""VIOLET's and LAVENDER's txt_<task>.json: questions with numbered answers.

{train, val, test: [{video, question, answer}], vocab: [texts]}, where the answer is a
number of vocab; or, of questions with options, {option_0 to option_4, answer 0 to 4}.
Questions are called <split>-<number>. Those whose answer was not among the 1,000 of
vocab are not in these files: 11,983 of MSVD-QA's 13,157 test questions are.
"""

from collections.abc import Iterator
from typing import Any

from vtr_jax.prepare.formats import media, msvd_qa, parse
from vtr_jax.prepare.formats.base import Item, Note, Request


def read(request: Request) -> Iterator[Item]:
  """One item a video, with all its questions."""
  files = media.Files(request.source)
  for _, path in parse.listed(request, "txt_*.json"):
    content = parse.as_object(parse.load_json(path), path)
    words = parse.as_list(content.get("vocab", []), f"{path}: 'vocab'", "texts")
    splits = {key: rows for key, rows in content.items() if key != "vocab"}
    expected = "an object with train, val or test"
    parse.require(splits, path, expected)
    seen: dict[str, str] = {}
    for key, rows in splits.items():
      split = parse.split_named(key)

      def name(where: str, video: str, split=split, seen=seen) -> tuple[str, ...]:
        del where
        first = seen.setdefault(video, split) == split
        return video if first else f"{video}#{split}", video

      questions = _questions(f"{path}: {key!r}", split, rows, words)
      yield from parse.noted(files, split, questions, name)


def _questions(
  place: str, split: str, rows: Any, words: list
) -> Iterator[tuple[str, str, Note]]:
  """(file and key, video, question)."""
  for i, row in enumerate(parse.as_list(rows, place)):
    where = f"{place}[{i}]"
    row = parse.as_object(row, where, "video", "question", "answer")
    video = parse.as_text(row["video"], where, "video")
    yield where, video, _question(where, f"{split}-{i}", row, words)


def _question(where: str, name: str, row: dict[str, Any], words: list) -> Note:
  """The note; the answer is a number of the options, or of `words`."""
  options = tuple(row[f"option_{i}"] for i in range(5) if f"option_{i}" in row)
  texts, number = options or words, row["answer"]
  known = type(number) is int and 0 <= number < len(texts)
  parse.require(known, where, f"an answer of 0 to {len(texts) - 1}, got {number!r}")
  note = msvd_qa.question(where, name, row | dict(answer=texts[number]))
  if not options:
    return note
  return parse.note(
    where, "question", name, note.text, answer=texts[number], options=options
  )
