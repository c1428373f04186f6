"""Mutated files, and what every reader must do with them: give a result, or one line.

Hypothesis draws the seeds of the mutations, the same ones each time.
"""

import contextlib
import multiprocessing
import random
import resource
import time
import warnings
from concurrent.futures import TimeoutError as TooLong

import av
import hypothesis
import pebble
import pytest
from hypothesis import strategies as st
from mutations import Lines, dumped, edited, edited_bytes, mutate, text, value, written

from vtr_jax.core.errors import VtrError

__all__ = (
  "Lines",
  "dumped",
  "edited",
  "edited_bytes",
  "mutate",
  "text",
  "value",
  "written",
)

_ROOM = 3 << 30  # bytes of addresses that one call may ask for
_GROWTH = 700 << 10  # KiB of memory that it may take
_SECONDS = 10  # of CPU time


def sized(short, nightly):
  """Gives a test its `count` of inputs: few, and with `-m nightly` many."""
  late = [pytest.mark.nightly, pytest.mark.timeout(1800)]
  sizes = [pytest.param(short, id="short")]
  sizes += [pytest.param(nightly, id="nightly", marks=late)]
  return pytest.mark.parametrize("count", sizes)


def explore(record, what, count, strategy, check, *examples):
  """Calls `check` with the examples, then with `count` drawn values or a few less.

  Args:
    record: pytest's record_property, which takes how many were tried.
    what: name of the parser.
    count: of values, the same ones each time.
    strategy: that draws them.
    check: raises where a value is not dealt with as it must be.
    *examples: values that once were not.
  """
  tried = []

  def one(value):
    tried.append(1)
    check(value)

  for example in examples:
    one(example)
  settings = hypothesis.settings(
    max_examples=count,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
  )
  with warnings.catch_warnings():
    # That a file is long to write out must not hide what is wrong with it.
    warnings.simplefilter("ignore", hypothesis.errors.HypothesisWarning)
    settings(hypothesis.given(strategy)(one))()
  record(f"fuzz inputs, {what}", len(tried))


def drawn(count, strategy):
  """Values that `explore` would draw."""
  found = []
  explore(lambda *_: None, "drawn", count, strategy, found.append)
  return found


def outcome(call, *names):
  """What `call` returns; None where it refuses as it must.

  Args:
    call: reads what a user gave.
    *names: a message holds one of them: a file or a key.
  """
  with bounded():
    try:
      return call()
    except VtrError as e:
      refused = e
  line = str(refused)
  assert line.splitlines() == [line], repr(line)
  assert not names or any(str(name) in line for name in names), repr(line)
  cause: BaseException | None = refused
  while cause := cause.__cause__ or cause.__context__:
    # FFmpeg says so before it asks for any.
    told = isinstance(cause, av.FFmpegError)
    assert told or not isinstance(cause, MemoryError), line
  return None


@contextlib.contextmanager
def bounded():
  """Fails where the work within takes long, or much memory."""
  soft, hard = resource.getrlimit(resource.RLIMIT_AS)
  with open("/proc/self/statm") as f:
    now = int(f.read().split()[0]) * resource.getpagesize()
  before, begin = _peak(), time.thread_time()
  resource.setrlimit(resource.RLIMIT_AS, (now + _ROOM, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
  assert time.thread_time() - begin < _SECONDS
  assert _peak() - before < _GROWTH


def _peak():
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Worker:
  """A process of its own, so that one that dies or hangs is seen. Used as a `with`."""

  def __enter__(self):
    context = multiprocessing.get_context("spawn")
    self._pool = pebble.ProcessPool(1, context=context)
    return self

  def __exit__(self, *error):
    self._pool.stop()
    self._pool.join()

  def __call__(self, function, *args, seconds=120):
    """What `function(*args)` returns there; its errors are raised here."""
    try:
      return self._pool.schedule(function, args=args, timeout=seconds).result()
    except pebble.ProcessExpired as e:
      raise AssertionError(f"the process has died: {e}, code {e.exitcode}") from e
    except TooLong as e:
      raise AssertionError(f"no answer in {seconds} s") from e


def mutated(*contents):
  """Strategy of a file's bytes: one of `contents` with some mutations.

  Args:
    *contents: bytes, text, or what becomes JSON.
  """
  return from_random(lambda rng: mutate(rng.choice(contents), rng))


def from_random(make):
  """Strategy of `make(rng)`: what a `Random` draws is far less alike."""
  seeds = st.integers(0, 2**48 - 1)
  return seeds.map(lambda seed: make(random.Random(seed)))


@contextlib.contextmanager
def replaced(path, data):
  """The file has other bytes within it."""
  before = path.read_bytes()
  path.write_bytes(data)
  try:
    yield
  finally:
    path.write_bytes(before)
