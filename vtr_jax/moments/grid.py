"""Windows of a video, at several lengths, that may be the moment of a query."""

import dataclasses

import numpy as np
from jaxtyping import Float

from vtr_jax.core.config import require


@dataclasses.dataclass(frozen=True)
class Grid:
  """Lengths of windows, and the time from one to the next, in seconds.

  The defaults are ours: three quarters to twice the two seconds of a clip of
  moving_shapes, and a quarter of it. In seconds, not parts of the video: a moment of a
  long video is not longer.
  """

  lengths: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0)
  step: float = 0.5

  def __post_init__(self):
    ordered = list(self.lengths) == sorted(set(self.lengths))
    require(
      bool(self.lengths) and ordered and 0.1 <= self.lengths[0] < 1e5,
      f"lengths: {self.lengths}; give seconds, 0.1 or more, in ascending order",
    )
    require(0.05 <= self.step < 1e5, f"step: {self.step} s; must be 0.05 or more")

  def windows(self, end: float, start: float = 0.0) -> Float[np.ndarray, "w 2"]:
    """(start, end) of each window from `start` to `end`, sorted.

    The last window of each length ends at `end`. Of longer ones than the video there is
    one, which is all of it.
    """
    found: set[tuple[float, float]] = set()
    for length in self.lengths:
      room = end - start - length
      if room <= 0:
        found.add((start, end))
        continue
      count = int(np.floor(room / self.step + 1e-6)) + 1
      starts = [start + i * self.step for i in range(count)]
      if room - (count - 1) * self.step > 0.25 * self.step:
        starts.append(end - length)
      found |= {(round(s, 6), round(s + length, 6)) for s in starts}
    return np.array(sorted(found))

  def cells(self, end: float, start: float = 0.0) -> Float[np.ndarray, " c"]:
    """The middles of the steps from `start` to `end`."""
    count = max(int(np.ceil((end - start) / self.step - 1e-6)), 1)
    edges = np.minimum(start + np.arange(count + 1) * self.step, end)
    return (edges[:-1] + edges[1:]) / 2
