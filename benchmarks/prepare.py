"""Items per second of `prepare` with one and with two processes, in one run.

  python -m benchmarks.prepare --source=videos [--items=64]

Prepares a folder's videos repeatedly, without captions. Times are of full runs, with
the start of processes and the merge. The numbers of processes alternate, since other
load on the machine changes; medians are printed.
"""

import os
import statistics
import tempfile
import time

from absl import app, flags

from vtr_jax.prepare import merge, run
from vtr_jax.prepare.formats import base
from vtr_jax.prepare.options import Options
from vtr_jax.prepare.place import Place

_SOURCE = flags.DEFINE_string("source", None, "Directory of videos.", required=True)
_ITEMS = flags.DEFINE_integer("items", 64, "Items to prepare each time.")
_TURNS = flags.DEFINE_integer("turns", 3, "Runs of each number of processes.")
_WORKERS = flags.DEFINE_list("workers", ["1", "2"], "Numbers of processes.")


def seconds(items: list[base.Item], workers: int) -> float:
  """Seconds of one full preparation."""
  with tempfile.TemporaryDirectory() as out:
    began = time.perf_counter()
    run.prepare(
      Place(out, "timed"),
      items,
      dict(format="folder"),
      Options(allow_no_captions=True),
      run.Run(workers=workers),
      merge.Final(bad_budget=1.0),
      shard_size=32,
      seed=0,
    )
    return time.perf_counter() - began


def main(argv: list[str]) -> None:
  del argv
  found = base.open("folder", base.Request(_SOURCE.value, split="test"))
  items = [
    found[i % len(found)]._replace(id=str(i), split="test") for i in range(_ITEMS.value)
  ]
  taken: dict[int, list[float]] = {int(workers): [] for workers in _WORKERS.value}
  for _ in range(_TURNS.value):
    for workers, times in taken.items():
      times.append(seconds(items, workers))
  print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
  first = None
  for workers, times in taken.items():
    rate = len(items) / statistics.median(times)
    first = first or rate
    print(f"{workers} processes: {rate:.2f} items/s, {rate / first:.2f} x the first")


if __name__ == "__main__":
  app.run(main)
