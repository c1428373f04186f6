"""The training state."""

from typing import Any, no_type_check

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Array, Int32

from vtr_jax.core import sharding
from vtr_jax.objectives.base import Objective
from vtr_jax.train import guard


@no_type_check  # JAX puts shapes and shardings in its fields, too
class TrainState(flax.struct.PyTreeNode):
  """All that training changes; a checkpoint stores it, and the next batch's index."""

  step: Int32[Array, ""]  # steps done, including skipped ones
  params: Any  # float32, nested dicts
  opt_state: Any  # optax
  teacher: Any  # float32, of the parameters it copies; None without a teacher
  ema_params: Any = None  # float32, EMA of params; None without `optim.ema_decay`
  loss_history: Any = None  # of losses and gradient norms; None without `guard.spike`

  @property
  def eval_params(self) -> Any:
    """The parameters to evaluate: the EMA, if there is one."""
    return self.params if self.ema_params is None else self.ema_params


def abstract_params(objective: Objective, spec: dict) -> Any:
  """Boxed shapes of the parameters, before any data or device work."""
  return jax.eval_shape(objective.init, jax.random.key(0), spec)


def abstract(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  spec: dict,
  mesh: Mesh | AbstractMesh,
  ema: bool = False,
  history: int = 0,
) -> tuple[TrainState, TrainState]:
  """(shapes of a state, its shardings); uses no device.

  Args:
    spec: shapes of a training batch (`batch.spec`).
    mesh: may be abstract, to plan for other devices.
    ema: whether the state has an EMA of the parameters.
    history: length of the loss history, in steps (guard.py).
  """
  boxed = abstract_params(objective, spec)
  params = sharding.param_shardings(boxed, mesh)
  replicated: Any = sharding.replicated(mesh)
  masked = lambda leaf: isinstance(leaf, optax.MaskedNode)  # a frozen parameter's
  opt_state = optax.tree_utils.tree_map_params(
    optimizer,
    lambda leaf, sharding: leaf if masked(leaf) else sharding,
    jax.eval_shape(optimizer.init, nn.unbox(boxed)),
    params,
    transform_non_params=lambda _: replicated,
    is_leaf=masked,
  )
  shardings = TrainState(
    replicated,
    params,
    opt_state,
    objective.teacher_params(params),
    params if ema else None,
    replicated if history else None,
  )
  make = lambda params: _initial(objective, optimizer, params, ema, history)
  return jax.eval_shape(make, nn.unbox(boxed)), shardings


def with_shardings(shapes: Any, shardings: Any) -> Any:
  """ShapeDtypeStructs of both, as restoring a checkpoint needs them."""
  return jax.tree.map(
    lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding),
    shapes,
    shardings,
  )


def init(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  spec: dict,
  mesh: Mesh,
  seed: int,
  ema: bool = False,
  history: int = 0,
) -> tuple[TrainState, TrainState]:
  """(initial state, its shardings). Each device initialises only its own shard.

  Args:
    spec: shapes of a training batch (`batch.spec`).
    seed: of the parameters; the same on every mesh.
    ema: whether the state has an EMA of the parameters.
    history: length of the loss history, in steps (guard.py).
  """
  _, shardings = abstract(objective, optimizer, spec, mesh, ema, history)

  def make(key: jax.Array) -> TrainState:
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), spec)
    params = nn.unbox(objective.init(key, zeros))
    return _initial(objective, optimizer, params, ema, history)

  with sharding.scope(mesh):
    state = jax.jit(make, out_shardings=shardings)(jax.random.key(seed))
  return state, shardings


def _initial(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  params: Any,
  ema: bool,
  history: int,
) -> TrainState:
  state = TrainState(
    jnp.zeros((), jnp.int32),
    params,
    optimizer.init(params),
    None,
    params if ema else None,
    guard.new_history(history),
  )
  return with_params(state, objective, params)


def with_params(state: TrainState, objective: Objective, params: Any) -> TrainState:
  """Replaces the parameters; re-initialises teacher and EMA as copies of them."""
  teacher = jax.tree.map(jnp.copy, objective.teacher_params(params))
  ema = None if state.ema_params is None else jax.tree.map(jnp.copy, params)
  return state.replace(params=params, teacher=teacher, ema_params=ema)
