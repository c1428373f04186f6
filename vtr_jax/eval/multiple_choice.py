"""Multiple choice: the candidate sentences of each clip, one of which is correct.

Reads both formats in which MSR-VTT-MC is distributed. Singularity, VindLU, UMT: a JSON
list of {"video": "video7010.mp4", "caption": [sentences], "answer": index of the
correct one}. All-in-one: lines of {"clip_name": "video7010", "options": [sentences],
"answer": index}.
"""

import pathlib
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from vtr_jax.core import io
from vtr_jax.core.errors import DataError

_EXPECTED = "expected video, caption [sentences] and answer"


def read_candidates(
  path: str, ids: list[str]
) -> tuple[list[str], Int64[np.ndarray, " t"], Bool[np.ndarray, " t"]]:
  """(sentences, the clip index of each, whether it is the answer).

  Args:
    path: file in one of the formats above.
    ids: ids of the split's clips; the file may add a directory and an extension.

  Raises:
    DataError: the file cannot be read or has another format; it names an unknown or a
      duplicate clip, or lacks one of the split.
  """
  rows, texts, owner, right = {name: i for i, name in enumerate(ids)}, [], [], []
  listed = set()
  for number, item in enumerate(_items(path)):
    where = f"{path}, item {number}"
    try:
      name, sentences, answer = _fields(item)
    except (TypeError, KeyError, ValueError) as e:
      raise DataError(f"{where}: {_EXPECTED}") from e
    row = rows.get(name, rows.get(pathlib.PurePath(name).stem))
    if row is None or row in listed:
      cause = "not a clip of the split" if row is None else "named twice"
      raise DataError(f"{where}: {name!r} is {cause}; fix the file or the data")
    listed.add(row)
    texts += sentences
    owner += [row] * len(sentences)
    right += [i == answer for i in range(len(sentences))]
  if len(listed) < len(ids):
    missing = next(name for name, row in rows.items() if row not in listed)
    raise DataError(f"{path}: no candidates for clip {missing!r}; add them")
  return texts, np.array(owner, np.int64), np.array(right, np.bool_)


def _items(path: str) -> list[Any]:
  """Items of one JSON list, or of one object per line."""
  try:
    text = pathlib.Path(path).read_text(encoding="utf-8")
    if text.lstrip().startswith("["):
      return io.loads(text)
    return [io.loads(line) for line in text.splitlines() if line.strip()]
  except (OSError, ValueError) as e:
    raise DataError(f"{path}: cannot be read ({e}); give --candidates=FILE") from e


def _fields(item: Any) -> tuple[str, list[str], int]:
  """Name, sentences and answer; raises KeyError, TypeError or ValueError."""
  keys = ("clip_name", "options") if "clip_name" in item else ("video", "caption")
  name, sentences = (item[key] for key in keys)
  answer = item["answer"]
  strings = isinstance(sentences, list) and all(isinstance(s, str) for s in sentences)
  if not strings or type(answer) is not int or not 0 <= answer < len(sentences):
    raise ValueError
  return str(name), sentences, answer
