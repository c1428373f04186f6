"""Weights for tests: random ones, and public ones converted to our parameters."""

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vtr_jax.train.init_from import TIME
from vtr_jax.weights import match, registry, stacks


def draw(shapes, seed=1):
  """Random parameters; scales of norms are around 1."""
  rng = np.random.default_rng(seed)

  def leaf(path, x):
    return (path[-1].key == "scale") + rng.normal(0, 0.2, x.shape).astype("f")

  return jax.tree_util.tree_map_with_path(leaf, shapes)


def convert(kind, state, model, wanted, allow=(), heads=()):
  """(parameters in the shapes `wanted`, report) from a state dict of a public code.

  Parameters that it lacks are random; time positions are 0, as at initialisation.
  """
  flat = flatten_dict(wanted, sep="/")
  found, report = match.match(
    "file", kind, registry.find(kind), state, model, stacks.shapes(flat), allow, heads
  )
  report.check()
  rest = flatten_dict(draw(wanted), sep="/")
  if TIME in rest:
    rest[TIME] *= 0
  whole = rest | stacks.join(found, flat)
  return jax.tree.map(jnp.asarray, unflatten_dict(whole, sep="/")), report
