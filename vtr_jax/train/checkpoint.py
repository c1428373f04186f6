"""Checkpoints by Orbax: written in the background, complete or not there at all.

Beside the state stand the sums of its arrays' bits, which are the same on every mesh.
What is restored must have them: checksums of the files do not see that a file is that
of another checkpoint.
"""

import dataclasses
import json
import pathlib
import zlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from vtr_jax.core import io
from vtr_jax.core.errors import CheckpointError, one_line
from vtr_jax.train import checksums, restore_params


@dataclasses.dataclass(frozen=True)
class Care:
  """How much a run trusts what it finds and writes; flags, not config."""

  strict_restore: bool = False  # end where the newest checkpoint is damaged
  verify_saves: bool = False  # read each checkpoint again before training goes on
  allow_data_change: bool = False  # go on with other records than before


class Checkpoints:
  """The newest `keep` checkpoints of a run, each {state, meta} under its step."""

  def __init__(self, directory: pathlib.Path, keep: int, care: Care = Care()):
    self._directory, self._care = directory.absolute(), care
    self.newest = 0  # step of the last one that was begun or restored; 0 = none
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

  def before(self, step: int) -> int | None:
    """The newest checkpoint before `step`, else the oldest that is kept."""
    steps = self._manager.all_steps()
    return max((s for s in steps if s < step), default=min(steps, default=None))

  def drop_after(self, step: int) -> None:
    """Deletes the checkpoints after `step`: another way is taken from there."""
    self.wait()
    for later in [s for s in self._manager.all_steps() if s > step]:
      self._manager.delete(later)
    self.newest = step

  def save(self, step: int, state: Any, meta: dict) -> None:
    """Starts writing; returns when the arrays have been copied from the devices.

    Raises:
      CheckpointError: this save, or the one before it, could not be written.
    """
    if step == self.latest_step():
      return
    arrays = tree(state)
    sums = jax.device_get(checksums.of(arrays)).tolist()
    meta = meta | dict(sums=sums)
    args = ocp.args.Composite(
      state=ocp.args.StandardSave(arrays),
      meta=ocp.args.JsonSave(meta | dict(crc=_crc(meta))),
    )
    try:
      self._manager.save(step, args=args)
    except Exception as e:
      raise self._failed(e) from e
    self.newest = step
    if self._care.verify_saves:
      self._verify(step, arrays, sums)

  def restore(self, like: Any, last: int | None = None) -> tuple[Any, dict, list[str]]:
    """The newest (state, meta) that is whole, and warnings of those that are not.

    Damaged ones are set aside, into the folder "damaged" beside this one, once an
    older one has been found whole; `strict_restore` ends there instead.

    Args:
      like: arrays or ShapeDtypeStructs; the state is laid out as these are.
      last: none after this step is of interest.

    Raises:
      CheckpointError: none can be read, or one has other parameters than `like`.
    """
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, tree(like))
    causes: dict[int, str] = {}
    steps = [s for s in self._manager.all_steps() if last is None or s <= last]
    for step in sorted(steps, reverse=True):
      found, meta, cause = _read(self._directory / str(step), target)
      # The sums take all processes, and so all must have come as far.
      if ok := _everywhere(not cause):
        cause = _compare(found, meta)
        ok = _everywhere(not cause)
      if ok:
        warnings, self.newest = self._set_aside(causes, step), step
        return dataclasses.replace(like, **_fields(found)), meta, warnings
      causes[step] = cause or "another process could not read it"
      found = None  # the next one needs its memory
      if self._care.strict_restore:
        break
    step = max(causes)
    where = self._directory / str(step)
    if restore_params.groups(where) == {"params"}:
      raise CheckpointError(
        f"{where}: holds converted weights and no training; start another run with "
        f"--config.init_from={self._directory.parent}"
      )
    cure = "copy it again, or use another --workdir"
    if self._care.strict_restore:
      cure = "without --strict_restore the run goes on from the one before it"
    raise CheckpointError(f"{where}: cannot be restored ({causes[step]}); {cure}")

  def _set_aside(self, causes: dict[int, str], good: int) -> list[str]:
    """Moves damaged checkpoints out of the way: what was done, a line for each."""
    place, lines = self._directory.parent / "damaged", []
    for step, cause in causes.items():
      number = 1
      while (aside := place / f"{step}-{number}").exists():
        number += 1
      if jax.process_index() == 0:
        place.mkdir(exist_ok=True)
        (self._directory / str(step)).rename(aside)
      lines.append(
        f"{self._directory / str(step)}: cannot be restored ({cause}); it is now "
        f"{aside}, and the run goes on from step {good}"
      )
    if causes:
      _everywhere(True)
      self._manager.reload()
    return lines

  def _verify(self, step: int, arrays: Any, sums: list[int]) -> None:
    """Reads a checkpoint again, in one process, into the host's memory.

    Raises:
      CheckpointError: it is not what was saved.
    """
    self.wait()
    if jax.process_index():
      return
    where = self._directory / str(step)
    args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), arrays)
    try:
      found = ocp.PyTreeCheckpointHandler().restore(
        where / "state", args=ocp.args.PyTreeRestore(item=arrays, restore_args=args)
      )
      checksums.compare(
        arrays, sums, [checksums.on_host(a) for a in jax.tree.leaves(found)]
      )
    except Exception as e:
      raise CheckpointError(
        f"{where}: is not what was saved ({one_line(e)}); look at the disk. Run it "
        "again to go on from the checkpoint before it"
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


def _read(where: pathlib.Path, target: dict[str, Any]) -> tuple[Any, Any, str]:
  """(state, meta, "") or (None, None, cause). Waits for no other process.

  Raises:
    CheckpointError: it has other parameters than `target`.
  """
  try:
    there = restore_params.shapes(restore_params.metadata(where)["params"])
  except CheckpointError as e:
    return None, None, one_line(e.__cause__ or e)
  restore_params.check_shapes(where, there, target["params"])
  try:
    meta = io.mapping((where / "meta" / "metadata").read_bytes())
    # Those of before 2026-11 have neither that nor sums.
    if meta.pop("crc", None) not in (None, _crc(meta)):
      raise ValueError("meta: its checksum is another")
    handler = ocp.StandardCheckpointHandler()
    args = ocp.args.StandardRestore(target)
    return handler.restore(where / "state", args=args), meta, ""
  except Exception as e:  # whatever orbax and TensorStore raise
    return None, None, one_line(e)


def _compare(state: Any, meta: dict[str, Any]) -> str:
  """What is wrong with the sums, or ""; by all processes, on all their devices."""
  found = jax.device_get(checksums.of(state)).tolist()
  try:
    checksums.compare(state, meta.get("sums", found), found)
  except ValueError as e:
    return one_line(e)
  return ""


def _crc(meta: dict[str, Any]) -> int:
  return zlib.crc32(json.dumps(meta, sort_keys=True).encode())


def _everywhere(ok: bool) -> bool:
  """Whether it is so in all processes."""
  if jax.process_count() == 1:
    return ok
  return bool(multihost_utils.process_allgather(np.array(ok)).all())


# Names in checkpoints of fields that are called otherwise since 0.2: every version
# reads the checkpoints of every other.
_STORED = dict(ema_params="mean", loss_history="recent")


def tree(state: Any) -> dict[str, Any]:
  """A dataclass's fields by their stored names, without optional ones that are None.

  So a state without an EMA is stored as before there was one. A dict, of converted
  weights, is stored as it is.
  """
  if isinstance(state, dict):
    return state
  values = {f: getattr(state, f.name) for f in dataclasses.fields(state)}
  return {
    _STORED.get(f.name, f.name): v
    for f, v in values.items()
    if v is not None or f.default is not None
  }


def _fields(stored: dict[str, Any]) -> dict[str, Any]:
  """Inverse of `tree`: stored names to field names."""
  names = {v: k for k, v in _STORED.items()}
  return {names.get(k, k): v for k, v in stored.items()}
