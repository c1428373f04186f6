"""A bucket and a disk: records and clips per second, step time and data wait.

  python -m benchmarks.buckets [--bucket=gs://bucket/folder] [--rounds=3]

Everything is measured in turns, disk and bucket, and the medians' ratios are printed.
Without --bucket a fake server on loopback is started (tests/support/bucket.py): its
latency is that of this machine, so the ratios are bounds for no real bucket. Runs train
by the config with a save every --save_every steps.
"""

import dataclasses
import os
import pathlib
import statistics
import sys
import tempfile
import time
from typing import Any

import numpy as np
from absl import app, flags
from ml_collections import config_flags

from benchmarks.rates import clips_rate
from vtr_jax.core import buckets, paths
from vtr_jax.core.config import read
from vtr_jax.core.mirror import Mirror
from vtr_jax.data import loader, sources
from vtr_jax.data.embedded import build as embedded
from vtr_jax.data.tokenizers import base as tokenizers
from vtr_jax.train import writer
from vtr_jax.train.config import TrainConfig, with_defaults
from vtr_jax.train.loop import train_and_evaluate

_CONFIG = config_flags.DEFINE_config_file("config", "configs/mac.py:smoke")
_BUCKET = flags.DEFINE_string("bucket", "", "gs://bucket/folder; a fake one if empty.")
_VARIANT = flags.DEFINE_string("variant", "tiny", "Variant of moving_shapes.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Measurements of each.")
_SECONDS = flags.DEFINE_float("seconds", 5.0, "Measured time of each.")
_STEPS = flags.DEFINE_integer("steps", 60, "Steps of a run.")
_SAVE_EVERY = flags.DEFINE_integer("save_every", 15, "Steps between saves.")


def records_rate(data: str, name: str) -> float:
  """Records per second in random order, one at a time."""
  split = sources.open_split(sources.find(data, name), "train")
  order = np.random.default_rng(0).integers(0, len(split), 100_000)
  began, count = time.perf_counter(), 0
  while time.perf_counter() - began < _SECONDS.value:
    split[int(order[count])]
    count += 1
  return count / (time.perf_counter() - began)


def loader_rate(config: TrainConfig, data: str, name: str) -> float:
  """Clips per second of the loader with one worker process, once it runs."""
  directory = sources.find(data, name)
  vocabulary = buckets.copied(paths.anywhere(directory) / embedded.TOKENIZER)
  objective = config.make_objective()
  with loader.train_batches(
    dataclasses.replace(config.data, dir=data, name=name, num_workers=1),
    config.clip,
    config.text,
    objective.mask,
    tokenizers.load(str(vocabulary)),
    batch_size=config.batch_size,
    seed=0,
    rows=objective.rows,
  ) as batches:
    return clips_rate(batches, config.batch_size, _SECONDS.value)


def run(values: dict[str, Any], data: str, workdir: str, local: pathlib.Path) -> dict:
  """Seconds of a step and the share of them that waits for data, after the first."""
  values = values | dict(
    steps=_STEPS.value,
    checkpoint_every=_SAVE_EVERY.value,
    log_every=_SAVE_EVERY.value,
    evals={},
    data=values["data"] | dict(dir=data),
  )
  train_and_evaluate(values, workdir)
  lines = [r for r in writer.read(local / "metrics.jsonl") if "data_wait" in r]
  later = lines[1:] or lines
  rate = statistics.mean(r["clips_per_second"] for r in later)
  wait = statistics.mean(r["data_wait"] for r in later)
  return dict(step=values["batch_size"] / rate, wait=wait)


def main(argv: list[str]) -> None:
  del argv
  values = with_defaults(_CONFIG.value.to_dict())
  config, name = read(TrainConfig, values), f"moving_shapes/{_VARIANT.value}"
  with tempfile.TemporaryDirectory() as folder:
    root, server, bucket = pathlib.Path(folder), None, _BUCKET.value
    tempfile.tempdir = str(root)
    if not bucket:
      sys.path.append(str(pathlib.Path(__file__).parents[1] / "tests" / "support"))
      from bucket import Server  # pyright: ignore (tests/support)

      server, bucket = Server(), "gs://bucket/bench"
      os.environ |= server.environ
    try:
      measure(config, values, name, root, bucket)
    finally:
      if server:
        server.kill()


def measure(
  config: TrainConfig,
  values: dict[str, Any],
  name: str,
  root: pathlib.Path,
  bucket: str,
) -> None:
  """Prints the table."""
  origin = embedded.build(root / "data", f"moving_shapes/{_VARIANT.value}")
  buckets.upload(origin, f"{bucket}/data/{name}/{origin.name}", "dataset_info.json")
  places = dict(disk=str(root), bucket=bucket)
  found: dict[str, dict[str, list[float]]] = {}
  add = lambda what, place, value: (
    found.setdefault(what, {}).setdefault(place, []).append(value)
  )
  for number in range(_ROUNDS.value):
    for place, base in places.items():
      data, workdir = f"{base}/data", f"{base}/run-{number}"
      add("records/s, one at a time", place, records_rate(data, name))
      add("clips/s of the loader, one worker", place, loader_rate(config, data, name))
      values["data"] = values["data"] | dict(name=name)
      timed = run(values, data, workdir, Mirror(workdir).local)
      add("ms of a step, with saves", place, 1000 * timed["step"])
      add("% of it waiting for data", place, 100 * timed["wait"])
  print(f"\n| {_ROUNDS.value} turns, medians | disk | bucket | ratio |")
  print("|---|---:|---:|---:|")
  for what, by in found.items():
    disk, there = (statistics.median(by[place]) for place in places)
    ratio = f"{there / disk:.2f}" if disk else ""
    print(f"| {what} | {disk:.1f} | {there:.1f} | {ratio} |", flush=True)


if __name__ == "__main__":
  app.run(main)
