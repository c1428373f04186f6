"""Checkpoints by Orbax: written in the background, complete or not there at all."""

import dataclasses
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict

from vtr_jax.errors import CheckpointError, one_line

_SHOWN = 20  # differences that are listed: one screen


class Checkpoints:
  """The newest `keep` checkpoints of a run, each {state, meta} under its step."""

  def __init__(self, directory: pathlib.Path, keep: int):
    self._directory = directory.absolute()
    options = ocp.CheckpointManagerOptions(
      max_to_keep=keep, cleanup_tmp_directories=True
    )
    try:
      self._manager = ocp.CheckpointManager(self._directory, options=options)
    except OSError as e:
      raise CheckpointError(f"{directory}: cannot be used ({e.strerror})") from e

  def latest_step(self) -> int | None:
    """Step of the newest whole checkpoint."""
    return self._manager.latest_step()

  def save(self, step: int, state: Any, meta: dict) -> None:
    """Starts writing; returns when the arrays have been copied from the devices.

    Raises:
      CheckpointError: this save, or the one before it, could not be written.
    """
    if step == self.latest_step():
      return
    args = ocp.args.Composite(
      state=ocp.args.StandardSave(_tree(state)), meta=ocp.args.JsonSave(meta)
    )
    try:
      self._manager.save(step, args=args)
    except Exception as e:
      raise self._failed(e) from e

  def restore(self, like: Any) -> tuple[Any, dict]:
    """The newest (state, meta), the state laid out as the arrays of `like`.

    Raises:
      CheckpointError: it cannot be read, or has other parameters than `like`.
    """
    step = self.latest_step()
    where = self._directory / str(step)
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, _tree(like))
    try:
      args = ocp.args.Composite(
        state=ocp.args.StandardRestore(target), meta=ocp.args.JsonRestore()
      )
      found = self._manager.restore(step, args=args)
      return dataclasses.replace(like, **found["state"]), found["meta"]
    except Exception as e:
      if _groups(where) == {"params"}:
        raise CheckpointError(
          f"{where}: holds converted weights and no training; start another run with "
          f"--config.init_from={self._directory.parent}"
        ) from None
      raise CheckpointError(
        f"{where}: cannot be restored ({one_line(e)}); delete this folder to go "
        "on from the checkpoint before it"
      ) from e

  def wait(self) -> None:
    """Returns when all saves are on disk; raises as `save` does."""
    try:
      self._manager.wait_until_finished()
    except Exception as e:
      raise self._failed(e) from e

  def close(self) -> None:
    self.wait()
    self._manager.close()

  def _failed(self, e: Exception) -> CheckpointError:
    return CheckpointError(
      f"{self._directory}: checkpoint not written ({one_line(e)}); earlier ones "
      "are whole: free the disk or mend the permission, and run the command again"
    )


def _tree(state: Any) -> dict[str, Any]:
  """A dataclass's fields by name, but for None in one whose default it is.

  So a state without a running mean is stored as before there were any. A dict, of
  converted weights, is what it is.
  """
  if isinstance(state, dict):
    return state
  values = {f: getattr(state, f.name) for f in dataclasses.fields(state)}
  return {
    f.name: v for f, v in values.items() if v is not None or f.default is not None
  }


def read_params(directory: pathlib.Path, like: Any) -> tuple[Any, int]:
  """The newest checkpoint's parameters and step; touches no file, reads no more.

  Of a run that keeps a running mean of its parameters (`optim.ema`), it is that mean.

  Args:
    directory: of a run's checkpoints.
    like: ShapeDtypeStructs with the shardings that are wanted.

  Raises:
    CheckpointError: there is none, it cannot be read, or it has other parameters.
  """
  where = _newest(directory)
  stored = _metadata(where)
  _check_shapes(where, _shapes(stored["params"]), like)
  name = "params" if stored.get("mean") is None else "mean"
  restore = ocp.args.PyTreeRestore(
    item={name: like},
    restore_args={name: ocp.checkpoint_utils.construct_restore_args(like)},
    partial_restore=True,
  )
  try:
    with _reader() as reader:
      found = reader.restore(where, args=ocp.args.Composite(state=restore))
  except Exception as e:
    raise _unreadable(where, e) from e
  return found["state"][name], int(where.name)


def param_shapes(directory: pathlib.Path) -> Any:
  """Shapes and dtypes of the newest checkpoint's parameters; no array is read.

  Raises:
    CheckpointError: there is none, or it cannot be read.
  """
  return _shapes(_metadata(_newest(directory))["params"])


def _metadata(where: pathlib.Path) -> dict[str, Any]:
  """What orbax tells of a checkpoint's state, as a tree; it has parameters."""
  try:
    with _reader() as reader:
      tree = reader.metadata(where).item_metadata["state"].tree
      return tree | dict(params=tree["params"])
  except Exception as e:
    raise _unreadable(where, e) from e


def _shapes(tree: Any) -> Any:
  return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)


def _groups(where: pathlib.Path) -> set[str]:
  """What a checkpoint's state has; nothing if that cannot be read."""
  try:
    with _reader() as reader:
      return set(reader.metadata(where).item_metadata["state"].tree)
  except Exception:
    return set()


def _reader() -> ocp.Checkpointer:
  # `meta` is not read, but a handler keeps orbax from warning that it was not.
  handler = ocp.CompositeCheckpointHandler(
    state=ocp.PyTreeCheckpointHandler(), meta=ocp.JsonCheckpointHandler()
  )
  return ocp.Checkpointer(handler)


def _newest(directory: pathlib.Path) -> pathlib.Path:
  steps = sorted(int(p.name) for p in directory.glob("*") if p.name.isdigit())
  if not steps:
    raise CheckpointError(f"{directory}: no checkpoint; train first")
  return directory.absolute() / str(steps[-1])


def _unreadable(where: pathlib.Path, e: Exception) -> CheckpointError:
  return CheckpointError(
    f"{where}: cannot be restored ({one_line(e)}); copy it again, or delete this "
    "folder to use the checkpoint before it"
  )


def _check_shapes(where: pathlib.Path, there: Any, here: Any) -> None:
  """Refuses parameters of other names or shapes, before any is read."""
  stored, wanted = (flatten_dict(tree, sep="/") for tree in (there, here))
  shape = lambda tree, name: tuple(tree[name].shape) if name in tree else "absent"
  lines = [
    f"  {name}: {shape(stored, name)} there, {shape(wanted, name)} by config.json"
    for name in sorted(stored | wanted)
    if shape(stored, name) != shape(wanted, name)
  ]
  if lines:
    more = [f"  and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    raise CheckpointError(
      f"{where}: {len(lines)} of {len(stored | wanted)} parameters differ; do both "
      "come from one run?\n" + "\n".join(lines[:_SHOWN] + more)
    )
