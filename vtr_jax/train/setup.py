"""An experiment: a checked config with its data, its directory and its state."""

import contextlib
import dataclasses
import functools
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import clu.parameter_overview
import jax
from jax.experimental import multihost_utils

from vtr_jax.core import processes, renames, sharding
from vtr_jax.core.config import nearest, read, require
from vtr_jax.core.errors import CheckpointError, ConfigError, DataError
from vtr_jax.core.preemption import StopSignal
from vtr_jax.data import sources
from vtr_jax.data.examples import check_frames
from vtr_jax.data.moving_shapes import build as moving_shapes
from vtr_jax.data.tokenizers import base as texts
from vtr_jax.eval.evaluators import base as evaluators
from vtr_jax.objectives import base as objectives
from vtr_jax.train import init_from, optim, workdir, writer
from vtr_jax.train import state as state_lib
from vtr_jax.train.checkpoint import Care, Checkpoints
from vtr_jax.train.config import Parts, TrainConfig
from vtr_jax.train.guard import Watch
from vtr_jax.train.profiler import Observe, Profile
from vtr_jax.train.state import TrainState
from vtr_jax.weights.load import pieces
from vtr_jax.weights.registry import SOURCES

_PATIENCE = 120.0  # seconds; NFS frees the lock of a host that has died after 90


@dataclasses.dataclass
class Run:
  """The parts of a training run, built from its config."""

  config: TrainConfig
  workdir: pathlib.Path
  objective: objectives.Objective
  mesh: jax.sharding.Mesh
  tokenizer: texts.Tokenizer
  data_fingerprint: str  # of the training split
  state: TrainState
  fresh: Callable[[], tuple[TrainState, list]]  # it, and reports of weights
  train_step: Callable
  learning_rate: Callable
  evals: dict[str, evaluators.Evaluator]
  checkpoints: Checkpoints
  writer: writer.Writer
  stop: StopSignal
  profile: Profile
  watch: Watch
  ahead: int  # batches that were passed over: the next one's number less the step
  began: float  # when the run was first started, seconds since 1970
  trained: float  # seconds of training that led to the state
  line: dict[str, Any]  # what was summed for the next line; Progress.line


def build(
  values: Mapping[str, Any],
  directory: str | pathlib.Path,
  show: Observe = Observe(),  # noqa: B008 (frozen)
  stop: StopSignal | None = None,
  care: Care = Care(),  # noqa: B008 (frozen)
  held: contextlib.ExitStack | None = None,
) -> Run:
  """Checks everything that can be checked, cheapest first, then builds.

  Until `held` is closed, if it is given, no other run can be built in `directory`.
  """
  values, renamed = renames.upgrade(values)
  config = read(TrainConfig, values)
  check_frames(config.data, config.clip)
  eval_configs = evaluators.check(config.evals)
  parts = config.parts()
  mesh = sharding.make_mesh(config.mesh)
  sharding.check_batch_size(
    config.batch_size, mesh, "config.batch_size", config.micro_batches
  )
  sharding.check_batch_size(config.eval_batch_size, mesh, "config.eval_batch_size")
  place = _workdir(directory, values, held)
  data = _data_directory(config)
  fingerprint = config.data.fingerprint()
  tokenizer = _tokenizer(config, data, place)

  stop = stop or StopSignal()
  c, rows = config, config.eval_batch_size
  context = evaluators.Context(
    parts.objective, c.clip, c.text, c.data, tokenizer, mesh, rows, stop.check
  )
  evals = evaluators.build(eval_configs, context)
  fresh = functools.partial(_fresh, parts, mesh)
  checkpoints = Checkpoints(place / "checkpoints", config.checkpoint_keep, care)
  meta: dict[str, Any] = {}
  reports, warnings = [], []
  if checkpoints.latest_step() is not None:
    like = state_lib.laid_out(*parts.abstract(mesh))
    state, meta, warnings = checkpoints.restore(like)
    warnings += _check_data(meta["data"], fingerprint, data, care)
  else:
    state, reports = fresh()
  main = jax.process_index() == 0
  if main:
    _describe(state, reports, place)
  out = writer.Writer(place, int(state.step), main, show.wandb, values)
  for line in renamed:
    out.say(line)
  for report in reports:
    out.say(report.summary())
  for warning in warnings:
    out.alarm(int(state.step), warning)
  out.say(f"{config.name}: {_size(state, mesh)}, in {place}")
  return Run(
    config=config,
    workdir=place,
    objective=parts.objective,
    mesh=mesh,
    tokenizer=tokenizer,
    data_fingerprint=fingerprint,
    state=state,
    fresh=fresh,
    train_step=parts.train_step(mesh),
    learning_rate=optim.schedule(config.optim, config.steps),
    evals=evals,
    checkpoints=checkpoints,
    writer=out,
    stop=stop,
    profile=Profile(show.steps, place / "profile"),
    watch=Watch(config.guard, meta.get("guard")),
    ahead=meta.get("next_batch", 0) - int(state.step),
    # Written when the run began, and again only if another config was allowed.
    began=meta.get("began", (place / "config.json").stat().st_mtime),
    trained=meta.get("trained", 0.0),
    line=meta.get("line", {}),
  )


def _fresh(parts: Parts, mesh: jax.sharding.Mesh) -> tuple[TrainState, list]:
  """(the state before the first step, reports of public weights)."""
  state, c = parts.init(mesh), parts.config
  if not c.init_from:
    return state, []
  longer = c.objective.get("time_pos_embed_resize", "zeros")
  return init_from.start_from(
    c.init_from, state, parts.objective, mesh, longer, c.init_allow
  )


def _size(state: TrainState, mesh: jax.sharding.Mesh) -> str:
  count = sum(p.size for p in jax.tree.leaves(state.params))
  shape = " x ".join(f"{a}={n}" for a, n in mesh.shape.items())
  kind = jax.devices()[0].platform
  return (
    f"{count / 1e6:.2f} M parameters, {jax.device_count()} {kind} device(s) as {shape}"
  )


def _describe(state: TrainState, reports: list, place: pathlib.Path) -> None:
  """Writes what the parameters are, and where public weights went."""
  # Without means and deviations, which other processes would have to help with.
  overview = clu.parameter_overview.get_parameter_overview(
    state.params, include_stats="sharding"
  )
  (place / "parameters.txt").write_text(overview + "\n")
  if reports:
    text = "\n".join(report.text() for report in reports)
    (place / "weights.txt").write_text(text)


def _check_run(directory: str) -> None:
  """Refuses an `init_from` that is neither a run nor public weights."""
  if not (pathlib.Path(directory) / "config.json").exists():
    kind = directory.partition(":")[0]
    hint = f"; {kind!r} is no kind of weights, {nearest(kind, SOURCES)}"
    raise CheckpointError(
      f"config.init_from: {directory} is no run" + (hint if ":" in directory else "")
    )


def _workdir(
  directory: str | pathlib.Path,
  values: Mapping[str, Any],
  held: contextlib.ExitStack | None,
) -> pathlib.Path:
  """Made or continued by one process; the others find it so."""
  if jax.process_index() == 0:
    if held is not None:
      lock = workdir.make(directory) / "lock"
      held.enter_context(processes.locked(lock, "run", patience=_PATIENCE))
    workdir.prepare(directory, workdir.plain(values))
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices("workdir")
  return pathlib.Path(directory)


def _data_directory(config: TrainConfig) -> str:
  """Where the data lies; the embedded set is built if it is not there yet."""
  name, *variant = config.data.name.split("/")
  if name == "moving_shapes":
    return str(moving_shapes.build(config.data.dir, *variant[:1]))
  try:
    return sources.find(config.data.dir, config.data.name)
  except DataError as e:
    raise DataError(
      f"{e} (the demo, --config=configs/simvtp.py, makes its own data)"
    ) from None


def _check_data(before: str, now: str, data: str, care: Care) -> list[str]:
  """Refuses to go on with other records than the checkpoint's, or warns of them."""
  if before == now:
    return []
  what = (
    f"{data}: is not what the run was trained on (fingerprint {now}, then {before})"
  )
  if care.allow_data_change:
    return [f"{what}; the order of the records is another from here on"]
  raise CheckpointError(
    f"{what}; restore it, use another --workdir, or go on with --allow_data_change"
  )


def _tokenizer(config: TrainConfig, data: str, place: pathlib.Path) -> texts.Tokenizer:
  """The run's own copy of the tokenizer: a checkpoint is worth nothing without."""
  copy = place / "tokenizer.model"
  # Words keep their meaning only with the tokenizer that they were learned with.
  public = pieces(config.init_from)
  for kind, _ in public:
    require(
      bool(config.tokenizer) or not SOURCES[kind].words,
      f"config.tokenizer: missing; the words of {kind!r} weights mean nothing without "
      "their vocabulary file",
    )
  run = "" if public else config.init_from
  first = pathlib.Path(run or data) / "tokenizer.model"
  if run and not copy.exists():
    _check_run(run)
    require(
      bool(config.tokenizer) or first.exists(),
      f"config.tokenizer: missing, and {run} has none; give the vocabulary file of its "
      "words, or of the data if words start at random",
    )
  source = pathlib.Path(config.tokenizer or first)
  if copy.exists():  # the run goes on also where its source has gone
    if source.exists() and copy.read_bytes() != source.read_bytes():
      raise ConfigError(f"{copy}: the run used another tokenizer than {source}")
    source = copy
  tokenizer = texts.load(str(source))
  texts.check(tokenizer, config.text)
  if jax.process_index() == 0 and not copy.exists():
    temporary = copy.with_suffix(".tmp")  # whole, or not there
    shutil.copyfile(source, temporary)
    temporary.replace(copy)
  return tokenizer
