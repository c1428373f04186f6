"""Memory does not grow: thousands of decodes, hundreds of steps."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from test_loop import bare

pytestmark = pytest.mark.nightly

DECODES = """
import io, json, os, sys
sys.path[:0] = json.loads(sys.argv[1])
import av, clips, damage, movies, numpy as np
from vtr_jax.data import crops; from vtr_jax.data.video import stream, decode as video
from vtr_jax.core.errors import BadSample

# Each of these prints some megabytes of complaints.
av.logging.set_level(av.logging.PANIC)
spread = lambda n: video.frame_indices(n, 8, "segments", 1, None)
view = lambda h, w: crops.resize_view(h, w, 32)
files = [movies.movie(kind) for kind in movies.KINDS]
files += [*damage.damaged().values(), *damage.damaged(0.8).values(), clips.mp4()]
page, bad = os.sysconf("SC_PAGE_SIZE"), 0
for i in range(4000):
  data = files[i % len(files)]
  try:
    if i % 4:
      video.decode(data, spread, view, needed=8)
    else:
      file = io.BytesIO(data)
      line = stream.timeline(file)
      list(stream.clips(file, line, [np.array([0, 3]), np.array([5])], view))
  except BadSample:
    bad += 1
  if i % 20 == 19:
    print(i, int(open("/proc/self/statm").read().split()[1]) * page)
print("bad", bad)
"""

STEPS = """
import json, multiprocessing, os, sys
from vtr_jax.train import progress, loop as train

page, add = os.sysconf("SC_PAGE_SIZE"), progress.Progress.add

def rss(pid):
  return int(open(f"/proc/{pid}/statm").read().split()[1]) * page

def told(log, done, numbers):
  add(log, done, numbers)
  if done % 10 == 0:
    (worker,) = multiprocessing.active_children()
    print("rss", done, rss("self"), rss(worker.pid), flush=True)

progress.Progress.add = told
train.train_and_evaluate(json.loads(sys.argv[1]), sys.argv[2])
"""


def lines(code, *args):
  run = subprocess.run(
    [sys.executable, "-c", code, *map(str, args)],
    cwd=ROOT,
    env=os.environ,
    capture_output=True,
    text=True,
  )
  assert run.returncode == 0, run.stderr[-2000:]
  return [line.split() for line in run.stdout.splitlines()]


def slope(at, held):
  """Bytes by one, of the second half: the first fills caches."""
  half = len(at) // 2
  return np.polyfit(np.float64(at[half:]), np.float64(held[half:]), 1)[0]


def test_thousands_of_decodes(record_property):
  """Good files of 18 formats, and damaged ones, for training and for search."""
  found = lines(DECODES, json.dumps([str(Path(__file__).parents[1] / "support")]))
  assert int(found.pop()[1]) > 1000
  at, held = zip(*found, strict=True)
  growth = slope(at, held)
  told = f"{growth:.0f} bytes a decode, {int(held[-1]) / 1e6:.0f} MB held"
  record_property("memory of 4,000 decodes", told)
  assert growth < 1000


@pytest.mark.parametrize(
  ("saves", "limit"),
  [
    (1000, 5_000),  # bytes a step, of steps alone
    (20, 40_000),  # with saves and evaluations; orbax keeps some 100 kB of each save
  ],
)
def test_hundreds_of_steps(smoke, tmp_path, saves, limit, record_property):
  """Of the run and of its loader's process."""
  evals = dict(validation=smoke["evals"]["validation"] | dict(every=saves))
  config = bare(smoke, steps=800, log_every=10, checkpoint_every=saves)
  config["evals"] = json.loads(json.dumps(evals))
  config["data"]["num_workers"] = 1
  found = lines(STEPS, json.dumps(config), tmp_path / "run")
  _, at, run, worker = zip(*(x for x in found if x[0] == "rss"), strict=True)
  growth = slope(at, run), slope(at, worker)
  for who, one, held in zip(("run", "worker"), growth, (run, worker), strict=True):
    told = f"{one / 1e3:.2f} kB a step, {int(held[-1]) / 1e6:.0f} MB held"
    record_property(f"memory of 800 steps, saved every {saves}, of the {who}", told)
  assert max(growth) < limit
