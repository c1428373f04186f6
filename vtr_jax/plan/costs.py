"""What a step takes of a device, and what follows from it."""

import dataclasses
from collections.abc import Callable

from vtr_jax.plan.chips import Chip
from vtr_jax.plan.hlo import Collective


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
    """Seconds that each resource needs at its peak: none can be faster."""
    found = {}
    if chip.peak:
      found["products"] = self.flops / chip.peak
    if chip.bandwidth and self.bytes:
      found["memory"] = self.bytes / chip.bandwidth
    return found

  def bound(self, chip: Chip) -> tuple[float, str] | None:
    """(seconds, which resource); a bound from below, not a promise."""
    times = self.times(chip)
    return max(((t, name) for name, t in times.items()), default=None)


def largest(
  costs_of: Callable[[int], Costs], first: int, known: Costs, most: int = 1 << 10
) -> tuple[int, Costs] | None:
  """The largest power-of-two multiple of a batch that fits, by few compilations.

  The need grows with the batch but for what is held; from one known point the search
  starts where the limit should be. What does not fit is refused within seconds, so it
  goes from there up to the first refusal, or down to the first that fits.

  Args:
    costs_of: of a multiple of the smallest batch.
    first: the multiple whose costs are `known`.
    most: where growing ends; ours: no more than a thousand rows a device.
  """
  tried = {first: known}

  def fits(count: int) -> bool:
    if count not in tried:
      tried[count] = costs_of(count)
    return tried[count].fits

  guess = _power(first)
  held = sum(known.held.values())
  grows = known.peak - (held if known.fits else 0)
  if known.limit and grows > 0:
    guess = _power(int(first * max(known.limit - held, 0) / grows))
  guess = min(guess, most)
  if fits(guess):
    while 2 * guess <= most and fits(2 * guess):
      guess *= 2
    return guess, tried[guess]
  while guess > 1:
    guess //= 2
    if fits(guess):
      return guess, tried[guess]
  return None


def _power(count: int) -> int:
  """The largest power of two that is not above `count`; at least 1."""
  return 1 << max(count.bit_length() - 1, 0) if count > 0 else 1
