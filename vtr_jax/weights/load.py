"""Public weights as initial parameters: `init_from = "vit:FILE,distilbert:FILE"`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from vtr_jax.core.errors import WeightsError
from vtr_jax.core.paths import near
from vtr_jax.weights import snapshot, stacks
from vtr_jax.weights.match import Report, match
from vtr_jax.weights.registry import SOURCES, Patterns, find


def pieces(init_from: str) -> list[tuple[str, str]]:
  """(kind, file or folder) pairs; [] if `init_from` is a run's directory, or empty.

  The kind may be left out of KIND:FOLDER where the folder's config states it.
  """
  split = [_piece(part) for part in init_from.split(",") if init_from]
  if not any(known for *_, known in split):
    return []
  for kind, path, known in split:
    if not known and not path:
      raise WeightsError(
        f"config.init_from: {kind}: neither KIND:FILE nor a folder whose config states "
        f"the kind{near(kind)}"
      )
    find(kind)
    if not path:
      raise WeightsError(f"config.init_from: {kind}: no file; write {kind}:FILE")
  return [(kind, path) for kind, path, _ in split]


def _piece(part: str) -> tuple[str, str, bool]:
  """(kind, path, whether it names weights of a known kind)."""
  kind, colon, path = part.partition(":")
  if colon and kind in SOURCES:
    return kind, path, True
  facts = snapshot.facts(part)
  return (facts.kind, part, True) if facts else (kind, path, False)


def load(
  init_from: str,
  model: Any,
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
    source, found, warnings = find(kind), snapshot.find(path, kind), []
    if found.facts:
      found.facts.expect(kind)
      warnings = found.facts.check(model.config, model.clip)
    params, report = match(
      f"{kind}:{path}",
      kind,
      source,
      found.read(),
      model,
      stacks.shapes(expected),
      allow,
      heads,
    )
    report.check()
    if both := sorted(set(params) & set(single)):
      raise WeightsError(f"{kind}:{path}: {both[0]} is in an earlier file as well")
    single |= params
    reports.append(dataclasses.replace(report, warnings=tuple(warnings)))
  return stacks.join(single, expected), reports
