"""Layers that `Compute.scan` keeps in one array, and the same one by one.

Layouts of files know layers one by one: `video_tower/block_3/mlp/up/kernel` is row 3 of
`video_tower/blocks/mlp/up/kernel`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from vtr_jax.core.errors import WeightsError


@dataclasses.dataclass(frozen=True)
class Shape:
  shape: tuple[int, ...]


def _names(path: str, shape: tuple[int, ...]) -> list[str]:
  before, stacked, after = path.partition("/blocks/")
  if not stacked:
    return [path]
  return [f"{before}/block_{i}/{after}" for i in range(shape[0])]


def shapes(stacked: Mapping[str, Any]) -> dict[str, Shape]:
  """Path -> shape of each layer's parameters."""
  made = {}
  for path, x in stacked.items():
    names = _names(path, x.shape)
    shape = tuple(x.shape[1:] if "/blocks/" in path else x.shape)
    made |= {name: Shape(shape) for name in names}
  return made


def split(stacked: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Arrays one by one."""
  made = {}
  for path, x in stacked.items():
    names = _names(path, x.shape)
    made |= dict(zip(names, x if "/blocks/" in path else [x], strict=True))
  return made


def join(single: Mapping[str, np.ndarray], like: Mapping[str, Any]) -> dict[str, Any]:
  """Arrays as `like` has them; what is not in `single` is left out.

  Raises:
    WeightsError: only some layers of a stack are there.
  """
  made = {}
  for path, wanted in like.items():
    names = _names(path, wanted.shape)
    there = [name for name in names if name in single]
    if there and len(there) < len(names):
      raise WeightsError(
        f"{path}: {len(there)} of {len(names)} layers are in the file; layers that "
        "start at random need config.objective.compute.scan = False"
      )
    if there:
      parts = [single[name] for name in names]
      made[path] = np.stack(parts) if "/blocks/" in path else parts[0]
  return made
