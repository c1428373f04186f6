"""A config's training step as shapes: what is held, what is traced, no array made."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import AbstractMesh, AxisType, Mesh

from vtr_jax import batch as batch_lib
from vtr_jax import flops, optim, sharding, step
from vtr_jax import state as state_lib
from vtr_jax.config import require
from vtr_jax.experiment import TrainConfig
from vtr_jax.objectives import base as objectives
from vtr_jax.plan.chips import Target


@dataclasses.dataclass(frozen=True)
class Problem:
  """One step of `rows` clips, on a mesh of devices or of their number alone."""

  config: TrainConfig
  rows: int  # a step, over all devices
  mesh: Mesh | AbstractMesh

  @property
  def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
    c = self.config
    return batch_lib.spec(c.clip, c.text, c.mask, self.rows)

  @property
  def row_devices(self) -> int:
    """Devices that the rows are spread over."""
    return math.prod(self.mesh.shape[a] for a in sharding.ROWS)

  def parts(self) -> tuple[Any, Any]:
    """(objective, optimiser)."""
    c = self.config
    objective = objectives.build(c.objective, c.clip, c.text, c.mask)
    step.check_weights(c.weights, objective)
    params = nn.unbox(state_lib.abstract_params(objective, self.spec))
    return objective, optim.make(c.optim, c.steps, params)

  def state(self) -> tuple[state_lib.TrainState, state_lib.TrainState]:
    """(shapes, shardings)."""
    kept = self.config.kept
    return state_lib.abstract(*self.parts(), self.spec, self.mesh, *kept)

  def trace(self) -> jax.stages.Traced:
    """The real step of training; its mesh must be of devices."""
    objective, optimizer = self.parts()
    shapes, shardings = self.state()
    c, mesh = self.config, self.mesh
    train = step.make_train_step(
      c.loss(objective, mesh),
      optimizer,
      c.steps,
      c.seed,
      shardings,
      c.optim.ema,
      c.guard.limit,
    )
    with sharding.scope(mesh):
      return train.jitted.trace(shapes, self.spec)

  def flops(self) -> float:
    """A device's share of a step's products."""
    return flops.count(self.trace().jaxpr.jaxpr) / self.mesh.size

  def held(self) -> dict[str, float]:
    """Bytes on a device through the whole step, by kind."""
    shapes, shardings = self.state()
    rows = sharding.batch_sharding(self.mesh)
    batch = {k: rows for k in self.spec}
    return dict(
      parameters=held(shapes.params, shardings.params),
      optimiser=held(shapes.opt_state, shardings.opt_state),
      teacher=held(shapes.teacher, shardings.teacher),
      mean=held(shapes.mean, shardings.mean),
      batch=held(self.spec, batch),
    )


def held(shapes: Any, shardings: Any) -> float:
  """Bytes of a device's part of a tree of shapes."""
  sizes = jax.tree.map(
    lambda x, s: math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize,
    shapes,
    shardings,
  )
  return float(sum(jax.tree.leaves(sizes)))


def make(config: TrainConfig, target: Target, rows: int | None = None) -> Problem:
  """The problem of a target, checked as a training would be.

  Raises:
    ConfigError: the mesh or the batch does not divide.
  """
  rows = config.batch_size if rows is None else rows
  require(rows > 1, f"--batch_size: {rows} leaves no pair to tell apart; use 2 up")
  if target.devices is None:
    sizes = sharding.mesh_sizes(config.mesh, target.count)
    mesh = AbstractMesh(sizes, sharding.AXES, (AxisType.Auto,) * len(sizes))
  else:
    mesh = sharding.make_mesh(config.mesh, target.devices)
  sharding.check_batch_size(rows, mesh, "config.batch_size", config.micro_batches)
  return Problem(config, rows, mesh)


def on_one(problem: Problem) -> Problem:
  """The same step for one CPU, where it can be traced for any target."""
  mesh = sharding.make_mesh(sharding.MeshConfig(1, 1, 1), jax.devices("cpu")[:1])
  return dataclasses.replace(problem, mesh=mesh)
