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

from vtr_jax.core import cli, config, sharding
from vtr_jax.core.errors import ConfigError, DivergedError, printable
from vtr_jax.inference import load as load_lib
from vtr_jax.train import bad_step, workdir
from vtr_jax.train import state as state_lib
from vtr_jax.train.config import Parts, TrainConfig
from vtr_jax.train.loss import Loss


def main(*places: str) -> None:
  config.require(len(places) == 1, "replay: give one dump, RUN/dumps/STEP")
  replay(pathlib.Path(places[0]))


def replay(place: pathlib.Path) -> None:
  """Prints what the step does.

  Raises:
    DivergedError: it is not finite.
    CheckpointError: `place` is no dump, or is damaged.
    ConfigError: its config is.
  """
  told = bad_step.read(place)
  parts = _parts(told, place)
  c, rows = parts.config, parts.config.batch_size // parts.config.micro_batches
  mesh = load_lib.fitting_mesh(c.mesh, rows)
  like = state_lib.laid_out(*parts.abstract(mesh))
  state, batch = bad_step.arrays(place, told, like, parts.spec, mesh)
  loss, key = parts.loss(mesh), jax.random.key(c.seed)
  key = jax.random.fold_in(key, state.step)
  print(f"step {told.step}, {len(told.records)} records, {mesh.size} device(s)")
  with sharding.scope(mesh):
    given = state.params, state.teacher, batch, key
    norms = jax.device_get(jax.jit(functools.partial(_norms, loss))(*given))
    sound = jax.device_get(jax.jit(functools.partial(_finite, loss))(*given))
  _, stepped = parts.train_step(mesh)(state, batch)
  numbers = {k: float(v) for k, v in jax.device_get(stepped).items()}
  _table(("", "here", "in the run"), _side_by_side(numbers, told.numbers))
  _table(("group", "parameters", "gradient"), ((k, *v) for k, v in norms.items()))
  bad = [name for name, ok in zip(told.records, sound, strict=True) if not ok]
  if bad:
    print(f"embeddings are not finite for {len(bad)} of {len(sound)} records:")
    print("\n".join(f"  {printable(name)}" for name in bad))
  wrong = [k for k, v in numbers.items() if not math.isfinite(v)]
  if wrong:
    raise DivergedError(f"{place}: not finite here either: {', '.join(wrong)}")
  spike = told.numbers.get("spike", 0.0)
  if all(map(math.isfinite, told.numbers.values())):
    print(f"all is finite, as in the run: it was a spike of {spike:.3g} deviations")
  else:
    print("all is finite here")


def _parts(told: bad_step.Dump, place: pathlib.Path) -> Parts:
  """What the dump's config makes; refuses one that the dump cannot be of."""
  try:
    values = workdir.upgraded(told.config) | dict(evals={})
    c = config.read(TrainConfig, values)
    config.require(
      c.batch_size % c.micro_batches == 0,
      f"config.micro_batches: {c.micro_batches} does not divide {c.batch_size} rows",
    )
    config.require(
      c.batch_size == len(told.records),
      f"config.batch_size: {c.batch_size}, but there are {len(told.records)} records",
    )
    return c.parts()
  except ConfigError as e:
    raise ConfigError(f"{place}/dump.json: {e}") from None


def _norms(loss: Loss, params, teacher, batch, key) -> dict[str, tuple]:
  """Group -> (norm of its parameters, norm of their gradient)."""
  _, grads = loss.gradient(params, teacher, batch, key)
  norm = optax.tree.norm
  return {name: (norm(params[name]), norm(grads[name])) for name in params}


def _finite(loss: Loss, params, teacher, batch, key) -> jax.Array:
  """[b] bool: whether a row's embeddings are finite; as the loss makes them."""

  def sound(given):
    out = loss.objective.forward(params, teacher, *given)
    return (abs(out.video) + abs(out.text)).sum(axis=1) < np.inf

  if loss.micro_batches == 1:
    return sound((batch, key))
  parts = sharding.split_rows(batch, loss.micro_batches, loss.mesh)
  found = jax.lax.map(sound, (parts, jax.random.split(key, loss.micro_batches)))
  return sharding.merge_rows(found, loss.mesh)


def _side_by_side(
  here: Mapping[str, float], there: Mapping[str, float]
) -> Iterable[tuple[str, float, float]]:
  return ((k, v, there.get(k, math.nan)) for k, v in here.items())


def _table(head: tuple[str, str, str], rows: Iterable[tuple]) -> None:
  print(f"{head[0]:24}{head[1]:>14}{head[2]:>14}")
  for name, *values in rows:
    print(f"{name:24}" + "".join(f"{float(v):>14.6g}" for v in values))


if __name__ == "__main__":
  cli.run(main, arguments=True)
