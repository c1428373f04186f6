"""The content of a clip of `moving_shapes`: things, actions, and their order.

A `Meaning` holds everything that a caption describes. Two clips of one meaning differ
only in what no caption mentions: positions, sizes, speeds, background. Meanings are
drawn by NumPy generators seeded from (seed, split) alone, so that a split's first n
meanings do not depend on its length.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

SPLITS = ("train", "validation", "test", "novel")

# RGB, well separated from each other and from the grey backgrounds.
COLOURS = dict(
  red=(215, 30, 35),
  green=(30, 150, 50),
  blue=(35, 70, 225),
  yellow=(245, 225, 30),
  orange=(250, 135, 10),
  purple=(140, 35, 180),
  white=(250, 250, 250),
  black=(12, 12, 12),
)
SHAPES = ("circle", "square", "triangle", "star", "ring", "heart", "moon", "bar")
ROUND = ("circle", "ring")  # their rotation is invisible

# Each action, and the action shown when the clip is played backwards.
BACKWARD = dict(
  left="right",
  right="left",
  up="down",
  down="up",
  grow="shrink",
  shrink="grow",
  blink="blink",
  turn="turn",
  appear="disappear",
  disappear="appear",
)
ACTIONS = tuple(BACKWARD)
MOVES = ACTIONS[:4]
CHANGES = ACTIONS[4:]

# The classes of action recognition, and their sampling weights. One thing: its action,
# or the kinds (move, change) of its two actions in order. Two things: how their actions
# relate in time.
WEIGHTS = (
  {f"move {action}": 3.0 for action in MOVES}
  | {action: 3.0 for action in CHANGES}
  | {
    "move then move": 7.0,
    "move then change": 7.0,
    "change then move": 7.0,
    "change then change": 7.0,
    "both the same": 10.5,
    "both at once": 10.5,
    "one after another": 10.5,
    "cross": 10.5,
  }
)
LABELS = tuple(WEIGHTS)

# Only in the split `novel`: (colour, shape) pairs, each colour and each shape once, and
# ordered pairs of actions whose reverse is in train.
NOVEL_THINGS = frozenset(
  (colour, SHAPES[(3 * i + 1) % len(SHAPES)]) for i, colour in enumerate(COLOURS)
)
NOVEL_ORDERS = frozenset(
  [
    ("left", "up"),
    ("down", "right"),
    ("up", "grow"),
    ("shrink", "left"),
    ("blink", "down"),
    ("right", "turn"),
    ("turn", "grow"),
    ("shrink", "blink"),
    ("appear", "right"),
    ("up", "disappear"),
  ]
)


class Thing(NamedTuple):
  """One coloured shape."""

  colour: str
  shape: str


class Meaning(NamedTuple):
  """The content of a clip in canonical form: equal meanings compare equal.

  kind: steps (one thing, one or two actions in order) | same (two things, one
  action) | while (two things, an action each, at once) | turns (two things, one
  after the other, in order) | cross (two things change places).
  """

  kind: str
  things: tuple[Thing, ...]
  actions: tuple[str, ...]


def canonical(meaning: Meaning) -> Meaning:
  """Sorts things that have no order, so that equal contents become equal."""
  kind, things, actions = meaning
  if kind == "while":
    pairs = sorted(zip(things, actions, strict=True))
    return Meaning(kind, *(tuple(column) for column in zip(*pairs, strict=True)))
  if kind in ("same", "cross"):
    return Meaning(kind, tuple(sorted(things)), actions)
  return meaning


def is_valid(meaning: Meaning) -> bool:
  """Whether it can be rendered and distinguished from every other meaning."""
  kind, things, actions = meaning
  if len(set(things)) != len(things):
    return False
  doers = things * len(actions) if kind in ("steps", "same") else things
  actors = zip(itertools.cycle(actions or [""]), doers, strict=False)
  if any(a == "turn" and thing.shape in ROUND for a, thing in actors):
    return False
  if kind == "steps" and len(actions) == 2:
    first, second = actions
    return first != second and first != "disappear" and second != "appear"
  if kind == "while":
    # Opposite moves would show a crossing.
    opposite = actions[0] in MOVES and BACKWARD[actions[0]] == actions[1]
    return actions[0] != actions[1] and not opposite
  return True


def is_novel(meaning: Meaning) -> bool:
  """Whether it has a thing or an order of actions that never occurs in train."""
  ordered = meaning.kind in ("steps", "turns") and len(meaning.actions) == 2
  return any(tuple(thing) in NOVEL_THINGS for thing in meaning.things) or (
    ordered and meaning.actions in NOVEL_ORDERS
  )


def swapped(meaning: Meaning) -> Meaning | None:
  """The same actions in reverse order; None where they have no order."""
  kind, things, actions = meaning
  if kind == "turns":
    other = Meaning(kind, things[::-1], actions[::-1])
  elif kind == "steps" and len(actions) == 2:
    other = Meaning(kind, things, actions[::-1])
  else:
    return None
  return other if is_valid(other) else None


def backward(meaning: Meaning) -> Meaning:
  """The meaning of the clip played backwards, which has the same set of frames."""
  kind, things, actions = meaning
  undone = tuple(BACKWARD[action] for action in actions)
  if kind == "steps":
    return Meaning(kind, things, undone[::-1])
  if kind == "turns":
    return Meaning(kind, things[::-1], undone[::-1])
  return canonical(Meaning(kind, things, undone))


def label_of(meaning: Meaning) -> str:
  """The class of a meaning, one of `LABELS`."""
  kind, _, actions = meaning
  if kind == "steps" and len(actions) == 1:
    return f"move {actions[0]}" if actions[0] in MOVES else actions[0]
  if kind == "steps":
    return " then ".join("move" if a in MOVES else "change" for a in actions)
  return {
    "same": "both the same",
    "while": "both at once",
    "turns": "one after another",
    "cross": "cross",
  }[kind]


def meanings(split: str, count: int, seed: int = 0) -> list[Meaning]:
  """The meanings of the first `count` clips of a split, in order.

  Train may repeat meanings; in every other split they are distinct, and one in three is
  followed by its hard negatives, unless these have occurred: the same actions in
  reverse order, and the clip played backwards. Only temporal order distinguishes them.
  Meanings of validation and test may occur in train; those of novel cannot.
  """
  rng = np.random.default_rng([seed, SPLITS.index(split)])
  drawn = draw(rng, novel=split == "novel")
  if split == "train":
    return list(itertools.islice(drawn, count))
  chosen: dict[Meaning, None] = {}
  while len(chosen) < count:
    meaning = next(drawn)
    foils = (swapped(meaning), backward(meaning)) if rng.random() < 1 / 3 else ()
    for m in (meaning, *foils):
      if m is not None and is_novel(m) == (split == "novel"):
        chosen.setdefault(m)
  return list(chosen)[:count]


def draw(rng: np.random.Generator, novel: bool) -> Iterator[Meaning]:
  """Endless meanings: a class by weight, then uniformly within the class."""
  weights = np.array(list(WEIGHTS.values())) / sum(WEIGHTS.values())
  while True:
    label = LABELS[rng.choice(len(LABELS), p=weights)]
    while True:
      meaning = canonical(_draw_labelled(rng, label))
      if is_valid(meaning):
        break
    if is_novel(meaning) == novel:
      yield meaning


def _draw_labelled(rng: np.random.Generator, label: str) -> Meaning:
  """One meaning of the class `label`; may be invalid."""
  pick = lambda options: options[rng.integers(len(options))]
  things = tuple(Thing(pick(tuple(COLOURS)), pick(SHAPES)) for _ in range(2))
  if label == "cross":
    return Meaning("cross", things, ())
  if label == "both the same":
    return Meaning("same", things, (pick(ACTIONS),))
  if label in ("both at once", "one after another"):
    kind = "while" if label == "both at once" else "turns"
    return Meaning(kind, things, (pick(ACTIONS), pick(ACTIONS)))
  if " then " in label:
    groups = dict(move=MOVES, change=CHANGES)
    actions = tuple(pick(groups[word]) for word in label.split(" then "))
  else:
    actions = (label.removeprefix("move "),)
  return Meaning("steps", things[:1], actions)
