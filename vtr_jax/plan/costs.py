"""What a step takes of a device, and what follows from it."""

import dataclasses
from collections.abc import Callable

from vtr_jax.plan.chips import Chip
from vtr_jax.plan.collectives import Collective


@dataclasses.dataclass(frozen=True)
class Costs:
  """Of one step, a device; bytes and FLOPs. None = not known."""

  how: str  # compiled | arithmetic
  fits: bool
  held: dict[str, float]  # by kind, through the whole step
  peak: float  # most at once; what was asked for, if it does not fit
  limit: float | None  # of the device
  flops: float
  temporary: float | None = None
  code: float | None = None
  bytes: float | None = None  # read and written
  collectives: tuple[Collective, ...] = ()

  def times(self, chip: Chip) -> dict[str, float]:
    """Seconds that each resource needs at its peak."""
    found = {}
    if chip.peak:
      found["products"] = self.flops / chip.peak
    if chip.bandwidth and self.bytes:
      found["memory"] = self.bytes / chip.bandwidth
    return found

  def bound(self, chip: Chip) -> tuple[float, str] | None:
    """(seconds, which resource) of the slowest; a bound, not a promise."""
    times = self.times(chip)
    return max(((t, name) for name, t in times.items()), default=None)


def largest(
  costs_of: Callable[[int], Costs], tried: dict[int, Costs], most: int = 1 << 10
) -> tuple[int, Costs] | None:
  """The largest power-of-two multiple of a batch that fits, by few compilations.

  From the best that is known it goes up to the first refusal, or down to the first that
  fits; what does not fit is refused within seconds.

  Args:
    costs_of: of a multiple of the smallest batch.
    tried: what is known already, one or more.
    most: where growing ends; ours: no more than a thousand rows a device.
  """
  tried = dict(tried)

  def fits(count: int) -> bool:
    if count not in tried:
      tried[count] = costs_of(count)
    return tried[count].fits

  good = [n for n, c in tried.items() if c.fits]
  known = max(good) if good else min(tried)
  count = min(guess(known, tried[known]), most)
  # A known one that fits is where to begin, if the guess from it is not better.
  powers = [n for n in good if n == _power(n)]
  if powers and not (count > max(powers) and fits(count)):
    count = max(powers)
  while count > 1 and not fits(count):
    count //= 2
  if not fits(count):
    return None
  while 2 * count <= most and fits(2 * count):
    count *= 2
  return count, tried[count]


def guess(count: int, costs: Costs) -> int:
  """The power of two that should just fit: but for what is held, all grows evenly."""
  held = sum(costs.held.values())
  grows = costs.peak - (held if costs.fits else 0)  # a refusal reports temporaries
  if not costs.limit or grows <= 0:
    return _power(count)
  return _power(int(count * max(costs.limit - held, 0) / grows))


def _power(count: int) -> int:
  """The largest power of two that is not above `count`; at least 1."""
  return 1 << max(count.bit_length() - 1, 0) if count > 0 else 1
