"""The loop: batches in, steps, numbers and checkpoints out, evaluation at the end."""

import contextlib
import pathlib
import time
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vtr_jax.core import batch as batch_lib
from vtr_jax.core import sharding
from vtr_jax.core.config import to_dict
from vtr_jax.core.errors import (
  DataBudgetError,
  DataError,
  DivergedError,
  NotFiniteError,
  Preempted,
)
from vtr_jax.core.preemption import StopSignal
from vtr_jax.data import loader
from vtr_jax.data.quarantine import Quarantine
from vtr_jax.eval.viz import plots
from vtr_jax.train import bad_step, memory, setup, workdir, writer
from vtr_jax.train import state as state_lib
from vtr_jax.train.checkpoint import Care
from vtr_jax.train.guard import RollBack
from vtr_jax.train.profiler import Observe
from vtr_jax.train.progress import Progress
from vtr_jax.train.setup import Run

_CURE = "Mend the data, or try a lower config.optim.lr in another --workdir"


def train_and_evaluate(
  config: Mapping[str, Any],
  directory: str | pathlib.Path,
  show: Observe = Observe(),  # noqa: B008 (frozen)
  care: Care = Care(),  # noqa: B008 (frozen)
) -> dict[str, float]:
  """Trains, or goes on with what `directory` holds, and evaluates.

  Args:
    config: as the files in configs/ give it.
    directory: of checkpoints, numbers and pictures; see workdir.py.
    show: what it shows of itself on the way.
    care: how much it trusts what it finds in `directory`.

  Returns:
    The last evaluation's numbers, keys such as "test/t2v/R@1".

  Raises:
    VtrError: with one line that says what to mend; see errors.py.
  """
  with StopSignal() as stop, contextlib.ExitStack() as held:
    with stop.during("free"):
      run = setup.build(config, directory, show, stop, care, held)
    name = f"quarantine{f'-{jax.process_index()}' if jax.process_index() else ''}.jsonl"
    try:
      budget = run.config.data.max_bad_fraction
      quarantine = Quarantine(str(run.workdir / name), budget)
      while int(run.state.step) < run.config.steps:
        try:
          _train(run, quarantine)
        except RollBack as e:
          _roll_back(run, e)
      return _finish(run)
    finally:
      run.profile.close()
      run.writer.close()
      run.checkpoints.close()


def _train(run: Run, quarantine: Quarantine) -> None:
  """Steps from the state's step to the last one.

  Raises:
    RollBack: too many steps were not applied.
  """
  c, start = run.config, int(run.state.step)
  run.writer.say(f"training from step {start} to {c.steps}")
  hosts = sharding.host_rows(run.mesh)
  batches = loader.train_batches(
    c.data,
    c.clip,
    c.text,
    run.objective.mask,
    run.tokenizer,
    batch_size=c.batch_size,
    seed=c.seed,
    start_step=start + run.ahead,
    host=hosts.host,
    num_hosts=hosts.count,
  )
  log = Progress(run, start)
  try:
    _steps(run, batches, quarantine, log)
  except (Preempted, DataError, DataBudgetError) as e:
    # What has been learned is not lost. Other processes know nothing of bad data here.
    done, agreed = int(run.state.step), isinstance(e, Preempted)
    if done > start and (agreed or jax.process_count() == 1):
      _save(run, log, done)
      run.checkpoints.wait()
    if agreed:
      raise Preempted(
        f"stopped by a signal after step {done}, saved; run it again"
      ) from None
    raise
  except jax.errors.JaxRuntimeError as e:
    if not memory.is_full(e):
      raise
    raise memory.advice(run.config, run.mesh) from e
  finally:
    batches.close()


def _steps(
  run: Run, batches: loader.Batches, quarantine: Quarantine, log: Progress
) -> None:
  """Batches to steps, numbers, checkpoints and evaluations.

  Raises:
    Preempted: asked to stop; the state is that behind a whole step.
  """
  c, start = run.config, int(run.state.step)
  due = lambda done: [
    n for n, e in run.evals.items() if e.every and done % e.every == 0
  ]
  if start:  # the run ended after this step's checkpoint, and before or in these
    _evaluate(run, start, due(start))
  for done in range(start + 1, c.steps + 1):
    fresh = done == start + 1
    with run.stop.during("free" if fresh else "wait"):
      local = log.timed_next(batches)
    quarantine.add(local, done - 1)
    on_device = {k: v for k, v in local.items() if k not in batch_lib.HOST_KEYS}
    global_batch = sharding.put_batch(on_device, run.mesh)
    with run.stop.during("free" if fresh else "busy"), run.profile.step(done):
      if fresh:
        with sharding.scope(run.mesh):  # compiles it
          need = memory.say(run.train_step.jitted, run.state, global_batch)
        run.writer.say(need)
      before = jax.tree.map(jnp.copy, run.state.loss_history)  # small, or None
      run.state, numbers = run.train_step(run.state, global_batch)
    run.stop.post()
    try:
      log.add(done, numbers)
    except RollBack as e:
      e.batch, e.records, e.recent = global_batch, local["record"], before
      raise
    if traced := run.profile.behind(done, numbers["loss/total"]):
      run.writer.say(traced)
    if done % c.checkpoint_every == 0 or done == c.steps:
      _save(run, log, done)
    if run.stop.agreed() and done < c.steps:
      raise Preempted("asked to stop")
    if done < c.steps:  # the last step's evaluation has all evaluators
      log.pause(_evaluate(run, done, due(done))[1])


def _roll_back(run: Run, e: RollBack) -> None:
  """To the checkpoint before the first bad step, and on with the data after the last.

  Where that one is no longer kept, to the oldest: bad steps are in none of them.

  Raises:
    DivergedError: that was tried before; the step is dumped.
  """
  run.checkpoints.wait()
  to = run.checkpoints.before(e.first) or 0
  if to == run.watch.rolled_to:
    where = bad_step.write(run, e)
    raise DivergedError(
      f"{e}, again after going back to step {to}; the step is in {where}: see it with "
      f"python -m vtr_jax.replay {where}. {_cure(run)}"
    )
  passed = e.last + run.ahead
  like = state_lib.laid_out(run.state, jax.tree.map(lambda x: x.sharding, run.state))
  run.state = None  # its memory is needed
  meta: dict[str, Any] = {}
  warnings: list[str] = []
  if to:
    run.state, meta, warnings = run.checkpoints.restore(like, to)
  else:
    run.state, _ = run.fresh()
  to = int(run.state.step)
  run.checkpoints.drop_after(to)
  run.trained, run.ahead = meta.get("trained", 0.0), passed - to
  run.line = meta.get("line", {})
  run.watch.roll_back(to)
  run.writer.rewind(to)
  for warning in warnings:
    run.writer.alarm(to, warning)
  run.writer.alarm(
    e.last, f"{e}: back to step {to}, and on with the data behind step {e.last}'s"
  )


def _cure(run: Run) -> str:
  begun = run.checkpoints.latest_step() is not None
  return _CURE + (
    ", from the start or with --config.init_from=THIS_RUN" if begun else ""
  )


def _save(run: Run, log: Progress, done: int) -> None:
  """Starts writing the state after step `done`, when its numbers have been seen."""
  log.flush()
  run.checkpoints.save(done, run.state, _meta(run, log))


def _evaluate(
  run: Run, done: int, names: Iterable[str]
) -> tuple[dict[str, float], float]:
  """Runs the named evaluators: their numbers, and the seconds it took."""
  begin, numbers = time.monotonic(), {}
  for name in names:
    with run.stop.during("wait"):
      try:
        found = run.evals[name].run(run.state.eval_params)
      except NotFiniteError as e:
        raise DivergedError(
          f"evaluation {name} after step {done}: {e}. {_cure(run)}"
        ) from e
    numbers |= {f"{name}/{key}": value for key, value in found.items()}
    run.writer.say(f"after step {done}: {run.evals[name].report()}")
  if numbers:
    run.writer.scalars(done, numbers)
  return numbers, time.monotonic() - begin


def _finish(run: Run) -> dict[str, float]:
  """The last evaluation, results.json and the pictures."""
  done = int(run.state.step)
  run.checkpoints.wait()
  try:
    numbers, _ = _evaluate(run, done, run.evals)
  except Preempted:
    raise Preempted("stopped in the last evaluation; run it again") from None
  if jax.process_index() == 0:
    workdir.write_json(
      run.workdir / "results.json",
      dict(
        step=done,
        results=numbers,
        protocols={name: e.protocol() for name, e in run.evals.items()},
        dtype=run.config.objective.get("compute", {}).get("dtype"),
        config=workdir.plain(to_dict(run.config)),
        provenance=workdir.provenance(),
      ),
    )
    for name, evaluator in run.evals.items():
      evaluator.draw(run.workdir / "figures", name)
    records = writer.read(run.workdir / "metrics.jsonl")
    plots.curves(run.workdir / "figures" / "curves.png", records)
    run.writer.say(f"results.json and figures/ are in {run.workdir}")
    headline = [f"{k.split('/')[0]} {v:.1f}" for k, v in numbers.items() if _plain(k)]
    if headline:
      run.writer.say(f"text to video R@1, in percent: {', '.join(headline)}")
  return numbers


def _plain(key: str) -> bool:
  """Whether `key` is the headline: the plain number, without an extra row's name."""
  return key.endswith("/t2v/R@1") and key.count("/") == 2


def _meta(run: Run, log: Progress) -> dict:
  """What a checkpoint tells beside the state."""
  return dict(
    config=workdir.plain(to_dict(run.config)),
    data=run.data_fingerprint,
    next_batch=int(run.state.step) + run.ahead,
    guard=run.watch.known(),
    line=log.line(),
    began=run.began,
    trained=log.trained(),
    provenance=workdir.provenance(),
  )
