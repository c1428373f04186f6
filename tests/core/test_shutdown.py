"""How a command ends: its code, one line, and output that nobody takes."""

import os
import shlex
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT

HOLD = 200  # seconds that the work would go on: twice the wait for its end


def start(work, run=True, **files):
  """A command that does `work`, lines of Python, and says when it has begun.

  Returns:
    Its process; its words if it is not to be run.
  """
  code = "\n".join(
    [
      "import sys, time",
      "from vtr_jax.core import cli as command, shutdown as ending, errors",
      "def begun():",
      "  print('begun', file=sys.stderr, flush=True)",
      "def work():",
      *(f"  {line}" for line in work.splitlines()),
      "command.run(work)",
    ]
  )
  if not run:
    return [sys.executable, "-c", code]
  # Otherwise nothing is ever left to be written at the end.
  env = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
  files = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE) | files
  return subprocess.Popen(
    [sys.executable, "-c", code], cwd=ROOT, env=env, text=True, **files
  )


def finish(process, *signals):
  """(code, seconds from the first signal, standard error)."""
  begin = time.monotonic()
  if signals:
    assert process.stderr.readline() == "begun\n"
    begin = time.monotonic()
  for number in signals:
    process.send_signal(number)
  _, said = process.communicate(timeout=HOLD / 2)
  return process.returncode, time.monotonic() - begin, said


LINE = "Interrupted: run it again; saved files are complete\n"


@pytest.mark.parametrize(
  ("work", "least"),
  [
    ("begun()\ntime.sleep(200)", 0),
    # Python prints what a finalizer raises, and goes on.
    (
      "class Late:\n  def __del__(self):\n    begun()\n    time.sleep(200)\n"
      "Late()\ntime.sleep(200)",
      0,
    ),
    # Whoever swallows it is ended from outside.
    (
      "for number in range(9):\n  try:\n    if not number:\n      begun()\n"
      "    time.sleep(200)\n  except KeyboardInterrupt:\n    pass",
      3,
    ),
  ],
  ids=["plain", "finalizer", "swallowed"],
)
def test_ctrl_c_is_one_line_at_once(work, least):
  grace = "" if least else "ending._GRACE = 60\n"  # they end by themselves
  code, seconds, said = finish(start(grace + work), signal.SIGINT)
  assert (code, said) == (130, LINE)
  assert seconds >= least


def test_ctrl_c_where_nobody_reads_the_output():
  """A pager that waits, say: the pipe is full, and a print in it for ever."""
  process = start("begun()\nwhile True:\n  print(1000 * 'x', flush=True)")
  assert process.stderr.readline() == "begun\n"
  time.sleep(0.5)
  process.send_signal(signal.SIGINT)
  assert process.wait(HOLD / 2) == 130
  assert process.communicate()[1] == LINE


def test_ctrl_c_that_comes_twice_at_once():
  """From the terminal and from a wrapper."""
  for _ in range(5):
    process = start("begun()\ntime.sleep(200)")
    assert finish(process, signal.SIGINT, signal.SIGINT)[::2] == (130, LINE)


def test_a_full_disk_is_seen_at_the_end():
  with open("/dev/full", "w") as full:
    code, _, said = finish(start("print('x')", stdout=full))
  assert code == 2
  assert said.startswith("DataError: a file that is being written: No space left")
  assert said.count("\n") == 1


@pytest.mark.parametrize(
  ("work", "expected"),
  [
    ("raise errors.Preempted('saved')", 85),
    ("raise errors.ConfigError('wrong')", 2),
    ("ending.interrupted()", 130),
  ],
)
def test_the_code_stays_where_nothing_can_be_said(work, expected):
  with open("/dev/full", "w") as full:
    process = start(f"print('x')\n{work}", stdout=full, stderr=full)
    assert finish(process)[0] == expected


@pytest.mark.parametrize(
  ("work", "closed", "expected"),
  [
    ("print('x')", ">&-", 0),
    ("raise errors.Preempted('saved')", ">&- 2>&-", 85),
    ("ending.interrupted()", "2>&-", 130),
  ],
)
def test_output_that_is_closed(work, closed, expected):
  command = shlex.join(start(work, run=False))
  ended = subprocess.run(["bash", "-c", f"{command} {closed}"], cwd=ROOT)
  assert ended.returncode == expected


def test_a_reader_that_has_gone():
  process = start("while True:\n  print('x')")
  process.stdout.readline()
  process.stdout.close()
  assert finish(process)[::2] == (128 + signal.SIGPIPE, "")


def test_another_pipe_that_is_broken_is_no_such_end():
  code, _, said = finish(start("raise BrokenPipeError(32, 'Broken pipe')"))
  assert code == 1
  assert "BrokenPipeError" in said.splitlines()[-1]
