"""The texts of an evaluation: captions that are queries, and classes in prompts."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from vtr_jax.core.config import require
from vtr_jax.data.captions import blank

CAPTIONS = ("all", "first", "joined")


def check_classes(classes: Mapping[str, Sequence[str]], prompts: Sequence[str]) -> None:
  """Rejects classes and prompts that yield no texts; for `__post_init__`."""
  require(len(prompts) > 0, 'prompts: none; use "{}" for the phrases themselves')
  for prompt in prompts:
    require(prompt.count("{}") == 1, f'prompts: {prompt!r} needs one "{{}}"')
  for label, phrases in classes.items():
    valid = len(phrases) > 0 and not any(map(blank, phrases))
    require(valid, f"classes.{label}: {phrases}; give phrases that are not empty")


def select(
  texts: Sequence[str], owner: Int[np.ndarray, " t"], captions: str
) -> tuple[list[str], Int[np.ndarray, " q"]]:
  """The queries among a split's captions by the rule `captions`, and their owners."""
  if captions == "all":
    return list(texts), owner
  order = np.argsort(owner, kind="stable")
  owners, starts = np.unique(owner[order], return_index=True)
  groups: list[list[int]] = [g.tolist() for g in np.split(order, starts[1:])]
  if captions == "first":
    return [texts[group[0]] for group in groups], owners
  return [" ".join(texts[i].strip() for i in group) for group in groups], owners


def class_texts(
  classes: Mapping[str, Sequence[str]], prompts: Sequence[str]
) -> tuple[list[str], Int[np.ndarray, " t"]]:
  """Every phrase of every class in every prompt, and the class index of each."""
  texts, owner = [], []
  for index, phrases in enumerate(classes.values()):
    texts += [prompt.replace("{}", phrase) for phrase in phrases for prompt in prompts]
    owner += [index] * len(phrases) * len(prompts)
  return texts, np.array(owner, np.int64)


def label_phrase(label: str) -> str:
  """A class label as a phrase: "ApplyEyeMakeup" to "apply eye makeup"."""
  spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", label)
  return " ".join(spaced.replace("_", " ").lower().split())
