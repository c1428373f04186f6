"""Captions of `moving_shapes` back to meanings."""

import re

from vtr_jax.data.moving_shapes import captions, scene

# Everything a caption may hold besides things and actions.
WORDS = """
  after and are as at before both first is it later once same see that the then there
  time together watch we while with ,
"""
GLUE = set(WORDS.split())


def parse(caption: str) -> scene.Meaning:
  """The meaning of a caption; an error for a caption that the grammar does not make."""
  kinds = {phrase: a for a, some in captions.PHRASES.items() for phrase in some}
  kinds |= {phrase: "cross" for phrase in captions.CROSSINGS}
  said = {}
  for phrase, action in kinds.items():
    for form in range(3):
      # No two actions share a phrase.
      assert said.setdefault(captions.inflect(phrase, form), action) == action
  nouns = {noun: s for s, some in captions.NOUNS.items() for noun in some}
  things, actions = [], []

  def take_action(match):
    actions.append(said[match[0]])
    return "ACTION"

  def take_thing(match):
    things.append(scene.Thing(match[2], nouns[match[3]]))
    assert match[1] == "the" or (match[1] == "an") == (match[2][0] in "aeiou")
    return "THING"

  phrases = "|".join(sorted(said, key=len, reverse=True))
  rest = re.sub(rf"\b({phrases})\b", take_action, caption)
  pattern = rf"\b(an?|the) ({'|'.join(scene.COLOURS)}) ({'|'.join(nouns)})\b"
  words = re.sub(pattern, take_thing, rest).replace(",", " , ").split()
  assert set(words) <= GLUE | {"THING", "ACTION"}, caption
  if words[:1] == ["before"] or "after" in words[1:]:
    things, actions = things[::-1], actions[::-1]
  if actions == ["cross"]:
    kind, actions = "cross", []
  elif len(things) == 1:
    kind = "steps"
  elif len(actions) == 1:
    kind = "same"
  else:
    kind = "while" if {"while", "as", "same"} & set(words) else "turns"
  return scene.canonical(scene.Meaning(kind, tuple(things), tuple(actions)))
