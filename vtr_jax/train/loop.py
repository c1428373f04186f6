"""The training loop: steps, metrics, checkpoints, evaluations."""

import contextlib
import pathlib
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtr_jax.core import batch as batch_lib
from vtr_jax.core import sharding
from vtr_jax.core.config import to_dict
from vtr_jax.core.errors import (
  DataBudgetError,
  DataError,
  DivergedError,
  NotFiniteError,
  Preempted,
  VtrError,
)
from vtr_jax.core.preemption import StopSignal
from vtr_jax.core.shutdown import warn
from vtr_jax.data import loader
from vtr_jax.data.quarantine import Quarantine
from vtr_jax.eval.viz import plots
from vtr_jax.train import memory, setup, terms, workdir, writer
from vtr_jax.train.checkpoint import CheckpointPolicy
from vtr_jax.train.guard import RollBack
from vtr_jax.train.profiler import MonitorOptions
from vtr_jax.train.progress import FIRST_STEPS, Progress
from vtr_jax.train.roll_back import cure, next_skip_may_end, roll_back
from vtr_jax.train.setup import Run

# A step's metrics are fetched when this many later steps have been dispatched, so that
# fetching never makes the device wait.
_DELAY = 2


def train_and_evaluate(
  config: Mapping[str, Any],
  directory: str | pathlib.Path,
  monitor: MonitorOptions = MonitorOptions(),  # noqa: B008 (frozen)
  policy: CheckpointPolicy = CheckpointPolicy(),  # noqa: B008 (frozen)
) -> dict[str, float]:
  """Trains and evaluates; resumes the run in `directory`, if there is one.

  Args:
    config: of a file in configs/.
    directory: for checkpoints, metrics and figures; see workdir.py.
    monitor: profiling and Weights & Biases.
    policy: how checkpoints are verified.

  Returns:
    Metrics of the last evaluation, with keys such as "test/t2v/R@1".

  Raises:
    VtrError: its message is one line, with the fix; see core/errors.py.
  """
  with StopSignal() as stop, contextlib.ExitStack() as locks:
    with stop.during("free"):
      run = setup.build(config, directory, monitor, stop, policy, locks)
    name = f"quarantine{f'-{jax.process_index()}' if jax.process_index() else ''}.jsonl"
    with _closing(run):
      budget = run.config.data.max_bad_fraction
      quarantine = Quarantine(str(run.workdir / name), budget)
      while int(run.state.step) < run.config.steps:
        try:
          _train(run, quarantine)
        except RollBack as e:
          roll_back(run, e)
      return _finish(run)


@contextlib.contextmanager
def _closing(run: Run) -> Iterator[None]:
  """Ends all writing after `with`; what fails then is a warning if that has raised."""
  try:
    yield
  except Preempted:  # it says that all is saved, and all processes have agreed
    _close(run)
    raise
  except BaseException as e:
    _close(run, e)
    raise
  _close(run)


def _close(run: Run, error: BaseException | None = None) -> None:
  run.profile.close()
  run.writer.close()
  try:
    try:
      run.checkpoints.close(error is None)
    finally:
      run.mirror.finish()
  except VtrError as e:
    if error is None:
      raise
    if str(e) != str(error):
      warn(str(e))


def _train(run: Run, quarantine: Quarantine) -> None:
  """Trains from the state's step to the last one.

  Raises:
    RollBack: too many steps were skipped.
  """
  c, start = run.config, int(run.state.step)
  run.writer.log(f"training from step {start} to {c.steps}")
  run.writer.log(terms.describe(c, run.objective.loss_names))
  hosts = sharding.host_rows(run.mesh)
  batches = loader.train_batches(
    c.data,
    c.clip,
    c.text,
    run.objective.mask,
    run.tokenizer,
    batch_size=c.batch_size,
    seed=c.seed,
    start_step=start + run.batch_offset,
    host=hosts.host,
    num_hosts=hosts.count,
    rows=run.objective.rows,
  )
  log = Progress(run, start)
  try:
    _steps(run, batches, quarantine, log)
  except (Preempted, DataError, DataBudgetError) as e:
    # Save the progress. Bad data is an error of this process alone, and a save needs
    # all processes.
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
  """Steps, with their metrics, checkpoints and evaluations.

  Raises:
    Preempted: a stop was requested; the state is that after a complete step.
    RollBack: too many steps were skipped.
  """
  c, start = run.config, int(run.state.step)
  due = lambda done: [
    n for n, e in run.evals.items() if e.every and done % e.every == 0
  ]
  if start:  # the run may have ended between this checkpoint and its evaluations
    _evaluate(run, start, due(start))
  for done in range(start + 1, c.steps + 1):
    first = done == start + 1
    with run.stop.during("free" if first else "wait"):
      local = log.timed_next(batches)
    quarantine.add(local, done - 1)
    if first and (warning := _equal_texts(local)):
      run.writer.warn(start, warning)
    on_device = {k: v for k, v in local.items() if k not in batch_lib.HOST_KEYS}
    global_batch = sharding.put_batch(on_device, run.mesh)
    with run.stop.during("free" if first else "busy"), run.profile.step(done):
      if first:
        with sharding.scope(run.mesh):  # compiles it
          need = memory.report(run.train_step.jitted, run.state, global_batch)
        run.writer.log(need)
      before = jax.tree.map(jnp.copy, run.state.loss_history)  # small, or None
      run.state, metrics = run.train_step(run.state, global_batch)
    run.stop.post()
    log.add(done, metrics)
    early = done <= start + FIRST_STEPS
    try:
      _take_metrics(run, log, 0 if early or next_skip_may_end(run) else _DELAY)
    except RollBack as e:
      e.batch, e.records, e.history = global_batch, local["record"], before
      raise
    if traced := run.profile.after(done, metrics["loss/total"]):
      run.writer.log(traced)
    if done % c.checkpoint_every == 0 or done == c.steps:
      _save(run, log, done)
    if run.stop.agreed() and done < c.steps:
      raise Preempted("a stop was requested")
    if done < c.steps:  # after the last step all evaluators run
      log.pause(_evaluate(run, done, due(done))[1])


def _equal_texts(batch: Mapping[str, np.ndarray]) -> str:
  """A warning if all captions of a batch are equal; otherwise empty."""
  ids = batch.get("text_ids", np.zeros((0, 0)))
  if len(ids) < 2 or (ids != ids[:1]).any():
    return ""
  return (
    "all captions of the first batch are equal: contrast cannot learn from them; check "
    "the annotations, and config.text.max_length"
  )


def _take_metrics(run: Run, log: Progress, delay: int = 0) -> None:
  """Fetches the metrics of all but the newest `delay` steps, for the guard and the log.

  Raises:
    RollBack: too many steps were skipped.
  """
  for step, metrics in log.fetch(delay):
    if warning := run.guard.check(step, metrics):
      run.writer.warn(step, warning)
      run.mirror.push()
    log.log(step, metrics)


def _save(run: Run, log: Progress, done: int) -> None:
  """Starts writing the state after step `done`, once its metrics are checked."""
  _take_metrics(run, log)
  run.checkpoints.save(done, run.state, _meta(run, log))
  run.writer.reopen()
  run.mirror.push()


def _evaluate(
  run: Run, done: int, names: Iterable[str]
) -> tuple[dict[str, float], float]:
  """Runs the named evaluators; returns their metrics and the seconds taken."""
  start, metrics = time.monotonic(), {}
  for name in names:
    with run.stop.during("wait"):
      try:
        result = run.evals[name].run(run.state.eval_params)
      except NotFiniteError as e:
        raise DivergedError(
          f"evaluation {name} after step {done}: {e}. {cure(run)}"
        ) from e
    metrics |= {f"{name}/{key}": value for key, value in result.items()}
    run.writer.log(f"after step {done}: {run.evals[name].report()}")
  if metrics:
    run.writer.scalars(done, metrics)
  return metrics, time.monotonic() - start


def _finish(run: Run) -> dict[str, float]:
  """The last evaluation, results.json and the figures."""
  done = int(run.state.step)
  run.checkpoints.wait()
  try:
    metrics, _ = _evaluate(run, done, run.evals)
  except Preempted:
    raise Preempted("stopped in the last evaluation; run it again") from None
  if jax.process_index() == 0:
    workdir.write_json(
      run.workdir / "results.json",
      dict(
        step=done,
        results=metrics,
        protocols={name: e.protocol() for name, e in run.evals.items()},
        dtype=run.objective.compute.dtype,
        config=workdir.plain(to_dict(run.config)),
        provenance=workdir.provenance(),
      ),
    )
    for name, evaluator in run.evals.items():
      evaluator.draw(run.workdir / "figures", name)
    records = writer.read(run.workdir / "metrics.jsonl")
    plots.curves(run.workdir / "figures" / "curves.png", records)
    run.writer.log(f"results.json and figures/ are in {run.mirror.name}")
    headline = [
      f"{k.split('/')[0]} {v:.1f}" for k, v in metrics.items() if _is_headline(k)
    ]
    if headline:
      run.writer.log(f"text to video R@1, in percent: {', '.join(headline)}")
  return metrics


def _is_headline(key: str) -> bool:
  """Whether `key` is the split's text-to-video R@1 itself, not that of a variant."""
  return key.endswith("/t2v/R@1") and key.count("/") == 2


def _meta(run: Run, log: Progress) -> dict:
  """The metadata stored in a checkpoint along with the state."""
  return dict(
    config=workdir.plain(to_dict(run.config)),
    data=run.data_fingerprint,
    next_batch=int(run.state.step) + run.batch_offset,
    guard=run.guard.stored(),
    line=log.partial_line(),
    began=run.start_time,
    trained=log.train_seconds(),
    provenance=workdir.provenance(),
  )
