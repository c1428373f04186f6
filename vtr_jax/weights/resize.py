"""Resizes parameters of a file to a model's sizes: positions, tubelets, vocabulary."""

from typing import Any

import jax
import numpy as np

from vtr_jax.models.dual_encoder import DualEncoder
from vtr_jax.models.video_tower import time_positions


def fit(
  path: str, array: np.ndarray, shape: tuple[int, ...], model: Any
) -> tuple[np.ndarray, str]:
  """(array of `shape`, how it was resized, or "").

  Args:
    path: of the parameter; its last part selects the method.
    array: from the file.
    shape: of the model's parameter.
    model: a DualEncoder or SimVTP.

  Raises:
    ValueError: it cannot be resized; names both shapes.
  """
  if array.shape == shape:
    return array, ""
  how = f"{array.shape[0]} to {shape[0]} rows" if shape and array.ndim else ""
  if array.ndim == len(shape) == 2 and array.shape[1:] == shape[1:]:
    name = path.rpartition("/")[2]
    if name == "time_positions":
      method = model.config.video.time_pos_embed_resize
      resized = np.asarray(time_positions(array, shape[0], method))
      return resized, f"{how}, {'cut' if len(resized) < len(array) else method}"
    if name == "space_positions":
      cls = int(model.config.parts.class_token)
      return _space_positions(array, shape[0], cls, model), f"{how}, bicubic"
    if name == "positions" and shape[0] < array.shape[0]:
      return array[: shape[0]], f"{how}, the first ones"
    if name == "words" and shape[0] > array.shape[0]:
      new = np.repeat(array.mean(axis=0, keepdims=True), shape[0] - len(array), 0)
      return np.concatenate([array, new]), f"{how}, new ones are the mean"
    if path.endswith("proj/kernel") and shape[0] % array.shape[0] == 0:
      repeats = shape[0] // array.shape[0]
      if repeats == model.clip.tubelet_size[0]:
        # Divided by the frames: a static clip gives the image's activations (I3D,
        # arXiv 1705.07750).
        return np.tile(array / repeats, (repeats, 1)), f"{how}, patches to tubelets"
  raise ValueError(f"{path} is {shape} in the model, {array.shape} in the file")


def _space_positions(
  array: np.ndarray, rows: int, cls: int, model: DualEncoder
) -> np.ndarray:
  """Positions on another grid, bicubic with antialiasing, as timm resamples its own."""
  side = round((len(array) - cls) ** 0.5)
  if side * side != len(array) - cls:
    raise ValueError(f"space_positions has {len(array) - cls} rows, not a square grid")
  _, height, width = model.clip.grid
  grid = array[cls:].reshape(side, side, -1)
  shape = (height, width, grid.shape[-1])
  grid = np.asarray(jax.image.resize(grid, shape, "cubic", antialias=True))
  return np.concatenate([array[:cls], grid.reshape(rows - cls, -1)])
