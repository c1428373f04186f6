"""Dump of the step that ended a run, with all its inputs: workdir/dumps/STEP.

arrays/ has the state before the step and its batch; dump.json the config, the step's
metrics and the ids of its records. `python -m vtr_jax.replay` repeats the step.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from vtr_jax.core import io, paths, sharding
from vtr_jax.core.config import read as read_config
from vtr_jax.core.config import to_dict
from vtr_jax.core.errors import (
  BadSample,
  CheckpointError,
  ConfigError,
  DataError,
  one_line,
)
from vtr_jax.data import loader
from vtr_jax.train import checkpoint, checksums, restore_params, workdir
from vtr_jax.train import state as state_lib
from vtr_jax.train.guard import RollBack
from vtr_jax.train.setup import Run


@dataclasses.dataclass(frozen=True)
class Dump:
  """The contents of dump.json."""

  step: int
  numbers: dict[str, float]  # metrics of the step in the run
  records: tuple[str, ...]  # ids, one per example
  config: dict[str, Any]
  provenance: dict[str, Any]  # versions
  sums: tuple[int, ...] = ()  # checksums of the arrays; older dumps have none


def write(run: Run, e: RollBack) -> paths.AnyPath:
  """Dumps the last skipped step; called by all processes.

  Raises:
    CheckpointError: it cannot be written.
  """
  assert e.batch is not None, "after a roll-back the loop waits for every step"
  # Of several hosts, each has local files of its own.
  path = paths.absolute(paths.anywhere(run.mirror.name)) / "dumps" / str(e.last)
  state = run.state.replace(step=run.state.step - 1, loss_history=e.history)
  arrays = dict(state=checkpoint.tree(state), batch=_full(e.batch))
  rows = sharding.put_batch(dict(record=e.records.astype(np.int32)), run.mesh)
  records = multihost_utils.process_allgather(rows["record"], tiled=True)
  config = workdir.plain(to_dict(run.config))
  sums = jax.device_get(checksums.tree_checksums(arrays)).tolist()
  try:
    with ocp.StandardCheckpointer() as writer:
      writer.save(path / "arrays", arrays, force=True)
    if jax.process_index() == 0:
      provenance = workdir.provenance()
      ids = _ids(run, records.tolist())
      dump = Dump(e.last, e.metrics, tuple(ids), config, provenance, tuple(sums))
      workdir.write_json(path / "dump.json", dataclasses.asdict(dump))
  except Exception as error:  # of any kind: Orbax or TensorStore
    raise CheckpointError(f"{e}; the dump failed: {one_line(error)}") from error
  return path


def read(path: paths.AnyPath) -> Dump:
  """Reads dump.json; `arrays` reads the rest.

  Raises:
    CheckpointError: it is missing or damaged.
  """
  try:
    values = io.mapping((path / "dump.json").read_bytes())
    return read_config(Dump, values, "dump.json", finite=False)
  except (OSError, ValueError, ConfigError) as e:
    raise CheckpointError(
      f"{path}: not a dump of a step ({one_line(e)}); give workdir/dumps/STEP"
    ) from e


def arrays(
  path: paths.AnyPath,
  dump: Dump,
  state: Any,
  spec: dict[str, jax.ShapeDtypeStruct],
  mesh: Mesh,
) -> tuple[Any, dict[str, jax.Array]]:
  """(state before the step, batch).

  Args:
    path: of the dump.
    dump: the contents of its dump.json.
    state: shapes with shardings of the run's state.
    spec: shapes of the run's batches.
    mesh: over which the batch is sharded.

  Raises:
    CheckpointError: they cannot be read, or differ from what was written.
  """
  rows = sharding.batch_sharding(mesh)
  batch = state_lib.with_shardings(_full(spec), dict.fromkeys(_full(spec), rows))
  like = dict(state=checkpoint.tree(state), batch=batch)
  try:
    stored = restore_params.read_arrays(path / "arrays", like)
    if dump.sums:
      actual = jax.device_get(checksums.tree_checksums(stored)).tolist()
      checksums.compare(stored, dump.sums, actual)
  except Exception as e:  # of any kind: Orbax or TensorStore
    raise CheckpointError(f"{path}: cannot be read ({one_line(e)})") from e
  empty = {k: jnp.zeros(s.shape, s.dtype) for k, s in spec.items() if not s.size}
  state = dataclasses.replace(state, **checkpoint.fields(stored["state"]))
  return state, stored["batch"] | empty


def _full(batch: dict[str, Any]) -> dict[str, Any]:
  """Without empty arrays, which Orbax does not save."""
  return {k: v for k, v in batch.items() if v.size}


def _ids(run: Run, records: list[int]) -> list[str]:
  """The records' ids, or their indices if they cannot be read."""
  try:
    _, source = loader.examples(run.config.data, run.objective.rows)
    return [str(source[i]["id"]) for i in records]
  except (BadSample, DataError):
    return [f"record {i}" for i in records]
