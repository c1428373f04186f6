"""Metrics of video question answering: accuracy, ceiling, and answers without a video.

What an answer outside a model's vocabulary counts is worth four points on MSVD-QA: by
the rule "wrong", the only one of this project, every question is in the denominator, as
in Just-Ask, HQGA and UMT; "dropped" leaves such questions out, as VIOLET did.
"""

import collections
from collections.abc import Callable, Collection, Sequence

import numpy as np
from jaxtyping import Bool, Float

from vtr_jax.data.notes import frequent


def first_word(question: str) -> str:
  """A question's first word in lower case."""
  return question.split(maxsplit=1)[0].lower()


def guesses(
  questions: Sequence[str],
  answers: Sequence[str],
  asked: Sequence[str],
  group: Callable[[str], str] = first_word,
) -> list[str]:
  """The blind answer to each question: the usual one of its group.

  Args:
    questions: of training.
    answers: of training, not empty.
    asked: the questions to answer. Those of a group that training does not have get its
      most frequent answer.
    group: of a question.
  """
  by_group: dict[str, list[str]] = collections.defaultdict(list)
  for question, answer in zip(questions, answers, strict=True):
    by_group[group(question)].append(answer)
  usual = {name: frequent(found, 1)[0] for name, found in by_group.items()}
  (other,) = frequent(answers, 1)
  return [usual.get(group(question), other) for question in asked]


def inside(answers: Sequence[str], words: Collection[str]) -> Bool[np.ndarray, " q"]:
  """Whether each answer is in a vocabulary."""
  words = set(words)
  return np.array([answer in words for answer in answers], np.bool_)


def right(
  predicted: Sequence[str | None], truth: Sequence[str]
) -> Bool[np.ndarray, " q"]:
  """Whether each answer is the true one, character by character."""
  pairs = zip(predicted, truth, strict=True)
  return np.array([own == other for own, other in pairs], np.bool_)


def accuracy(
  hits: Bool[np.ndarray, " q"] | Float[np.ndarray, " q"], groups: Sequence[str]
) -> dict[str, float]:
  """ "accuracy", and "accuracy/GROUP" of each group that is named, in percent."""
  results = dict(accuracy=100 * float(np.mean(hits)))
  names, index = np.unique(np.array(groups, np.str_), return_inverse=True)
  sums = np.bincount(index.reshape(-1), hits, len(names))
  shares = 100 * sums / np.bincount(index.reshape(-1), minlength=len(names))
  named = zip(names.tolist(), shares.tolist(), strict=True)
  return results | {f"accuracy/{name}": share for name, share in named if name}


def counted(
  values: Float[np.ndarray, " q"], limits: tuple[int, int]
) -> Float[np.ndarray, " q"]:
  """Numbers `rounded`, and cut to the least and the greatest count."""
  return np.clip(rounded(values), *limits)


def rounded(values: Float[np.ndarray, " q"]) -> Float[np.ndarray, " q"]:
  """The nearest whole numbers, halves up."""
  return np.floor(values + 0.5)


def squared_error(
  predicted: Float[np.ndarray, " q"], truth: Float[np.ndarray, " q"]
) -> float:
  """Mean squared error."""
  return float(np.mean((predicted - truth) ** 2))
