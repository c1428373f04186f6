"""Progress of the loop: averages, rates, share of time without data, time left."""

import collections
import time
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

# A step's numbers are fetched when this many later steps have been dispatched, so
# that fetching never makes the device wait.
_BEHIND = 2
_STARVED = 0.2  # share of the time without a batch that is warned of; ours
_AGAIN = 600.0  # seconds until it is warned of again
_LONG = 5.0  # seconds from line to line, or a share says little; ours


class Progress:
  """Averages the steps' numbers and prints a line every `log_every` steps.

  Of the clock it writes clips_per_second, and per device; data_wait, the share of time
  without a batch; tflops_per_device, of what the model asks for (hidden places that are
  dropped ask for nothing), and mfu, its share of the device's peak where that is known;
  skipped, the number of steps that were not applied (guard.py), where there were any;
  goodput, the share of time since the run's first start that was spent on steps, and
  not on what was lost, starts, compilation, evaluation, and waiting for a machine.
  """

  def __init__(self, run: Run, start: int):
    self._run, self._pending = run, collections.deque()
    self._flops, self._trained = run.config.flops(), run.trained
    # Of the steps since the last line; an earlier process may have begun it.
    begun = run.line.get("sums", {})
    self._sums = {
      renames.METRICS.get(k, k): _average(*pair) for k, pair in begun.items()
    }
    self._skipped = run.line.get("skipped", 0)  # that were not applied
    self._last, self._begin, self._waited = start, time.monotonic(), 0.0
    # The first step of a process compiles; rates are told from the second on.
    self._warm = start + 1
    self._warned = -_AGAIN

  def timed_next(self, batches: loader.Batches) -> dict[str, np.ndarray]:
    begin = time.monotonic()
    local = next(batches)
    self._waited += time.monotonic() - begin
    return local

  def pause(self, seconds: float) -> None:
    """Takes time that was not spent on training out of the rates."""
    self._begin += seconds

  def trained(self) -> float:
    """Seconds of training behind the newest step, of all starts of this run."""
    return self._trained + (time.monotonic() - self._begin)

  def line(self) -> dict[str, Any]:
    """What has been summed for the next line, for a checkpoint; all of it exact."""
    sums = {k: [float(v.total), float(v.count)] for k, v in self._sums.items()}
    return dict(sums=sums, skipped=self._skipped)

  def add(self, done: int, numbers: Metrics) -> None:
    self._pending.append((done, numbers))
    while len(self._pending) > (0 if self._wary() else _BEHIND):
      self._take(*self._pending.popleft())

  def _wary(self) -> bool:
    """Whether the next bad step may end the run: then the state is the one before it.

    So it is after a roll-back, until a later checkpoint shows that all is well.
    """
    to = self._run.watch.rolled_to
    newest = self._run.checkpoints.newest
    return to is not None and (newest <= to or self._run.watch.uneasy)

  def flush(self) -> None:
    """Waits for all dispatched steps and takes their numbers."""
    while self._pending:
      self._take(*self._pending.popleft())

  def _take(self, done: int, numbers: Metrics) -> None:
    host = {k: float(v) for k, v in jax.device_get(numbers).items()}
    if warning := self._run.watch.take(done, host):
      self._run.writer.alarm(done, warning)
    skipped, _ = bool(host.pop("skipped")), host.pop("spike", None)
    self._skipped += skipped
    for key, value in ({} if skipped else host).items():
      new = clu.metrics.Average.from_model_output(np.float32(value))
      self._sums[key] = self._sums[key].merge(new) if key in self._sums else new
    if done == self._warm:
      self._begin, self._waited, self._last = time.monotonic(), 0.0, done
    c = self._run.config
    if done % c.log_every == 0 or done == c.steps:
      self._write(done)

  def _write(self, done: int) -> None:
    c, elapsed = self._run.config, time.monotonic() - self._begin
    numbers = {k: float(v.compute()) for k, v in self._sums.items()}
    numbers["learning_rate"] = float(self._run.learning_rate(done - 1))
    steps = done - self._last
    line = (
      " ".join(
        f"{k.removeprefix('loss/')} {v:.3f}"
        for k, v in sorted(numbers.items())
        if k.startswith("loss/")
      )
      or "no step was applied"
    )
    if self._skipped:
      numbers["skipped"] = self._skipped
    if warning := self._run.watch.collapse(numbers):
      self._run.writer.alarm(done, warning)
    rate = ""
    if steps:
      numbers |= self._speed(steps / elapsed)
      numbers["data_wait"] = self._waited / elapsed
      self._trained += elapsed
      numbers["goodput"] = self._trained / (time.time() - self._run.began)
      left = (c.steps - done) * elapsed / steps
      rate = (
        f" | {numbers['clips_per_second']:.0f} clips/s, waiting for data "
        f"{100 * numbers['data_wait']:.0f} %, {_clock(left)} left"
      )
    self._run.writer.say(
      f"step {done}/{c.steps} | {line} | lr {numbers['learning_rate']:.2e}{rate}"
    )
    if steps and elapsed > _LONG:
      self._warn(done, numbers["data_wait"])
    self._run.writer.scalars(done, numbers)
    self._sums, self._skipped = {}, 0
    self._last, self._begin, self._waited = done, time.monotonic(), 0.0

  def _warn(self, done: int, data_wait: float) -> None:
    if data_wait > _STARVED and time.monotonic() > self._warned + _AGAIN:
      self._warned = time.monotonic()
      self._run.writer.alarm(
        done,
        f"{100 * data_wait:.0f} % of the time goes on waiting for data; raise "
        "config.data.num_workers, or prepare videos of the size that is read",
      )

  def _speed(self, steps_per_second: float) -> dict[str, float]:
    devices = jax.device_count()
    clips = self._run.config.batch_size * steps_per_second
    each = self._flops * steps_per_second / devices
    found = dict(
      clips_per_second=clips,
      clips_per_second_per_device=clips / devices,
      tflops_per_device=each / 1e12,
    )
    peak = flops.PEAKS.get(jax.devices()[0].device_kind)
    return found | (dict(mfu=each / peak) if peak else {})


def _average(total: float, count: float) -> clu.metrics.Average:
  return clu.metrics.Average(total=jnp.float32(total), count=jnp.float32(count))


def _clock(seconds: float) -> str:
  minutes, seconds = divmod(int(seconds), 60)
  return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
