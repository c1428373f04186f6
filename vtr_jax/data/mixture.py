"""Mixtures of data sets, as a pure function of the step.

Data sets with the same number of frames share every batch in proportion to their
weights. Those with different numbers take turns step by step, because the clips of a
batch have one shape: images of one frame and videos of four, of equal weight,
alternate.
"""

import bisect
import dataclasses
import itertools
import sys
from collections.abc import Sequence
from fractions import Fraction

import grain
import numpy as np

from vtr_jax.core.config import require
from vtr_jax.data import sources


@dataclasses.dataclass(frozen=True)
class Part:
  """One data set of a mixture."""

  name: str  # data set under data.dir
  split: str  # TFDS slices are allowed
  weight: float  # of its clips among all; any unit
  num_frames: int = 0  # of its clips; ours: 0 = clip.num_frames, or data.curriculum's

  def __post_init__(self):
    require(self.weight > 0, f"weight: {self.weight} must be positive")
    require(self.num_frames >= 0, f"num_frames: {self.num_frames} must not be negative")


class Turns:
  """Turn number to (member, number of its earlier turns), as evenly as possible."""

  def __init__(self, weights: Sequence[float]):
    exact = [Fraction(str(weight)) for weight in weights]
    # Fraction of the turns that the earlier members have not taken.
    self._fractions = [w / sum(exact[i:]) for i, w in enumerate(exact)]

  def __call__(self, number: int) -> tuple[int, int]:
    for member, fraction in enumerate(self._fractions):
      before = _rounded(number * fraction)
      if _rounded((number + 1) * fraction) > before:
        return member, before
      number -= before
    raise AssertionError("the fraction of the last member is 1")


def _rounded(x: Fraction) -> int:
  """Rounds halves up, so that the first of two equal members begins."""
  return (2 * x.numerator + x.denominator) // (2 * x.denominator)


class Interleaved(grain.MapDataset):
  """Endless data sets in turn."""

  def __init__(self, parents: Sequence[grain.MapDataset], turns: Turns):
    super().__init__(list(parents))
    self._turns = turns

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, index):
    if isinstance(index, slice):
      return self.slice(index)
    member, number = self._turns(index)
    return self._parents[member][number]


class Mixture:
  """The parts in each step's batch, and the order of their records.

  Records are numbered through all parts, as in `Joined`.
  """

  def __init__(self, parts: Sequence[Part], lengths: Sequence[int], seed: int):
    """Takes the parts, their numbers of records, and the seed of every order."""
    self._parts, self._lengths, self._seed = parts, lengths, seed
    groups: dict[int, list[int]] = {}
    for i, part in enumerate(parts):
      groups.setdefault(part.num_frames, []).append(i)
    self._groups = groups
    self._turns = Turns([sum(self._weights(g)) for g in groups.values()])

  def at(self, step: int) -> tuple[int, int]:
    """(num_frames of the parts in this step's batch, number of the batch)."""
    group, number = self._turns(step)
    return [*self._groups][group], number

  def orders(self) -> dict[int, grain.MapDataset]:
    """Part.num_frames to the numbers of records, for ever; seeded for `random_map`."""
    return {
      frames: Interleaved(
        [self._shuffled(i) for i in group], Turns(self._weights(group))
      )
      for frames, group in self._groups.items()
    }

  def _shuffled(self, part: int) -> grain.MapDataset:
    first = sum(self._lengths[:part])
    records = grain.MapDataset.range(first, first + self._lengths[part])
    # Not consecutive seeds: grain's shuffle adds the epoch to its seed.
    seed = np.random.SeedSequence((self._seed, part)).generate_state(1)[0]
    return records.seed(int(seed)).shuffle().repeat()

  def _weights(self, members: Sequence[int]) -> list[float]:
    return [self._parts[i].weight for i in members]


class Joined:
  """Several splits as one `sources.Records`; ids are prefixed with names."""

  def __init__(self, names: Sequence[str], splits: Sequence[sources.Records]):
    self._names, self._splits = names, splits
    self._ends = list(itertools.accumulate(map(len, splits)))
    self.directory = ", ".join(split.directory for split in splits)

  def __len__(self) -> int:
    return self._ends[-1]

  def __getitem__(self, index: int) -> dict:
    which = bisect.bisect_right(self._ends, index)
    split = self._splits[which]
    record = split[index - self._ends[which] + len(split)]
    return record | dict(id=f"{self._names[which]}/{record['id']}")
