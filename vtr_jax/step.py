"""One training step: the loss of the global batch, its gradient, the update."""

from collections.abc import Callable, Mapping

import jax
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from vtr_jax import sharding
from vtr_jax.batch import Batch
from vtr_jax.config import nearest
from vtr_jax.errors import ConfigError
from vtr_jax.losses import info_nce
from vtr_jax.objectives.base import Objective, Params
from vtr_jax.state import TrainState

Metrics = dict[str, Float[Array, ""]]


def check_weights(weights: Mapping[str, float], objective: Objective) -> None:
  """Refuses weights of terms that the objective does not have, or that lack one."""
  terms = {"vtc", *objective.terms}
  for name in weights:
    if name not in terms:
      raise ConfigError(f"config.weights.{name}: no such term; {nearest(name, terms)}")
  if not any(weights.values()) or not all(w >= 0 for w in weights.values()):
    raise ConfigError(
      f"config.weights: {dict(weights)}; none may be negative, not all 0"
    )
  for name in sorted(terms - set(weights)):
    raise ConfigError(f"config.weights.{name}: missing; set it, 0 leaves the term out")


def losses(
  objective: Objective,
  weights: Mapping[str, float],
  params: Params,
  teacher: Params | None,
  batch: Batch,
  key: jax.Array,
) -> tuple[Float[Array, ""], Metrics]:
  """(weighted sum, each term). A term of weight 0 is neither computed nor reported."""
  out = objective.forward(params, teacher, batch, key)
  with jax.named_scope("vtc"):
    vtc = info_nce(out.video, out.text, out.scale, batch["valid"])
  terms = {k: v for k, v in (out.terms | {"vtc": vtc}).items() if weights[k]}
  total = sum(weights[k] * v for k, v in terms.items())
  return total, {f"loss/{k}": v for k, v in terms.items()} | {"loss/total": total}


def make_train_step(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  weights: Mapping[str, float],
  steps: int,
  seed: int,
  mesh: Mesh,
  shardings: TrainState,
) -> Callable[[TrainState, dict], tuple[TrainState, Metrics]]:
  """The jitted step; the state that goes in is given up (donated).

  `steps` is the length of the training, for a teacher that follows ever more slowly.
  Randomness on the device is a function of (seed, state.step) alone.
  """
  check_weights(weights, objective)

  def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    loss = lambda params: losses(objective, weights, params, state.teacher, batch, key)
    (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
    with jax.named_scope("update"):
      updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
      params = optax.apply_updates(state.params, updates)
      teacher = state.teacher
      if objective.teacher:
        teacher = objective.teacher.follow(teacher, params, state.step, steps)
    # Apart from the update: sharing its squares, XLA would write all of them out.
    metrics["grad_norm"] = optax.tree.norm(jax.lax.optimization_barrier(grads))
    return TrainState(state.step + 1, params, opt_state, teacher), metrics

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
