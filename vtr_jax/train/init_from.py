"""Initial parameters of a run from another run or from public weights.

All parameters of another run must match by name and shape, with three exceptions.
Layers may be stacked in one of the two runs (`compute.scan`). Temporal position
embeddings for another number of frames are cut, interpolated or padded with zeros, as
Frozen in Time does (models.video_tower.time_positions). Position embeddings of longer
texts keep their initial values beyond the other run's length; those of shorter texts
are cut. A config may name heads that the other run has not. weights/ describes the
import of public files.
"""

import itertools
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from vtr_jax.core import paths, sharding
from vtr_jax.core.config import nearest, require
from vtr_jax.core.errors import ConfigError
from vtr_jax.models.video_tower import time_positions
from vtr_jax.objectives.base import Objective
from vtr_jax.train import restore_params
from vtr_jax.train.state import TrainState, with_params
from vtr_jax.weights import load, stacks
from vtr_jax.weights.match import Report, is_under

TIME = "video_tower/time_positions"
TEXT = ("text_tower/embed/positions", "text_embed/positions")
# A joint encoder's parameters as those of the video tower that it is of clips alone.
_JOINT = (
  ("video_embed/", "video_tower/"),
  ("encoder/norm/", "video_norm/"),
  ("encoder/", "video_tower/"),
)


class RunReport(NamedTuple):
  """What another run's parameters were used for."""

  source: str  # directory of the run
  initialised: list[str]  # parameters with their own initial values
  unused: list[str]  # parameters of the other run
  warnings: tuple[str, ...] = ()

  def summary(self) -> str:
    """Both lists in one line, by groups of parameters."""
    groups = [
      ", ".join(sorted({path.split("/")[0] for path in paths})) or "nothing"
      for paths in (self.initialised, self.unused)
    ]
    return f"{self.source}: initial values: {groups[0]}; not used: {groups[1]}"

  def text(self) -> str:
    """All parameters, for a file."""
    rows = [f"initialised {path}" for path in self.initialised]
    return "\n".join([self.source, *rows, *(f"unused {path}" for path in self.unused)])


def start_from(
  source: str,
  state: TrainState,
  objective: Objective,
  mesh: Mesh,
  allow: tuple[str, ...] = (),
  heads: tuple[str, ...] = (),
) -> tuple[TrainState, Sequence[Report | RunReport]]:
  """The initial `state` with the parameters of `source`.

  Of a run with an EMA (`optim.ema_decay`), the EMA parameters. Teacher and EMA start as
  copies of them; step and optimiser state are new.

  Args:
    source: directory of a run, or public weights, see weights/load.py.
    state: the initial state.
    objective: of the config.
    mesh: of the run.
    allow: for public weights; see weights/match.py.
    heads: parameters that keep their initial values, by their path's beginning; with
      some, parameters that only the other run has are not used.

  Returns:
    The state, and a report on each public file, or on a run with other parameters.

  Raises:
    CheckpointError: no checkpoint can be read.
    ConfigError: its parameters do not match.
    WeightsError: see weights/load.py.
  """
  check_heads(heads, state.params)
  if load.pieces(source):
    params, reports = _from_files(source, state.params, objective, allow, heads)
  else:
    check_classes(source, objective.classes, heads)
    params, reports = _from_run(source, state.params, mesh, objective, heads)
  return with_params(state, objective, params), reports


def check_heads(heads: tuple[str, ...], initial: Any) -> None:
  """Raises ConfigError if one of `heads` is no parameter of the model."""
  paths = list(flatten_dict(initial, sep="/"))
  for head in heads:
    known = {"/".join(p.split("/")[: head.count("/") + 1]) for p in paths}
    require(
      any(is_under(path, (head,)) for path in paths),
      f"config.init_heads: {head!r} is no parameter of this model; give the beginning "
      f"of a path, not a pattern; {nearest(head, known)}",
    )


def check_classes(source: str, own: tuple[str, ...], heads: tuple[str, ...]) -> None:
  """Raises ConfigError if a run's head is used whose classes are not those of `own`."""
  try:
    values = json.loads((paths.anywhere(source) / "config.json").read_text())
    theirs = tuple(values["objective"].get("classes") or ())
  except (OSError, ValueError, KeyError, AttributeError, TypeError):
    return  # told where the run is opened
  if not own or not theirs or is_under("head/kernel", heads) or own == theirs:
    return
  pairs = itertools.zip_longest(theirs, own)
  i, (old, new) = next((i, p) for i, p in enumerate(pairs) if p[0] != p[1])
  raise ConfigError(
    f"config.init_from: class {i} of {source} is {old!r}, of this config {new!r}; name "
    "the head in config.init_heads, so that it is new, or set that run's "
    "config.objective.classes"
  )


def _from_files(
  source: str,
  initial: Any,
  objective: Objective,
  allow: tuple[str, ...],
  heads: tuple[str, ...],
) -> tuple[Any, list[Report]]:
  params: dict[Any, Any] = flatten_dict(initial, sep="/")
  loaded, reports = load.load(source, objective.model, params, allow, heads)
  for path, array in loaded.items():
    # Each device gets its own shard; all processes have read the file.
    params[path] = jax.make_array_from_callback(
      array.shape, params[path].sharding, array.__getitem__
    )
  return unflatten_dict(params, sep="/"), reports


def _from_run(
  source: str, initial: Any, mesh: Mesh, objective: Objective, heads: tuple[str, ...]
) -> tuple[Any, list[RunReport]]:
  directory = paths.anywhere(source) / "checkpoints"
  shapes: dict[str, Any] = flatten_dict(restore_params.param_shapes(directory), sep="/")
  expected: dict[str, Any] = flatten_dict(initial, sep="/")
  flat = None
  if stacks.stacked(shapes) != stacks.stacked(expected):
    # Whole, in host memory: devices may have room for their shards alone.
    shapes = flat = _restacked(_read(directory, shapes))
  names = _video_side(shapes, expected) if heads else {path: path for path in shapes}
  initialised = [path for path in expected if is_under(path, heads)]
  # Without heads, a parameter that this model lacks is an error, of `check_fit`.
  used = {
    path: name
    for path, name in names.items()
    if not heads or (name in expected and not is_under(name, heads))
  }
  check_fit(
    source,
    {name: shapes[path] for path, name in used.items()},
    {path: x for path, x in expected.items() if path not in initialised},
  )
  replicated = sharding.replicated(mesh)

  def like(path: str) -> jax.ShapeDtypeStruct:
    target = expected.get(names[path])
    shape, dtype, layout = shapes[path].shape, shapes[path].dtype, replicated
    if target is not None:
      dtype = target.dtype
      layout = target.sharding if target.shape == shape else replicated
    return jax.ShapeDtypeStruct(shape, dtype, sharding=layout)

  if flat is None:
    flat = _read(directory, {path: like(path) for path in shapes})
  for path, name in used.items():
    expected[name] = _adapt(name, flat[path], expected[name], objective)
  unused = [path for path in names if path not in used]
  reports = [RunReport(source, initialised, unused)] if heads else []
  return unflatten_dict(expected, sep="/"), reports


def _read(directory: paths.AnyPath, likes: dict[str, Any]) -> dict[str, Any]:
  """Path -> array of the newest checkpoint; of NumPy where `likes` has no sharding."""
  stored, _ = restore_params.read_params(directory, unflatten_dict(likes, sep="/"))
  return flatten_dict(stored, sep="/")


def _restacked(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The parameters of a run as one with the other `compute.scan` has them."""
  return stacks.split(arrays) if stacks.stacked(arrays) else stacks.stack(arrays)


def _adapt(
  name: str, saved: jax.Array | np.ndarray, target: jax.Array, objective: Objective
) -> jax.Array:
  """The saved parameter; positions of another number of frames or words are resized."""
  if saved.shape == target.shape:
    if isinstance(saved, np.ndarray):  # whole in each process
      saved = saved.astype(target.dtype)
      return jax.make_array_from_callback(
        saved.shape, target.sharding, saved.__getitem__
      )
    return saved
  if name in TEXT:
    both = jnp.concatenate([jnp.asarray(saved, target.dtype), target[len(saved) :]])
    return jax.device_put(both[: len(target)], target.sharding)
  resize = objective.model.config.video.time_pos_embed_resize
  return jax.device_put(time_positions(saved, len(target), resize), target.sharding)


def _video_side(shapes: dict[str, Any], expected: dict[str, Any]) -> dict[str, str]:
  """Path of another run's parameter -> path in a model that has a video tower.

  A joint encoder of videos and texts (SimVTP's) becomes that tower.
  """
  names = {path: path for path in shapes}
  if "video_embed/proj/kernel" not in shapes or not any(
    path.startswith("video_tower/") for path in expected
  ):
    return names
  for path in shapes:
    for old, new in _JOINT:
      if path.startswith(old):
        names[path] = new + path.removeprefix(old)
        break
  return names


def check_fit(source: str, stored: dict[str, Any], expected: dict[str, Any]) -> None:
  """Raises ConfigError if parameters are missing, unexpected or of another shape.

  Args:
    source: named in the error.
    stored: path -> anything with a shape, of the checkpoint.
    expected: the same of the model.

  Raises:
    ConfigError: listing at most one screen of paths.
  """
  for path in (TIME, *TEXT):
    resizable = path in stored and path in expected
    if resizable and stored[path].shape[1:] == expected[path].shape[1:]:
      stored = stored | {path: expected[path]}
  if difference := restore_params.diff_trees(stored, expected):
    raise ConfigError(
      f"config.init_from: the parameters of {source} do not fit this config: "
      f"{difference}; set config.objective, clip and text as that run's config.json "
      "has them, or name what is new in config.init_heads"
    )
