"""The field's English: private words that must not come back.

Docstrings, comments and messages of the package, its tests and scripts, README and
docs. Each pattern has the word to use; a researcher should have to read nothing twice.
"""

import io
import pathlib
import re
import tokenize

import pytest
from conftest import ROOT

WORDS = {
  r"goes on\b|go on\b(?! sale)": "resumes, continues",
  r"gives? back|given back": "reconstructs, returns",
  r"made small": "the loss, minimises",
  r"made again|\banew\b": "recomputed, again",
  r"\bmend(s|ed|ing)?\b": "fix",
  r"\bprocessor time\b": "CPU time",
  r"to the last bit|bit for bit": "bitwise identical",
  r"\bbehind step\b|\bbeside step\b": "after step",
  r"\brunning mean\b": "EMA",
  r"\brebuilds?\b|\brebuilt\b": "reconstruct",
  r"\btold (by|of|in)\b|\btells of\b": "reported, described",
  r"\bput up with\b": "tolerated",
  r"\btheirs\b": "stored, expected, the other's",
  # "beside {noun}" occurs in captions of moving_scenes, whose bytes stay as they are.
  r"\bbeside\b(?! \{noun\})": "next to, alongside",
  r"\balike\b": "the same, equal",
  r"\b(is|are|be) hidden\b|\bhidden (video|text|tubes|tokens|patches)\b": "masked",
  r"\bthe house\b": "the architecture",
  r"\bis no (file|name|number|run|path|video|image|JSON|string|checkpoint)\b": (
    "is not a valid ..."
  ),
}
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
FOLDERS = ("vtr_jax", "configs", "launch", "benchmarks", "tests", "colabs")
FILES = [
  path
  for folder in FOLDERS
  for path in (ROOT / folder).rglob("*")
  if path.suffix in (".py", ".sh", ".yaml", ".ipynb")
  and path != pathlib.Path(__file__)  # has the words
]


def prose(path):
  """(line number, text) of strings and comments of a file; all lines of others."""
  if path.suffix != ".py":
    yield from enumerate(path.read_text().splitlines(), 1)
    return
  for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
    if token.type in (tokenize.STRING, tokenize.COMMENT):
      for i, line in enumerate(token.string.splitlines()):
        yield token.start[0] + i, line


@pytest.mark.parametrize(
  "path", sorted(PAGES + FILES), ids=lambda p: str(p.relative_to(ROOT))
)
def test_a_file_contains_no_discouraged_words(path):
  wrong = [
    f"{path.relative_to(ROOT)}:{number}: {found[0]!r}: write {better}"
    for number, line in prose(path)
    for word, better in WORDS.items()
    if (found := re.search(word, line, re.IGNORECASE))
  ]
  assert not wrong, "\n".join(wrong)
