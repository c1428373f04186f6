"""Where numbers go: metrics.jsonl always, TensorBoard when tensorboardX is there, and
Weights & Biases on request."""

import hashlib
import json
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

from vtr_jax.errors import ConfigError


class Writer:
  """Writes scalars of one run. Only process 0 writes; the others do nothing."""

  def __init__(
    self,
    workdir: pathlib.Path,
    start_step: int,
    active: bool = True,
    project: str = "",
    config: Mapping[str, Any] | None = None,
  ):
    """Continues workdir/metrics.jsonl behind the checkpoint of `start_step`.

    What was written after it will be done again: later steps, and evaluations of
    that step. So the file reads as if the run had never stopped.

    Args:
      workdir: the run's directory.
      start_step: step of the checkpoint that the run continues; 0 = none.
      active: whether anything is written.
      project: of Weights & Biases, which gets all numbers too; "" = none.
      config: the run's, shown there.

    Raises:
      ConfigError: the package wandb is missing.
    """
    self._active = active
    if not active:
      return
    self._run = _wandb(project, workdir, config) if project else None
    self._workdir, self._file, self._board = workdir, None, None
    self.rewind(start_step)

  def rewind(self, step: int) -> None:
    """Forgets what was written behind the checkpoint of `step`."""
    if not self._active:
      return
    self._close_files()
    path = self._workdir / "metrics.jsonl"
    kept = lambda r: r["step"] < step or (r["step"] == step and "loss/total" in r)
    records = [r for r in read(path) if kept(r)]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(r) + "\n" for r in records))
    os.replace(temporary, path)
    self._file = path.open("a")
    self._board = _tensorboard(self._workdir, step)

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Appends one line {"step": step, **values}."""
    if not self._active:
      return
    self._file.write(json.dumps({"step": step} | dict(values)) + "\n")
    self._file.flush()
    if self._board:
      for name, value in values.items():
        self._board.add_scalar(name, value, step)
    if self._run:
      self._run.log(dict(values), step=step)

  def say(self, text: str) -> None:
    """Prints to the terminal at once."""
    if self._active:
      print(text, flush=True)

  def alarm(self, step: int, text: str) -> None:
    """Prints what a person should know of, and keeps it in incidents.jsonl."""
    if self._active:
      self.say(f"WARNING: {text}")
      line = json.dumps(dict(time=round(time.time()), step=step, what=text))
      with (self._workdir / "incidents.jsonl").open("a") as f:
        f.write(line + "\n")

  def close(self) -> None:
    if self._active:
      self._close_files()
      if self._run:
        self._run.finish()

  def _close_files(self) -> None:
    for file in (self._file, self._board):
      if file:
        file.close()


def read(path: pathlib.Path) -> list[dict[str, Any]]:
  """Records of a metrics.jsonl; a line cut by a crash is left out."""
  records = []
  if path.exists():
    for line in path.read_text().splitlines():
      try:
        records.append(json.loads(line))
      except json.JSONDecodeError:
        continue
  return records


def _tensorboard(workdir: pathlib.Path, start_step: int) -> Any:
  """An event writer, or None where tensorboardX is not installed."""
  try:
    from tensorboardX import SummaryWriter
  except ImportError:
    return None
  return SummaryWriter(str(workdir / "tensorboard"), purge_step=start_step + 1)


def _wandb(project: str, workdir: pathlib.Path, config: Mapping | None) -> Any:
  """A run there, the same one again when this run is continued."""
  try:
    import wandb
  except ImportError as e:
    raise ConfigError(
      f"--wandb={project}: the package is not installed; pip install wandb"
    ) from e
  where = workdir.resolve()
  name = hashlib.sha256(str(where).encode()).hexdigest()[:16]
  return wandb.init(
    project=project, name=where.name, id=name, resume="allow", config=config
  )
