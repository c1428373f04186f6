"""Memory of large contrastive batches: forms of the loss, and microbatches.

  python -m benchmarks.large_batch [--rows=8192] [--config=configs/mac.py]
    [--batch_size=4096] [--parts=8,32,64]

First the loss and its gradient, on eight simulated devices: bytes of a device by the
compiler's count, and times, measured alternately. Then training steps of the config
with `micro_batches`, each in its own process: peak memory (including Python and
libraries) and time of a step. The full batch without microbatches may not fit, so only
the compiler's count is given.
"""

import os
import resource
import statistics
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import config_flags

from vtr_jax.core import batch, sharding
from vtr_jax.core.config import read
from vtr_jax.objectives.contrastive import ContrastConfig, contrast
from vtr_jax.train import memory
from vtr_jax.train.config import TrainConfig

_CONFIG = config_flags.DEFINE_config_file("config", "configs/mac.py")
_ROWS = flags.DEFINE_integer("rows", 8192, "Pairs of the loss alone.")
_CHUNK = flags.DEFINE_integer("chunk", 256, "Rows per chunk of the other two forms.")
_BATCH = flags.DEFINE_integer("batch_size", 4096, "Clips of a training step.")
_PARTS = flags.DEFINE_list("parts", ["8", "32", "64"], "micro_batches to be tried.")
_CHILD = flags.DEFINE_string("child", "", "What this process measures; set by itself.")

WIDTH = 256  # of the embeddings, as in the papers' code


def forms() -> None:
  """Value and gradient of the loss on eight devices."""
  mesh = sharding.make_mesh(sharding.MeshConfig(8, 1, 1))
  rng = np.random.default_rng(0)
  rows = NamedSharding(mesh, PartitionSpec(sharding.ROWS))
  l2_normalize = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
  pair = [
    jax.device_put(
      l2_normalize(rng.normal(size=(_ROWS.value, WIDTH))).astype("f"), rows
    )
    for _ in range(2)
  ]
  valid = jax.device_put(np.ones(_ROWS.value, bool), rows)
  cases = {}
  with sharding.scope(mesh):
    for form in ("dense", "chunked", "ring"):
      config = ContrastConfig("info_nce", form, _CHUNK.value, 0.0)
      loss = lambda v, t, config=config: contrast(config, v, t, 20.0, valid)
      cases[form] = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*pair).compile()
    times = {form: [] for form in cases}
    for _ in range(4):
      for form, run in cases.items():
        begin = time.perf_counter()
        jax.block_until_ready(run(*pair))
        times[form].append(time.perf_counter() - begin)
  bytes_of = {f: c.memory_analysis().temp_size_in_bytes for f, c in cases.items()}
  first = statistics.median(times["dense"][1:])
  print(f"{_ROWS.value} pairs on 8 devices, chunk {_CHUNK.value}, InfoNCE and gradient")
  print("form      MB a device   / dense    ms    / dense ")
  for form, values in times.items():
    seconds, share = statistics.median(values[1:]), bytes_of[form] / bytes_of["dense"]
    print(
      f"{form:8}  {bytes_of[form] / 1e6:11.1f}   {share:8.3f}   {1e3 * seconds:5.0f}   "
      f"{seconds / first:5.2f}"
    )


def train(parts: int, steps: int = 3) -> None:
  """Steps with `parts` microbatches; for one, only the compiler's count."""
  values = _CONFIG.value.to_dict() | dict(batch_size=_BATCH.value, micro_batches=parts)
  config = read(TrainConfig, values)
  recipe, mesh = config.parts(), sharding.make_mesh(config.mesh)
  now, run = recipe.init(mesh), recipe.train_step(mesh)
  with sharding.scope(mesh):
    told = memory.report(run.jitted, now, recipe.spec)
  if parts == 1:
    return print(f"{parts:5}  not run: {told}")
  mask = config.make_objective().mask
  fake = batch.fake(config.clip, config.text, mask, config.batch_size)
  on_device, times = sharding.put_batch(fake, mesh), []
  for _ in range(steps):
    begin = time.perf_counter()
    now, numbers = run(now, on_device)
    jax.block_until_ready(numbers)
    times.append(time.perf_counter() - begin)
  assert jnp.isfinite(numbers["loss/total"])
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  seconds = statistics.median(times[1:])
  print(f"{parts:5}  {peak / 1e9:7.2f} GB  {seconds:7.1f} s a step  {told}")


def main(argv: list[str]) -> None:
  logging.set_verbosity(logging.WARNING)
  if _CHILD.value == "forms":
    return forms()
  if _CHILD.value:
    return train(int(_CHILD.value))
  del argv
  again = [sys.executable, "-m", "benchmarks.large_batch"]
  given = [f for f in sys.argv[1:] if not f.startswith("--child")]
  eight = "--xla_force_host_platform_device_count=8"
  spread = dict(XLA_FLAGS=f"{os.environ.get('XLA_FLAGS', '')} {eight}", NPROC="16")
  subprocess.run([*again, *given, "--child=forms"], check=True, env=os.environ | spread)
  print(f"\n{_CONFIG.value.name}, batch {_BATCH.value}, one device")
  print("parts  peak memory  time", flush=True)
  for parts in ["1", *_PARTS.value]:
    subprocess.run([*again, *given, f"--child={parts}"], check=True)


if __name__ == "__main__":
  app.run(main)
