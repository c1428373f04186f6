"""How a command ends: exit code, one line, and output that cannot be written."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT

HOLD = 200  # seconds that the work would last: twice the wait for its end


def start(work, run=True, **files):
  """A command that runs `work`, lines of Python that print "begun" by `begun()`.

  Returns:
    Its process; its arguments if not `run`.
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
  # Unbuffered, nothing would be left to be written at exit.
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
  _, errors = process.communicate(timeout=HOLD / 2)
  return process.returncode, time.monotonic() - begin, errors


LINE = "Interrupted: run it again; saved files are complete\n"


@pytest.mark.parametrize(
  ("work", "min_seconds"),
  [
    ("begun()\ntime.sleep(200)", 0),
    # Python prints what a finalizer raises, and continues.
    (
      "class Late:\n  def __del__(self):\n    begun()\n    time.sleep(200)\n"
      "Late()\ntime.sleep(200)",
      0,
    ),
    # Code that swallows the interrupt is ended by the watchdog thread.
    (
      "for number in range(9):\n  try:\n    if not number:\n      begun()\n"
      "    time.sleep(200)\n  except KeyboardInterrupt:\n    pass",
      3,
    ),
  ],
  ids=["plain", "finalizer", "swallowed"],
)
def test_ctrl_c_ends_the_command_at_once_with_one_line(work, min_seconds):
  grace = "" if min_seconds else "ending._GRACE = 60\n"  # they end by themselves
  code, seconds, errors = finish(start(grace + work), signal.SIGINT)
  assert (code, errors) == (130, LINE)
  assert seconds >= min_seconds


def test_ctrl_c_ends_the_command_while_its_output_pipe_is_full():
  """A pager that waits, for example: print blocks for ever."""
  process = start("begun()\nwhile True:\n  print(1000 * 'x', flush=True)")
  assert process.stderr.readline() == "begun\n"
  time.sleep(0.5)
  process.send_signal(signal.SIGINT)
  assert process.wait(HOLD / 2) == 130
  assert process.communicate()[1] == LINE


def test_two_ctrl_c_in_a_row_end_the_command_like_one():
  """One from the terminal and one from a wrapper script."""
  for _ in range(5):
    process = start("begun()\ntime.sleep(200)")
    assert finish(process, signal.SIGINT, signal.SIGINT)[::2] == (130, LINE)


def test_output_to_a_full_disk_is_an_error_at_exit():
  with open("/dev/full", "w") as full:
    code, _, errors = finish(start("print('x')", stdout=full))
  assert code == 2
  assert errors.startswith("DataError: a file that is being written: No space left")
  assert errors.count("\n") == 1


@pytest.mark.parametrize(
  ("work", "expected"),
  [
    ("raise errors.Preempted('saved')", 85),
    ("raise errors.ConfigError('wrong')", 2),
    ("ending.interrupted()", 130),
  ],
)
def test_the_exit_code_is_kept_if_stderr_cannot_be_written(work, expected):
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
def test_the_exit_code_is_kept_if_output_is_closed(work, closed, expected):
  command = shlex.join(start(work, run=False))
  ended = subprocess.run(["bash", "-c", f"{command} {closed}"], cwd=ROOT)
  assert ended.returncode == expected


def test_a_reader_that_closes_the_pipe_ends_the_command_by_sigpipe():
  process = start("while True:\n  print('x')")
  process.stdout.readline()
  process.stdout.close()
  assert finish(process)[::2] == (128 + signal.SIGPIPE, "")


def test_a_broken_pipe_of_the_work_itself_is_an_error():
  code, _, errors = finish(start("raise BrokenPipeError(32, 'Broken pipe')"))
  assert code == 1
  assert "BrokenPipeError" in errors.splitlines()[-1]


def test_semaphores_of_workers_are_removed_without_a_line():
  """Python's resource tracker removes them, since the command ends by os._exit."""
  process = start(
    "import multiprocessing\n"
    "global queue\n"
    "queue = multiprocessing.get_context('spawn').Queue()\n"
    "print(queue._rlock._semlock.name)"
  )
  name, errors = process.communicate(timeout=HOLD / 2)
  assert (process.returncode, errors) == (0, "")
  assert name.startswith("/mp-")
  assert not os.path.exists(f"/dev/shm/sem.{name.strip()[1:]}")


def jax_platforms(name):
  """(code, standard error) of a command that needs a device."""
  env = os.environ | dict(JAX_PLATFORMS=name)
  command = [sys.executable, "-m", "vtr_jax.plan", "--config=configs/mac.py:smoke"]
  made = subprocess.run(
    [*command, "--topology=local"], cwd=ROOT, env=env, capture_output=True, text=True
  )
  return made.returncode, made.stderr


@pytest.mark.parametrize("name", ["cuda", "tpu", "nowhere"])
def test_a_platform_that_is_not_there_is_one_line(name):
  if any(map(os.path.exists, ("/dev/nvidia0", "/dev/accel0", "/dev/vfio/0"))):
    pytest.skip("this machine has a GPU or a TPU")
  code, errors = jax_platforms(name)
  assert code == 2
  assert re.fullmatch(
    rf"ConfigError: JAX_PLATFORMS={name}: JAX finds none here \(.+\); unset it, or "
    r"install JAX's plugin by ACCELERATOR=cuda12, cuda13 or tpu ./launch/setup.sh\n",
    errors,
  )


def test_another_error_is_not_blamed_on_the_platform():
  work = "import jax\njax.devices()\nraise RuntimeError('backend')"
  process = start(f"import os\nos.environ['JAX_PLATFORMS'] = 'cpu'\n{work}")
  assert finish(process)[2].endswith("RuntimeError: backend\n")
