"""Progress in a log, where standard error is not a terminal."""

import subprocess
import sys

import tqdm
from conftest import ROOT

from vtr_jax.core.progress import Bar


class Clock:
  """A clock that advances only when the test sets it."""

  now = 1000.0

  def __call__(self):
    return self.now


def test_without_a_terminal_progress_is_a_line_every_ten_seconds(monkeypatch, capsys):
  clock = Clock()
  monkeypatch.setattr(tqdm.std, "time", clock)
  with Bar(total=100, desc="rendering", unit="clip") as bar:
    for _ in range(50):
      clock.now += 0.5
      bar.update()
      bar.refresh()  # as `set_postfix_str` and `write` do
      Bar.write("a message")
  out, err = capsys.readouterr()
  assert out.count("a message\n") == 50
  assert err.splitlines() == [
    "rendering: 20/100 clip,  2.00clip/s, 00:40 left",
    "rendering: 40/100 clip,  2.00clip/s, 00:30 left",
  ]


def test_a_short_loop_logs_nothing(capsys):
  assert list(Bar(range(5), "reading")) == [*range(5)]
  assert capsys.readouterr() == ("", "")


ALONE = """
import multiprocessing, multiprocessing.resource_tracker
import vtr_jax.core.progress as progress
multiprocessing.set_start_method("spawn")  # like forkserver, the default from 3.14 on
list(progress.Bar(range(3)))
print(multiprocessing.resource_tracker._resource_tracker._pid)
"""


def test_a_bar_starts_no_process():
  """tqdm's own lock would start Python's resource tracker."""
  made = subprocess.run(
    [sys.executable, "-c", ALONE], cwd=ROOT, capture_output=True, text=True
  )
  assert (made.stdout, made.stderr) == ("None\n", "")
