"""The first parameters of a run, from another run of the same objective.

Everything must fit by name and shape, but for time positions: those of a clip with
another number of frames are cut, stretched or followed by zeros, as Frozen in Time
adapts its own (models/dual.time_positions).
"""

import pathlib
from typing import Any

import jax
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh

from vtr_jax import checkpoint, sharding
from vtr_jax.errors import CheckpointError
from vtr_jax.models.dual import time_positions
from vtr_jax.objectives.base import Objective
from vtr_jax.state import TrainState, started

TIME = "video_tower/time_positions"


def start_from(
  source: str,
  state: TrainState,
  objective: Objective,
  mesh: Mesh,
  longer_clips: str = "zeros",
) -> TrainState:
  """The fresh `state`, with the parameters of the run in directory `source`.

  They are its running mean, if it kept one (`optim.ema`). A teacher and a running mean
  start as copies of them; step and optimiser stay fresh.

  Raises:
    CheckpointError: there is no checkpoint, or its parameters are not these.
  """
  directory = pathlib.Path(source) / "checkpoints"
  stored = checkpoint.param_shapes(directory)
  check_fit(source, flatten_dict(stored, sep="/"), flatten_dict(state.params, sep="/"))
  whole = sharding.replicated(mesh)

  def like(there: jax.ShapeDtypeStruct, here: jax.Array) -> jax.ShapeDtypeStruct:
    place = here.sharding if there.shape == here.shape else whole
    return jax.ShapeDtypeStruct(there.shape, here.dtype, sharding=place)

  found, _ = checkpoint.read_params(directory, jax.tree.map(like, stored, state.params))

  def adapt(there: jax.Array, here: jax.Array) -> jax.Array:
    if there.shape == here.shape:
      return there
    return jax.device_put(time_positions(there, len(here), longer_clips), here.sharding)

  params = jax.tree.map(adapt, found, state.params)
  return started(state, objective, params)


def check_fit(source: str, stored: dict[str, Any], wanted: dict[str, Any]) -> None:
  """Refuses parameters that are missing, left over, or of another shape.

  Args:
    source: named in the error.
    stored: path -> anything with a shape, of the checkpoint.
    wanted: the same of the model.

  Raises:
    CheckpointError: with every such path.
  """
  problems = [f"{p} is missing" for p in sorted(set(wanted) - set(stored))]
  problems += [f"{p} is not used" for p in sorted(set(stored) - set(wanted))]
  for path in sorted(set(wanted) & set(stored)):
    there, here = stored[path].shape, wanted[path].shape
    if there != here and not (path == TIME and there[1:] == here[1:]):
      problems.append(f"{path} is {there}, not {here}")
  if problems:
    raise CheckpointError(
      f"{source}: its parameters do not fit this config: {'; '.join(problems)}; set "
      "config.objective, clip and text as that run's config.json has them"
    )
