"""Opens a run's directory, or published weights: config, weights, tokenizer."""

import math
import os
from typing import Any, TypeVar

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import unflatten_dict
from jax.sharding import Mesh

from vtr_jax.core import buckets, config, io, paths, sharding
from vtr_jax.core.batch import TextSpec
from vtr_jax.core.errors import CheckpointError, ConfigError, DataError
from vtr_jax.core.shutdown import warn
from vtr_jax.data.tokenizers import base as tokenizers
from vtr_jax.inference import published
from vtr_jax.inference.model import LoadedModel
from vtr_jax.objectives.base import Objective
from vtr_jax.train import restore_params, state, workdir
from vtr_jax.train.config import TrainConfig

M = TypeVar("M", bound=LoadedModel)


def load(
  directory: str | os.PathLike, text: bool = True, kind: type[M] = LoadedModel
) -> M:
  """Reads the newest checkpoint; writes nothing, so the run may still be training.

  Args:
    directory: the --workdir of a training, or of `vtr_jax.convert`; or a folder of
      published weights as a hub stores it, see weights/snapshot.py.
    text: whether texts will be embedded; if not, the run needs no tokenizer.
    kind: class of the result.

  Raises:
    CheckpointError: not the directory of a run, or no checkpoint that can be read.
    DataError: `text`, and the run has no tokenizer.
    ConfigError: its config does not fit this version.
  """
  path = paths.anywhere(paths.local(os.fspath(directory), "directory", buckets=True))
  is_run = paths.is_bucket(path) or (path / "checkpoints").is_dir()
  if not is_run and (found := published.of_folder(path)):
    return _of_published(path, found, text, kind)
  try:
    values = io.mapping((path / "config.json").read_bytes())
  except (OSError, ValueError) as e:
    reason = (e.strerror or "") if isinstance(e, OSError) else str(e)
    hint = "" if path.exists() else paths.near(path)
    cure = f"give the --workdir of a training{hint}"
    raise CheckpointError(
      f"{path}: not a run (config.json: {reason}); {cure}"
    ) from None
  # The evaluators of the run are not read: they may no longer exist.
  values = workdir.upgraded(values) | dict(evals={})
  c = config.read(TrainConfig, values, f"{path}/config.json")
  objective, mesh = c.make_objective(), fitting_mesh(c.mesh)
  tokenizer = tokenizers.NoText()
  if objective.reads_text:
    vocabulary = path / "tokenizer.model"
    tokenizer = _tokenizer(path, vocabulary, c.text) if text else None
  like = _placed(c, objective, mesh)
  params, step = restore_params.read_params(path / "checkpoints", like)
  return kind(c, objective, params, mesh, step, tokenizer)


def _of_published(
  path: paths.AnyPath, found: published.Published, text: bool, kind: type[M]
) -> M:
  """`load` of a folder of published weights; warns of what is not in them."""
  c, objective, mesh = found.config, found.objective, fitting_mesh(found.config.mesh)
  for warning in found.check():
    warn(f"{path}: {warning}")
  if lacking := found.lacking():
    warn(f"{path}: not in the weights, so random: {', '.join(lacking)}")
  tokenizer = tokenizers.NoText()
  if objective.reads_text:
    vocabulary = found.vocabulary or path / "tokenizer.model"
    tokenizer = _tokenizer(path, vocabulary, c.text) if text else None
  params = unflatten_dict(found.params(), sep="/")
  place = lambda x, like: jax.device_put(np.asarray(x, like.dtype), like.sharding)
  params = jax.tree.map(place, params, _placed(c, objective, mesh))
  return kind(c, objective, params, mesh, found.step, tokenizer)


def _placed(c: TrainConfig, objective: Objective, mesh: Mesh) -> Any:
  """ShapeDtypeStructs of the parameters, with their shardings."""
  boxed = state.abstract_params(objective, c.spec())
  return state.with_shardings(nn.unbox(boxed), sharding.param_shardings(boxed, mesh))


def _tokenizer(
  run: paths.AnyPath, path: paths.AnyPath, text: TextSpec
) -> tokenizers.Tokenizer:
  if not path.exists():
    raise DataError(f"{run}: without a vocabulary; copy its vocabulary file to {path}")
  tokenizer = tokenizers.load(str(buckets.copied(path)), text.t5_rules)
  tokenizers.check(tokenizer, text)
  return tokenizer


def fitting_mesh(run: sharding.MeshConfig, rows: int = 0) -> Mesh:
  """The mesh of a run; with another number of devices, data parallel on all of them.

  Args:
    run: the mesh of the run's config.
    rows: of a batch; the mesh has only as many devices as divide them evenly.
  """
  try:
    mesh = sharding.make_mesh(run)
  except ConfigError:
    mesh = sharding.make_mesh(sharding.MeshConfig(-1, 1, 1))
  if rows % sharding.row_devices(mesh):
    few = jax.devices()[: math.gcd(rows, jax.device_count())]
    mesh = sharding.make_mesh(sharding.MeshConfig(-1, 1, 1), few)
  return mesh
