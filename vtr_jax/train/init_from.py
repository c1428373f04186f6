"""Initial parameters of a run from another run or from public weights.

All parameters of another run must match by name and shape, except temporal position
embeddings: for another number of frames they are cut, interpolated or padded with
zeros, as Frozen in Time does (models.video_tower.time_positions). weights/ describes
the import of public files.
"""

import pathlib
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from vtr_jax.core import sharding
from vtr_jax.core.errors import ConfigError
from vtr_jax.models.video_tower import time_positions
from vtr_jax.objectives.base import Objective
from vtr_jax.train import restore_params
from vtr_jax.train.state import TrainState, with_params
from vtr_jax.weights import load
from vtr_jax.weights.match import Report

TIME = "video_tower/time_positions"


def start_from(
  source: str,
  state: TrainState,
  objective: Objective,
  mesh: Mesh,
  allow: tuple[str, ...] = (),
) -> tuple[TrainState, list[Report]]:
  """The initial `state` with the parameters of `source`.

  Of a run with an EMA (`optim.ema_decay`), the EMA parameters. Teacher and EMA start as
  copies of them; step and optimiser state are new.

  Args:
    source: directory of a run, or public weights, see weights/load.py.
    state: the initial state.
    objective: of the config.
    mesh: of the run.
    allow: for public weights; see weights/match.py.

  Returns:
    The state, and a report on each public file.

  Raises:
    CheckpointError: no checkpoint can be read.
    ConfigError: its parameters do not match.
    WeightsError: see weights/load.py.
  """
  if load.pieces(source):
    params, reports = _from_files(source, state.params, objective, allow)
  else:
    params, reports = _from_run(source, state.params, mesh, objective), []
  return with_params(state, objective, params), reports


def _from_files(
  source: str, initial: Any, objective: Objective, allow: tuple[str, ...]
) -> tuple[Any, list[Report]]:
  params: dict[Any, Any] = flatten_dict(initial, sep="/")
  loaded, reports = load.load(source, objective.model, params, allow)
  for path, array in loaded.items():
    # Each device gets its own shard; all processes have read the file.
    params[path] = jax.make_array_from_callback(
      array.shape, params[path].sharding, array.__getitem__
    )
  return unflatten_dict(params, sep="/"), reports


def _from_run(source: str, initial: Any, mesh: Mesh, objective: Objective) -> Any:
  directory = pathlib.Path(source) / "checkpoints"
  stored = restore_params.param_shapes(directory)
  check_fit(source, flatten_dict(stored, sep="/"), flatten_dict(initial, sep="/"))
  replicated = sharding.replicated(mesh)

  def like(saved: jax.ShapeDtypeStruct, target: jax.Array) -> jax.ShapeDtypeStruct:
    layout = target.sharding if saved.shape == target.shape else replicated
    return jax.ShapeDtypeStruct(saved.shape, target.dtype, sharding=layout)

  likes = jax.tree.map(like, stored, initial)
  params, _ = restore_params.read_params(directory, likes)

  def adapt(saved: jax.Array, target: jax.Array) -> jax.Array:
    if saved.shape == target.shape:
      return saved
    resize = objective.model.config.video.time_pos_embed_resize
    return jax.device_put(time_positions(saved, len(target), resize), target.sharding)

  return jax.tree.map(adapt, params, initial)


def check_fit(source: str, stored: dict[str, Any], expected: dict[str, Any]) -> None:
  """Raises ConfigError if parameters are missing, unexpected or of another shape.

  Args:
    source: named in the error.
    stored: path -> anything with a shape, of the checkpoint.
    expected: the same of the model.

  Raises:
    ConfigError: listing at most one screen of paths.
  """
  resizable = TIME in stored and TIME in expected
  if resizable and stored[TIME].shape[1:] == expected[TIME].shape[1:]:
    stored = stored | {TIME: expected[TIME]}
  if difference := restore_params.diff_trees(stored, expected):
    raise ConfigError(
      f"config.init_from: the parameters of {source} do not fit this config: "
      f"{difference}; set config.objective, clip and text as that run's config.json "
      "has them"
    )
