"""Reads checkpoints, all of them or only the parameters; writes nothing.

Processes do not wait for each other here, so one that fails does not block the others.
"""

from typing import Any

import jax
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict

from vtr_jax.core import paths
from vtr_jax.core.errors import CheckpointError, one_line
from vtr_jax.core.mirror import COMMIT

_SHOWN = 20  # max differences listed: one screen


def read_arrays(directory: paths.AnyPath, like: Any, partial: bool = False) -> Any:
  """The tree of arrays in `directory`; raises whatever Orbax or TensorStore raises.

  Args:
    directory: of the arrays; of a checkpoint, its folder "state".
    like: ShapeDtypeStructs with the target shardings; without one: NumPy arrays.
    partial: whether `directory` may hold more than `like`.
  """
  path: Any = paths.absolute(directory)  # Orbax declares epath.Path
  restore_args = ocp.checkpoint_utils.construct_restore_args(like)
  args = ocp.args.PyTreeRestore(like, restore_args, partial_restore=partial)
  return ocp.PyTreeCheckpointHandler().restore(path, args=args)


def read_params(directory: paths.AnyPath, like: Any) -> tuple[Any, int]:
  """Parameters and step of the newest checkpoint.

  Of a run with an EMA (`optim.ema_decay`), the EMA parameters.

  Args:
    directory: of a run's checkpoints.
    like: ShapeDtypeStructs with the target shardings.

  Raises:
    CheckpointError: there is none, it cannot be read, or its parameters differ.
  """
  where = _newest(directory)
  try:
    stored = metadata(where)
    check_params(where, stored, like)
    name = "params" if stored.get("mean") is None else "mean"
    state = read_arrays(where / "state", {name: like}, partial=True)
  except CheckpointError:
    raise
  except Exception as e:  # of any kind: Orbax or TensorStore
    raise _unreadable(where, e) from e
  return state[name], int(where.name)


def param_shapes(directory: paths.AnyPath) -> Any:
  """Shapes and dtypes of the newest checkpoint's parameters; no array is read.

  Raises:
    CheckpointError: there is none, or it cannot be read.
  """
  where = _newest(directory)
  try:
    params = metadata(where)["params"]
  except Exception as e:
    raise _unreadable(where, e) from e
  return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), params)


def metadata(where: paths.AnyPath) -> dict[str, Any]:
  """Field -> tree of array metadata of a checkpoint's state; raises as Orbax does."""
  path: Any = where / "state"  # Orbax declares epath.Path
  return ocp.PyTreeCheckpointHandler().metadata(path).tree


def _newest(directory: paths.AnyPath) -> Any:
  steps = [p for p in directory.glob("*") if p.name.isdigit() and _is_complete(p)]
  if not steps:
    raise CheckpointError(f"{directory}: no checkpoint; train first")
  return paths.absolute(max(steps, key=lambda step: int(step.name)))


def _is_complete(step: paths.AnyPath) -> bool:
  """Whether a folder with a checkpoint's final name holds all of it.

  In a bucket, where renaming is copying, Orbax gives that name from the start.
  """
  return not paths.is_bucket(step) or (step / COMMIT).exists()


def _unreadable(where: paths.AnyPath, e: Exception) -> CheckpointError:
  return CheckpointError(
    f"{where}: cannot be restored ({one_line(e)}); copy it again, or delete this "
    "folder to use the checkpoint before it"
  )


def check_params(where: paths.AnyPath, stored: dict[str, Any], expected: Any) -> None:
  """Raises CheckpointError if the parameters in `metadata` differ from `expected`."""
  if difference := diff_trees(stored["params"], expected):
    raise CheckpointError(
      f"{where}: parameters differ from those of config.json: {difference}; "
      "do both come from the same run?"
    )


def diff_trees(stored: Any, expected: Any) -> str:
  """Missing, unexpected and differently shaped parameters in one line, or "".

  Args:
    stored: nested dicts, or paths, of anything with a shape.
    expected: the same.
  """
  stored, expected = (flatten_dict(tree, sep="/") for tree in (stored, expected))
  lines = [f"{path} is missing" for path in sorted(expected.keys() - stored.keys())]
  lines += [f"{path} is unexpected" for path in sorted(stored.keys() - expected.keys())]
  for path in sorted(stored.keys() & expected.keys()):
    actual, target = tuple(stored[path].shape), tuple(expected[path].shape)
    if actual != target:
      lines.append(f"{path} is {actual}, not {target}")
  more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
  return "; ".join(lines[:_SHOWN] + more)
