"""A model's parameters under the names of a public layout, or under its own."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vtr_jax.config import nearest
from vtr_jax.errors import WeightsError
from vtr_jax.weights import stacks
from vtr_jax.weights.sources import SOURCES

OWN = "vtr_jax"


def layouts() -> dict[str, str]:
  """Layout -> the kind of public file that has it."""
  return {
    layout.__name__: kind
    for kind, source in SOURCES.items()
    for layout in (*source.dual, *source.simvtp)
  }


def save(
  layout: str, model: Any, params: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], list[str]]:
  """Arrays by the names of `layout`, and our paths that it has no place for.

  Args:
    layout: one of `layouts()`; or OWN: our paths with dots, layers one by one.
    model: linen module of the objective.
    params: all its parameters by path, as the model has them.

  Raises:
    WeightsError: the model's architecture is not the layout's: it lacks a part, or
      would not be the same without one that is left out.
  """
  single = stacks.split(params)
  if layout == OWN:
    return {path.replace("/", "."): np.asarray(x) for path, x in single.items()}, []
  known = layouts()
  if layout not in known:
    raise WeightsError(f"--as: {layout!r} is unknown; {nearest(layout, [OWN, *known])}")
  fitting = SOURCES[known[layout]].layouts(known[layout], model)
  chosen = [made for made in fitting if made.__name__ == layout]
  if not chosen:
    raise WeightsError(f"--as: {layout!r} is not of this objective")
  entries = list(chosen[0](model))
  given = {path for entry in entries for path in entry.ours}
  if lacking := sorted(given - set(single)):
    raise WeightsError(f"--as: {layout!r} has {lacking[0]}, which this model has not")
  left = sorted(set(single) - given)
  groups = {path.partition("/")[0] for path in given}
  for path in left:
    # A mask token is for training; what is 0 changes nothing.
    silent = path.endswith("mask_token") or not np.any(single[path])
    if path.partition("/")[0] in groups and not silent:
      raise WeightsError(
        f"--as: {layout!r} has no place for {path}, and without it the numbers change"
      )
  arrays = {}
  for entry in entries:
    made = entry.save(*(np.asarray(single[path]) for path in entry.ours))
    pairs = zip(entry.theirs, made, strict=True)
    arrays |= {key: np.ascontiguousarray(x) for key, x in pairs}
  return arrays, left
