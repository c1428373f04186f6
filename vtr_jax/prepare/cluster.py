"""Shards on the machines of a Ray cluster: one task per shard, retried if it dies.

A task does for its shard what a run on one machine does for all of them, in the same
directory; which machine makes a shard changes no byte. Ray and not Apache Beam: Beam
2.77 excludes the pinned protobuf, and wants a pipeline where Ray calls a function.
"""

import itertools
import logging
import os
import pathlib
import platform
import socket
from collections.abc import Callable, Sequence
from typing import Any

from vtr_jax.core import processes
from vtr_jax.core.errors import ConfigError, DataError, DistributedError, one_line
from vtr_jax.core.progress import Bar
from vtr_jax.core.shutdown import warn
from vtr_jax.prepare.place import Place
from vtr_jax.prepare.shards import Shard, report

_QUEUED = 1000  # ours: enough for autoscalers to see, few enough to hold in memory
_RETRIES = 3  # Ray's default
_TIMEOUT = 10.0  # seconds to connect to a cluster; ours


def check_installed() -> None:
  """Raises ConfigError if Ray is not installed."""
  _import()


def make(
  place: Place,
  shards: Sequence[Shard],
  work: Callable[[list[Shard]], None],
  workers: int,
) -> None:
  """Calls `work([shard])` on the cluster for each shard that is not done.

  The cluster is that of RAY_ADDRESS; without it, Ray runs here until the work is done.
  All its nodes have this environment, this working directory, the items' files and
  `place` under the same paths.

  Args:
    place: where the shards are written.
    shards: of one data set.
    work: makes shards; pickled.
    workers: processes, and thus CPUs, of one call.

  Raises:
    ConfigError: Ray is not installed.
    DataError: a node lacks the files, or `work` raises it.
    DistributedError: the cluster cannot be reached, or workers of a shard died
      repeatedly.
  """
  ray = _import()
  left = [shard for shard in shards if report(place.work, shard.name) is None]
  total = sum(len(shard.items) for shard in shards)
  missing = sum(len(shard.items) for shard in left)
  if not left:
    return
  _start(ray)
  try:
    _warn_of_few_cpus(ray, workers)
    task = ray.remote(_task).options(num_cpus=workers, max_retries=_RETRIES)
    with Bar(total=total, initial=total - missing, unit="item", desc=place.name) as bar:
      for shard in _done(ray, task, work, place, left, bar):
        bar.update(len(shard.items))
  finally:
    ray.shutdown()  # ends tasks that still run


def _import() -> Any:
  try:
    import ray  # pyright: ignore[reportMissingImports] (optional)
    import ray.exceptions  # pyright: ignore[reportMissingImports] (optional)
  except ImportError:
    raise ConfigError("--runner: ray needs a package; pip install ray") from None
  return ray


def _start(ray: Any) -> None:
  # Otherwise Ray would look for a cluster here, and wait for one that was killed.
  address = os.environ.get("RAY_ADDRESS") or "local"
  host, _, port = address.removeprefix("ray://").rpartition(":")
  errors = (OSError, OverflowError, RuntimeError, ValueError, ray.exceptions.RayError)
  try:
    if port.isdecimal():  # Ray itself tries for a quarter of an hour
      socket.create_connection((host, int(port)), _TIMEOUT).close()
    quiet = dict(log_to_driver=False, logging_level=logging.ERROR)
    ray.init(address, include_dashboard=False, **quiet)
  except errors as e:
    raise DistributedError(
      f"--runner: ray cannot be started or reached ({one_line(e)}); correct "
      f"RAY_ADDRESS={address}, or unset it to start Ray here"
    ) from e


def _warn_of_few_cpus(ray: Any, workers: int) -> None:
  """Ray itself waits for such a node, which an autoscaler may add, without a word."""
  nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
  if (most := max(nodes, default=0)) < workers:
    warn(f"--workers={workers}: no node has as many CPUs, at most {most:g}; waiting")


def _done(ray: Any, task, work, place: Place, shards: list[Shard], bar: Bar):
  """Yields shards as they are done."""
  queue, pending = iter(shards), {}
  while True:
    for shard in itertools.islice(queue, _QUEUED - len(pending)):
      files = [place.work / "plan.json", *_first_file(shard)]
      pending[task.remote(work, shard, os.getcwd(), files)] = shard
    if not pending:
      return
    done, _ = ray.wait([*pending], timeout=1.0)
    for future in done:
      shard = pending.pop(future)
      _settle(ray, future, shard)
      yield shard
    bar.refresh()  # the time that has passed


def _first_file(shard: Shard) -> list[pathlib.Path]:
  """The first file of its items that exists, if any does."""
  paths = (pathlib.Path(item.media.path) for item in shard.items)
  return [*itertools.islice(filter(pathlib.Path.exists, paths), 1)]


def _task(work, shard: Shard, directory: str, files: list[pathlib.Path]) -> None:
  """On a node: makes a shard. Items without a file there would just be refused."""
  for path in (pathlib.Path(directory), *files):
    full = pathlib.Path(directory, path)
    if not full.exists():
      raise DataError(
        f"{full}: not on node {platform.node()}; all nodes must share the directories "
        "of --out and --source, and the working directory"
      )
  os.chdir(directory)
  with processes.hidden_main():  # Ray's
    work([shard])


def _settle(ray: Any, future, shard: Shard) -> None:
  """Raises what the task raised."""
  try:
    ray.get(future)
  except ray.exceptions.RayTaskError as e:
    raise e.cause from e
  except ray.exceptions.RayError as e:
    raise DistributedError(
      f"{shard.name}: its worker died {_RETRIES + 1} times, perhaps out of memory "
      f"({one_line(e)}); run it again: finished items are kept"
    ) from e
