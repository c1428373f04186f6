"""Records that could not be used: listed, counted, and limited in number."""

import json
import os
from collections import Counter, deque

import numpy as np

from vtr_jax.core import io
from vtr_jax.core.errors import DataBudgetError, DataError, one_line

# Late in a long run the budget is many samples: also stop when the fraction of bad
# ones among the newest exceeds the budget this many times. Ours.
_SUDDEN = 10


class Quarantine:
  """Counts replaced samples, lists their records, and raises when they are too many.

  The list has one JSON line per record: {"record", "problem", "step"}; a
  resumed run appends to it. With several hosts, give each its own file.
  """

  def __init__(self, path: str, budget: float, min_samples: int = 1000):
    """Reads what an earlier run has listed.

    Args:
      path: of the list, usually workdir/quarantine.jsonl; made when needed.
      budget: fraction of samples that may be bad, [0, 1]; see data.max_bad_fraction.
      min_samples: samples before the first check; also the number of newest samples
        that are checked separately.
    """
    self.path = path
    self.seen = 0  # samples of this run, good or bad
    self.bad = 0
    self._budget = budget
    self._min_samples = min_samples
    self._reasons = Counter()
    self._newest: deque[tuple[int, int]] = deque()  # (seen, bad) of batches
    self._listed = set()
    if os.path.exists(path):
      self._continue_list()

  def _continue_list(self) -> None:
    """Removes the incomplete last line that a killed run may have left."""
    with open(self.path, "rb+") as f:
      lines = f.read().rpartition(b"\n")[0].splitlines(keepends=True)
      f.truncate(sum(map(len, lines)) + bool(lines))
    for number, line in enumerate(lines, 1):
      try:
        self._listed.add(int(io.mapping(line)["record"]))
      except (ValueError, KeyError, TypeError, OverflowError) as e:
        raise DataError(
          f"{self.path}:{number}: damaged ({one_line(e)}); fix or delete it"
        ) from e

  def add(self, batch: dict[str, np.ndarray], step: int) -> None:
    """Takes the host keys of one training batch.

    Raises:
      DataBudgetError: more than `budget` of the samples of this run were bad, or ten
        times as many of the newest ones.
    """
    before, lines = self.bad, []
    self.seen += len(batch["problem"])
    for row in np.flatnonzero(batch["problem"] != ""):
      record, problem = int(batch["record"][row]), str(batch["problem"][row])
      self.bad += 1
      self._reasons[problem.split(": ", 1)[-1]] += 1
      if record not in self._listed:
        self._listed.add(record)
        lines.append(json.dumps(dict(record=record, problem=problem, step=step)))
    if lines:
      with open(self.path, "a") as f:
        f.writelines(line + "\n" for line in lines)
    self._newest.append((len(batch["problem"]), self.bad - before))
    self._check_budget()

  def _check_budget(self) -> None:
    if self.seen < self._min_samples:
      return
    while sum(n for n, _ in self._newest) - self._newest[0][0] >= self._min_samples:
      self._newest.popleft()
    newest, bad = (sum(column) for column in zip(*self._newest, strict=True))
    if self.bad > self._budget * self.seen:
      share = f"{self.bad} of {self.seen} samples"
    elif bad > _SUDDEN * self._budget * newest:
      share = f"{bad} of the last {newest} samples"
    else:
      return
    top = ", ".join(f"{n} x {why}" for why, n in self._reasons.most_common(3))
    raise DataBudgetError(
      f"{self.path}: {share} could not be used, more than data.max_bad_fraction = "
      f"{self._budget:g} allows ({top}); repair the records listed there, or raise the "
      "budget"
    )
