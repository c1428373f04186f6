"""Parameters of another size made to fit: positions, tubelets, words."""

from typing import Any

import jax
import numpy as np

from vtr_jax.models.dual_encoder import DualEncoder
from vtr_jax.models.video_tower import time_positions


def fit(
  path: str, array: np.ndarray, shape: tuple[int, ...], model: Any
) -> tuple[np.ndarray, str]:
  """(array of `shape`, what was done; "" = nothing).

  Args:
    path: of the parameter; its last part says what it is.
    array: as the file has it.
    shape: as the model has it.
    model: a DualEncoder or SimVTP.

  Raises:
    ValueError: there is no way, with both shapes.
  """
  if array.shape == shape:
    return array, ""
  how = f"{array.shape[0]} to {shape[0]} rows" if shape and array.ndim else ""
  if array.ndim == len(shape) == 2 and array.shape[1:] == shape[1:]:
    name = path.rpartition("/")[2]
    if name == "time_positions":
      longer = model.config.time_pos_embed_resize
      made = np.asarray(time_positions(array, shape[0], longer))
      return made, f"{how}, {'cut' if len(made) < len(array) else longer}"
    if name == "space_positions":
      cls = int(model.config.parts.class_token)
      return _places(array, shape[0], cls, model), f"{how}, bicubic"
    if name == "positions" and shape[0] < array.shape[0]:
      return array[: shape[0]], f"{how}, the first ones"
    if name == "words" and shape[0] > array.shape[0]:
      more = np.repeat(array.mean(axis=0, keepdims=True), shape[0] - len(array), 0)
      return np.concatenate([array, more]), f"{how}, new ones are the mean"
    if path.endswith("proj/kernel") and shape[0] % array.shape[0] == 0:
      repeats = shape[0] // array.shape[0]
      if repeats == model.clip.tubelet_size[0]:
        # Each frame gives its share, so that a still clip is what its image was (I3D,
        # arXiv 1705.07750).
        return np.tile(array / repeats, (repeats, 1)), f"{how}, patches to tubelets"
  raise ValueError(f"{path} is {shape} here, {array.shape} there")


def _places(array: np.ndarray, rows: int, cls: int, model: DualEncoder) -> np.ndarray:
  """Positions of another grid, bicubic with antialiasing, as timm resamples its own."""
  side = round((len(array) - cls) ** 0.5)
  if side * side != len(array) - cls:
    raise ValueError(f"space_positions are {len(array) - cls} places, no square")
  _, high, wide = model.clip.grid
  grid = array[cls:].reshape(side, side, -1)
  grid = jax.image.resize(grid, (high, wide, grid.shape[-1]), "cubic", antialias=True)
  made = np.concatenate([array[:cls], np.asarray(grid).reshape(rows - cls, -1)])
  return made
