"""Everything that training changes, in one struct."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int32

from vtr_jax import sharding
from vtr_jax.objectives.base import Objective


@flax.struct.dataclass
class TrainState:
  """A checkpoint is this and the step's number; nothing else moves."""

  step: Int32[Array, ""]  # steps done; also the position in the data
  params: Any  # float32, nested dicts
  opt_state: Any  # optax
  teacher: Any  # float32, the shadowed part of params; None without a teacher


def abstract_params(objective: Objective, spec: dict) -> Any:
  """Boxed shapes of the parameters, before any data or device work."""
  return jax.eval_shape(objective.init, jax.random.key(0), spec)


def abstract(
  objective: Objective, optimizer: optax.GradientTransformation, spec: dict, mesh: Mesh
) -> tuple[TrainState, TrainState]:
  """(shapes of a state, its shardings); no device is touched.

  Args:
    spec: shapes of a training batch (`batch.spec`).
    mesh: may be of devices that are not here, to plan for them.
  """
  boxed = abstract_params(objective, spec)
  params = sharding.param_shardings(boxed, mesh)
  whole = sharding.replicated(mesh)
  masked = lambda leaf: isinstance(leaf, optax.MaskedNode)  # a frozen parameter's
  opt_state = optax.tree_utils.tree_map_params(
    optimizer,
    lambda leaf, sharding: leaf if masked(leaf) else sharding,
    jax.eval_shape(optimizer.init, nn.unbox(boxed)),
    params,
    transform_non_params=lambda _: whole,
    is_leaf=masked,
  )
  shardings = TrainState(whole, params, opt_state, objective.shadowed(params))
  make = lambda params: _fresh(optimizer, params, objective.shadowed(params))
  return jax.eval_shape(make, nn.unbox(boxed)), shardings


def init(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  spec: dict,
  mesh: Mesh,
  seed: int,
) -> tuple[TrainState, TrainState]:
  """(fresh state, its shardings). Each device makes only its own part.

  Args:
    spec: shapes of a training batch (`batch.spec`).
    seed: of the parameters; the same on every mesh.
  """
  _, shardings = abstract(objective, optimizer, spec, mesh)

  def make(key: jax.Array) -> TrainState:
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), spec)
    params = nn.unbox(objective.init(key, zeros))
    teacher = jax.tree.map(jnp.copy, objective.shadowed(params))
    return _fresh(optimizer, params, teacher)

  with sharding.scope(mesh):
    state = jax.jit(make, out_shardings=shardings)(jax.random.key(seed))
  return state, shardings


def _fresh(
  optimizer: optax.GradientTransformation, params: Any, teacher: Any
) -> TrainState:
  step = jnp.zeros((), jnp.int32)
  return TrainState(step, params, optimizer.init(params), teacher)
