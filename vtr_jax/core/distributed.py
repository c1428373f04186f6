"""Runs of several processes: finds, checks and connects them, and ends them together.

JAX's own runtime connects them. This module adds a check before: if a process is
missing, the error of every other one names it, the address, and the usual causes.
"""

import contextlib
import dataclasses
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import jax
from jax.experimental import multihost_utils

from vtr_jax.core import shutdown
from vtr_jax.core.config import require
from vtr_jax.core.errors import ConfigError, DistributedError

_CAUSES = (
  "the usual causes: it was not started, it ended (see its own log), its --coordinator "
  "or --process_id is wrong, or a firewall closes the port"
)
_EXIT_DELAY = 1.0  # seconds that process 0 waits for the others to exit; ours
# Set by schedulers and machines with several processes; JAX reads them itself.
_AUTO = (
  ("SLURM_STEP_NUM_TASKS", lambda value: int(value) > 1),
  ("OMPI_COMM_WORLD_SIZE", lambda value: int(value) > 1),
  ("TPU_WORKER_HOSTNAMES", lambda value: "," in value),
  ("MEGASCALE_COORDINATOR_ADDRESS", bool),
)


@dataclasses.dataclass(frozen=True)
class Peers:
  """The processes of a run, as flags or the environment describe them."""

  coordinator: str = ""  # host:port of process 0; "" = JAX finds the others by itself
  count: int = 0  # number of processes
  index: int = 0  # of this process
  timeout: float = 300.0  # seconds to wait for all at the start; ours
  heartbeat: int = 100  # seconds without one that end a run; JAX's default

  def __post_init__(self):
    require(self.timeout > 0, f"--start_timeout: {self.timeout} must be positive")
    require(self.heartbeat > 0, f"--heartbeat: {self.heartbeat} must be positive")
    if self.coordinator:
      host, colon, port = self.coordinator.rpartition(":")
      require(
        bool(host and colon and port.isdecimal()),
        f"--coordinator: {self.coordinator!r}; must be host:port of process 0",
      )
      require(
        self.count > 0 and 0 <= self.index < self.count,
        f"--process_id: {self.index} of {self.count}; must be 0 to --num_processes - 1",
      )


def find(
  coordinator: str = "",
  count: int = 0,
  index: int = -1,
  environ: Mapping[str, str] = os.environ,
  timeout: float = Peers.timeout,
  heartbeat: int = Peers.heartbeat,
) -> Peers | None:
  """The processes that the flags name, or VTR_COORDINATOR, VTR_NUM_PROCESSES and
  VTR_PROCESS_ID, or a scheduler; None = this process is the only one.

  With the coordinator "auto", JAX finds them: Cloud TPU lists them on its metadata
  server only, which is not queried on every machine.

  Raises:
    ConfigError: only some of the three are given.
  """
  times: dict[str, Any] = dict(timeout=timeout, heartbeat=heartbeat)
  coordinator = coordinator or environ.get("VTR_COORDINATOR", "")
  if coordinator == "auto":
    return Peers(**times)
  if coordinator:
    try:
      count = count or int(environ.get("VTR_NUM_PROCESSES", 0))
      index = index if index >= 0 else int(environ.get("VTR_PROCESS_ID", -1))
    except ValueError as e:
      raise ConfigError(f"VTR_NUM_PROCESSES, VTR_PROCESS_ID: {e}") from e
    return Peers(coordinator, count, index, **times)
  if count > 0 or index >= 0:
    raise ConfigError("--num_processes, --process_id: need --coordinator=host:port")
  with contextlib.suppress(ValueError):
    if any(name in environ and several(environ[name]) for name, several in _AUTO):
      return Peers(**times)
  return None


def start(peers: Peers | None) -> None:
  """Connects the processes; from then on JAX sees the devices of all.

  Raises:
    DistributedError: some do not connect in time, or this host's name has no address.
  """
  if peers is None:
    return
  # It would catch SIGTERM, which preemption.py handles.
  jax.config.update("jax_enable_preemption_service", False)
  options: dict[str, Any] = dict(
    initialization_timeout=int(peers.timeout),
    heartbeat_timeout_seconds=int(peers.heartbeat),
  )
  if peers.coordinator:
    roll_call(peers)
    jax.distributed.initialize(peers.coordinator, peers.count, peers.index, **options)
  else:
    with _warn_of_timeout(peers):
      jax.distributed.initialize(**options)
  try:
    jax.local_devices()
  except RuntimeError as e:
    if "gloo" not in str(e):
      raise
    raise DistributedError(
      f"{socket.gethostname()}: the name of this host has no address, by which "
      "processes on CPUs connect; add it to /etc/hosts"
    ) from e


def exit_together(code: int) -> NoReturn:
  """Ends this process when all processes have called this, process 0 as the last.

  The others are connected to it, and end with an error if it exits first. JAX's own
  shutdown stops its server while it still has clients, and sometimes aborts.
  """
  shutdown.flush()  # before the barrier: it may take a while
  multihost_utils.sync_global_devices("exit")
  if jax.process_index() == 0:
    time.sleep(_EXIT_DELAY)
  shutdown.exit_now(code)


def roll_call(peers: Peers) -> None:
  """Returns when all processes have answered process 0, before JAX connects them.

  JAX itself would end the process with a stack trace that names no process. The port
  is the coordinator's, which is free until JAX connects.

  Raises:
    DistributedError: some have not; names their indices.
  """
  if peers.count == 1:
    return
  deadline = time.monotonic() + peers.timeout
  if peers.index == 0:
    _collect(peers, deadline)
  else:
    _report(peers, deadline)


def _collect(peers: Peers, deadline: float) -> None:
  """Process 0: waits for the others, then sends them the list of missing ones."""
  present: dict[int, socket.socket] = {}
  port = peers.coordinator.rpartition(":")[2]
  with contextlib.ExitStack() as stack:
    try:
      server = stack.enter_context(socket.create_server(("", int(port))))
    except OSError as e:
      raise DistributedError(
        f"{peers.coordinator}: port {port} cannot be opened ({e.strerror}); choose "
        "another in --coordinator"
      ) from e
    while len(present) < peers.count - 1 and (left := deadline - time.monotonic()) > 0:
      server.settimeout(left)
      with contextlib.suppress(TimeoutError, OSError, ValueError, KeyError):
        peer = stack.enter_context(server.accept()[0])
        peer.settimeout(max(deadline - time.monotonic(), 0.1))
        message = json.loads(peer.makefile().readline())
        if message["count"] == peers.count and 0 < message["index"] < peers.count:
          present[message["index"]] = peer
    missing = sorted(set(range(1, peers.count)) - set(present))
    for peer in present.values():
      with contextlib.suppress(OSError):
        peer.sendall((json.dumps(dict(missing=missing)) + "\n").encode())
  _check(peers, missing)


def _report(peers: Peers, deadline: float) -> None:
  """Other processes: report to process 0, and receive the list of missing ones."""
  host, _, port = peers.coordinator.rpartition(":")
  message = json.dumps(dict(index=peers.index, count=peers.count)) + "\n"
  while (left := deadline - time.monotonic()) > 0:
    try:
      with socket.create_connection((host.strip("[]"), int(port)), left) as peer:
        peer.sendall(message.encode())
        # Process 0 may have started to wait earlier or later than this one.
        peer.settimeout(left + peers.timeout)
        answer = peer.makefile().readline()
        if answer:
          return _check(peers, json.loads(answer)["missing"])
    except (OSError, ValueError, KeyError):
      pass
    time.sleep(0.2)
  _check(peers, [0])


def _check(peers: Peers, missing: list[int]) -> None:
  if missing:
    names = ", ".join(map(str, missing))
    raise DistributedError(
      f"process {names} of {peers.count} did not connect to {peers.coordinator} within "
      f"{peers.timeout:g} s; {_CAUSES}"
    )


@contextlib.contextmanager
def _warn_of_timeout(peers: Peers) -> Iterator[None]:
  """Prints a line shortly before the timeout, when JAX ends the process."""
  line = f"{socket.gethostname()}: still waiting for the other processes; {_CAUSES}"
  timer = threading.Timer(max(peers.timeout - 5, 0), print, (line,), dict(flush=True))
  timer.daemon = True
  timer.start()
  try:
    yield
  finally:
    timer.cancel()
