"""Damaged arrays of a weights file: parameters, or a line that names the key."""

import fuzz
import hf_cases
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from mutations import edited_bytes
from weight_cases import dual, family, shapes

from vtr_jax.weights import infer, match, registry, stacks

DTYPES = ("f2", "f8", "i8", "u1", "?", "c8", "U3", ml_dtypes.bfloat16)
MODELS = dict(vit=dual, distilbert=dual, clip=lambda: family("clip"))


def changed(state, rng):
  """Arrays of other names, shapes, types and numbers."""
  state = dict(state)
  for _ in range(rng.randint(1, 3)):
    key = rng.choice(sorted(state))
    array, kind = state.pop(key), rng.randrange(6)
    if kind == 0:
      array = np.zeros([rng.choice((0, 1, 2, 16, 17)) for _ in range(rng.randrange(6))])
    elif kind == 1:
      array = array.astype(rng.choice(DTYPES))
    elif kind == 2:
      array = np.full_like(array, rng.choice((np.nan, np.inf, 1e38)))
    elif kind == 3:
      array = array.reshape(array.shape[::-1])
    elif kind == 4:
      key = edited_bytes(key.encode(), rng, 1).decode(errors="replace")
    if kind < 5:
      state[key] = array
  return state


@pytest.mark.parametrize("kind", MODELS)
@fuzz.sized(8, 400)
def test_damaged_arrays_are_rejected_in_one_line(record_property, kind, count):
  """Against a model, and to find out of what sizes the model must be."""
  state, _ = hf_cases.case(kind)
  source, objective = registry.find(kind), MODELS[kind]()
  flat = flatten_dict(shapes(objective, objective.model.clip), sep="/")
  wanted, recipe = stacks.shapes(flat), infer.recipe(source)

  def matched(state):
    found, report = match.match("file", kind, source, state, objective.model, wanted)
    assert report.text()
    report.check()
    return found

  def check(state):
    for key, array in (fuzz.outcome(lambda: matched(state)) or {}).items():
      assert array.shape == wanted[key].shape
      assert np.isfinite(array).all()
    fuzz.outcome(lambda: infer.infer(recipe, kind, source, state))

  make = lambda rng: changed(state, rng)
  fuzz.explore(record_property, f"match-{kind}", count, make, check)
