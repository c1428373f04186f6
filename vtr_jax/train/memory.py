"""Device memory of a step: reported before it runs, with advice when it runs out."""

from typing import Any

import jax
from jax.sharding import Mesh

from vtr_jax.core import sharding
from vtr_jax.core.errors import ConfigError


def report(jitted: Any, *args: Any) -> str:
  """One line: device memory that `jitted(*args)` needs, by the compiler's count.

  Compiles it; the next call uses the compiled program.
  """
  stats = jitted.lower(*args).compile().memory_analysis()
  if stats is None:  # a backend that does not report it
    return "memory of a step: not reported by this backend"
  held = stats.argument_size_in_bytes + stats.output_size_in_bytes
  held -= stats.alias_size_in_bytes
  work = stats.temp_size_in_bytes
  line = (
    f"a step takes {_bytes(held + work)} of a device's memory: {_bytes(held)} state "
    f"and batch, {_bytes(work)} temporary"
  )
  limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
  if limit and held + work > limit:
    line += f", more than the {_bytes(limit)} available"
  return line


def _bytes(count: float) -> str:
  for unit in ("B", "KB", "MB", "GB"):
    if count < 1000:
      return f"{count:.3g} {unit}"
    count /= 1000
  return f"{count:.3g} TB"


def is_full(error: Exception) -> bool:
  """Whether a device, or the host on its behalf, ran out of memory."""
  return isinstance(error, jax.errors.JaxRuntimeError) and (
    "RESOURCE_EXHAUSTED" in str(error)
  )


def advice(config: Any, mesh: Mesh) -> ConfigError:
  """Ways to save memory that are not used yet, the largest gain first.

  Args:
    config: the run's TrainConfig.
    mesh: the run's.
  """
  c, remat = config, config.make_objective().compute.remat
  rows = sharding.row_devices(mesh)
  fits = lambda size, micro: size > 1 and size % (rows * micro) == 0
  ways = []
  if remat not in ("full", "offload"):
    ways.append("config.objective.compute.remat=full stores only the inputs of blocks")
  if fits(c.batch_size, 2 * c.micro_batches):
    ways.append(
      f"config.micro_batches={2 * c.micro_batches} embeds smaller microbatches; the "
      "contrastive loss stays that of the full batch"
    )
  if mesh.shape["fsdp"] < mesh.size:
    ways.append("config.mesh.fsdp shards parameters and optimiser over devices")
  if fits(c.batch_size // 2, c.micro_batches):
    ways.append(f"config.batch_size={c.batch_size // 2}")
  if c.clip.num_frames > 1:
    ways.append(f"config.clip.num_frames={c.clip.num_frames // 2}")
  ways.append("a larger config.mask.video_ratio, where masked patches are dropped")
  if c.contrastive.form == "dense" and c.batch_size >= 4096:
    ways.append("config.contrastive.form=ring never holds the full similarity matrix")
  if c.optim.moments == "float32":
    ways.append("config.optim.moments=bfloat16")
  listed = "; ".join(f"{i}) {way}" for i, way in enumerate(ways, 1))
  return ConfigError(f"out of memory in a step; ways to save, largest first: {listed}")
