"""Training progress: averaged metrics, rates, waiting for data, time left."""

import collections
import time
from collections.abc import Iterator
from typing import Any

import clu.metrics
import jax
import jax.numpy as jnp
import numpy as np

from vtr_jax.core import renames
from vtr_jax.data import loader
from vtr_jax.train import flops
from vtr_jax.train.loss import Metrics
from vtr_jax.train.setup import Run

# The first steps of a process are logged one by one; ours.
FIRST_STEPS = 3
_STARVED = 0.2  # fraction of time without a batch that raises a warning; ours
_WARN_EVERY = 600.0  # min seconds between two of these warnings
_LONG = 5.0  # min seconds between two lines for that fraction to be meaningful; ours


class Progress:
  """Averages metrics over steps and logs a line every `log_every` steps.

  The loop calls `add` after each step, `fetch` for the metrics that have arrived, and
  `log` for each of them.

  Rates logged: clips_per_second, and per device; data_wait, the fraction of time spent
  waiting for a batch; tflops_per_device, of the model's FLOPs (dropped patches need
  none); mfu, its fraction of the device's peak, where that is known; skipped, the
  number of skipped steps (guard.py), if any; goodput, the fraction of time since the
  run was first started that was spent on training steps, rather than on lost steps,
  starts, compilation, evaluation, or waiting for a machine.
  """

  def __init__(self, run: Run, start: int):
    self._run, self._pending = run, collections.deque[tuple[int, Metrics]]()
    self._flops, self._train_seconds = run.config.flops(), run.train_seconds
    # Over the steps since the last line, including those of an earlier process.
    stored = run.partial_line.get("sums", {})
    self._averages: dict[str, clu.metrics.Average] = {
      str(renames.METRICS.get(k, k)): _average(*pair) for k, pair in stored.items()
    }
    self._skipped = run.partial_line.get("skipped", 0)
    self._start, self._last = start, start
    self._line_start, self._waited = time.monotonic(), 0.0
    self._last_warning = -_WARN_EVERY

  def timed_next(self, batches: loader.Batches) -> dict[str, np.ndarray]:
    start = time.monotonic()
    local = next(batches)
    self._waited += time.monotonic() - start
    return local

  def pause(self, seconds: float) -> None:
    """Excludes time that was not spent on training from the rates."""
    self._line_start += seconds

  def train_seconds(self) -> float:
    """Seconds of training up to the newest step, over all starts of this run."""
    return self._train_seconds + (time.monotonic() - self._line_start)

  def partial_line(self) -> dict[str, Any]:
    """Sums for the next line, exact, for a checkpoint."""
    sums = {k: [float(v.total), float(v.count)] for k, v in self._averages.items()}
    return dict(sums=sums, skipped=self._skipped)

  def add(self, step: int, metrics: Metrics) -> None:
    """Takes the metrics of a step that has been dispatched."""
    self._pending.append((step, metrics))

  def fetch(self, delay: int = 0) -> Iterator[tuple[int, dict[str, float]]]:
    """(step, metrics) of all steps but the newest `delay`; waits for them."""
    while len(self._pending) > delay:
      step, metrics = self._pending.popleft()
      yield step, {k: float(v) for k, v in jax.device_get(metrics).items()}

  def log(self, step: int, metrics: dict[str, float]) -> None:
    """Adds a step's metrics to the averages; logs a line if one is due."""
    skipped = bool(metrics["skipped"])
    self._skipped += skipped
    kept = {k: v for k, v in metrics.items() if k not in ("skipped", "spike")}
    for key, value in ({} if skipped else kept).items():
      new = _average(value, 1.0)
      average = self._averages.get(key)
      self._averages[key] = average.merge(new) if average else new
    if step == self._start + 1:  # compiles: rates are measured from the second step
      self._line_start, self._waited, self._last = time.monotonic(), 0.0, step
    c = self._run.config
    if step % c.log_every == 0 or step == c.steps:
      self._write(step)
    elif step <= self._start + FIRST_STEPS:
      self._run.writer.log(self._line(step, {} if skipped else kept))

  def _write(self, step: int) -> None:
    c, elapsed = self._run.config, time.monotonic() - self._line_start
    averages = self._averages.items()
    metrics: dict[str, float] = {k: float(v.compute()) for k, v in averages}
    line = self._line(step, metrics)
    metrics["learning_rate"] = self._learning_rate(step)
    steps = step - self._last
    if self._skipped:
      metrics["skipped"] = self._skipped
    if warning := self._run.guard.collapse(metrics):
      self._run.writer.warn(step, warning)
    if steps:
      metrics |= self._speed(steps / elapsed)
      metrics["data_wait"] = self._waited / elapsed
      self._train_seconds += elapsed
      metrics["goodput"] = self._train_seconds / (time.time() - self._run.start_time)
      left = (c.steps - step) * elapsed / steps
      line += (
        f" | {metrics['clips_per_second']:.0f} clips/s, waiting for data "
        f"{100 * metrics['data_wait']:.0f} %, {clock(left)} left"
      )
    self._run.writer.log(line)
    if steps and elapsed > _LONG:
      self._warn(step, metrics["data_wait"])
    self._run.writer.scalars(step, metrics)
    self._averages, self._skipped = {}, 0
    self._last, self._line_start, self._waited = step, time.monotonic(), 0.0

  def _line(self, step: int, metrics: dict[str, float]) -> str:
    """Total loss, its terms, learning rate."""
    losses = {k[5:]: v for k, v in sorted(metrics.items()) if k.startswith("loss/")}
    total = losses.pop("total", None)
    text = "no step was applied"
    if total is not None:
      terms = "".join(f" {k} {v:.3f}" for k, v in losses.items())
      text = f"total {total:.3f}{terms}"
    rate = self._learning_rate(step)
    return f"step {step}/{self._run.config.steps} | {text} | lr {rate:.2e}"

  def _learning_rate(self, step: int) -> float:
    return float(self._run.learning_rate(step - 1))

  def _warn(self, step: int, data_wait: float) -> None:
    if data_wait > _STARVED and time.monotonic() > self._last_warning + _WARN_EVERY:
      self._last_warning = time.monotonic()
      self._run.writer.warn(
        step,
        f"{100 * data_wait:.0f} % of the time is spent waiting for data; raise "
        "config.data.num_workers, or prepare videos of the size that is read",
      )

  def _speed(self, steps_per_second: float) -> dict[str, float]:
    devices = jax.device_count()
    clips = self._run.config.batch_size * steps_per_second
    per_device = self._flops * steps_per_second / devices
    rates = dict(
      clips_per_second=clips,
      clips_per_second_per_device=clips / devices,
      tflops_per_device=per_device / 1e12,
    )
    peak = flops.PEAKS.get(jax.devices()[0].device_kind)
    return rates | (dict(mfu=per_device / peak) if peak else {})


def _average(total: float, count: float) -> clu.metrics.Average:
  # clu's flax dataclass hides its fields from pyright.
  return clu.metrics.Average(
    total=jnp.float32(total),  # pyright: ignore[reportCallIssue]
    count=jnp.float32(count),  # pyright: ignore[reportCallIssue]
  )


def clock(seconds: float) -> str:
  minutes, seconds = divmod(int(seconds), 60)
  return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
