"""Public weights as first parameters: `init_from = "vit:FILE,distilbert:FILE"`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vtr_jax.core.errors import WeightsError
from vtr_jax.weights import files, stacks
from vtr_jax.weights.match import Report, match
from vtr_jax.weights.registry import SOURCES, Patterns, find


def pieces(init_from: str) -> list[tuple[str, str]]:
  """(kind, file) of each piece; [] if `init_from` is a run's directory, or empty."""
  split = [part.partition(":") for part in init_from.split(",")]
  if not any(colon and kind in SOURCES for kind, colon, _ in split):
    return []
  for kind, _, path in split:
    find(kind)
    if not path:
      raise WeightsError(f"config.init_from: {kind}: no file; write {kind}:FILE")
  return [(kind, path) for kind, _, path in split]


def load(
  init_from: str, model: Any, wanted: Mapping[str, Any], allow: Patterns = ()
) -> tuple[dict[str, np.ndarray], list[Report]]:
  """What the files give of a model's parameters.

  Args:
    init_from: as in the config; see `pieces`.
    model: linen module of the objective.
    wanted: path -> anything with a shape, of all its parameters.
    allow: of keys and paths; see match.py.

  Returns:
    Arrays by path, as `wanted` has them; and a report for each file.

  Raises:
    WeightsError: a file cannot be read; anything is missing or unused without leave;
      or two files give the same.
  """
  single, reports = {}, []
  for kind, path in pieces(init_from):
    found, report = match(
      f"{kind}:{path}",
      kind,
      find(kind),
      files.read(path),
      model,
      stacks.shapes(wanted),
      allow,
    )
    report.check()
    if both := sorted(set(found) & set(single)):
      raise WeightsError(f"{kind}:{path}: an earlier file gives {both[0]} as well")
    single |= found
    reports.append(report)
  return stacks.join(single, wanted), reports
