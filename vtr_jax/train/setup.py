"""Sets up a run: checks its config, finds its data, opens or creates its directory."""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import clu.parameter_overview
import jax
from jax.experimental import multihost_utils

from vtr_jax.core import paths, precision, processes, renames, sharding
from vtr_jax.core.config import read
from vtr_jax.core.mirror import Mirror
from vtr_jax.core.preemption import StopSignal
from vtr_jax.data.examples import check_frames
from vtr_jax.data.tokenizers import base as texts
from vtr_jax.eval.evaluators import base as evaluators
from vtr_jax.objectives import base as objectives
from vtr_jax.train import init_from, inputs, optim, workdir, writer
from vtr_jax.train import state as state_lib
from vtr_jax.train.checkpoint import CheckpointPolicy, Checkpoints
from vtr_jax.train.config import Parts, TrainConfig, with_defaults
from vtr_jax.train.guard import Guard
from vtr_jax.train.profiler import MonitorOptions, Profile
from vtr_jax.train.state import TrainState
from vtr_jax.weights.load import pieces

_LOCK_TIMEOUT = 120.0  # seconds; NFS frees the lock of a host that has died after 90


@dataclasses.dataclass
class Run:
  """A training run, built from its config."""

  config: TrainConfig
  workdir: pathlib.Path  # local
  mirror: Mirror  # of it in a bucket
  objective: objectives.Objective
  mesh: jax.sharding.Mesh
  tokenizer: texts.Tokenizer
  data_fingerprint: str  # of the training split
  state: TrainState
  # () -> (initial state, reports on public weights)
  init_state: Callable[[], tuple[TrainState, Sequence]]
  train_step: Callable
  learning_rate: Callable
  evals: dict[str, evaluators.Evaluator]
  checkpoints: Checkpoints
  writer: writer.Writer
  stop: StopSignal
  profile: Profile
  guard: Guard
  batch_offset: int  # index of the next batch minus the step: roll-backs skip batches
  start_time: float  # when the run was first started, seconds since 1970
  train_seconds: float  # of training up to the state
  partial_line: dict[str, Any]  # sums for the next log line; Progress.partial_line


def build(
  values: Mapping[str, Any],
  directory: str | pathlib.Path,
  monitor: MonitorOptions = MonitorOptions(),  # noqa: B008 (frozen)
  stop: StopSignal | None = None,
  policy: CheckpointPolicy = CheckpointPolicy(),  # noqa: B008 (frozen)
  locks: contextlib.ExitStack | None = None,
) -> Run:
  """Checks all that can be checked, cheapest first, then builds the run.

  If `locks` is given, no other run can be built in `directory` until it is closed.
  """
  directory = paths.local(str(directory), "--workdir", buckets=True)
  mirror = Mirror(directory, jax.process_index())
  values, renamed = renames.upgrade(values)
  values = _complete(values, directory)
  config = read(TrainConfig, values)
  check_frames(config.data, config.clip)
  eval_configs = evaluators.check(config.evals)
  parts = config.parts()
  mesh = sharding.make_mesh(config.mesh)
  parts.check_batches(mesh)
  sharding.check_batch_size(config.eval_batch_size, mesh, "config.eval_batch_size")
  path = _workdir(mirror, values, locks)
  data = inputs.data_directory(config)
  fingerprint = config.data.fingerprint()
  tokenizer = texts.NoText()
  if parts.objective.reads_text:
    tokenizer = inputs.tokenizer(config, data, path)
  elif config.init_from and not pieces(config.init_from):
    inputs.check_run(config.init_from)

  stop = stop or StopSignal()
  c, rows = config, config.eval_batch_size
  context = evaluators.Context(
    parts.objective, c.clip, c.text, c.data, tokenizer, mesh, rows, stop.check
  )
  evals = evaluators.build(eval_configs, context)
  init_state = functools.partial(_init_state, parts, mesh)
  checkpoints = Checkpoints(mirror.checkpoints, config.checkpoint_keep, policy, mirror)
  meta: dict[str, Any] = {}
  reports, warnings = [], []
  if checkpoints.latest_step() is not None:
    like = state_lib.with_shardings(*parts.abstract(mesh))
    state, meta, warnings = checkpoints.restore(like)
    warnings += inputs.check_fingerprint(meta["data"], fingerprint, data, policy)
  else:
    state, reports = init_state()
    warnings += optim.short_warmup(config.optim, config.steps)
    warnings += inputs.few_clips(config, parts.objective)
    warnings += inputs.label_warnings(config, parts.objective)
  is_main, step = jax.process_index() == 0, int(state.step)
  wandb, place = monitor.wandb, mirror.name if mirror.remote else ""
  out = writer.Writer(path, step, is_main, wandb, values, place)
  if is_main:
    _describe(state, reports, path)
  for line in (*renamed, *(report.summary() for report in reports)):
    out.log(line)
  for warning in (*warnings, *(w for report in reports for w in report.warnings)):
    out.warn(step, warning)
  dtype = parts.objective.compute.dtype
  out.log(
    f"{config.name}: {_size(state, mesh)}, activations in {dtype}, in {directory}"
  )
  return Run(
    config=config,
    workdir=path,
    mirror=mirror,
    objective=parts.objective,
    mesh=mesh,
    tokenizer=tokenizer,
    data_fingerprint=fingerprint,
    state=state,
    init_state=init_state,
    train_step=parts.train_step(mesh),
    learning_rate=optim.schedule(config.optim, config.steps),
    evals=evals,
    checkpoints=checkpoints,
    writer=out,
    stop=stop,
    profile=Profile(monitor.steps, path / "profile"),
    guard=Guard(config.guard, meta.get("guard")),
    batch_offset=meta.get("next_batch", 0) - step,
    # config.json is written at the first start, and again if FREE_KEYS change.
    start_time=meta.get("began", (path / "config.json").stat().st_mtime),
    train_seconds=meta.get("trained", 0.0),
    partial_line=meta.get("line", {}),
  )


def _complete(
  values: Mapping[str, Any], directory: str | pathlib.Path
) -> dict[str, Any]:
  """The config with its defaults, and with what the run and the data decide.

  These are the dtype, the layout of the towers' blocks, and the objective's classes.
  """
  values = with_defaults(paths.of_config(values))
  section, dtype = values.get("objective"), functools.partial(_dtype, directory)
  section = _with_layout(objectives.with_dtype(section, dtype), directory)
  return inputs.from_data(values | dict(objective=section))


def _dtype(directory: str | pathlib.Path) -> str:
  """The dtype that "auto" stands for, the same in all processes.

  A run keeps the dtype that it began with, also on a machine that has another one.
  """
  dtype = workdir.stored_dtype(directory) or precision.fastest()
  if jax.process_count() > 1:
    chosen = multihost_utils.broadcast_one_to_all(precision.DTYPES.index(dtype))
    dtype = precision.DTYPES[int(chosen)]
  return dtype


def _with_layout(section: Any, directory: str | pathlib.Path) -> Any:
  """Section `objective` with the `compute.scan` that the run in a directory began with.

  Its checkpoints have that layout; results depend on none.
  """
  scan = workdir.stored_scan(directory)
  if jax.process_count() > 1:
    code = -1 if scan is None else int(scan)
    code = int(multihost_utils.broadcast_one_to_all(code))
    scan = None if code < 0 else bool(code)
  if scan is None or not isinstance(section, Mapping):
    return section
  return {**section, "compute": {**section.get("compute", {}), "scan": scan}}


def _init_state(parts: Parts, mesh: jax.sharding.Mesh) -> tuple[TrainState, Sequence]:
  """(initial state, reports on public weights)."""
  state, c = parts.init(mesh), parts.config
  if not c.init_from:
    return state, []
  return init_from.start_from(
    c.init_from, state, parts.objective, mesh, c.init_allow, c.init_heads
  )


def _size(state: TrainState, mesh: jax.sharding.Mesh) -> str:
  count = sum(p.size for p in jax.tree.leaves(state.params))
  shape = " x ".join(f"{a}={n}" for a, n in mesh.shape.items())
  kind = jax.devices()[0].platform
  return (
    f"{count / 1e6:.2f} M parameters, {jax.device_count()} {kind} device(s) as {shape}"
  )


def _describe(state: TrainState, reports: Sequence, path: pathlib.Path) -> None:
  """Writes an overview of the parameters, and the reports on public weights."""
  # Without means and deviations, whose computation needs all processes.
  overview = clu.parameter_overview.get_parameter_overview(
    state.params, include_stats="sharding"
  )
  (path / "parameters.txt").write_text(overview + "\n")
  if reports:
    text = "\n".join(report.text() for report in reports)
    (path / "weights.txt").write_text(text)


def _workdir(
  mirror: Mirror, values: Mapping[str, Any], locks: contextlib.ExitStack | None
) -> pathlib.Path:
  """The local directory, prepared by process 0; the others wait for it."""
  if jax.process_index() == 0:
    if locks is not None:
      lock = workdir.make(mirror.local) / "lock"
      locks.enter_context(processes.locked(lock, "run", timeout=_LOCK_TIMEOUT))
      locks.enter_context(mirror.held(_LOCK_TIMEOUT))
    mirror.pull()
    workdir.prepare(mirror, workdir.plain(values))
    if not mirror.sync():  # also what could not be pushed when the last run ended
      mirror.finish()
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices("workdir")
  if jax.process_index():
    mirror.pull()
  return mirror.local
