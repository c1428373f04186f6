"""Monitoring on request: profiles of some steps, metrics to Weights & Biases.

Set by flags, not by the config, since they do not change the run.
"""

import contextlib
import dataclasses
import pathlib
import re

import jax

from vtr_jax.core.config import require


@dataclasses.dataclass(frozen=True)
class MonitorOptions:
  """The flags for monitoring."""

  profile: str = ""  # FIRST:LAST steps to trace, inclusive; "" = none
  wandb: str = ""  # project to log metrics to; "" = none

  def __post_init__(self):
    first, last = self.steps
    require(
      not self.profile or 0 < first <= last,
      f"--profile: {self.profile!r}; must be FIRST:LAST, such as 10:12",
    )

  @property
  def steps(self) -> tuple[int, int]:
    """First and last step of the trace; (0, 0) without one."""
    match = re.fullmatch(r"(\d{1,18}):(\d{1,18})", self.profile)
    return (int(match[1]), int(match[2])) if match else (0, 0)


class Profile:
  """A trace of some steps by jax.profiler, and the devices' memory after the last."""

  def __init__(self, steps: tuple[int, int], directory: pathlib.Path):
    self._first, self._last = steps
    self._directory, self._has_traced, self._running = directory, False, False

  @contextlib.contextmanager
  def step(self, number: int):
    """Around a training step."""
    if number == self._first and not self._has_traced:  # not again after a roll-back
      self._has_traced = True
      self._directory.mkdir(parents=True, exist_ok=True)
      jax.profiler.start_trace(str(self._directory))
      self._running = True
    with jax.profiler.StepTraceAnnotation("train", step_num=number):
      yield

  def after(self, number: int, result: jax.Array) -> str:
    """After step `number` with `result`: a line that names the files written, or ""."""
    if not self._running or number < self._last:
      return ""
    jax.block_until_ready(result)
    name = f"memory-{jax.process_index()}.prof"
    jax.profiler.save_device_memory_profile(str(self._directory / name))
    self.close()
    return (
      f"steps {self._first} to {number} are traced in {self._directory}: open it with "
      f"xprof or tensorboard, and {name} with pprof"
    )

  def close(self) -> None:
    """Stops a running trace."""
    if self._running:
      jax.profiler.stop_trace()
    self._running = False
