"""Repeats the step that ended a run: python -m vtr_jax.replay RUN/dumps/STEP.

Prints the step's metrics alongside those of the run, norms of parameters and gradients
per group, and the records whose embeddings are not finite. The exit code is 4 if the
step is not finite here either, else 0, so that a change of the code can be tested.
"""

import functools
import math
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vtr_jax.core import cli, config, paths, sharding
from vtr_jax.core.errors import ConfigError, DivergedError, printable
from vtr_jax.inference import load as load_lib
from vtr_jax.train import bad_step, workdir
from vtr_jax.train import state as state_lib
from vtr_jax.train.config import Parts, TrainConfig
from vtr_jax.train.loss import Loss


def main(*dumps: str) -> None:
  config.require(len(dumps) == 1, "replay: give one dump, RUN/dumps/STEP")
  replay(paths.anywhere(paths.local(dumps[0], "replay", buckets=True)))


def replay(path: paths.AnyPath) -> None:
  """Repeats the dumped step and prints the comparison.

  Raises:
    DivergedError: it is not finite.
    CheckpointError: `path` is not a dump, or is damaged.
    ConfigError: its config is not valid.
  """
  dump = bad_step.read(path)
  parts = _parts(dump, path)
  c, rows = parts.config, parts.config.batch_size // parts.config.micro_batches
  mesh = load_lib.fitting_mesh(c.mesh, rows)
  like = state_lib.with_shardings(*parts.abstract(mesh))
  state, batch = bad_step.arrays(path, dump, like, parts.spec, mesh)
  loss, key = parts.loss(mesh), jax.random.key(c.seed)
  key = jax.random.fold_in(key, state.step)
  print(f"step {dump.step}, {len(dump.records)} records, {mesh.size} device(s)")
  with sharding.scope(mesh):
    inputs = state.params, state.teacher, batch, key
    norms = jax.device_get(jax.jit(functools.partial(_norms, loss))(*inputs))
    finite = jax.device_get(jax.jit(functools.partial(_finite, loss))(*inputs))
  _, device_metrics = parts.train_step(mesh)(state, batch)
  metrics = {k: float(v) for k, v in jax.device_get(device_metrics).items()}
  _table(("", "here", "in the run"), _side_by_side(metrics, dump.numbers))
  _table(("group", "parameters", "gradient"), ((k, *v) for k, v in norms.items()))
  bad = [name for name, ok in zip(dump.records, finite, strict=True) if not ok]
  if bad:
    print(f"embeddings are not finite for {len(bad)} of {len(finite)} records:")
    print("\n".join(f"  {printable(name)}" for name in bad))
  not_finite = [k for k, v in metrics.items() if not math.isfinite(v)]
  if not_finite:
    raise DivergedError(f"{path}: not finite here either: {', '.join(not_finite)}")
  spike = dump.numbers.get("spike", 0.0)
  if all(map(math.isfinite, dump.numbers.values())):
    print(f"all is finite, as in the run: it was a spike of {spike:.3g} deviations")
  else:
    print("all is finite here")


def _parts(dump: bad_step.Dump, path: paths.AnyPath) -> Parts:
  """The parts of the dump's training; raises ConfigError if its config does not fit."""
  try:
    values = workdir.upgraded(dump.config) | dict(evals={})
    c = config.read(TrainConfig, values)
    config.require(
      c.batch_size % c.micro_batches == 0,
      f"config.micro_batches: {c.micro_batches} does not divide {c.batch_size}",
    )
    config.require(
      c.batch_size == len(dump.records),
      f"config.batch_size: {c.batch_size}, but there are {len(dump.records)} records",
    )
    return c.parts()
  except ConfigError as e:
    raise ConfigError(f"{path}/dump.json: {e}") from None


def _norms(loss: Loss, params, teacher, batch, key) -> dict[str, tuple]:
  """Group -> (norm of its parameters, norm of their gradient)."""
  _, grads = loss.gradient(params, teacher, batch, key)
  norm = optax.tree.norm
  return {name: (norm(params[name]), norm(grads[name])) for name in params}


def _finite(loss: Loss, params, teacher, batch, key) -> jax.Array:
  """[b] bool: whether an example's embeddings are finite, as the loss computes them."""

  def finite(batch):
    rows = jnp.ones(len(batch["valid"]), bool)
    for p in loss.objective.forward(params, teacher, batch, key).pairs.values():
      rows &= (abs(p.a) + abs(p.b)).sum(axis=1) < np.inf
    return rows

  if loss.micro_batches == 1:
    return finite(batch)
  assert loss.mesh is not None, "microbatches need a mesh"
  micro = sharding.split_rows(batch, loss.micro_batches, loss.mesh)
  return sharding.merge_rows(jax.lax.map(finite, micro), loss.mesh)


def _side_by_side(
  replayed: Mapping[str, float], stored: Mapping[str, float]
) -> Iterable[tuple[str, float, float]]:
  return ((k, v, stored.get(k, math.nan)) for k, v in replayed.items())


def _table(head: tuple[str, str, str], rows: Iterable[tuple]) -> None:
  print(f"{head[0]:24}{head[1]:>14}{head[2]:>14}")
  for name, *values in rows:
    print(f"{name:24}" + "".join(f"{float(v):>14.6g}" for v in values))


if __name__ == "__main__":
  cli.run(main, arguments=True)
