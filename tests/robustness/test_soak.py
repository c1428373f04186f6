"""Memory does not grow: thousands of decodes, hundreds of steps."""

import json
import os
import subprocess

import numpy as np
import pytest
from conftest import ROOT, program
from training import without_evals

pytestmark = pytest.mark.nightly


def lines(name, *args):
  run = subprocess.run(
    [*program(name), *map(str, args)],
    cwd=ROOT,
    env=os.environ | dict(PYTHONPATH=str(ROOT / "tests/support")),
    capture_output=True,
    text=True,
  )
  assert run.returncode == 0, run.stderr[-2000:]
  return [line.split() for line in run.stdout.splitlines()]


def growth_rate(at, resident):
  """Bytes per iteration over the second half: the first half fills caches."""
  half = len(at) // 2
  return np.polyfit(np.float64(at[half:]), np.float64(resident[half:]), 1)[0]


def test_memory_does_not_grow_over_thousands_of_decodes(record_property):
  """Good files of 18 formats, and damaged ones, for training and for search."""
  found = lines("decode_many")
  assert int(found.pop()[1]) > 1000
  at, resident = zip(*found, strict=True)
  growth = growth_rate(at, resident)
  measured = f"{growth:.0f} bytes a decode, {int(resident[-1]) / 1e6:.0f} MB held"
  record_property("memory of 4,000 decodes", measured)
  assert growth < 1000


@pytest.mark.parametrize(
  ("saves", "limit"),
  [
    (1000, 5_000),  # bytes a step, of steps alone
    (20, 40_000),  # with saves and evaluations; orbax keeps some 100 kB of each save
  ],
)
def test_memory_does_not_grow_over_hundreds_of_steps(
  smoke, tmp_path, saves, limit, record_property
):
  """Neither of the run nor of its loader's process."""
  evals = dict(validation=smoke["evals"]["validation"] | dict(every=saves))
  config = without_evals(smoke, steps=800, log_every=10, checkpoint_every=saves)
  config["evals"] = json.loads(json.dumps(evals))
  config["data"]["num_workers"] = 1
  found = lines("report_memory", json.dumps(config), tmp_path / "run")
  _, at, run, worker = zip(*(x for x in found if x[0] == "rss"), strict=True)
  growth = growth_rate(at, run), growth_rate(at, worker)
  for who, one, resident in zip(("run", "worker"), growth, (run, worker), strict=True):
    measured = f"{one / 1e3:.2f} kB a step, {int(resident[-1]) / 1e6:.0f} MB held"
    record_property(f"memory of 800 steps, saved every {saves}, of the {who}", measured)
  assert max(growth) < limit
