"""Memory, FLOPs and traffic of a step on a device, and the bounds that follow."""

import dataclasses
from collections.abc import Callable

from vtr_jax.plan.chips import Chip
from vtr_jax.plan.collectives import Collective
from vtr_jax.plan.kernels import Cycles


@dataclasses.dataclass(frozen=True)
class Costs:
  """Costs of one step on one device, in bytes and FLOPs; None = unknown."""

  how: str  # compiled | arithmetic
  fits: bool
  held: dict[str, float]  # by kind, throughout the step
  peak: float  # maximum; the memory required, if it does not fit
  limit: float | None  # of the device
  flops: float
  temporary: float | None = None
  code: float | None = None
  bytes: float | None = None  # read and written, in fast memory too
  hbm: float | None = None  # read and written in the device's main memory
  kernels: int | None = None  # that a GPU launches
  cycles: Cycles | None = None
  collectives: tuple[Collective, ...] = ()

  def times(self, chip: Chip) -> dict[str, float]:
    """Seconds that each resource needs at its peak."""
    seconds = {}
    if chip.peak:
      seconds["compute"] = self.flops / chip.peak
    moved = self.bytes if self.hbm is None else self.hbm
    if chip.bandwidth and moved:
      seconds["memory"] = moved / chip.bandwidth
    return seconds

  def bound(self, chip: Chip) -> tuple[float, str] | None:
    """(seconds, name) of the slowest resource; a lower bound."""
    times = self.times(chip)
    return max(((t, name) for name, t in times.items()), default=None)

  def expected(self, chip: Chip) -> float | None:
    """Seconds of a step by the compiler's estimate; None if it has none."""
    return self.cycles.count / chip.clock if self.cycles and chip.clock else None


def largest(
  costs_of: Callable[[int], Costs], tried: dict[int, Costs], limit: int = 1 << 10
) -> tuple[int, Costs] | None:
  """The largest power-of-two multiple of a batch that fits, by few compilations.

  It starts from a guess, then doubles until a batch does not fit, or halves until one
  fits; the compiler rejects what does not fit within seconds.

  Args:
    costs_of: costs of a multiple of the smallest batch.
    tried: costs of the multiples that were tried already, one or more.
    limit: the largest multiple; ours: a thousand examples per device.
  """
  tried = dict(tried)

  def fits(count: int) -> bool:
    if count not in tried:
      tried[count] = costs_of(count)
    return tried[count].fits

  fitting = [n for n, c in tried.items() if c.fits]
  start = max(fitting) if fitting else min(tried)
  count = min(guess(start, tried[start]), limit)
  # If the guess is not better, start from the largest that is known to fit.
  powers = [n for n in fitting if n == _power(n)]
  if powers and not (count > max(powers) and fits(count)):
    count = max(powers)
  while count > 1 and not fits(count):
    count //= 2
  if not fits(count):
    return None
  while 2 * count <= limit and fits(2 * count):
    count *= 2
  return count, tried[count]


def guess(count: int, costs: Costs) -> int:
  """The largest power of two expected to fit: temporaries grow with the batch."""
  held = sum(costs.held.values())
  # Out of memory, the compiler reports temporaries alone.
  temporary = costs.peak - (held if costs.fits else 0)
  if not costs.limit or temporary <= 0:
    return _power(count)
  return _power(int(count * max(costs.limit - held, 0) / temporary))


def _power(count: int) -> int:
  """The largest power of two that is not above `count`; at least 1."""
  return 1 << max(count.bit_length() - 1, 0) if count > 0 else 1
