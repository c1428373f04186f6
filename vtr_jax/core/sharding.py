"""The mesh, and which logical axis maps to which mesh axis, on one screen.

Axes are Auto: the compiler places collectives, guided by the shardings of the
parameters and of the batch and by the constraint at the end of every block.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from vtr_jax.core.batch import HOST_KEYS
from vtr_jax.core.config import require
from vtr_jax.core.errors import ConfigError

AXES = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")  # mesh axes that a batch is split over

RULES = (
  ("batch", ROWS),
  ("embed", "fsdp"),
  ("mlp", "tensor"),
  ("heads", "tensor"),
  ("vocab", "tensor"),
  ("norm", None),  # one-dimensional: too small to be worth gathering
  ("pixels", None),
  ("classes", None),
  ("length", None),
  ("layers", None),
)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Section `mesh` of the config: devices along each axis; one may be -1, the rest."""

  data: int = -1  # replicas of the parameters; ours: one on each device
  fsdp: int = 1  # shards of the parameters, gathered when used; ours
  tensor: int = 1  # shards of every matrix product; ours

  def __post_init__(self):
    sizes = [getattr(self, a) for a in AXES]
    require(
      all(n == -1 or n > 0 for n in sizes),
      f"data, fsdp, tensor: {sizes}; each must be positive, or -1 for the rest",
    )
    require(sizes.count(-1) <= 1, "data, fsdp, tensor: only one may be -1")


def make_mesh(
  config: MeshConfig,
  # jax.Device is a class that JAX's stub declares as a variable.
  devices: Sequence[jax.Device] | None = None,  # pyright: ignore[reportInvalidTypeForm]
) -> Mesh:
  """Lays devices out as data x fsdp x tensor; None = all of this run.

  Several TPU slices, connected by a slower network, lie along the data axis.

  Raises:
    ConfigError: the sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  sizes = mesh_sizes(config, len(devices))
  tpu = devices[0].platform == "tpu"
  slices = len({getattr(d, "slice_index", 0) for d in devices}) if tpu else 1
  split = dict(allow_split_physical_axes=True)  # where the torus allows it
  if slices > 1:
    require(
      sizes[0] % slices == 0,
      f"config.mesh.data: {sizes[0]} does not divide over {slices} slices; "
      f"use a multiple of {slices}",
    )
    within = (sizes[0] // slices, *sizes[1:])
    over = (slices, 1, 1)
    array = mesh_utils.create_hybrid_device_mesh(within, over, devices, **split)
  else:
    array = mesh_utils.create_device_mesh(sizes, devices, **split)
  return Mesh(array, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def mesh_sizes(config: MeshConfig, total: int) -> tuple[int, ...]:
  """Devices along each axis.

  Raises:
    ConfigError: they do not multiply to `total`.
  """
  sizes = [getattr(config, a) for a in AXES]
  fixed = math.prod(n for n in sizes if n != -1)
  sizes = [total // fixed if n == -1 else n for n in sizes]
  if math.prod(sizes) != total or 0 in sizes:
    raise ConfigError(
      f"config.mesh: {' x '.join(f'{a}={getattr(config, a)}' for a in AXES)} "
      f"does not multiply to the {total} devices here; set one axis to -1"
    )
  return tuple(sizes)


@contextlib.contextmanager
def scope(mesh: Mesh) -> Iterator[None]:
  """A context in which logical constraints hold; outside they are silently ignored."""
  with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
    yield


def param_shardings(boxed: Any, mesh: Mesh | AbstractMesh) -> Any:
  """Shardings for boxed (abstract) parameters, by their logical axes.

  An axis that the mesh does not divide evenly is replicated.
  """
  specs = nn.logical_to_mesh(nn.get_partition_spec(boxed), RULES)

  def fit(array, spec: PartitionSpec) -> NamedSharding:
    axes = [
      axis if size % _mesh_size(mesh, axis) == 0 else None
      for size, axis in zip(array.shape, spec, strict=False)
    ]
    return NamedSharding(mesh, PartitionSpec(*axes))

  return jax.tree.map(fit, nn.unbox(boxed), specs)


def row_devices(mesh: Mesh | AbstractMesh) -> int:
  """Number of devices that the rows of a batch are split over."""
  return _mesh_size(mesh, ROWS)


def batch_sharding(mesh: Mesh | AbstractMesh) -> NamedSharding:
  """Rows sharded over data and fsdp; other axes replicated."""
  return NamedSharding(mesh, PartitionSpec(ROWS))


def row_shards() -> int:
  """Parts that a batch is split into by the mesh of the enclosing `scope`; 1 = none."""
  mesh = jax.sharding.get_abstract_mesh()
  return 1 if mesh.empty else row_devices(mesh)


def platform() -> str:
  """Platform of the devices of the enclosing `scope`, attached or not: cpu | gpu | tpu.

  Outside of any, and with a mesh of sizes alone, it is that of JAX's default back end.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  return jax.default_backend() if device is None else device.platform


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


@dataclasses.dataclass(frozen=True)
class HostRows:
  """The rows of a global batch that this process loads, and their order on devices.

  Host h loads the h-th block of a batch. Its rows are on its own devices, and a TPU
  mesh is not ordered by host: a global array has the blocks in another order.
  """

  host: int  # of `count`; processes that load the same examples are one host
  count: int
  blocks: tuple[int, ...]  # index in the global array of the loaders' i-th block

  def local_slice(self, rows: int) -> slice:
    """This host's part of a batch, in the loaders' order."""
    local = rows // self.count
    return slice(self.host * local, (self.host + 1) * local)

  def in_order(self, rows: np.ndarray) -> np.ndarray:
    """Rows of a global array in the loaders' order."""
    blocks = rows.reshape(len(self.blocks), -1, *rows.shape[1:])
    return blocks[list(self.blocks)].reshape(rows.shape)


@functools.cache  # called at every step
def host_rows(mesh: Mesh, process: int | None = None) -> HostRows:
  """The rows of a process; None = this one.

  Raises:
    ConfigError: a process shares some of its rows with others, but not all.
  """
  process = jax.process_index() if process is None else process
  devices = mesh.devices.reshape(row_devices(mesh), -1)
  owners = [frozenset(d.process_index for d in same_rows) for same_rows in devices]
  hosts = list(dict.fromkeys(owners))
  disjoint = sum(map(len, hosts)) == len(frozenset().union(*hosts))
  require(
    disjoint and len({owners.count(h) for h in hosts}) == 1,
    f"config.mesh.tensor: groups of {mesh.shape['tensor']} devices lie across the "
    "processes unevenly; use a divisor of a process's devices, or a multiple",
  )
  (host,) = (i for i, h in enumerate(hosts) if process in h)
  blocks = [i for h in hosts for i, owner in enumerate(owners) if owner == h]
  return HostRows(host, len(hosts), tuple(blocks))


def put_batch(local: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
  """Makes global arrays of the rows of all hosts."""
  sharding, hosts = batch_sharding(mesh), host_rows(mesh).count

  def put(value: np.ndarray) -> jax.Array:
    value = np.asarray(value)
    shape = (len(value) * hosts, *value.shape[1:])
    return jax.make_array_from_process_local_data(sharding, value, shape)

  return {key: put(value) for key, value in local.items()}


def split_rows(batch: Any, count: int, mesh: Mesh) -> Any:
  """Arrays [b ...] to [count, b / count, ...] microbatches, sharded over all devices.

  Every device splits its own rows, so nothing is communicated. The order of rows
  changes; `merge_rows` restores it.
  """
  devices = row_devices(mesh)
  layout = NamedSharding(mesh, PartitionSpec(None, ROWS))

  def split(x: jax.Array) -> jax.Array:
    rows = x.shape[0] // count
    y = x.reshape(devices, count, rows // devices, *x.shape[1:]).swapaxes(0, 1)
    y = y.reshape(count, rows, *x.shape[1:])
    return jax.lax.with_sharding_constraint(y, layout)

  return jax.tree.map(split, batch)


def merge_rows(batch: Any, mesh: Mesh) -> Any:
  """Inverse of `split_rows`."""
  devices = row_devices(mesh)

  def merge(x: jax.Array) -> jax.Array:
    count, rows = x.shape[:2]
    y = x.reshape(count, devices, rows // devices, *x.shape[2:]).swapaxes(0, 1)
    y = y.reshape(count * rows, *x.shape[2:])
    return jax.lax.with_sharding_constraint(y, batch_sharding(mesh))

  return jax.tree.map(merge, batch)


def smallest_batch(
  mesh: Mesh | AbstractMesh, micro_batches: int = 1, group: int = 1, whole: int = 1
) -> int:
  """The number of rows that batch sizes are multiples of.

  `group` rows stay on one device in one microbatch, and a batch is of whole groups of
  `whole` rows.
  """
  return math.lcm(row_devices(mesh) * micro_batches * group, whole)


def check_batch_size(
  batch_size: int,
  mesh: Mesh | AbstractMesh,
  key: str,
  micro_batches: int = 1,
  group: int = 1,
  whole: tuple[int, str] = (1, ""),
) -> None:
  """Rejects a batch size that does not divide; names the two nearest that do.

  As `smallest_batch`; `whole` is (rows, the key of the config that states them).
  """
  divisor = smallest_batch(mesh, micro_batches, group, whole[0])
  if batch_size <= 0 or batch_size % divisor:
    low = batch_size // divisor * divisor
    near = f"{low} or {low + divisor}" if low > 0 else str(divisor)
    over = f"data x fsdp = {row_devices(mesh)} devices"
    if micro_batches > 1:
      over += f" and micro_batches = {micro_batches}"
    if group > 1:
      over += f" in groups of {group}"
    if whole[0] > 1:
      over += f" into whole groups of {whole[0]} ({whole[1]})"
    raise ConfigError(f"{key}: {batch_size} rows do not divide over {over}; use {near}")


def _mesh_size(mesh: Mesh | AbstractMesh, axis: str | tuple[str, ...] | None) -> int:
  if axis is None:
    return 1
  return math.prod(mesh.shape[a] for a in ((axis,) if isinstance(axis, str) else axis))


class OnDevices:
  """An objective's function on global batches; every host gets all rows."""

  def __init__(self, function: Any, mesh: Mesh):
    self._mesh, self._hosts = mesh, host_rows(mesh)
    self._jitted = jax.jit(function, out_shardings=replicated(mesh))

  def __call__(self, params: Any, batch: Mapping[str, np.ndarray]) -> Any:
    """One global batch; the result's arrays are NumPy."""
    return self.start(params, batch)()

  def start(self, params: Any, batch: Mapping[str, np.ndarray]) -> Callable[[], Any]:
    """Starts one global batch; the returned function waits for its result."""
    on_device = {k: v for k, v in batch.items() if k not in HOST_KEYS}
    with scope(self._mesh):
      out = self._jitted(params, put_batch(on_device, self._mesh))
    in_order = lambda x: self._hosts.in_order(np.asarray(x))
    return lambda: jax.tree.map(in_order, out)

  def rows(self, params: Any, batches: Iterable[Mapping], count: int) -> np.ndarray:
    """The first `count` rows over all batches; the last batch is padded."""
    return np.concatenate([self(params, batch) for batch in batches])[:count]
