"""Checkpoints by Orbax: written in the background, complete or absent.

Each stores checksums of its arrays, equal on every mesh, which are verified when it is
restored: checksums of files do not detect a file of another checkpoint.
"""

import dataclasses
import json
import zlib
from collections.abc import Callable
from typing import Any

import jax
import orbax.checkpoint as ocp

from vtr_jax.core import buckets, io, paths
from vtr_jax.core.errors import CheckpointError, one_line
from vtr_jax.core.mirror import Mirror
from vtr_jax.train import checksums, restore_params
from vtr_jax.train.outage import Outage, all_processes

_ANOTHER = "another process could not write it"


@dataclasses.dataclass(frozen=True)
class CheckpointPolicy:
  """How strictly checkpoints are verified; set by flags, not by the config."""

  strict_restore: bool = False  # raise if the newest checkpoint is damaged
  verify_saves: bool = False  # read each checkpoint back before training continues
  allow_data_change: bool = False  # resume with other records than before


class Checkpoints:
  """The newest `keep` checkpoints of a run, each {state, meta} under its step.

  While a bucket cannot be written, the run continues; see outage.py.
  """

  def __init__(
    self,
    directory: paths.AnyPath,
    keep: int,
    policy: CheckpointPolicy = CheckpointPolicy(),
    mirror: Mirror | None = None,
  ):
    """Opens or creates them.

    Args:
      directory: of the checkpoints; it may be in a bucket.
      keep: number of checkpoints.
      policy: how strictly they are verified.
      mirror: of the run's directory; None if it is local.
    """
    self._directory, self._policy = paths.absolute(directory), policy
    self._outage = Outage(mirror) if mirror and mirror.remote else None
    self._pending: tuple[int, Any] | None = None  # a save whose end is not known
    self.newest = 0  # step of the last save started or restore; 0 = none
    self._options = ocp.CheckpointManagerOptions(
      max_to_keep=keep, cleanup_tmp_directories=True
    )
    self._manager = self._open()

  def _open(self) -> ocp.CheckpointManager:
    try:
      return ocp.CheckpointManager(self._directory, options=self._options)
    except OSError as e:
      cause = e.strerror or one_line(e)
      raise CheckpointError(f"{self._directory}: cannot be used ({cause})") from e

  def latest_step(self) -> int | None:
    """Step of the newest complete checkpoint."""
    return self._manager.latest_step()

  def before(self, step: int) -> int | None:
    """The newest checkpoint before `step`, else the oldest that is kept."""
    steps = self._manager.all_steps()
    return max((s for s in steps if s < step), default=min(steps, default=None))

  def drop_after(self, step: int) -> None:
    """Deletes the checkpoints after `step`; training resumes from there."""
    self.wait()
    if self._outage:
      self._outage.drop()
    for later in [s for s in self._manager.all_steps() if s > step]:
      self._manager.delete(later)
    self.newest = step

  def save(self, step: int, state: Any, meta: dict) -> None:
    """Starts writing; returns once the arrays are copied from the devices.

    Raises:
      CheckpointError: this save, or the previous one, failed.
    """
    if step == self.latest_step() or (self._outage and step == self._outage.step):
      return
    arrays = tree(state)
    sums = jax.device_get(checksums.tree_checksums(arrays)).tolist()
    meta = meta | dict(sums=sums)
    args = ocp.args.Composite(
      state=ocp.args.StandardSave(arrays),
      meta=ocp.args.JsonSave(meta | dict(crc=_crc(meta))),
    )
    if self._outage:
      self.wait()
    ready, cause = self._ready(), "the bucket cannot be written"
    if ready:
      cause = self._cause(lambda: self._manager.save(step, args=args))
      ready = self._agreed(cause)
    self.newest = step
    self._pending = (step, args) if ready and self._outage else None
    if self._outage and not ready:
      self._outage.save(step, args, cause or _ANOTHER)
    elif self._policy.verify_saves:
      self._verify(step, arrays, sums)

  def restore(self, like: Any, last: int | None = None) -> tuple[Any, dict, list[str]]:
    """(state, meta) of the newest undamaged checkpoint, warnings about damaged ones.

    Once an undamaged one is read, damaged ones are moved to the folder "damaged", next
    to this one; with `strict_restore` a damaged one raises instead.

    Args:
      like: arrays or ShapeDtypeStructs; the state gets their shardings.
      last: ignore checkpoints after this step.

    Raises:
      CheckpointError: none can be read, or the parameters differ from `like`.
    """
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, tree(like))
    causes: dict[int, str] = {}
    steps = [s for s in self._manager.all_steps() if last is None or s <= last]
    for step in sorted(steps, reverse=True):
      state, meta, cause = _read(self._directory / str(step), target)
      # Checksums are computed by all processes, so all of them must get here.
      if ok := all_processes(not cause):
        cause = _compare(state, meta)
        ok = all_processes(not cause)
      if ok:
        warnings, self.newest = self._set_aside(causes, step), step
        return dataclasses.replace(like, **fields(state)), meta, warnings
      causes[step] = cause or "another process could not read it"
      state = None  # free its memory for the next one
      if self._policy.strict_restore:
        break
    step = max(causes)
    where = self._directory / str(step)
    if _is_converted(where):
      raise CheckpointError(
        f"{where}: holds converted weights, not a training run; start a run with "
        f"--config.init_from={self._directory.parent}"
      )
    cure = "copy it again, or use another --workdir"
    if self._policy.strict_restore:
      cure = "without --strict_restore the run resumes from the previous one"
    raise CheckpointError(f"{where}: cannot be restored ({causes[step]}); {cure}")

  def _set_aside(self, causes: dict[int, str], restored: int) -> list[str]:
    """Moves damaged checkpoints to the folder "damaged"; returns a line for each."""
    folder, lines = self._directory.parent / "damaged", []
    for step, cause in causes.items():
      number = 1
      while (aside := folder / f"{step}-{number}").exists():
        number += 1
      if jax.process_index() == 0:
        folder.mkdir(exist_ok=True)
        buckets.move(self._directory / str(step), aside)
      lines.append(
        f"{self._directory / str(step)}: cannot be restored ({cause}); moved to "
        f"{aside}; the run resumes from step {restored}"
      )
    if causes:
      all_processes(True)
      self._manager.reload()
    return lines

  def _verify(self, step: int, arrays: Any, sums: list[int]) -> None:
    """Reads a checkpoint back, in one process, into host memory.

    Raises:
      CheckpointError: it differs from what was saved.
    """
    self.wait()
    if jax.process_index() or (self._outage and self._outage.step):
      return
    where = self._directory / str(step)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), arrays)
    try:
      restored = restore_params.read_arrays(where / "state", shapes)
      checksums.compare(
        arrays, sums, [checksums.host_checksum(a) for a in jax.tree.leaves(restored)]
      )
    except Exception as e:
      raise CheckpointError(
        f"{where}: differs from what was saved ({one_line(e)}); check the disk, "
        "then run it again to resume from the previous checkpoint"
      ) from e

  def wait(self) -> None:
    """Waits until all saves are on disk, or known to have failed; raises as `save`.

    For a bucket, all processes must call it.
    """
    cause = self._cause(self._manager.wait_until_finished)
    if self._outage and self._pending and not self._agreed(cause):
      self._outage.save(*self._pending, cause or _ANOTHER)
    self._pending = None

  def close(self, agreed: bool = True) -> None:
    """Waits until all saves are on disk.

    Args:
      agreed: whether all processes call it; otherwise it does not wait for them.

    Raises:
      CheckpointError: as `save`, or the newest state is not in the bucket.
    """
    several = jax.process_count() > 1
    if agreed or not several:
      self.wait()
    elif (
      self._cause(self._manager.wait_until_finished) and self._outage and self._pending
    ):
      self._outage.step = self._pending[0]
    # Several processes have saved nothing that could be sent.
    if self._outage and self._outage.step and (several or not self._ready()):
      raise CheckpointError(
        f"{self._directory}: checkpoint {self._outage.step} is not written; run the "
        "same command again"
      )
    self._manager.close()

  def _cause(self, work: Callable[[], object]) -> str:
    """Why work fails; "" if it does not. Without a bucket, raises as `save`."""
    try:
      work()
    except Exception as e:
      if not self._outage:
        raise self._failed(e) from e
      return one_line(e)
    return ""

  def _agreed(self, cause: str) -> bool:
    """Whether no process has a cause; for a bucket, all must call it.

    What only some have written is incomplete, and to try again needs all.
    """
    return not self._outage or all_processes(not cause)

  def _ready(self) -> bool:
    """Whether checkpoints can be written; what was saved elsewhere is sent first."""
    if not self._outage:
      return True
    ready = self._outage.writable()
    if ready and self._outage.step:
      self._outage.ended()
      self._manager = self._open()
    return ready

  def _failed(self, e: Exception) -> CheckpointError:
    return CheckpointError(
      f"{self._directory}: checkpoint not written ({one_line(e)}); earlier ones "
      "are complete: free disk space or fix the permission, and run it again"
    )


def _read(where: paths.AnyPath, target: dict[str, Any]) -> tuple[Any, Any, str]:
  """(state, meta, "") or (None, None, cause); without other processes.

  Raises:
    CheckpointError: its parameters differ from `target`.
  """
  try:
    restore_params.check_params(where, restore_params.metadata(where), target["params"])
    meta = io.mapping((where / "meta" / "metadata").read_bytes())
    # Checkpoints before 2026-11 have neither crc nor sums.
    if meta.pop("crc", None) not in (None, _crc(meta)):
      raise ValueError("meta: wrong checksum")
    return restore_params.read_arrays(where / "state", target), meta, ""
  except CheckpointError:
    raise
  except Exception as e:  # of any kind: Orbax or TensorStore
    return None, None, one_line(e)


def _is_converted(where: paths.AnyPath) -> bool:
  """Whether a checkpoint holds only parameters, as `vtr_jax.convert` writes them."""
  try:
    return set(restore_params.metadata(where)) == {"params"}
  except Exception:
    return False


def _compare(state: Any, meta: dict[str, Any]) -> str:
  """The difference of checksums, or ""; computed by all processes."""
  actual = jax.device_get(checksums.tree_checksums(state)).tolist()
  try:
    checksums.compare(state, meta.get("sums", actual), actual)
  except ValueError as e:
    return one_line(e)
  return ""


def _crc(meta: dict[str, Any]) -> int:
  return zlib.crc32(json.dumps(meta, sort_keys=True).encode())


# Stored names of fields that were renamed in 0.2: every version reads the checkpoints
# of every other.
_STORED = dict(ema_params="mean", loss_history="recent")


def tree(state: Any) -> dict[str, Any]:
  """The state's fields by their stored names, without optional ones that are None.

  So a state without an EMA is stored as by versions that had none. A dict, of converted
  weights, is stored unchanged.
  """
  if isinstance(state, dict):
    return state
  values = {f: getattr(state, f.name) for f in dataclasses.fields(state)}
  return {
    _STORED.get(f.name, f.name): v
    for f, v in values.items()
    if v is not None or f.default is not None
  }


def fields(stored: dict[str, Any]) -> dict[str, Any]:
  """Inverse of `tree`: stored names to field names."""
  names = {v: k for k, v in _STORED.items()}
  return {names.get(k, k): v for k, v in stored.items()}
