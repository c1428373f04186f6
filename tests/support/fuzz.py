"""Damaged inputs, and what every reader must do: accept, or reject in one line.

Hypothesis draws the seeds of the mutations, the same ones each time.
"""

import contextlib
import functools
import multiprocessing
import random
import resource
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import TimeoutError as WorkerTimeout
from pathlib import Path
from typing import Any, NamedTuple

import av
import hypothesis
import pebble
import pytest
from hypothesis import strategies as st
from mutations import DAMAGED, mutate, written

from vtr_jax.core.errors import VtrError

_MAX_ADDRESSES = 3 << 30  # bytes of address space that one call may add
_MAX_GROWTH = 700 << 10  # KiB of resident memory that one call may add
_MAX_SECONDS = 10  # of CPU time
_LATE = (pytest.mark.nightly, pytest.mark.timeout(1800))


class Inputs(NamedTuple):
  """Good files by name, damaged inputs that were once handled wrongly, and `make`.

  The content of a file is as for `mutations.mutate`; a tuple holds alternatives, and an
  empty file is not mutated. `make` damages files: random generator -> bytes by name.
  Without files, its values are what the reader gets.
  """

  files: Mapping[str, Any]
  examples: Iterable[Any] = ()
  make: Callable[[random.Random], Any] | None = None


class Case(NamedTuple):
  """A reader of damaged files, by the folder that holds them, or of other inputs."""

  name: str
  counts: tuple[int, int]  # of inputs by day and at night, besides the examples
  inputs: Inputs | Callable[[Path], Inputs]  # or writes them to an empty folder
  read: Callable[[Any], object]  # raises where the outcome is wrong
  in_worker: bool = False  # whether `read` is called in a process of its own


class Cases(list):
  """A table of cases."""

  def reader(self, day, night, inputs, *examples, name=""):
    """Adds the decorated reader."""
    inputs = Inputs(inputs, examples) if isinstance(inputs, dict) else inputs

    def add(read):
      label = name or read.__name__.replace("_", "-")
      self.append(Case(label, (day, night), inputs, read))
      return read

    return add

  def each(self, test):
    """Parametrises a test with `case, count`: few inputs by day, many at night."""
    params = [pytest.param(c, c.counts[0], id=c.name) for c in self]
    for c in self:
      params.append(pytest.param(c, c.counts[1], id=f"{c.name}-nightly", marks=_LATE))
    return pytest.mark.parametrize(("case", "count"), params)(test)


def sized(day, night):
  """Parametrises the `count` of inputs likewise."""
  sizes = pytest.param(day, id="day"), pytest.param(night, id="nightly", marks=_LATE)
  return pytest.mark.parametrize("count", sizes)


@pytest.fixture
def run(record_property, tmp_path, worker):
  """Calls the reader of a case with the examples and `count` damaged inputs."""

  def run(case: Case, count: int):
    inputs = case.inputs
    inputs = inputs if isinstance(inputs, Inputs) else inputs(tmp_path)
    call = worker if case.in_worker else lambda read, value: read(value)
    files = {k: v if isinstance(v, tuple) else (v,) for k, v in inputs.files.items()}
    contents = [(name, x) for name in sorted(files) for x in files[name] if x]
    place = tmp_path / "input"

    def one_file(rng):
      name, content = rng.choice(contents)
      return {name: mutate(content, rng)}

    def read_files(damaged):
      shutil.rmtree(place, ignore_errors=True)
      good = {name: written(alternatives[0]) for name, alternatives in files.items()}
      for name, data in (good | damaged).items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
      call(case.read, place)

    check = read_files if files else functools.partial(call, case.read)
    examples = [{name: data} for name in dict(contents) for data in DAMAGED]
    examples += inputs.examples
    make = inputs.make or one_file
    explore(record_property, case.name, count, make, check, *examples)

  return run


def explore(record, name, count, make, check, *examples):
  """Calls `check` with the examples, then with `count` inputs or a few less.

  `make` draws them from a random generator; `record`, pytest's record_property, gets
  the total.
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
  # Inputs of a `Random` with a drawn seed differ far more than drawn ones.
  seeds = st.integers(0, 2**48 - 1)
  with warnings.catch_warnings():
    # That an input is long to print must not hide what is wrong with it.
    warnings.simplefilter("ignore", hypothesis.errors.HypothesisWarning)
    settings(hypothesis.given(seeds.map(lambda seed: make(random.Random(seed))))(one))()
  record(f"fuzz inputs, {name}", len(tried))


def outcome(call, *names):
  """The result of `call`, or None if it rejects its input.

  It does so in one line that holds one of `names`: a file or a key.
  """
  with bounded():
    try:
      return call()
    except VtrError as e:
      error = e
  line = str(error)
  assert line.splitlines() == [line], repr(line)
  assert not names or any(str(name) in line for name in names), repr(line)
  cause: BaseException | None = error
  while cause := cause.__cause__ or cause.__context__:
    # FFmpeg reports a lack of memory before it allocates any.
    reported = isinstance(cause, av.FFmpegError)
    assert reported or not isinstance(cause, MemoryError), line
  return None


@contextlib.contextmanager
def bounded():
  """Fails if the block takes much time or memory."""
  soft, hard = resource.getrlimit(resource.RLIMIT_AS)
  with open("/proc/self/statm") as f:
    now = int(f.read().split()[0]) * resource.getpagesize()
  before, start = _peak(), time.thread_time()
  resource.setrlimit(resource.RLIMIT_AS, (now + _MAX_ADDRESSES, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
  assert time.thread_time() - start < _MAX_SECONDS
  assert _peak() - before < _MAX_GROWTH


def _peak():
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.fixture(scope="module")
def worker():
  """Calls functions in a process of its own, so that its death or hang is seen."""
  pool = pebble.ProcessPool(1, context=multiprocessing.get_context("spawn"))

  def call(function, *args, seconds=120):
    try:
      return pool.schedule(function, args=args, timeout=seconds).result()
    except pebble.ProcessExpired as e:
      raise AssertionError(f"the process has died: {e}, code {e.exitcode}") from e
    except WorkerTimeout as e:
      raise AssertionError(f"no answer in {seconds} s") from e

  yield call
  pool.stop()
  pool.join()
