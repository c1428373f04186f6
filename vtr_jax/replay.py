"""Takes the step again that ended a run: python -m vtr_jax.replay RUN/dumps/STEP.

Tells the step's numbers beside those of the run, the norms of parameters and gradients
group by group, and the records whose embeddings are not finite. It leaves with exit
code 4 if the step is not finite here either, and with 0 if it is: so a change of the
code can be tried on it.
"""

import math
import pathlib
from collections.abc import Iterable, Mapping

import flax.linen as nn
import jax
import numpy as np
import optax

from vtr_jax import batch as batch_lib
from vtr_jax import command, config, dump, optim, sharding, step, trained, workdir
from vtr_jax import state as state_lib
from vtr_jax.errors import DivergedError
from vtr_jax.experiment import TrainConfig
from vtr_jax.objectives import base as objectives


def main(*places: str) -> None:
  config.require(len(places) == 1, "replay: give one dump, RUN/dumps/STEP")
  replay(pathlib.Path(places[0]))


def replay(place: pathlib.Path) -> None:
  """Prints what the step does.

  Raises:
    DivergedError: it is not finite.
    CheckpointError: `place` is no dump.
  """
  told = dump.read(place)
  values = workdir.upgraded(told.config) | dict(evals={})
  c = config.read(TrainConfig, values, f"{place}/dump.json")
  objective = objectives.build(c.objective, c.clip, c.text, c.mask)
  mesh = trained.fitting_mesh(c.mesh)
  spec = batch_lib.spec(c.clip, c.text, c.mask, c.batch_size)
  params = nn.unbox(state_lib.abstract_params(objective, spec))
  optimizer = optim.make(c.optim, c.steps, params)
  shapes, shardings = state_lib.abstract(objective, optimizer, spec, mesh, *c.kept)
  state, batch = dump.arrays(place, told, state_lib.laid_out(shapes, shardings), mesh)
  del batch["record"]
  loss, key = c.loss(objective, mesh), jax.random.key(c.seed)
  key = jax.random.fold_in(key, state.step)
  print(f"step {told.step}, {len(told.records)} records, {mesh.size} device(s)")
  with sharding.scope(mesh):
    given = state.params, state.teacher, batch, key
    norms = jax.device_get(jax.jit(lambda *args: _norms(loss, *args))(*given))
    rows = jax.device_get(jax.jit(lambda *args: _finite(objective, *args))(*given))
  train = step.make_train_step(
    loss, optimizer, c.steps, c.seed, shardings, c.optim.ema, c.guard.limit
  )
  numbers = {k: float(v) for k, v in jax.device_get(train(state, batch)[1]).items()}
  _table(("", "here", "in the run"), _side_by_side(numbers, told.numbers))
  _table(("group", "parameters", "gradient"), ((k, *v) for k, v in norms.items()))
  bad = [name for name, ok in zip(told.records, rows, strict=True) if not ok]
  if bad:
    print(f"embeddings are not finite for {len(bad)} of {len(rows)} records:")
    print("\n".join(f"  {name}" for name in bad))
  wrong = [k for k, v in numbers.items() if not math.isfinite(v)]
  if wrong:
    raise DivergedError(f"{place}: not finite here either: {', '.join(wrong)}")
  spike = told.numbers.get("spike", 0.0)
  if all(map(math.isfinite, told.numbers.values())):
    print(f"all is finite, as in the run: it was a spike of {spike:.3g} deviations")
  else:
    print("all is finite here")


def _norms(loss: step.Loss, params, teacher, batch, key) -> dict[str, tuple]:
  """Group -> (norm of its parameters, norm of their gradient)."""
  _, grads = loss.gradient(params, teacher, batch, key)
  norm = optax.tree.norm
  return {name: (norm(params[name]), norm(grads[name])) for name in params}


def _finite(objective: objectives.Objective, *given) -> jax.Array:
  """[b] bool: whether a row's embeddings are finite."""
  out = objective.forward(*given)
  return (abs(out.video) + abs(out.text)).sum(axis=1) < np.inf


def _side_by_side(
  here: Mapping[str, float], there: Mapping[str, float]
) -> Iterable[tuple[str, float, float]]:
  return ((k, v, there.get(k, math.nan)) for k, v in here.items())


def _table(head: tuple[str, str, str], rows: Iterable[tuple]) -> None:
  print(f"{head[0]:24}{head[1]:>14}{head[2]:>14}")
  for name, *values in rows:
    print(f"{name:24}" + "".join(f"{float(v):>14.6g}" for v in values))


if __name__ == "__main__":
  command.run(main, arguments=True)
