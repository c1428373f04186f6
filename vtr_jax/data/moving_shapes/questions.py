"""Questions about clips of `moving_shapes`, with their answers, from meanings alone.

There are seven types and 31 answers, balanced so that guesses are of little use: counts
are rare and "one" as often as "two", statements hold as often as not, and "swap places"
is an action like others. Questions have the words of captions and eight others, which
the tokenizer of captions spells by letters.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from vtr_jax.data import notes
from vtr_jax.data.moving_shapes import scene
from vtr_jax.data.moving_shapes.captions import PHRASES, inflect

CROSS = "swap places"
_PHRASE = {action: phrases[0] for action, phrases in PHRASES.items()} | {"": CROSS}
# Answers of each kind, of which four are offered next to the true one.
ACTIONS = (*(inflect(_PHRASE[action], 1) for action in scene.ACTIONS), CROSS)
COLOURS, SHAPES = tuple(scene.COLOURS), scene.SHAPES
COUNTS, TRUTHS = ("one", "two"), ("yes", "no")
ANSWERS = (*ACTIONS, *COLOURS, *SHAPES, *COUNTS, *TRUTHS)
# How often a type is asked of clips that allow it; a clip with two shapes is asked
# their number more often, since there are fewer of them.
_WEIGHTS = dict(
  action=1.5, order=3.0, transition=2.5, colour=1.0, shape=1.0, count=0.3, truth=0.7
)
TYPES = tuple(_WEIGHTS)
PER_CLIP = 3  # questions, each of another type
_OPTIONS = 5


class Question(NamedTuple):
  """A question of a type, and its answer."""

  type: str  # one of `TYPES`
  text: str
  answer: str  # one of `ANSWERS`


def asked(meaning: scene.Meaning) -> list[Question]:
  """Every question that can be asked of a clip, in an order of its own.

  The same text may be asked of another meaning, such as that of the clip played
  backwards, with another answer.
  """
  kind, things, actions = meaning
  found = [*_looks(meaning), *_counts(meaning), *_truths(meaning)]
  names = [f"the {thing.colour} {thing.shape}" for thing in things]
  does = [inflect(_PHRASE[action], 1) for action in actions]
  doing = [inflect(_PHRASE[action], 2) for action in actions]
  first = names[0]
  if kind == "steps" and len(actions) == 1:
    found.append(Question("action", f"what does {first} do", does[0]))
  elif kind == "steps":
    after, before = f"after {doing[0]}", f"before {doing[1]}"
    found += [
      Question("order", f"what does {first} do first", does[0]),
      Question("order", f"what does {first} do last", does[1]),
      Question("transition", f"what does {first} do {after}", does[1]),
      Question("transition", f"what does {first} do {before}", does[0]),
    ]
  elif kind in ("same", "cross"):
    answer = does[0] if actions else CROSS
    for one, other in itertools.permutations(names):
      found.append(Question("action", f"what do {one} and {other} do", answer))
  else:
    links = ("while", "while") if kind == "while" else ("before", "after")
    turns = ((0, 1), (1, 0))
    for (own, other), link in zip(turns, links, strict=True):
      text = f"what does {names[own]} do"
      found.append(Question("action", text, does[own]))
      more = f"{text} {link} {names[other]} {does[other]}"
      found.append(Question("transition", more, does[own]))
    if kind == "turns":
      for thing, when in zip(things, ("first", "last"), strict=True):
        found.append(Question("order", f"what colour goes {when}", thing.colour))
  return found


def draw(meaning: scene.Meaning, rng: np.random.Generator) -> list[Question]:
  """`PER_CLIP` questions of different types."""
  by_type: dict[str, list[Question]] = {}
  for question in asked(meaning):
    by_type.setdefault(question.type, []).append(question)
  weights = np.array([_weight(name, meaning) for name in by_type])
  count = min(PER_CLIP, len(by_type))
  chosen = rng.choice(len(by_type), count, replace=False, p=weights / weights.sum())
  groups = [list(by_type.values())[i] for i in sorted(chosen)]
  drawn = []
  for group in groups:
    answers = sorted({question.answer for question in group})
    answer = answers[rng.integers(len(answers))]  # one "yes" may face several "no"
    fitting = [question for question in group if question.answer == answer]
    drawn.append(fitting[rng.integers(len(fitting))])
  return drawn


def of_split(split: str, count: int, seed: int = 0) -> list[list[notes.Note]]:
  """The questions of the first `count` clips of a split, clip by clip."""
  found = []
  for index, meaning in enumerate(scene.meanings(split, count, seed)):
    key = [seed, scene.SPLITS.index(split), index, 2]  # 0 and 1: captions, pixels
    rng = np.random.default_rng(key)
    found.append(
      [
        notes.Note(
          "question",
          f"{split}-{index:05d}-{number}",
          question.text,
          question.answer,
          question.type,
          _options(question.answer, rng),
        )
        for number, question in enumerate(draw(meaning, rng))
      ]
    )
  return found


def _weight(name: str, meaning: scene.Meaning) -> float:
  two = len(meaning.things) == 2
  return _WEIGHTS[name] * (2.5 if name == "count" and two else 1.0)


def _looks(meaning: scene.Meaning) -> Iterator[Question]:
  """Questions of colour and shape, by what a thing does, is, or crosses."""
  kind, things, actions = meaning
  for own, thing in enumerate(things):
    others = things[:own] + things[own + 1 :]
    if all(thing.shape != other.shape for other in others):
      yield Question("colour", f"what colour is the {thing.shape}", thing.colour)
    if all(thing.colour != other.colour for other in others):
      yield Question("shape", f"what shape is {thing.colour}", thing.shape)
    if kind in ("while", "turns") and actions[0] != actions[1]:
      does = inflect(_PHRASE[actions[own]], 1)
      yield Question("colour", f"what colour {does}", thing.colour)
      yield Question("shape", f"what shape {does}", thing.shape)
    if kind == "cross":
      (other,) = others
      name = f"is crossing the {other.colour} {other.shape}"
      yield Question("colour", f"what colour {name}", thing.colour)
      yield Question("shape", f"what shape {name}", thing.shape)


def _counts(meaning: scene.Meaning) -> Iterator[Question]:
  """How many things there are, and how many do what one of them does."""
  kind, things, actions = meaning
  yield Question("count", "how many are there", COUNTS[len(things) - 1])
  for action in dict.fromkeys(actions):  # that two cross is no news
    both = kind == "same" or (kind == "turns" and actions[0] == actions[1])
    yield Question("count", f"how many {_PHRASE[action]}", COUNTS[both])


def _truths(meaning: scene.Meaning) -> Iterator[Question]:
  """Statements that hold, and as likely ones that do not."""
  kind, things, actions = meaning
  names = [f"the {thing.colour} {thing.shape}" for thing in things]
  say = lambda text, holds: Question("truth", text, TRUTHS[0 if holds else 1])
  if kind == "steps" and len(actions) == 2:
    for order in (actions, actions[::-1]):
      base, doing = _PHRASE[order[0]], inflect(_PHRASE[order[1]], 2)
      yield say(f"does {names[0]} {base} before {doing}", order == actions)
  elif kind == "turns":
    for own, other in ((0, 1), (1, 0)):
      base, does = _PHRASE[actions[own]], inflect(_PHRASE[actions[other]], 1)
      yield say(f"does {names[own]} {base} before {names[other]} {does}", own == 0)
  elif kind in ("steps", "while"):
    for name, thing, action in zip(names, things, actions, strict=True):
      for named in (action, _foil(action, thing)):
        yield say(f"does {name} {_PHRASE[named]}", named == action)
  else:
    both = " and ".join(names)
    for named in ("", *(actions or ("left", "right", "up", "down"))):
      yield say(f"do {both} {_PHRASE[named]}", named == (actions or ("",))[0])


def _foil(action: str, thing: scene.Thing) -> str:
  """An action that a thing does not do, of which it is the foil in turn."""
  if action in ("blink", "turn"):
    pair = dict(blink="turn", turn="blink")
    return "appear" if thing.shape in scene.ROUND else pair[action]
  return scene.BACKWARD[action]


def _options(answer: str, rng: np.random.Generator) -> tuple[str, ...]:
  """Answers of its kind to choose from, in random order; none of two alone."""
  kind = next(k for k in (ACTIONS, COLOURS, SHAPES, COUNTS, TRUTHS) if answer in k)
  if len(kind) < _OPTIONS:
    return ()
  others = [other for other in kind if other != answer]
  chosen = rng.choice(len(others), _OPTIONS - 1, replace=False)
  found = [answer, *(others[i] for i in chosen)]
  return tuple(found[i] for i in rng.permutation(_OPTIONS))
