"""The captions of `moving_shapes`: a small grammar from meanings to sentences.

Every word has one sense ("up" is a direction, so nothing "shows up") and every sentence
one reading, so that a caption determines its meaning. Word order matters: "it grows
after moving left" and "it moves left after growing" differ.
"""

import numpy as np

from vtr_jax.data.moving_shapes import scene

NOUNS = dict(
  circle=("circle", "disc"),
  square=("square", "box"),
  triangle=("triangle",),
  star=("star",),
  ring=("ring", "hoop"),
  heart=("heart",),
  moon=("moon", "crescent"),
  bar=("bar", "stick"),
)
_MOVE = ("move", "slide", "go", "travel", "drift")
_LEFT = ("left", "to the left", "leftwards")
_RIGHT = ("right", "to the right", "rightwards")


def _all(verbs: tuple[str, ...], tails: tuple[str, ...]) -> tuple[str, ...]:
  return tuple(f"{verb} {tail}" for verb in verbs for tail in tails)


# Base forms; the first word is the verb.
PHRASES = dict(
  left=_all(_MOVE, _LEFT),
  right=_all(_MOVE, _RIGHT),
  up=(*_all(_MOVE, ("up", "upwards")), "rise", "climb"),
  down=(*_all(_MOVE, ("down", "downwards")), "sink"),
  grow=("grow", "expand", "get bigger", "get larger"),
  shrink=("shrink", "contract", "get smaller", "get tinier"),
  blink=("blink", "flash", "flicker"),
  turn=("turn", "rotate", "spin"),
  appear=("appear", "emerge", "come into view"),
  disappear=("disappear", "vanish", "leave the view"),
)
CROSSINGS = (
  "cross",
  "cross paths",
  "swap places",
  "trade places",
  "pass each other",
)

# A and B are things, a and b their actions: a0 base form, a1 third person, a2 -ing.
# Determiners are random, except after "there is", which takes "a": A* and B*.
ONE_STEP = (
  "{A} {a1}",
  "{A} {a1}",
  "{A} is {a2}",
  "there is {A*} that {a1}",
  "there is {A*} {a2}",
  "we see {A} {a2}",
)
TWO_STEPS = (
  "{A} {a1}, then {b1}",
  "{A} {a1} and then {b1}",
  "first {A} {a1}, then it {b1}",
  "{A} {b1} after {a2}",
  "{A} {a1} before {b2}",
  "after {a2}, {A} {b1}",
  "before {b2}, {A} {a1}",
  "there is {A*} that {a1} and then {b1}",
  "there is {A*} that {b1} after {a2}",
  "{A} {a1} and later {b1}",
)
TURNS = (
  "{A} {a1}, then {B} {b1}",
  "{A} {a1} and then {B} {b1}",
  "first {A} {a1}, then {B} {b1}",
  "{B} {b1} after {A} {a1}",
  "after {A} {a1}, {B} {b1}",
  "{A} {a1} before {B} {b1}",
  "before {B} {b1}, {A} {a1}",
  "once {A} {a1}, {B} {b1}",
  "{A} {a1} and later {B} {b1}",
)
WHILE = (
  "{A} {a1} while {B} {b1}",
  "while {A} {a1}, {B} {b1}",
  "{A} {a1} as {B} {b1}",
  "as {A} {a1}, {B} {b1}",
  "{A} {a1} and at the same time {B} {b1}",
  "at the same time {A} {a1} and {B} {b1}",
)
SAME = (
  "{A} and {B} both {a0}",
  "both {A} and {B} {a0}",
  "{A} and {B} {a0} together",
  "{A} and {B} {a0}",
  "{A} {a1} together with {B}",
  "we see {A} and {B} {a2} together",
)
CROSS = (
  "{A} and {B} {a0}",
  "{A} and {B} {a0}",
  "{A} and {B} are {a2}",
  "we see {A} and {B} {a2}",
  "watch {A} and {B} {a0}",
)


def captions(
  meaning: scene.Meaning, rng: np.random.Generator, count: int = 2
) -> list[str]:
  """`count` different sentences that describe `meaning`, in lower case."""
  made: dict[str, None] = {}
  while len(made) < count:
    made.setdefault(_caption(meaning, rng))
  return list(made)


def _caption(meaning: scene.Meaning, rng: np.random.Generator) -> str:
  kind, things, actions = meaning
  pick = lambda options: options[rng.integers(len(options))]
  templates: dict[str, tuple[str, ...]] = {
    "steps": ONE_STEP if len(actions) == 1 else TWO_STEPS,
    "turns": TURNS,
    "while": WHILE,
    "same": SAME,
    "cross": CROSS,
  }
  phrases = [pick(PHRASES[action]) for action in actions] or [pick(CROSSINGS)]
  things = list(things)
  if kind in ("while", "same", "cross") and rng.integers(2):
    # These have no order: either thing may be named first.
    things, phrases = things[::-1], phrases[::-1]
  slots = {}
  for name, thing in zip("AB", things, strict=False):
    noun = f"{thing.colour} {pick(NOUNS[thing.shape])}"
    article = "an" if noun[0] in "aeiou" else "a"
    slots[f"{{{name}*}}"] = f"{article} {noun}"
    slots[f"{{{name}}}"] = f"{pick((article, article, 'the'))} {noun}"
  for name, phrase in zip("ab", phrases, strict=False):
    for form in range(3):
      slots[f"{{{name}{form}}}"] = inflect(phrase, form)
  text = pick(templates[kind])
  for slot, words in slots.items():
    text = text.replace(slot, words)
  return text


def inflect(phrase: str, form: int) -> str:
  """Puts the verb, the first word, in form 0 base, 1 third person or 2 -ing."""
  verb, *rest = phrase.split(" ")
  if form == 1:
    verb += "es" if verb.endswith(("sh", "ss", "go")) else "s"
  elif form == 2:
    if verb in ("get", "spin", "swap"):
      verb += verb[-1]
    verb = verb.removesuffix("e") + "ing"
  return " ".join([verb, *rest])
