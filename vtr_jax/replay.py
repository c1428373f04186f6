"""Takes the step again that ended a run: python -m vtr_jax.replay RUN/dumps/STEP.

Tells the step's numbers beside those of the run, the norms of parameters and gradients
group by group, and the records whose embeddings are not finite. It leaves with exit
code 4 if the step is not finite here either, and with 0 if it is: so a change of the
code can be tried on it.
"""

import functools
import math
import pathlib
from collections.abc import Iterable, Mapping

import jax
import numpy as np
import optax

from vtr_jax import command, config, dump, sharding, step, trained, workdir
from vtr_jax import state as state_lib
from vtr_jax.errors import DivergedError
from vtr_jax.objectives import base as objectives
from vtr_jax.recipe import TrainConfig


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
  parts, mesh = c.parts(), trained.fitting_mesh(c.mesh)
  like = state_lib.laid_out(*parts.abstract(mesh))
  state, batch = dump.arrays(place, like, parts.spec, mesh)
  loss, key = parts.loss(mesh), jax.random.key(c.seed)
  key = jax.random.fold_in(key, state.step)
  print(f"step {told.step}, {len(told.records)} records, {mesh.size} device(s)")
  with sharding.scope(mesh):
    given = state.params, state.teacher, batch, key
    norms = jax.device_get(jax.jit(functools.partial(_norms, loss))(*given))
    rows = jax.device_get(jax.jit(functools.partial(_finite, parts.objective))(*given))
  _, stepped = parts.train_step(mesh)(state, batch)
  numbers = {k: float(v) for k, v in jax.device_get(stepped).items()}
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
