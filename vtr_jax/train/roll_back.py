"""Rolls a run back to a checkpoint before its skipped steps, or ends it with a dump."""

from typing import Any, cast

import jax

from vtr_jax.core.errors import DivergedError
from vtr_jax.train import bad_step
from vtr_jax.train import state as state_lib
from vtr_jax.train.guard import RollBack
from vtr_jax.train.setup import Run

_CURE = "Fix the data, or try a lower config.optim.lr in another --workdir"


def next_skip_may_end(run: Run) -> bool:
  """Whether the next skipped step may end the run; its dump needs the state before it.

  This holds after a roll-back, until a later checkpoint is written without a skipped
  step in the guard's window.
  """
  to = run.guard.rolled_to
  return to is not None and (run.checkpoints.newest <= to or run.guard.has_skipped)


def roll_back(run: Run, e: RollBack) -> None:
  """Restores the checkpoint before the first skipped step; skips data up to the last.

  If that checkpoint is no longer kept, the oldest one: skipped steps changed none.

  Raises:
    DivergedError: the run was rolled back to it before; the step is dumped.
  """
  run.checkpoints.wait()
  to = run.checkpoints.before(e.first) or 0
  if to == run.guard.rolled_to:
    where = bad_step.write(run, e)
    raise DivergedError(
      f"{e}, again after rolling back to step {to}; the step is in {where}: inspect it "
      f"with python -m vtr_jax.replay {where}. {cure(run)}"
    )
  next_batch = e.last + run.batch_offset
  shardings = jax.tree.map(lambda x: x.sharding, run.state)
  like = state_lib.with_shardings(run.state, shardings)
  run.state = cast(Any, None)  # free its memory before the next one is allocated
  meta: dict[str, Any] = {}
  warnings: list[str] = []
  if to:
    run.state, meta, warnings = run.checkpoints.restore(like, to)
  else:
    run.state, _ = run.init_state()
  to = int(run.state.step)
  run.checkpoints.drop_after(to)
  run.train_seconds = meta.get("trained", 0.0)
  run.batch_offset = next_batch - to
  run.partial_line = meta.get("line", {})
  run.guard.roll_back(to)
  run.writer.rewind(to)
  for warning in warnings:
    run.writer.warn(to, warning)
  where = f"checkpoint {to}" if to else "the start"
  run.writer.warn(
    e.last,
    f"{e}: rolled back to {where}; resuming with the data after step {e.last}",
  )


def cure(run: Run) -> str:
  """Advice at the end of error messages about a diverged run."""
  saved = run.checkpoints.latest_step() is not None
  return _CURE + (
    ", from the start or with --config.init_from=THIS_RUN" if saved else ""
  )
