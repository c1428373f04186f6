"""Where checkpoints go while a run's bucket cannot be written."""

import shutil
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from vtr_jax.core import buckets
from vtr_jax.core.mirror import Mirror
from vtr_jax.core.shutdown import warn


class Outage:
  """Saves the newest state next to the mirror's local files, which it sends later.

  Several processes have only parts of the state, and save nothing meanwhile.
  """

  def __init__(self, mirror: Mirror):
    self._mirror = mirror
    self._folder = mirror.local / "checkpoints"
    self.step = 0  # of the newest state that is not in the bucket; 0 = none

  def writable(self) -> bool:
    """Whether all processes can write the bucket, with what was saved here sent.

    Raises:
      DataError: another run has taken over.
    """
    ok = self._mirror.sync() if self.step else self._mirror.reachable()
    return all_processes(ok)

  def ended(self) -> None:
    """Call this when the bucket is writable again, before it is listed."""
    self.step = 0
    buckets.forget()

  def save(self, step: int, args: Any, cause: str) -> None:
    """Saves the state, unless its arrays were reused since; a later one follows."""
    self.step, name = step, self._mirror.name
    arrays = jax.tree.leaves(args["state"].item)
    if jax.process_count() > 1 or any(a.is_deleted() for a in arrays):
      warn(f"{name}: checkpoint {step} is not written ({cause})")
      return
    with self._mirror.lock:
      self.drop()
      with ocp.CheckpointManager(self._folder) as manager:
        manager.save(step, args=args)
    warn(f"{name}: checkpoint {step} is in {self._folder} for now ({cause})")

  def drop(self) -> None:
    """Removes what was saved here."""
    shutil.rmtree(self._folder, ignore_errors=True)


def all_processes(ok: bool) -> bool:
  """Whether `ok` holds in all processes."""
  if jax.process_count() == 1:
    return ok
  return bool(multihost_utils.process_allgather(np.array(ok)).all())
