"""One training step: loss of the global batch, gradient, update."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from vtr_jax.core import sharding
from vtr_jax.core.batch import Batch
from vtr_jax.objectives.teacher import update_ema, warmup_decay
from vtr_jax.train import guard
from vtr_jax.train.loss import Loss, Metrics
from vtr_jax.train.state import TrainState


def make_train_step(
  loss: Loss,
  optimizer: optax.GradientTransformation,
  steps: int,
  seed: int,
  shardings: TrainState,
  ema_decay: float = 0.0,
  limit: float = math.inf,
) -> Callable[[TrainState, dict], tuple[TrainState, Metrics]]:
  """The jitted step; it donates its input state.

  Randomness on the device is a function of (seed, state.step) alone.

  Args:
    loss: with a mesh.
    optimizer: optax's.
    steps: length of the training, for the schedule of the teacher's decay.
    seed: of dropout and negatives.
    shardings: of the state.
    ema_decay: of the EMA of the parameters, if the state has one.
    limit: robust z-score above which a step is skipped (guard.py).
  """
  objective, mesh = loss.objective, loss.mesh
  assert mesh is not None, "a training step needs a mesh"

  def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    if objective.teacher:
      teacher = objective.teacher.before_step(state.teacher, state.params, state.step)
      state = state.replace(teacher=teacher)
    metrics, grads = loss.gradient(state.params, state.teacher, batch, key)
    with jax.named_scope("update"):
      updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
      params = optax.apply_updates(state.params, updates)
      teacher, ema = state.teacher, state.ema_params
      if objective.teacher:
        teacher = objective.teacher.after_step(teacher, params, state.step, steps)
      if ema is not None:
        ema = update_ema(ema, params, warmup_decay(ema_decay, state.step))
      new = TrainState(state.step, params, opt_state, teacher, ema, state.loss_history)
    # The barrier keeps XLA from sharing the squares with the optimiser's update, and so
    # from writing all of them to memory.
    metrics["grad_norm"] = optax.tree.norm(jax.lax.optimization_barrier(grads))
    ok, history, more = guard.accept(metrics, state.loss_history, limit)
    with jax.named_scope("update"):
      choose = lambda new, old: jnp.where(ok, new, old)
      state = jax.tree.map(choose, new, state)
    state = state.replace(step=state.step + 1, loss_history=history)
    return state, metrics | more

  jitted = jax.jit(
    train_step,
    in_shardings=(shardings, sharding.batch_sharding(mesh)),
    out_shardings=(shardings, sharding.replicated(mesh)),
    donate_argnums=0,
  )

  def run(state: TrainState, batch: dict) -> tuple[TrainState, Metrics]:
    with sharding.scope(mesh):
      return jitted(state, batch)

  run.jitted = jitted  # for counting compilations and for cost analysis
  return run
