"""The chips that a plan can be made for, and their layouts.

Peaks, memory and bandwidth of a chip are the manufacturers' (cloud.google.com/tpu/docs,
each version's page, read 2025; NVIDIA's data sheets). A device of JAX is a chip, but
half a chip on 7x.
"""

import dataclasses
import math
import os
import re
from typing import Any

import jax

from vtr_jax.core.config import nearest, require
from vtr_jax.core.errors import ConfigError, one_line
from vtr_jax.train import flops

GIB = 2.0**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """One device, as JAX counts them; None = unknown."""

  kind: str  # `device_kind`
  memory: float | None  # bytes
  bandwidth: float | None  # bytes/s
  peak: float | None  # dense bfloat16 products, FLOP/s
  per_chip: int = 1  # devices per chip
  axes: int = 2  # of a slice
  options: tuple[tuple[str, Any], ...] = ()  # of get_topology_desc


def _tpu(kind: str, gib: float, bandwidth: float, per_chip: int = 1, **more) -> Chip:
  peak = flops.PEAKS[kind]  # per device
  return Chip(kind, gib * GIB / per_chip, bandwidth / per_chip, peak, per_chip, **more)


TPUS = {
  "v4": _tpu("TPU v4", 32, 1228e9, axes=3, options=(("chip_config_name", "megacore"),)),
  "v5e": _tpu("TPU v5 lite", 16, 819e9),
  "v5p": _tpu("TPU v5", 95, 2765e9, axes=3),
  "v6e": _tpu("TPU v6 lite", 32, 1640e9),
  "7x": _tpu("TPU7x", 192, 7380e9, per_chip=2, axes=3),
}
_GPUS = {  # GiB, bytes/s
  "NVIDIA A100-SXM4-40GB": (40, 1555e9),
  "NVIDIA A100-SXM4-80GB": (80, 2039e9),
  "NVIDIA H100 80GB HBM3": (80, 3350e9),
  "NVIDIA H100 PCIe": (80, 2000e9),
  "NVIDIA H200": (141, 4800e9),
}
KNOWN = "v4:2x2x1, v5e:16x16, v5p:4x4x8, v6e:16x16, 7x:4x4x4 (any size), local"


@dataclasses.dataclass(frozen=True)
class Target:
  """The devices that a plan is made for."""

  name: str  # v5e:16x16 | local
  slices: int
  count: int  # devices
  chip: Chip
  devices: tuple[Any, ...] | None  # None: estimate, do not compile

  @property
  def chips(self) -> float:
    """Number of chips, as they are rented."""
    return self.count / self.chip.per_chip

  @property
  def slice_of(self) -> dict[int, int]:
    """Slice of each device, by its id."""
    return {d.id: getattr(d, "slice_index", 0) for d in self.devices or ()}


def find(name: str, slices: int = 1, compiler: bool = True) -> Target:
  """The target that `--topology` names.

  Args:
    name: a chip and the layout of a slice, or local.
    slices: number of slices, connected by the data centre's network.
    compiler: False = estimate by arithmetic, even if a compiler is installed.

  Raises:
    ConfigError: no such chip or layout.
  """
  require(slices > 0, f"--slices: {slices} must be positive")
  if name == "local":
    require(slices == 1, f"--slices: {slices}, but local is one slice; leave it out")
    here = _local()
    return here if compiler else dataclasses.replace(here, devices=None)
  match = re.fullmatch(r"(\w+):(\d+(?:x\d+)+)", name)
  if not match:
    raise ConfigError(f"--topology: {name!r} is not a chip and layout; known: {KNOWN}")
  family, layout = match[1].removeprefix("tpu"), match[2]
  if family not in TPUS:
    raise ConfigError(
      f"--topology: {name!r}: unknown chip, {nearest(family, TPUS)}; known: {KNOWN}"
    )
  chip, sizes = TPUS[family], [int(n) for n in layout.split("x")]
  if len(sizes) != chip.axes or 0 in sizes:
    like = "4x4x4"[: 2 * chip.axes - 1]
    raise ConfigError(
      f"--topology: {name!r}: {family} has {chip.axes} axes, as {family}:{like}"
    )
  devices = _described(name, family, layout, slices) if compiler else None
  count = math.prod(sizes) * chip.per_chip * slices
  return Target(name, slices, count, chip, devices)


def compiler_version() -> str | None:
  """libtpu's, None where it is not installed."""
  import importlib.metadata

  try:
    return importlib.metadata.version("libtpu")
  except importlib.metadata.PackageNotFoundError:
    return None


def _described(name: str, family: str, layout: str, slices: int) -> tuple | None:
  """Devices of a topology, as libtpu describes them; none need be attached."""
  if compiler_version() is None:
    return None
  # Otherwise libtpu warns about a missing TPU, Google's metadata and its lock.
  quiet = dict(
    TPU_SKIP_MDS_QUERY="1",
    TPU_ACCELERATOR_TYPE="v5litepod-4",
    TPU_WORKER_HOSTNAMES="localhost",
    TPU_MIN_LOG_LEVEL="3",
    TPU_STDERR_LOG_LEVEL="3",
    ALLOW_MULTIPLE_LIBTPU_LOAD="1",
  )
  for key, value in quiet.items():
    os.environ.setdefault(key, value)
  from jax.experimental import topologies

  options: dict[str, Any] = dict(TPUS[family].options)
  if slices > 1:
    options["num_slices"] = slices
  if set(layout.split("x")) == {"1"}:
    options["chips_per_host_bounds"] = (1, 1, 1)
  library = "tpu7x" if family == "7x" else family
  try:
    described = topologies.get_topology_desc(
      platform="tpu", topology_name=f"{library}:{layout}", **options
    )
  except Exception as e:  # libtpu raises many types
    raise ConfigError(
      f"--topology: {name!r} is rejected by libtpu ({one_line(e)}); known: {KNOWN}"
    ) from None
  return tuple(described.devices)


def _local() -> Target:
  devices = jax.devices()
  first = devices[0]
  stats = first.memory_stats() or {}
  gib, bandwidth = _GPUS.get(first.device_kind, (None, None))
  listed = [c for c in TPUS.values() if c.kind == first.device_kind]
  memory = stats.get("bytes_limit") or (gib and gib * GIB)
  chip = Chip(first.device_kind, memory, bandwidth, flops.PEAKS.get(first.device_kind))
  if listed:
    chip = dataclasses.replace(listed[0], memory=memory or listed[0].memory)
  return Target("local", 1, len(devices), chip, tuple(devices))
