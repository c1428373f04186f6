"""Public weights as initial parameters: `init_from = "vit:FILE,distilbert:FILE"`."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from vtr_jax.core.errors import WeightsError
from vtr_jax.weights import files, stacks
from vtr_jax.weights.match import Report, match
from vtr_jax.weights.registry import SOURCES, Patterns, find


def pieces(init_from: str) -> list[tuple[str, str]]:
  """(kind, file) pairs; [] if `init_from` is a run's directory, or empty."""
  split = [part.partition(":") for part in init_from.split(",")]
  if not any(colon and kind in SOURCES for kind, colon, _ in split):
    return []
  for kind, _, path in split:
    find(kind)
    if not path:
      raise WeightsError(f"config.init_from: {kind}: no file; write {kind}:FILE")
  return [(kind, path) for kind, _, path in split]


def load(
  init_from: str,
  model: nn.Module,
  expected: Mapping[str, Any],
  allow: Patterns = (),
  heads: tuple[str, ...] = (),
) -> tuple[dict[str, np.ndarray], list[Report]]:
  """Parameters of a model from one or several files.

  Args:
    init_from: as in the config; see `pieces`.
    model: linen module of the objective.
    expected: path -> anything with a shape, of all its parameters.
    allow: patterns of keys and paths; see match.py.
    heads: parameters that are not taken from the files; see match.py.

  Returns:
    Arrays by path, stacked as in `expected`; and a report on each file.

  Raises:
    WeightsError: a file cannot be read; a key is missing or unused and not allowed to
      be; or two files contain the same parameter.
  """
  single, reports = {}, []
  for kind, path in pieces(init_from):
    params, report = match(
      f"{kind}:{path}",
      kind,
      find(kind),
      files.read(path),
      model,
      stacks.shapes(expected),
      allow,
      heads,
    )
    report.check()
    if both := sorted(set(params) & set(single)):
      raise WeightsError(f"{kind}:{path}: {both[0]} is in an earlier file as well")
    single |= params
    reports.append(report)
  return stacks.join(single, expected), reports
