"""Clips per second of the loader, against those that the training step consumes.

  python -m benchmarks.loader [--config=configs/simvtp.py]

Both are measured in one run, one after the other, with the config's own data, batch and
model; only the number of workers varies.
"""

import dataclasses
import os
import time

from absl import app, flags
from ml_collections import config_flags

from benchmarks.step import Case
from vtr_jax.core.config import read
from vtr_jax.data import loader, sources
from vtr_jax.data.moving_shapes import build as moving_shapes
from vtr_jax.data.tokenizers import base as tokenizers
from vtr_jax.train.config import TrainConfig

_CONFIG = config_flags.DEFINE_config_file("config", "configs/simvtp.py")
_WORKERS = flags.DEFINE_list("workers", ["0", "1", "2"], "Worker processes to try.")
_SECONDS = flags.DEFINE_float("seconds", 8.0, "Measured time of each.")


def loader_rate(config: TrainConfig, workers: int) -> tuple[float, float]:
  """(seconds to the first batch, clips per second once it runs)."""
  directory = sources.find(config.data.dir, config.data.name)
  tokenizer = tokenizers.load(os.path.join(directory, moving_shapes.TOKENIZER))
  began = time.perf_counter()
  with loader.train_batches(
    dataclasses.replace(config.data, num_workers=workers),
    config.clip,
    config.text,
    config.make_objective().mask,
    tokenizer,
    batch_size=config.batch_size,
    seed=0,
  ) as batches:
    next(batches)
    first = time.perf_counter() - began
    # Batches prefetched during start-up would count as speed.
    for _ in range(8):
      next(batches)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < _SECONDS.value:
      next(batches)
      count += config.batch_size
    return first, count / (time.perf_counter() - began)


def step_rate(config: TrainConfig, steps: int = 6) -> float:
  """Clips per second of the step alone."""
  case = Case(config, config.mask.video_ratio, config.batch_size)
  case.run()  # the first pages in its buffers
  began = time.perf_counter()
  for _ in range(steps):
    case.run()
  return steps * config.batch_size / (time.perf_counter() - began)


def main(_) -> None:
  config = read(TrainConfig, _CONFIG.value.to_dict())
  name, _, variant = config.data.name.partition("/")
  if name == "moving_shapes":
    moving_shapes.build(config.data.dir, variant)
  consumed = step_rate(config)
  print(f"{config.name}: the step alone consumes {consumed:.0f} clips/s")
  for workers in map(int, _WORKERS.value):
    first, rate = loader_rate(config, workers)
    print(
      f"workers {workers}: {rate:6.0f} clips/s, {rate / consumed:5.1f} times the step, "
      f"first batch after {first:.1f} s"
    )


if __name__ == "__main__":
  app.run(main)
