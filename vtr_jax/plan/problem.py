"""A config's training step as shapes: its memory and its trace, without any array."""

import contextlib
import dataclasses
import math
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh

from vtr_jax.core import sharding
from vtr_jax.core.config import choose
from vtr_jax.models import attention
from vtr_jax.objectives import base as objectives
from vtr_jax.plan import gpus
from vtr_jax.plan.chips import Target
from vtr_jax.train import flops
from vtr_jax.train.config import Parts, TrainConfig


@dataclasses.dataclass(frozen=True)
class Problem:
  """One training step, on a mesh of devices or an abstract mesh."""

  parts: Parts
  mesh: Mesh | AbstractMesh

  @property
  def config(self) -> TrainConfig:
    return self.parts.config

  @property
  def row_devices(self) -> int:
    """Number of devices that the examples are sharded over."""
    return sharding.row_devices(self.mesh)

  @property
  def devices(self) -> Mesh:
    """The mesh, which must be of devices."""
    assert isinstance(self.mesh, Mesh)
    return self.mesh

  def trace(self) -> jax.stages.Traced:
    """The trace of the training step; the mesh must be of devices."""
    shapes, _ = self.parts.abstract(self.mesh)
    train = self.parts.train_step(self.devices)
    platform = self.devices.devices.flat[0].platform
    absent = platform == "gpu" and jax.default_backend() != "gpu"
    traceable = gpus.cudnn() if absent else contextlib.nullcontext()
    with sharding.scope(self.devices), traceable:
      return train.jitted.trace(shapes, self.parts.spec)

  def flops(self) -> float:
    """FLOPs of a step's products on one device."""
    return flops.jaxpr_flops(self.trace().jaxpr.jaxpr) / self.mesh.size

  def held(self) -> dict[str, float]:
    """Bytes held on a device throughout the step, by kind."""
    shapes, shardings = self.parts.abstract(self.mesh)
    spec, rows = self.parts.spec, sharding.batch_sharding(self.mesh)
    return dict(
      parameters=held(shapes.params, shardings.params),
      optimiser=held(shapes.opt_state, shardings.opt_state),
      teacher=held(shapes.teacher, shardings.teacher),
      ema=held(shapes.ema_params, shardings.ema_params),
      batch=held(spec, dict.fromkeys(spec, rows)),
    )


def held(shapes: Any, shardings: Any) -> float:
  """Bytes of one device's shards of a tree of shapes."""
  sizes = jax.tree.map(
    lambda x, s: math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize,
    shapes,
    shardings,
  )
  return float(sum(jax.tree.leaves(sizes)))


def make(config: TrainConfig, target: Target) -> Problem:
  """The problem of a target, checked as a training would be.

  Raises:
    ConfigError: the mesh, the batch or its groups do not divide, or the attention is
      for other devices.
  """
  if target.name != "local":
    compute = config.objective.get("compute", {})
    how = compute.get("attention", "auto")
    choose(how, attention.IMPLEMENTATIONS, "config.objective.compute.attention")
    attention.check(how, target.platform)
    # Initial shapes are traced on this machine, where no kernel of the chips can be.
    how = "xla" if how == "xla" else "auto"
    objective = config.objective | dict(compute=compute | dict(attention=how))
    # All chips in the list multiply it.
    objective = objectives.with_dtype(objective, lambda: "bfloat16")
    config = dataclasses.replace(config, objective=objective)
  if target.devices is None:
    sizes = sharding.mesh_sizes(config.mesh, target.count)
    mesh = AbstractMesh(sizes, sharding.AXES, (AxisType.Auto,) * len(sizes))
  else:
    mesh = sharding.make_mesh(config.mesh, target.devices)
  parts = config.parts()
  parts.check_batches(mesh)
  return Problem(parts, mesh)


def on_one(problem: Problem) -> Problem:
  """The same step on one CPU, where it can be traced for any target."""
  mesh = sharding.make_mesh(sharding.MeshConfig(1, 1, 1), jax.devices("cpu")[:1])
  return dataclasses.replace(problem, mesh=mesh)
