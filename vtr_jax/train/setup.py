"""Sets up a run: checks its config, finds its data, opens or creates its directory."""

import collections
import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import clu.parameter_overview
import jax
from jax.experimental import multihost_utils

from vtr_jax.core import buckets, io, paths, precision, processes, renames, sharding
from vtr_jax.core.config import nearest, read, require
from vtr_jax.core.errors import CheckpointError, ConfigError, DataError
from vtr_jax.core.mirror import Mirror
from vtr_jax.core.paths import near
from vtr_jax.core.preemption import StopSignal
from vtr_jax.data import loader, sources
from vtr_jax.data.embedded import build as embedded
from vtr_jax.data.examples import check_frames
from vtr_jax.data.tokenizers import base as texts
from vtr_jax.eval.evaluators import base as evaluators
from vtr_jax.objectives import base as objectives
from vtr_jax.train import init_from, optim, workdir, writer
from vtr_jax.train import state as state_lib
from vtr_jax.train.checkpoint import CheckpointPolicy, Checkpoints
from vtr_jax.train.config import Parts, TrainConfig, with_defaults
from vtr_jax.train.guard import Guard
from vtr_jax.train.profiler import MonitorOptions, Profile
from vtr_jax.train.state import TrainState
from vtr_jax.weights import snapshot
from vtr_jax.weights.load import pieces
from vtr_jax.weights.registry import SOURCES

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
  values = with_defaults(paths.of_config(values))
  section, dtype = values.get("objective"), functools.partial(_dtype, directory)
  section = _with_layout(objectives.with_dtype(section, dtype), directory)
  values = _from_data(values | dict(objective=section))
  config = read(TrainConfig, values)
  check_frames(config.data, config.clip)
  eval_configs = evaluators.check(config.evals)
  parts = config.parts()
  mesh = sharding.make_mesh(config.mesh)
  sharding.check_batch_size(
    config.batch_size,
    mesh,
    "config.batch_size",
    config.micro_batches,
    parts.objective.row_group if config.micro_batches > 1 else 1,
  )
  _check_groups(config, parts.objective)
  sharding.check_batch_size(config.eval_batch_size, mesh, "config.eval_batch_size")
  path = _workdir(mirror, values, locks)
  data = _data_directory(config)
  fingerprint = config.data.fingerprint()
  tokenizer = texts.NoText()
  if parts.objective.reads_text:
    tokenizer = _tokenizer(config, data, path)
  elif config.init_from and not pieces(config.init_from):
    _check_run(config.init_from)

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
    warnings += _check_data(meta["data"], fingerprint, data, policy)
  else:
    state, reports = init_state()
    warnings += optim.short_warmup(config.optim, config.steps)
    warnings += _few_clips(config, parts.objective)
    warnings += _unusual_labels(config, parts.objective)
  is_main = jax.process_index() == 0
  if is_main:
    _describe(state, reports, path)
  out = writer.Writer(
    path,
    int(state.step),
    is_main,
    monitor.wandb,
    values,
    mirror.name if mirror.remote else "",
  )
  for line in renamed:
    out.log(line)
  for report in reports:
    out.log(report.summary())
    warnings += report.warnings
  for warning in warnings:
    out.warn(int(state.step), warning)
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
    batch_offset=meta.get("next_batch", 0) - int(state.step),
    # config.json is written at the first start, and again if FREE_KEYS change.
    start_time=meta.get("began", (path / "config.json").stat().st_mtime),
    train_seconds=meta.get("trained", 0.0),
    partial_line=meta.get("line", {}),
  )


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


def _from_data(values: dict[str, Any]) -> dict[str, Any]:
  """The config with what the objective takes from the training data, as its classes."""

  def labels(of: Callable[[str, str], list[str]]) -> list[str]:
    config = read(TrainConfig, values)
    _data_directory(config)
    return _labels(config, of)

  return values | dict(objective=objectives.from_data(values.get("objective"), labels))


def _labels(config: TrainConfig, of: Callable[[str, str], list[str]]) -> list[str]:
  """The class of each training example; empty where there is none."""
  if config.data.mixture:
    parts = [(part.name, part.split) for part in config.data.mixture]
  else:
    parts = [(config.data.name, config.data.split)]
  return [
    label
    for name, split in parts
    for label in of(sources.find(config.data.dir, name), split)
  ]


def _unusual_labels(config: TrainConfig, objective: objectives.Objective) -> list[str]:
  """Warnings of classes without an example, and of examples without a class."""
  if not objective.classes:
    return []
  counts, warnings = collections.Counter(_labels(config, objective.rows.labels)), []
  if empty := [name for name in objective.classes if not counts[name]]:
    more = f" and {len(empty) - 3} more" if len(empty) > 3 else ""
    listed = ", ".join(map(repr, empty[:3])) + more
    warnings.append(
      f"config.objective.classes: no training example of {listed}; they are never "
      "learned"
    )
  if left := counts.total() - sum(counts[name] for name in objective.classes):
    warnings.append(
      f"{left:,} training examples have none of config.objective.classes and are left "
      "out"
    )
  return warnings


def _check_groups(config: TrainConfig, objective: objectives.Objective) -> None:
  """Raises ConfigError if batches cannot be cut into the objective's groups of rows."""
  size, group, repeats = config.batch_size, objective.row_group, config.data.repeats
  low = size // group * group
  near = f"{low} or {low + group}" if low else str(group)
  require(
    size % group == 0,
    f"config.batch_size: {size} rows do not divide into the objective's groups of "
    f"{group} (mix.group or match_one_in); use {near}",
  )
  mixed = dict(config.objective.get("mix") or {}).get("prob", 0) > 0 and group > 1
  require(
    not mixed or group % (2 * repeats) == 0,
    f"config.objective.mix.group: {group} is not a multiple of {2 * repeats}, twice "
    f"config.data.repeats: clips would be mixed with clips of their own record; use "
    f"{2 * repeats}",
  )


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


def _check_run(directory: str) -> None:
  """Raises CheckpointError if `init_from` is neither a run nor public weights."""
  if not (paths.anywhere(directory) / "config.json").exists():
    kind = directory.partition(":")[0]
    hint = (
      "give the --workdir of a training, or KIND:FILE or a folder of public weights"
    )
    if ":" in directory:
      hint = f"{kind!r} is not a kind of weights, {nearest(kind, SOURCES)}"
    elif not paths.anywhere(directory).exists():
      hint = f"there is no such folder{near(directory)}"
    raise CheckpointError(f"config.init_from: {directory} is not a run; {hint}")


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


def _data_directory(config: TrainConfig) -> str:
  """The data's directory; embedded data are generated if they are missing."""
  try:
    return embedded.find(config.data.dir, config.data.name)
  except DataError as e:
    if embedded.is_embedded(config.data.name):
      raise
    raise DataError(
      f"{e} (the demo, --config=simvtp, generates its own data)"
    ) from None


def _few_clips(config: TrainConfig, objective: objectives.Objective) -> list[str]:
  """A warning if the training data are smaller than a batch."""
  data, size = config.data, config.batch_size
  count = len(loader.examples(data, objective.rows)[1])
  if count * data.repeats >= size:
    return []
  why = "clips of a batch are each other's negatives and " if objective.pairs else ""
  return [
    f"{count} clips are fewer than config.batch_size = {size}: {why or 'they '}repeat; "
    "lower it, or add data"
  ]


def _check_data(
  stored: str, current: str, data: str, policy: CheckpointPolicy
) -> list[str]:
  """Raises CheckpointError, or warns, if the data differs from the checkpoint's."""
  if stored == current:
    return []
  text = f"{data}: not the data of the run (fingerprint {current}, was {stored})"
  if policy.allow_data_change:
    return [f"{text}; the order of the records differs from now on"]
  raise CheckpointError(
    f"{text}; restore it, use another --workdir, or add --allow_data_change"
  )


def _tokenizer(config: TrainConfig, data: str, path: pathlib.Path) -> texts.Tokenizer:
  """The run's own copy of the tokenizer, which its checkpoints depend on."""
  copy = path / "tokenizer.model"
  # Token embeddings are valid only with the tokenizer they were trained with.
  # A run that resumes has its copy: what it started from may be gone.
  public, own = [] if copy.exists() else pieces(config.init_from), ""
  for kind, place in public:
    if SOURCES[kind].words and not config.tokenizer:
      own = str(snapshot.find(place).vocabulary or "")
      require(
        bool(own),
        f"config.tokenizer: missing; give the vocabulary file of the {kind!r} weights, "
        "which their token embeddings depend on",
      )
  run = "" if public else config.init_from
  first = paths.anywhere(run or data) / "tokenizer.model"
  if run and not copy.exists():
    _check_run(run)
    require(
      bool(config.tokenizer) or first.exists(),
      f"config.tokenizer: missing, and {run} has none; give its vocabulary file, "
      "or that of the data if token embeddings start at random",
    )
  source = paths.anywhere(config.tokenizer or own or first)
  if copy.exists():  # a run resumes even if the source is gone
    if source.exists() and copy.read_bytes() != source.read_bytes():
      raise ConfigError(f"{copy}: differs from {source}; a run keeps its tokenizer")
    source = copy
  source = buckets.copied(source)
  tokenizer = texts.load(str(source), config.text.t5_rules)
  texts.check(tokenizer, config.text)
  if jax.process_index() == 0 and not copy.exists():
    io.atomic_write(copy, source.read_bytes())
  return tokenizer
