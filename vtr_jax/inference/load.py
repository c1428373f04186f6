"""A trained model, built from a run's directory alone: config, weights, tokenizer."""

import math
import pathlib
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax.sharding import Mesh

from vtr_jax.core import config, io, sharding
from vtr_jax.core.errors import CheckpointError, ConfigError, DataError
from vtr_jax.data.tokenizers import base as tokenizers
from vtr_jax.objectives import base as objectives
from vtr_jax.train import restore_params, state, workdir
from vtr_jax.train.config import TrainConfig


class Trained(NamedTuple):
  """What evaluation and search need of a run."""

  config: TrainConfig
  objective: objectives.Objective
  tokenizer: tokenizers.Tokenizer | None  # None if `load` was asked for no words
  mesh: Mesh
  params: Any  # on the mesh
  step: int  # of the checkpoint


def load(directory: str | pathlib.Path, words: bool = True) -> Trained:
  """Reads the newest checkpoint; writes nothing, so the run may still be training.

  Args:
    directory: the --workdir of a training, or what `vtr_jax.convert` wrote.
    words: whether captions are to be read; if not, no tokenizer is needed.

  Raises:
    CheckpointError: it is not a run, or has no checkpoint that can be read.
    DataError: words are asked for and it has no tokenizer.
    ConfigError: its config does not fit this version.
  """
  place = pathlib.Path(directory)
  try:
    values = io.mapping((place / "config.json").read_bytes())
  except (OSError, ValueError) as e:
    raise CheckpointError(
      f"{place}: not a run ({e}); give the --workdir of a training"
    ) from None
  # The evaluators of the run are not of interest, nor whether they still exist.
  values = workdir.upgraded(values) | dict(evals={})
  c = config.read(TrainConfig, values, f"{place}/config.json")
  objective = c.make_objective()
  tokenizer = None
  if words:
    if not (place / "tokenizer.model").exists():
      raise DataError(
        f"{place}: a run without tokenizer.model; copy the vocabulary file of its "
        "words there by that name"
      )
    tokenizer = tokenizers.load(str(place / "tokenizer.model"))
    tokenizers.check(tokenizer, c.text)
  mesh = fitting_mesh(c.mesh)
  boxed = state.abstract_params(objective, c.spec())
  like = state.with_shardings(nn.unbox(boxed), sharding.param_shardings(boxed, mesh))
  params, step = restore_params.read_params(place / "checkpoints", like)
  return Trained(c, objective, tokenizer, mesh, params, step)


def fitting_mesh(wanted: sharding.MeshConfig, rows: int = 0) -> Mesh:
  """The run's mesh, or, on another number of devices, copies on all of them.

  Args:
    wanted: the run's.
    rows: must divide over it, or it is of as many devices as they divide over.
  """
  try:
    mesh = sharding.make_mesh(wanted)
  except ConfigError:
    mesh = sharding.make_mesh(sharding.MeshConfig(-1, 1, 1))
  if rows % math.prod(mesh.shape[a] for a in sharding.ROWS):
    few = jax.devices()[: math.gcd(rows, jax.device_count())]
    mesh = sharding.make_mesh(sharding.MeshConfig(-1, 1, 1), few)
  return mesh
