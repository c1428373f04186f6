"""Everything that training changes, in one struct."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int32

from vtr_jax.core import sharding
from vtr_jax.objectives.base import Objective
from vtr_jax.train import guard


@flax.struct.dataclass
class TrainState:
  """What training moves; a checkpoint has it, and the number of the next batch."""

  step: Int32[Array, ""]  # steps done, those that were not applied too
  params: Any  # float32, nested dicts
  opt_state: Any  # optax
  teacher: Any  # float32, the shadowed part of params; None without a teacher
  ema_params: Any = None  # float32, EMA of params; None without `optim.ema_decay`
  loss_history: Any = None  # of losses and gradient norms; None without `guard.spike`

  @property
  def eval_params(self) -> Any:
    """The parameters that are evaluated: the running mean, where there is one."""
    return self.params if self.ema_params is None else self.ema_params


def abstract_params(objective: Objective, spec: dict) -> Any:
  """Boxed shapes of the parameters, before any data or device work."""
  return jax.eval_shape(objective.init, jax.random.key(0), spec)


def abstract(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  spec: dict,
  mesh: Mesh,
  mean: bool = False,
  history: int = 0,
) -> tuple[TrainState, TrainState]:
  """(shapes of a state, its shardings); no device is touched.

  Args:
    spec: shapes of a training batch (`batch.spec`).
    mesh: may be of devices that are not here, to plan for them.
    mean: whether a running mean of the parameters is kept.
    history: steps whose numbers are kept (guard.py).
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
  shardings = TrainState(
    whole,
    params,
    opt_state,
    objective.shadowed(params),
    params if mean else None,
    whole if history else None,
  )
  make = lambda params: _fresh(objective, optimizer, params, mean, history)
  return jax.eval_shape(make, nn.unbox(boxed)), shardings


def laid_out(shapes: Any, shardings: Any) -> Any:
  """The shapes with their shardings: what a checkpoint is restored like."""
  return jax.tree.map(
    lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where),
    shapes,
    shardings,
  )


def init(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  spec: dict,
  mesh: Mesh,
  seed: int,
  mean: bool = False,
  history: int = 0,
) -> tuple[TrainState, TrainState]:
  """(fresh state, its shardings). Each device makes only its own part.

  Args:
    spec: shapes of a training batch (`batch.spec`).
    seed: of the parameters; the same on every mesh.
    mean: whether a running mean of the parameters is kept.
    history: steps whose numbers are kept (guard.py).
  """
  _, shardings = abstract(objective, optimizer, spec, mesh, mean, history)

  def make(key: jax.Array) -> TrainState:
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), spec)
    params = nn.unbox(objective.init(key, zeros))
    return _fresh(objective, optimizer, params, mean, history)

  with sharding.scope(mesh):
    state = jax.jit(make, out_shardings=shardings)(jax.random.key(seed))
  return state, shardings


def _fresh(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  params: Any,
  mean: bool,
  history: int,
) -> TrainState:
  state = TrainState(
    jnp.zeros((), jnp.int32),
    params,
    optimizer.init(params),
    None,
    params if mean else None,
    guard.fresh_history(history),
  )
  return started(state, objective, params)


def started(state: TrainState, objective: Objective, params: Any) -> TrainState:
  """`state` with `params`; what follows them starts as a copy."""
  teacher = jax.tree.map(jnp.copy, objective.shadowed(params))
  mean = None if state.ema_params is None else jax.tree.map(jnp.copy, params)
  return state.replace(params=params, teacher=teacher, ema_params=mean)
