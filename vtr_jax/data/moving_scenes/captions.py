"""The captions of `moving_scenes`: a story, and clauses about its setting.

The story is a sentence of `moving_shapes`. One to three clauses are added before or
after it, each a phrase set off by a comma or a sentence of its own. As there, every
word has one sense and every caption one reading: no word that a story uses for an
action or for the order of actions occurs in a clause.
"""

import re

import numpy as np

from vtr_jax.data.moving_scenes.setting import Setting
from vtr_jax.data.moving_shapes import captions as stories
from vtr_jax.data.moving_shapes import scene

LENGTH = 39  # most words and marks of a caption; with <cls> they make 40 tokens

ADJECTIVES = dict(
  stripes=("striped",),
  checks=("checked",),
  dots=("dotted",),
  waves=("wavy",),
  bricks=("brick",),
  clouds=("cloudy",),
  zigzags=("zigzag",),
  rays=("rayed",),
  dim=("dim", "weak"),
  bright=("bright", "strong"),
  uneven=("uneven", "patchy"),
  steady=("steady", "fixed"),
  shaky=("shaky", "wobbly"),
)
VERBS = dict(
  steady=("holds still", "stays still"), shaky=("shakes", "trembles", "wobbles")
)

# {noun} is plural; a thing's {noun} has its colour and article. Phrases first, then
# sentences.
CLAUSES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = dict(
  texture=(
    (
      "in front of {noun}",
      "against {noun}",
      "on a {adjective} background",
      "against a {adjective} wall",
    ),
    (
      "the background has {noun}",
      "the background is full of {noun}",
      "the wall behind is {adjective}",
      "{noun} cover the wall",
    ),
  ),
  light=(
    ("in {adjective} light", "under {adjective} light", "in light that is {adjective}"),
    ("the light is {adjective}", "{adjective} light fills the scene"),
  ),
  camera=(
    ("filmed by a {adjective} camera", "filmed with a camera that {verb}"),
    ("the camera {verb}", "the camera is {adjective}"),
  ),
  thing=(
    ("with {noun} in the background", "beside {noun} that rests"),
    (
      "{noun} rests in the background",
      "{noun} stays put",
      "in the background {noun} rests",
      "{noun} is in the background",
    ),
  ),
)
_COUNTS = (1, 1, 2, 2, 2, 3)  # of clauses
# A story that begins with the time of something else: a phrase before that would belong
# to either part.
_TIMES = ("after", "as", "before", "once", "while")


def captions(
  meaning: scene.Meaning, setting: Setting, rng: np.random.Generator, count: int = 2
) -> list[str]:
  """`count` different captions of a clip, in lower case."""
  made: dict[str, None] = {}
  while len(made) < count:
    text = _caption(meaning, setting, rng)
    if len(re.findall(r"[a-z]+|[,.]", text)) <= LENGTH:
      made.setdefault(text)
  return list(made)


def _caption(meaning: scene.Meaning, setting: Setting, rng: np.random.Generator) -> str:
  text = story = stories.captions(meaning, rng, 1)[0]
  count = _COUNTS[rng.integers(len(_COUNTS))]
  topics = rng.permutation(list(CLAUSES))[:count]
  places = rng.permutation([(form, first) for form in (0, 1) for first in (0, 1)])
  # Phrases belong to the story's sentence; hence they come first.
  for topic, (form, first) in sorted(
    zip(topics, places, strict=False), key=lambda pair: pair[1][0]
  ):
    if form == 0 and (topic == "thing" or story.split()[0] in _TIMES):
      first = 0
    clause = _clause(str(topic), setting, CLAUSES[topic][form], rng)
    parts = (clause, text) if first else (text, clause)
    text = (". " if form else ", ").join(parts)
  return text


def _clause(
  topic: str, setting: Setting, templates: tuple[str, ...], rng: np.random.Generator
) -> str:
  pick = lambda options: options[rng.integers(len(options))]
  if topic == "thing":
    thing = pick(setting.things)
    noun = f"{thing.colour} {pick(stories.NOUNS[thing.shape])}"
    return pick(templates).format(noun=f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}")
  value = getattr(setting, topic)
  return pick(templates).format(
    noun=value, adjective=pick(ADJECTIVES[value]), verb=pick(VERBS.get(value, ("",)))
  )
