"""Progress of a long loop: a bar on a terminal, now and then a plain line in a log."""

import math
import sys
import threading
from collections.abc import Iterable
from typing import Any

import tqdm

_INTERVAL = 10.0  # ours: seconds from one line of a log to the next
_LINE = "{desc}: {n_fmt}/{total_fmt} {unit}, {rate_fmt}, {remaining} left{postfix}"


class Bar(tqdm.tqdm):
  """`tqdm` on standard error, without control characters unless it is a terminal.

  Elsewhere, each line reports count, rate and time left; there is at most one every 10
  seconds, and none for a loop that ends before.
  """

  def __init__(
    self,
    iterable: Iterable | None = None,
    desc: str | None = None,
    total: int | None = None,
    **kwargs: Any,
  ):
    """Takes the arguments of `tqdm`."""
    self._terminal = sys.stderr.isatty()
    if not self._terminal:
      kwargs |= dict(delay=_INTERVAL, mininterval=_INTERVAL, miniters=1)
      kwargs |= dict(bar_format=_LINE)
    super().__init__(iterable, desc, total, **kwargs)

  def display(self, msg: str | None = None, pos: int | None = None) -> bool | None:
    if self._terminal:
      return super().display(msg, pos)
    now = self.start_t + self.format_dict["elapsed"]
    if now - self.last_print_t >= _INTERVAL:
      self.last_print_t = now
      print(self, file=sys.stderr, flush=True)
    return True

  def clear(self, nolock: bool = False) -> None:
    if self._terminal:
      super().clear(nolock)

  def close(self) -> None:
    if not self._terminal:
      self.delay = math.inf  # as if nothing was displayed: nothing is cleared
    super().close()


# tqdm's own lock is shared with other processes: from Python 3.14 on, that starts one.
Bar.set_lock(threading.RLock())
