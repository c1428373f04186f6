"""The first parameters of a run: another run's, or public weights.

Of another run everything must fit by name and shape, but for time positions: those of a
clip with another number of frames are cut, stretched or followed by zeros, as Frozen in
Time adapts its own (models/towers.time_positions). What public files must give, and
what may stay fresh, is told in weights/.
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
from vtr_jax.train.state import TrainState, started
from vtr_jax.weights import load
from vtr_jax.weights.match import Report

TIME = "video_tower/time_positions"
_SHOWN = 20  # differences that are listed: one screen


def start_from(
  source: str,
  state: TrainState,
  objective: Objective,
  mesh: Mesh,
  time_pos_embed_resize: str = "zeros",
  allow: tuple[str, ...] = (),
) -> tuple[TrainState, list[Report]]:
  """The fresh `state` with the parameters of `source`, and what became of each.

  Of a run with an EMA (`optim.ema_decay`) these are the averaged ones. Teacher and EMA
  start as copies of them; step and optimiser state are new.

  Args:
    source: directory of a run, or public weights, see weights/load.py.
    allow: see weights/match.py; of public weights alone.

  Returns:
    The state, and a report of each public file.

  Raises:
    CheckpointError: there is no checkpoint that can be read.
    ConfigError: its parameters are not these.
    WeightsError: see weights/load.py.
  """
  if load.pieces(source):
    params, reports = _from_files(source, state.params, objective, allow)
  else:
    params, reports = _from_run(source, state.params, mesh, time_pos_embed_resize), []
  return started(state, objective, params), reports


def _from_files(
  source: str, fresh: Any, objective: Objective, allow: tuple[str, ...]
) -> tuple[Any, list[Report]]:
  here = flatten_dict(fresh, sep="/")
  found, reports = load.load(source, objective.model, here, allow)
  for path, array in found.items():
    # Each device gets its own part; all processes have read the file.
    here[path] = jax.make_array_from_callback(
      array.shape, here[path].sharding, array.__getitem__
    )
  return unflatten_dict(here, sep="/"), reports


def _from_run(source: str, fresh: Any, mesh: Mesh, time_pos_embed_resize: str) -> Any:
  directory = pathlib.Path(source) / "checkpoints"
  stored = restore_params.param_shapes(directory)
  check_fit(source, flatten_dict(stored, sep="/"), flatten_dict(fresh, sep="/"))
  whole = sharding.replicated(mesh)

  def like(there: jax.ShapeDtypeStruct, here: jax.Array) -> jax.ShapeDtypeStruct:
    place = here.sharding if there.shape == here.shape else whole
    return jax.ShapeDtypeStruct(there.shape, here.dtype, sharding=place)

  found, _ = restore_params.read_params(directory, jax.tree.map(like, stored, fresh))

  def adapt(there: jax.Array, here: jax.Array) -> jax.Array:
    if there.shape == here.shape:
      return there
    return jax.device_put(
      time_positions(there, len(here), time_pos_embed_resize), here.sharding
    )

  return jax.tree.map(adapt, found, fresh)


def check_fit(source: str, stored: dict[str, Any], wanted: dict[str, Any]) -> None:
  """Refuses parameters that are missing, left over, or of another shape.

  Args:
    source: named in the error.
    stored: path -> anything with a shape, of the checkpoint.
    wanted: the same of the model.

  Raises:
    ConfigError: with such paths, as many as fit on a screen.
  """
  problems = [f"{p} is missing" for p in sorted(set(wanted) - set(stored))]
  problems += [f"{p} is not used" for p in sorted(set(stored) - set(wanted))]
  for path in sorted(set(wanted) & set(stored)):
    there, here = stored[path].shape, wanted[path].shape
    if there != here and not (path == TIME and there[1:] == here[1:]):
      problems.append(f"{path} is {there}, not {here}")
  if problems:
    more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
    listed = "; ".join(problems[:_SHOWN] + more)
    raise ConfigError(
      f"config.init_from: the parameters of {source} do not fit this config: {listed}; "
      "set config.objective, clip and text as that run's config.json has them"
    )
