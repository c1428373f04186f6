"""The step that ended a run, with all it came from: workdir/dumps/STEP.

arrays/ has the state before the step and its batch, dump.json the config, the step's
numbers and the ids of its records. `python -m vtr_jax.replay` takes the step again.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from vtr_jax.core import io, sharding
from vtr_jax.core.config import read as read_config
from vtr_jax.core.config import to_dict
from vtr_jax.core.errors import (
  BadSample,
  CheckpointError,
  ConfigError,
  DataError,
  one_line,
)
from vtr_jax.data.mixture import Joined
from vtr_jax.train import checkpoint, checksums, workdir
from vtr_jax.train import state as state_lib
from vtr_jax.train.guard import RollBack
from vtr_jax.train.setup import Run


@dataclasses.dataclass(frozen=True)
class Dump:
  """What dump.json tells."""

  step: int
  numbers: dict[str, float]  # of the step, as the run saw them
  records: tuple[str, ...]  # ids, one for each row
  config: dict[str, Any]
  provenance: dict[str, Any]  # versions
  sums: tuple[int, ...] = ()  # of the arrays' bits; older dumps have none


def write(run: Run, e: RollBack) -> pathlib.Path:
  """Writes the last step that was not applied; by all processes.

  Raises:
    CheckpointError: it cannot be written.
  """
  assert e.batch is not None, "the loop waits for every step after a roll-back"
  place = run.workdir.absolute() / "dumps" / str(e.last)
  state = run.state.replace(step=run.state.step - 1, loss_history=e.recent)
  arrays = dict(state=checkpoint.tree(state), batch=_full(e.batch))
  rows = sharding.put_batch(dict(record=e.records.astype(np.int32)), run.mesh)
  records = multihost_utils.process_allgather(rows["record"], tiled=True)
  config = workdir.plain(to_dict(run.config))
  sums = jax.device_get(checksums.of(arrays)).tolist()
  try:
    with ocp.StandardCheckpointer() as writer:
      writer.save(place / "arrays", arrays, force=True)
    if jax.process_index() == 0:
      provenance = workdir.provenance()
      ids = _ids(run, records.tolist())
      told = Dump(e.last, e.numbers, tuple(ids), config, provenance, tuple(sums))
      workdir.write_json(place / "dump.json", dataclasses.asdict(told))
  except Exception as error:  # whatever orbax and TensorStore raise
    raise CheckpointError(f"{e}; nor can it be dumped: {one_line(error)}") from error
  return place


def read(place: pathlib.Path) -> Dump:
  """Reads dump.json; `arrays` reads the rest.

  Raises:
    CheckpointError: it is not there or not whole.
  """
  try:
    values = io.mapping((place / "dump.json").read_bytes())
    return read_config(Dump, values, "dump.json", finite=False)
  except (OSError, ValueError, ConfigError) as e:
    raise CheckpointError(
      f"{place}: no dump of a step ({one_line(e)}); give workdir/dumps/STEP"
    ) from e


def arrays(
  place: pathlib.Path,
  told: Dump,
  state: Any,
  spec: dict[str, jax.ShapeDtypeStruct],
  mesh: Mesh,
) -> tuple[Any, dict[str, jax.Array]]:
  """(state before the step, batch).

  Args:
    place: the dump.
    told: what its dump.json tells.
    state: shapes with shardings of the run's state.
    spec: shapes of the run's batches.
    mesh: that the batch's rows are spread over.

  Raises:
    CheckpointError: they cannot be read, or are not what was written.
  """
  rows = sharding.batch_sharding(mesh)
  batch = state_lib.laid_out(_full(spec), dict.fromkeys(_full(spec), rows))
  like = dict(state=checkpoint.tree(state), batch=batch)
  try:
    with ocp.StandardCheckpointer() as reader:
      found = reader.restore(place.absolute() / "arrays", like)
    if told.sums:
      checksums.compare(found, told.sums, jax.device_get(checksums.of(found)).tolist())
  except Exception as e:  # whatever orbax and TensorStore raise
    raise CheckpointError(f"{place}: cannot be read ({one_line(e)})") from e
  empty = {k: jnp.zeros(s.shape, s.dtype) for k, s in spec.items() if not s.size}
  return dataclasses.replace(state, **found["state"]), found["batch"] | empty


def _full(batch: dict[str, Any]) -> dict[str, Any]:
  """Without arrays that have no value: orbax saves none."""
  return {k: v for k, v in batch.items() if v.size}


def _ids(run: Run, records: list[int]) -> list[str]:
  """The records' ids, or their numbers where they cannot be read."""
  data = run.config.data
  try:
    source = (
      Joined([p.name for p in data.mixture], data.open_mixture())
      if data.mixture
      else None
    )
    source = source or data.open()
    return [str(source[i]["id"]) for i in records]
  except (BadSample, DataError):
    return [f"record {i}" for i in records]
