"""Reads the parameters of a checkpoint, and nothing else of it; writes nothing."""

import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict

from vtr_jax.core.errors import CheckpointError, one_line

_SHOWN = 20  # max differences listed: one screen


def read_params(directory: pathlib.Path, like: Any) -> tuple[Any, int]:
  """Parameters and step of the newest checkpoint.

  Of a run with an EMA (`optim.ema_decay`), the EMA parameters.

  Args:
    directory: of a run's checkpoints.
    like: ShapeDtypeStructs with the target shardings.

  Raises:
    CheckpointError: there is none, it cannot be read, or its parameters differ.
  """
  where = _newest(directory)
  stored = metadata(where)
  check_shapes(where, shapes(stored["params"]), like)
  name = "params" if stored.get("mean") is None else "mean"
  restore = ocp.args.PyTreeRestore(
    item={name: like},
    restore_args={name: ocp.checkpoint_utils.construct_restore_args(like)},
    partial_restore=True,
  )
  try:
    with _reader() as reader:
      restored = reader.restore(where, args=ocp.args.Composite(state=restore))
  except Exception as e:
    raise _unreadable(where, e) from e
  return restored["state"][name], int(where.name)


def param_shapes(directory: pathlib.Path) -> Any:
  """Shapes and dtypes of the newest checkpoint's parameters; no array is read.

  Raises:
    CheckpointError: there is none, or it cannot be read.
  """
  return shapes(metadata(_newest(directory))["params"])


def metadata(where: pathlib.Path) -> dict[str, Any]:
  """Orbax's metadata of a checkpoint's state, as a tree with "params"."""
  try:
    with _reader() as reader:
      tree = reader.metadata(where).item_metadata["state"].tree
      return tree | dict(params=tree["params"])
  except Exception as e:
    raise _unreadable(where, e) from e


def shapes(tree: Any) -> Any:
  return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)


def groups(where: pathlib.Path) -> set[str]:
  """Names in a checkpoint's state; empty if it cannot be read."""
  try:
    with _reader() as reader:
      return set(reader.metadata(where).item_metadata["state"].tree)
  except Exception:
    return set()


def _reader() -> ocp.Checkpointer:
  # `meta` is not read, but without a handler Orbax warns about it.
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


def check_shapes(where: pathlib.Path, there: Any, here: Any) -> None:
  """Raises CheckpointError if names or shapes of parameters differ."""
  stored, expected = (flatten_dict(tree, sep="/") for tree in (there, here))
  shape = lambda tree, name: tuple(tree[name].shape) if name in tree else "absent"
  lines = [
    f"  {name}: {shape(stored, name)} there, {shape(expected, name)} by config.json"
    for name in sorted(stored | expected)
    if shape(stored, name) != shape(expected, name)
  ]
  if lines:
    more = [f"  and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    raise CheckpointError(
      f"{where}: {len(lines)} of {len(stored | expected)} parameters differ; do both "
      "come from one run?\n" + "\n".join(lines[:_SHOWN] + more)
    )
