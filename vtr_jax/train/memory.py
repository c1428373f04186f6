"""What a step needs of a device's memory: told before it runs, and when it fails."""

from typing import Any

import jax
from jax.sharding import Mesh

from vtr_jax.core.errors import ConfigError


def say(jitted: Any, *args: Any) -> str:
  """One line: bytes of a device that `jitted(*args)` takes, by the compiler's count.

  Compiles it; the call that follows finds it compiled.
  """
  stats = jitted.lower(*args).compile().memory_analysis()
  if stats is None:  # a back end that does not count
    return "memory of a step: not known on this back end"
  held = stats.argument_size_in_bytes + stats.output_size_in_bytes
  held -= stats.alias_size_in_bytes
  work = stats.temp_size_in_bytes
  line = (
    f"a step takes {_bytes(held + work)} of a device's memory: {_bytes(held)} state "
    f"and batch, {_bytes(work)} work"
  )
  limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
  if limit and held + work > limit:
    line += f", more than the {_bytes(limit)} that are there"
  return line


def _bytes(count: float) -> str:
  for unit in ("B", "KB", "MB", "GB"):
    if count < 1000:
      return f"{count:.3g} {unit}"
    count /= 1000
  return f"{count:.3g} TB"


def is_full(error: Exception) -> bool:
  """Whether a device, or the host for it, had no memory left."""
  return isinstance(error, jax.errors.JaxRuntimeError) and (
    "RESOURCE_EXHAUSTED" in str(error)
  )


def advice(config: Any, mesh: Mesh) -> ConfigError:
  """What can be done, what gains most first; only what is not done yet.

  Args:
    config: the run's TrainConfig.
    mesh: that it has.
  """
  c, compute = config, config.objective.get("compute", {})
  rows = mesh.shape["data"] * mesh.shape["fsdp"]
  fits = lambda size, parts: size > 1 and size % (rows * parts) == 0
  ways = []
  if compute.get("remat", "full") not in ("full", "offload"):
    ways.append("config.objective.compute.remat=full keeps only blocks' inputs")
  if fits(c.batch_size, 2 * c.micro_batches):
    ways.append(
      f"config.micro_batches={2 * c.micro_batches} embeds smaller parts, and the "
      "contrastive loss stays that of the whole batch"
    )
  if mesh.shape["fsdp"] < mesh.size:
    ways.append("config.mesh.fsdp splits parameters and optimiser over devices")
  if fits(c.batch_size // 2, c.micro_batches):
    ways.append(f"config.batch_size={c.batch_size // 2}")
  if c.clip.num_frames > 1:
    ways.append(f"config.clip.num_frames={c.clip.num_frames // 2}")
  ways.append("a larger config.mask.video_ratio, where hidden places are left out")
  if c.contrastive.form == "dense" and c.batch_size >= 4096:
    ways.append("config.contrastive.form=ring holds no whole matrix of similarities")
  if c.optim.moments == "float32":
    ways.append("config.optim.moments=bfloat16")
  listed = "; ".join(f"{i}) {way}" for i, way in enumerate(ways, 1))
  return ConfigError(f"out of memory in a step; what helps, most first: {listed}")
