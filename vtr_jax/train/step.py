"""One training step: the loss of the global batch, its gradient, the update."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from vtr_jax.core import sharding
from vtr_jax.core.batch import Batch
from vtr_jax.objectives.teacher import follow, mean_keep
from vtr_jax.train import guard
from vtr_jax.train.loss import Loss, Metrics
from vtr_jax.train.state import TrainState


def make_train_step(
  loss: Loss,
  optimizer: optax.GradientTransformation,
  steps: int,
  seed: int,
  shardings: TrainState,
  ema: float = 0.0,
  limit: float = math.inf,
) -> Callable[[TrainState, dict], tuple[TrainState, Metrics]]:
  """The jitted step; the state that goes in is given up (donated).

  `steps` is the length of the training, for a teacher that follows ever more slowly;
  `ema` what a running mean of the parameters keeps of itself, where the state has one;
  `limit` the robust z-score above which a step is not applied (guard.py).
  Randomness on the device is a function of (seed, state.step) alone.
  """
  objective, mesh = loss.objective, loss.mesh

  def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    if objective.teacher:
      teacher = objective.teacher.renew(state.teacher, state.params, state.step)
      state = state.replace(teacher=teacher)
    metrics, grads = loss.gradient(state.params, state.teacher, batch, key)
    with jax.named_scope("update"):
      updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
      params = optax.apply_updates(state.params, updates)
      teacher, mean = state.teacher, state.ema_params
      if objective.teacher:
        teacher = objective.teacher.follow(teacher, params, state.step, steps)
      if mean is not None:
        mean = follow(mean, params, mean_keep(ema, state.step))
      new = TrainState(state.step, params, opt_state, teacher, mean, state.loss_history)
    # Apart from the update: sharing its squares, XLA would write all of them out.
    metrics["grad_norm"] = optax.tree.norm(jax.lax.optimization_barrier(grads))
    sound, recent, more = guard.judge(metrics, state.loss_history, limit)
    with jax.named_scope("update"):
      keep = lambda new, old: jnp.where(sound, new, old)
      kept = jax.tree.map(keep, new, state)
    return kept.replace(step=state.step + 1, loss_history=recent), metrics | more

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
