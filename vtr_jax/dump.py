"""The step that ended a run, with all it came from: workdir/dumps/STEP.

arrays/ has the state before the step and its batch, dump.json the config, the step's
numbers and the ids of its records. `python -m vtr_jax.replay` takes the step again.
"""

import dataclasses
import json
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from vtr_jax import checkpoint, sharding, workdir
from vtr_jax.data.mixture import Joined
from vtr_jax.errors import BadSample, CheckpointError, DataError, one_line
from vtr_jax.experiment import Run
from vtr_jax.guard import RollBack


class Dump(NamedTuple):
  """What dump.json tells."""

  step: int
  numbers: dict[str, float]  # of the step, as the run saw them
  records: list[str]  # ids, one for each row
  config: dict[str, Any]
  empty: dict[str, tuple]  # (shape, dtype) of the batch's arrays without a value
  made_by: dict[str, Any]  # versions


def write(run: Run, e: RollBack) -> pathlib.Path:
  """Writes the last step that was not applied; by all processes.

  Raises:
    CheckpointError: it cannot be written.
  """
  assert e.batch is not None, "the loop waits for every step after a roll-back"
  place = run.workdir.absolute() / "dumps" / str(e.last)
  state = run.state.replace(step=run.state.step - 1)
  full = {k: v for k, v in e.batch.items() if v.size}  # orbax saves no others
  empty = {k: (v.shape, str(v.dtype)) for k, v in e.batch.items() if not v.size}
  arrays = dict(state=checkpoint.tree(state), batch=full)
  records = multihost_utils.process_allgather(e.batch["record"], tiled=True)
  config = workdir.plain(dataclasses.asdict(run.config))
  try:
    with ocp.StandardCheckpointer() as writer:
      writer.save(place / "arrays", arrays, force=True)
    if jax.process_index() == 0:
      made_by = workdir.provenance()
      ids = _ids(run, records.tolist())
      told = Dump(e.last, e.numbers, ids, config, empty, made_by)
      workdir.write_json(place / "dump.json", told._asdict())
  except Exception as error:  # whatever orbax and TensorStore raise
    raise CheckpointError(f"{e}; nor can it be dumped: {one_line(error)}") from error
  return place


def read(place: pathlib.Path) -> Dump:
  """Reads dump.json; `arrays` reads the rest.

  Raises:
    CheckpointError: it is not there or not whole.
  """
  try:
    return Dump(**json.loads((place / "dump.json").read_text()))
  except (OSError, ValueError, TypeError) as e:
    raise CheckpointError(
      f"{place}: no dump of a step ({one_line(e)}); give workdir/dumps/STEP"
    ) from e


def arrays(
  place: pathlib.Path, told: Dump, state: Any, mesh: Mesh
) -> tuple[Any, dict[str, Any]]:
  """(state before the step, batch with `record`).

  Args:
    place: the dump.
    told: what `read` found there.
    state: shapes with shardings of the run's state.
    mesh: that the batch's rows are spread over.

  Raises:
    CheckpointError: they cannot be read.
  """
  rows, where = sharding.batch_sharding(mesh), place.absolute() / "arrays"
  try:
    with ocp.StandardCheckpointer() as reader:
      stored = reader.metadata(where).item_metadata.tree["batch"]
      batch = {
        k: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=rows)
        for k, a in stored.items()
      }
      like = dict(state=checkpoint.tree(state), batch=batch)
      found = reader.restore(where, like)
  except Exception as e:  # whatever orbax and TensorStore raise
    raise CheckpointError(f"{place}: cannot be read ({one_line(e)})") from e
  empty = {k: jnp.zeros(shape, dtype) for k, (shape, dtype) in told.empty.items()}
  return dataclasses.replace(state, **found["state"]), found["batch"] | empty


def _ids(run: Run, records: list[int]) -> list[str]:
  """The records' ids, or their numbers where they cannot be read."""
  data = run.config.data
  try:
    source = Joined([p.name for p in data.mix], data.open_mix()) if data.mix else None
    source = source or data.open()
    return [str(source[i]["id"]) for i in records]
  except (BadSample, DataError):
    return [f"record {i}" for i in records]
