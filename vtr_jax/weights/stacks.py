"""Layers stacked in one array by `Compute.scan`, and the same layers separately.

Layouts name layers one by one: `video_tower/block_3/mlp/up/kernel` is row 3 of
`video_tower/blocks/mlp/up/kernel`.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vtr_jax.core.errors import WeightsError

_LAYER = r"/block_(\d+)/"


@dataclasses.dataclass(frozen=True)
class Shape:
  shape: tuple[int, ...]


def _names(path: str, shape: tuple[int, ...]) -> list[str]:
  before, stacked, after = path.partition("/blocks/")
  if not stacked:
    return [path]
  return [f"{before}/block_{i}/{after}" for i in range(shape[0])]


def shapes(stacked: Mapping[str, Any]) -> dict[str, Shape]:
  """Path -> shape, layers not stacked."""
  single = {}
  for path, x in stacked.items():
    names = _names(path, x.shape)
    shape = tuple(x.shape[1:] if "/blocks/" in path else x.shape)
    single |= {name: Shape(shape) for name in names}
  return single


def split(stacked: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Path -> array, layers not stacked."""
  single = {}
  for path, x in stacked.items():
    names = _names(path, x.shape)
    single |= dict(zip(names, x if "/blocks/" in path else [x], strict=True))
  return single


def stacked(params: Mapping[str, Any]) -> bool:
  """Whether any layers are stacked."""
  return any("/blocks/" in path for path in params)


def stack(single: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Path -> array, layers stacked: the inverse of `split`.

  Layers stay separate where their numbers have gaps or their shapes differ.
  """
  groups: dict[str, dict[int, str]] = {}
  for path in single:
    found = re.search(_LAYER, path)
    stacked_path = re.sub(_LAYER, "/blocks/", path)
    groups.setdefault(stacked_path, {})[int(found[1]) if found else -1] = path
  result = {}
  for stacked_path, paths in groups.items():
    layers = [single[paths[i]] for i in sorted(paths)]
    if sorted(paths) == [*range(len(paths))] and len({x.shape for x in layers}) == 1:
      result[stacked_path] = np.stack(layers)
    else:
      result |= {path: single[path] for path in paths.values()}
  return result


def join(single: Mapping[str, np.ndarray], like: Mapping[str, Any]) -> dict[str, Any]:
  """Arrays stacked as in `like`, without those that are not in `single`.

  Raises:
    WeightsError: only some layers of a stack are in `single`.
  """
  stacked = {}
  for path, target in like.items():
    names = _names(path, target.shape)
    present = [name for name in names if name in single]
    if present and len(present) < len(names):
      raise WeightsError(
        f"{path}: {len(present)} of {len(names)} layers are in the file; to initialise "
        "the others at random, set config.objective.compute.scan = False"
      )
    if present:
      layers = [single[name] for name in names]
      stacked[path] = np.stack(layers) if "/blocks/" in path else layers[0]
  return stacked
