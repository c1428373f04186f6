"""Where numbers go: metrics.jsonl always, TensorBoard when tensorboardX is there, and
Weights & Biases on request."""

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from vtr_jax import jsons
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
    path = workdir / "metrics.jsonl"
    kept = lambda r: (
      r["step"] < start_step or (r["step"] == start_step and "loss/total" in r)
    )
    records = [r for r in read(path) if kept(r)]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(r) + "\n" for r in records))
    os.replace(temporary, path)
    self._file = path.open("a")
    self._board = _tensorboard(workdir, start_step)

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

  def close(self) -> None:
    if self._active:
      self._file.close()
      if self._board:
        self._board.close()
      if self._run:
        self._run.finish()


def read(path: pathlib.Path) -> list[dict[str, Any]]:
  """Records of a metrics.jsonl; a line that a crash has cut or torn is left out."""
  records = []
  if path.exists():
    for line in path.read_bytes().splitlines():
      try:
        record = jsons.mapping(line)
      except ValueError:
        continue
      if type(record.get("step")) is int:
        records.append(record)
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
