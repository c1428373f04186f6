"""Parameters of a checkpoint, for those who do not train: nothing is written.

The rest of it, optimiser and all, is not read.
"""

import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict

from vtr_jax.core.errors import CheckpointError, one_line

_SHOWN = 20  # differences that are listed: one screen


def read_params(directory: pathlib.Path, like: Any) -> tuple[Any, int]:
  """The newest checkpoint's parameters and step; touches no file, reads no more.

  Of a run with an EMA of its parameters (`optim.ema_decay`), the averaged ones.

  Args:
    directory: of a run's checkpoints.
    like: ShapeDtypeStructs with the shardings that are wanted.

  Raises:
    CheckpointError: there is none, it cannot be read, or it has other parameters.
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
      found = reader.restore(where, args=ocp.args.Composite(state=restore))
  except Exception as e:
    raise _unreadable(where, e) from e
  return found["state"][name], int(where.name)


def param_shapes(directory: pathlib.Path) -> Any:
  """Shapes and dtypes of the newest checkpoint's parameters; no array is read.

  Raises:
    CheckpointError: there is none, or it cannot be read.
  """
  return shapes(metadata(_newest(directory))["params"])


def metadata(where: pathlib.Path) -> dict[str, Any]:
  """What orbax tells of a checkpoint's state, as a tree; it has parameters."""
  try:
    with _reader() as reader:
      tree = reader.metadata(where).item_metadata["state"].tree
      return tree | dict(params=tree["params"])
  except Exception as e:
    raise _unreadable(where, e) from e


def shapes(tree: Any) -> Any:
  return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)


def groups(where: pathlib.Path) -> set[str]:
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


def check_shapes(where: pathlib.Path, there: Any, here: Any) -> None:
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
