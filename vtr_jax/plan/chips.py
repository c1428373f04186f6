"""The chips that a plan can be made for, and their layouts.

Peaks, memory and bandwidth of a chip are the manufacturers' (cloud.google.com/tpu/docs,
each version's page, read 2025; NVIDIA's data sheets; plan/gpus.py). A device of JAX is
a chip, but half a chip on 7x.
"""

import dataclasses
import math
import os
import re
from typing import Any

import jax

from vtr_jax.core.config import nearest, require
from vtr_jax.core.errors import ConfigError, one_line
from vtr_jax.plan import gpus
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
  clock: float | None = None  # Hz, of the compiler's cycles
  options: tuple[tuple[str, Any], ...] = ()  # of get_topology_desc


def _tpu(
  kind: str, gib: float, bandwidth: float, matrix: int = 0, per_chip: int = 1, **more
) -> Chip:
  """A TPU.

  Args:
    kind: `device_kind`.
    gib: memory of a chip.
    bandwidth: bytes/s of a chip.
    matrix: products that a chip's matrix units add up in a cycle: units x rows x
      columns. Two operations each at the peak give the clock; 0 = unknown.
    per_chip: devices per chip.
    more: other fields of Chip.
  """
  peak = flops.PEAKS[kind]  # per device
  clock = peak / (2 * matrix) if matrix else None
  figures = dict(memory=gib * GIB / per_chip, bandwidth=bandwidth / per_chip)
  return Chip(kind, peak=peak, clock=clock, per_chip=per_chip, **figures, **more)


_MEGACORE = (("chip_config_name", "megacore"),)
# Matrix units: the same pages (architecture). v6e's page says two of 256 x 256:
# that would need 3.5 GHz, and libtpu's cycles for a large product are too few for two.
# Four fit the announced 4.7 times v5e's peak: four times the units, at 1.75 GHz.
TPUS = {
  "v4": _tpu("TPU v4", 32, 1228e9, 8 * 128**2, axes=3, options=_MEGACORE),
  "v5e": _tpu("TPU v5 lite", 16, 819e9, 4 * 128**2),
  "v5p": _tpu("TPU v5", 95, 2765e9, 8 * 128**2, axes=3),
  "v6e": _tpu("TPU v6 lite", 32, 1640e9, 4 * 256**2),
  "7x": _tpu("TPU7x", 192, 7380e9, per_chip=2, axes=3),
}
GPUS = {
  name: Chip(g.kind, g.memory, g.bandwidth, flops.PEAKS[g.kind], axes=1)
  for name, g in gpus.GPUS.items()
}
CHIPS = TPUS | GPUS
KNOWN = (
  "v4:2x2x1, v5e:16x16, v5p:4x4x8, v6e:16x16, 7x:4x4x4, "
  + ", ".join(f"{name}:8" for name in GPUS)
  + " (any size), local"
)


@dataclasses.dataclass(frozen=True)
class Target:
  """The devices that a plan is made for."""

  name: str  # v5e:16x16 | h100:8 | local
  slices: int
  count: int  # devices
  chip: Chip
  devices: tuple[Any, ...] | None  # None: estimate, do not compile
  options: dict[str, Any] = dataclasses.field(default_factory=dict)  # the compiler's

  @property
  def chips(self) -> float:
    """Number of chips, as they are rented."""
    return self.count / self.chip.per_chip

  @property
  def platform(self) -> str:
    """Of absent devices: tpu | gpu."""
    return "gpu" if self.chip in GPUS.values() else "tpu"

  @property
  def slice_of(self) -> dict[int, int]:
    """Slice of each device, by its id; for GPUs, those that NVLink joins are one."""
    key = "process_index" if self.options else "slice_index"
    return {d.id: getattr(d, key, 0) for d in self.devices or ()}


def find(name: str, slices: int = 1, compiler: bool = True) -> Target:
  """The target that `--topology` names.

  Args:
    name: a chip and the layout of a slice, or local; GPUs have a number, all of which
      NVLink joins.
    slices: number of slices, connected by the data centre's network.
    compiler: False = estimate by arithmetic, even if a compiler is installed.

  Raises:
    ConfigError: no such chip or layout, or half a compiler is installed.
  """
  require(slices > 0, f"--slices: {slices} must be positive")
  if name == "local":
    require(slices == 1, f"--slices: {slices}, but local is one slice; leave it out")
    here = _local()
    return here if compiler else dataclasses.replace(here, devices=None)
  match = re.fullmatch(r"(\w+):(\d{1,6}(?:x\d{1,6})*)", name)
  if not match:
    raise ConfigError(f"--topology: {name!r} is not a chip and layout; known: {KNOWN}")
  family, layout = match[1].removeprefix("tpu"), match[2]
  if family not in CHIPS:
    raise ConfigError(
      f"--topology: {name!r}: unknown chip, {nearest(family, CHIPS)}; known: {KNOWN}"
    )
  chip, sizes = CHIPS[family], [int(n) for n in layout.split("x")]
  if len(sizes) != chip.axes or 0 in sizes:
    like = "8" if family in GPUS else "4x4x4"[: 2 * chip.axes - 1]
    axes = "1 axis" if chip.axes == 1 else f"{chip.axes} axes"
    raise ConfigError(f"--topology: {name!r}: {family} has {axes}, as {family}:{like}")
  count = math.prod(sizes) * chip.per_chip * slices
  target = Target(name, slices, count, chip, None)
  if not compiler or not _compiles(family):
    return target
  options = gpus.compiler_options() if family in GPUS else {}
  devices = _described(name, family, layout, slices)
  return dataclasses.replace(target, devices=devices, options=options)


def install(chip: Chip) -> str:
  """The command that installs the compiler for a chip."""
  return gpus.INSTALL if chip.kind.startswith("NVIDIA") else "pip install 'jax[tpu]'"


def _compiles(family: str) -> bool:
  """Whether a compiler for the chip is installed."""
  return gpus.installed() if family in GPUS else compiler_version() is not None


def compiler_version() -> str | None:
  """libtpu's, None where it is not installed."""
  import importlib.metadata

  try:
    return importlib.metadata.version("libtpu")
  except importlib.metadata.PackageNotFoundError:
    return None


def _described(name: str, family: str, layout: str, slices: int) -> tuple:
  """Devices of a topology, as its compiler describes them; none need be attached."""
  if family in GPUS:
    platform, topology = "cuda", ""
    options = dict(
      topology=f"{slices}x1x{layout}", target_config=gpus.GPUS[family].describe()
    )
  else:
    platform, topology = "tpu", f"{'tpu7x' if family == '7x' else family}:{layout}"
    options = _tpu_options(family, layout, slices)
  from jax.experimental import topologies

  try:
    described = topologies.get_topology_desc(
      platform=platform, topology_name=topology, **options
    )
  except Exception as e:  # compilers raise many types
    raise ConfigError(
      f"--topology: the installed compiler rejects {name!r} ({one_line(e)}); update it "
      f"({install(CHIPS[family])}), name another ({KNOWN}), or add --estimate"
    ) from None
  return tuple(described.devices)


def _tpu_options(family: str, layout: str, slices: int) -> dict[str, Any]:
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
  options: dict[str, Any] = dict(TPUS[family].options)
  if slices > 1:
    options["num_slices"] = slices
  if set(layout.split("x")) == {"1"}:
    options["chips_per_host_bounds"] = (1, 1, 1)
  return options


def _local() -> Target:
  devices = jax.devices()
  kind = devices[0].device_kind
  stats = devices[0].memory_stats() or {}
  unknown = Chip(kind, None, None, flops.PEAKS.get(kind))
  chip = next((c for c in CHIPS.values() if c.kind == kind), unknown)
  memory = stats.get("bytes_limit") or chip.memory
  chip = dataclasses.replace(chip, memory=memory)
  return Target("local", 1, len(devices), chip, tuple(devices))
