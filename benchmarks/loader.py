"""Clips per second of the loader, against those that the training step consumes.

  python -m benchmarks.loader [--config=configs/simvtp.py]
  python -m benchmarks.loader --augment [--workers=1]

Both are measured in one run, one after the other, with the config's own data, batch and
model; only the number of workers varies. Clips of `moving_shapes` stand in for a data
set that is not prepared: small videos that decode fast, cut and augmented as the config
says.

`--augment` measures what VideoMAE's augmentation costs instead, for the config's data
cut to clips of 16 frames of 224 pixels: CPU time of each part for one clip (medians),
then the loader without and with all of it.
"""

import dataclasses
import os
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from benchmarks.rates import clips_rate
from vtr_jax.core import sharding
from vtr_jax.core.batch import HOST_KEYS, ClipSpec
from vtr_jax.core.config import read
from vtr_jax.core.errors import DataError
from vtr_jax.data import augment, loader, sources
from vtr_jax.data.embedded import build as embedded
from vtr_jax.data.examples import read_clip
from vtr_jax.data.tokenizers import base as tokenizers
from vtr_jax.objectives import base as objectives
from vtr_jax.train.config import TrainConfig

_CONFIG = config_flags.DEFINE_config_file("config", "configs/simvtp.py")
_WORKERS = flags.DEFINE_list("workers", ["0", "1", "2"], "Worker processes to try.")
_SECONDS = flags.DEFINE_float("seconds", 8.0, "Measured time of each.")
_AUGMENT = flags.DEFINE_bool("augment", False, "Measure the cost of augmentation.")

CLIP = ClipSpec(num_frames=16, image_size=224, tubelet_size=(2, 16, 16))
FULL = augment.RandAugment(n=4)  # code: VideoMAE
ERASE = 0.25  # code: VideoMAE
ROUNDS = 15  # of each part


def batches(config: TrainConfig, workers: int) -> loader.Batches:
  """The training batches of the config."""
  directory = sources.find(config.data.dir, config.data.name)
  objective = config.make_objective()
  return loader.train_batches(
    dataclasses.replace(config.data, num_workers=workers),
    config.clip,
    config.text,
    objective.mask,
    tokenizers.load(os.path.join(directory, embedded.TOKENIZER)),
    batch_size=config.batch_size,
    seed=0,
    rows=objective.rows,
  )


def loader_rate(config: TrainConfig, workers: int) -> tuple[float, float]:
  """(seconds to the first batch, clips per second once it runs)."""
  began = time.perf_counter()
  with batches(config, workers) as loaded:
    next(loaded)
    first = time.perf_counter() - began
    return first, clips_rate(loaded, config.batch_size, _SECONDS.value)


def step_rate(config: TrainConfig, steps: int = 6) -> float:
  """Clips per second of the step alone, on one batch of the loader."""
  with batches(config, workers=0) as loaded:
    local = next(loaded)
  parts, mesh = config.parts(), sharding.make_mesh(config.mesh)
  on_device = {k: v for k, v in local.items() if k not in HOST_KEYS}
  batch = sharding.put_batch(on_device, mesh)
  state, step = parts.init(mesh), parts.train_step(mesh)
  began = 0.0
  for done in range(steps + 1):
    state, metrics = step(state, batch)
    jax.block_until_ready((state, metrics))
    if not done:  # compiled, buffers paged in
      began = time.perf_counter()
  return steps * config.batch_size / (time.perf_counter() - began)


def cpu_time(work: Callable[[], object]) -> float:
  """Median milliseconds of CPU time, after one round of warm-up."""
  times = []
  for _ in range(ROUNDS + 1):
    began = time.process_time()
    work()
    times.append(1000 * (time.process_time() - began))
  return statistics.median(times[1:])


def augmentation_parts(config: TrainConfig) -> None:
  """Prints the cost of decoding, of each operation and of erasing one clip."""
  video = config.data.open()[0]["video"]
  rng = np.random.default_rng(0)
  decoded = lambda: read_clip(video, CLIP, config.data, rng)
  clip = decoded()
  print(f"one clip of {config.data.name}, ms of CPU time:")
  decoding = cpu_time(decoded)
  print(f"  {'decode, crop':20} {decoding:6.1f}")
  costs = {
    name: cpu_time(lambda name=name: augment.operate(clip, [(name, 0.7)]))
    for name in augment.OPERATIONS
  }
  costs["erase"] = cpu_time(lambda: augment.erase(clip, 1.0, CLIP.mean, CLIP.std, rng))
  for name, cost in costs.items():
    print(f"  {name:20} {cost:6.1f}")
  erase = costs.pop("erase")
  mean = FULL.n / 2 * statistics.mean(costs.values()) + ERASE * erase
  print(f"  {'expected of a clip':20} {mean:6.1f}")
  print(f"clips/s of a core: {1000 / decoding:.1f}, {1000 / (decoding + mean):.1f}")


def augmentation_cost(config: TrainConfig) -> None:
  """Prints `augmentation_parts`, and the loader's speed without and with them."""
  augmentation_parts(config)
  data = dataclasses.replace(config.data, mixture=())
  full = dataclasses.replace(data, rand_augment=FULL, erase=ERASE)
  config = dataclasses.replace(config, clip=CLIP, batch_size=8)
  for workers in map(int, _WORKERS.value):
    rates = [
      loader_rate(dataclasses.replace(config, data=cut), workers)[1]
      for cut in (data, full)
    ]
    print(
      f"workers {workers}: {rates[0]:6.1f} clips/s, augmented {rates[1]:6.1f}, "
      f"{rates[1] / rates[0]:.2f} times as many"
    )


def with_data(values: dict) -> TrainConfig:
  """The config, of `moving_shapes` where its own data set is not prepared."""
  data, objective = values["data"], values["objective"]
  try:
    directory = sources.find(data["dir"], data["name"])
  except DataError:
    if not embedded.is_embedded(data["name"]):
      print(f"{data['name']} is not prepared: clips of moving_shapes/full stand in")
      data = data | dict(name="moving_shapes/full", split="train", mixture=())
      objective = objective | ({"num_classes": 0} if "num_classes" in objective else {})
    directory = embedded.build(data["dir"], data["name"])
  labels = lambda of: of(directory, data["split"])
  objective = objectives.from_data(objective, labels)
  data = data | dict(curriculum=())  # clips of full length
  return read(TrainConfig, values | dict(data=data, objective=objective))


def main(_) -> None:
  config = with_data(_CONFIG.value.to_dict())
  if _AUGMENT.value:
    augmentation_cost(config)
    return
  consumed = step_rate(config)
  print(f"{config.name}: the step alone consumes {consumed:.3g} clips/s")
  for workers in map(int, _WORKERS.value):
    first, rate = loader_rate(config, workers)
    print(
      f"workers {workers}: {rate:6.1f} clips/s, {rate / consumed:5.1f} times the step, "
      f"first batch after {first:.1f} s"
    )


if __name__ == "__main__":
  app.run(main)
