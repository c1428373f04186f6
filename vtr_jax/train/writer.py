"""Metrics to metrics.jsonl, to TensorBoard if tensorboardX is installed, and to Weights
& Biases on request; log lines to standard output.

No failure of these ends a run: it is reported once, and that output is not used again.
Only the file is tried again each time, since space may become free on a full disk.
"""

import hashlib
import json
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from vtr_jax.core import io, shutdown
from vtr_jax.core.errors import ConfigError, one_line

_OUTPUT = "standard output"


class Writer:
  """Writes metrics and log lines of one run, in process 0 alone."""

  def __init__(
    self,
    workdir: pathlib.Path,
    start_step: int,
    active: bool = True,
    project: str = "",
    config: Mapping[str, Any] | None = None,
    bucket: str = "",
  ):
    """Continues metrics.jsonl after the checkpoint of `start_step`.

    Later lines are removed, because later steps and the evaluations of that step are
    repeated: the file reads as if the run had never stopped.

    Args:
      workdir: the run's directory.
      start_step: step of the checkpoint that the run resumes from; 0 = none.
      active: whether anything is written.
      project: of Weights & Biases, which gets all metrics too; "" = none.
      config: the run's, shown by Weights & Biases.
      bucket: the run's directory there, which identifies it for Weights & Biases.

    Raises:
      ConfigError: the package wandb is missing.
    """
    self._active, self._warned = active, set()
    if not active:
      return
    self._workdir = workdir
    self._lines: _Lines | None = None
    self._others: dict[str, Any] = {}
    if project:
      package, name = _wandb(project), "Weights & Biases"
      where = pathlib.PurePath(bucket or workdir.resolve())
      start = lambda: _Wandb(package, project, where, config)
      self._others[name] = self._try(name, start)
    self.rewind(start_step)

  def rewind(self, step: int) -> None:
    """Continues after the checkpoint of `step`, as at the start."""
    if not self._active:
      return
    self._close("metrics.jsonl", self._lines)
    self._close("TensorBoard", self._others.get("TensorBoard"))
    path = self._workdir / "metrics.jsonl"
    self._try("metrics.jsonl", lambda: _cut(path, step))
    self._lines = self._try("metrics.jsonl", lambda: _Lines(path))
    board = lambda: _board(self._workdir, step)
    self._others["TensorBoard"] = self._try("TensorBoard", board)

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Appends one line {"step": step, **values}."""
    if not self._active:
      return
    if lines := self._lines:
      self._try("metrics.jsonl", lambda: lines.scalars(step, values))
    for name, other in self._others.items():
      if other and name not in self._warned:
        self._try(name, lambda to=other: to.scalars(step, values))

  def reopen(self) -> None:
    """Closes metrics.jsonl and opens it again: a mounted bucket shows it only then."""
    if self._active and self._lines:
      self._try("metrics.jsonl", self._lines.reopen)

  def log(self, text: str) -> None:
    """Prints a line at once."""
    if self._active:
      self._try(_OUTPUT, lambda: print(text, flush=True))

  def warn(self, step: int, text: str) -> None:
    """Prints a warning and appends it to incidents.jsonl."""
    if not self._active:
      return
    self.log(f"WARNING: {text}")
    line = json.dumps(dict(time=round(time.time()), step=step, what=text))
    self._try("incidents.jsonl", lambda: self._append(line))

  def _append(self, line: str) -> None:
    with (self._workdir / "incidents.jsonl").open("a") as f:
      f.write(line + "\n")

  def close(self) -> None:
    if not self._active:
      return
    for name, log in {"metrics.jsonl": self._lines, **self._others}.items():
      self._close(name, log)
    if _OUTPUT in self._warned:
      shutdown.ignore_output()

  def _close(self, name: str, log: Any) -> None:
    if log and (name not in self._warned or log is self._lines):
      self._try(name, log.close)

  def _try(self, name: str, call: Callable[[], Any]) -> Any:
    """Calls `call`; warns the first time that it fails for `name`."""
    try:
      return call()
    except Exception as e:  # of any kind: a third-party package, or the disk
      if name not in self._warned:
        self._warned.add(name)
        shutdown.warn(f"{name}: cannot be written ({one_line(e)}); the run continues")
      return None


def _cut(path: pathlib.Path, step: int) -> None:
  """Keeps the lines of steps up to `step`, without the evaluations after it."""
  of_steps = {"loss/total", "learning_rate"}
  kept = lambda r: r["step"] < step or (r["step"] == step and of_steps & set(r))
  records = [r for r in read(path) if kept(r)]
  io.atomic_write(path, "".join(json.dumps(r) + "\n" for r in records))


class _Lines:
  """metrics.jsonl; lines that a full disk does not take stay in the file's buffer."""

  def __init__(self, path: pathlib.Path):
    self._path, self._file = path, path.open("a")

  def reopen(self) -> None:
    self._file.flush()  # if this fails, the file stays open, with its lines
    self._file.close()
    self._file = self._path.open("a")

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    self._file.write(json.dumps({"step": step} | dict(values)) + "\n")
    self._file.flush()

  def close(self) -> None:
    self._file.close()


def read(path: pathlib.Path) -> list[dict[str, Any]]:
  """Records of a metrics.jsonl; lines damaged by a crash are left out."""
  records = []
  if path.exists():
    for line in path.read_bytes().splitlines():
      try:
        record = io.mapping(line)
      except ValueError:
        continue
      if type(record.get("step")) is int:
        records.append(record)
  return records


def _board(workdir: pathlib.Path, start_step: int) -> "_Board | None":
  """None where tensorboardX is not installed."""
  try:
    import tensorboardX.event_file_writer  # noqa: F401
  except ImportError:
    return None
  return _Board(workdir / "tensorboard", start_step)


class _Board:
  """TensorBoard's event file.

  Not a SummaryWriter: its thread dies when the disk is full, and adding the eleventh
  value then blocks forever.
  """

  def __init__(self, directory: pathlib.Path, start_step: int):
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore
    from tensorboardX.summary import scalar

    self._event, self._scalar = Event, scalar
    directory.mkdir(parents=True, exist_ok=True)
    # The rest of the name has a resolution of seconds.
    self._events = EventsWriter(str(directory / f"events-{time.time_ns()}"))
    # TensorBoard then drops later steps, which are repeated.
    restart = SessionLog(status=SessionLog.START)
    self._add(step=start_step + 1, session_log=restart)

  def _add(self, **fields: Any) -> None:
    self._events.write_event(self._event(wall_time=time.time(), **fields))

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    for name, value in values.items():
      self._add(step=step, summary=self._scalar(name, value))
    self._events.flush()

  def close(self) -> None:
    self._events.close()


def _wandb(project: str) -> Any:
  """The package; an error if it is missing, since a flag requires it."""
  try:
    import wandb  # pyright: ignore[reportMissingImports] (optional)
  except ImportError as e:
    raise ConfigError(
      f"--wandb={project}: the package is not installed; pip install wandb"
    ) from e
  return wandb


class _Wandb:
  """A run of Weights & Biases; the same one when this run is resumed."""

  def __init__(
    self, wandb: Any, project: str, where: pathlib.PurePath, config: Mapping | None
  ):
    name = hashlib.sha256(str(where).encode()).hexdigest()[:16]
    self._run = wandb.init(
      project=project, name=where.name, id=name, resume="allow", config=config
    )

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    self._run.log(dict(values), step=step)

  def close(self) -> None:
    self._run.finish()
