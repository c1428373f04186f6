"""Several processes as one run: who they are, and whether all are there.

JAX's own runtime connects them. This module adds what it lacks: when a process is
missing, every other one says which, where it was looked for, and what usually is wrong.
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
  "the usual causes: it was not started, it ended (see its own log), another address "
  "or number was given to it, or a firewall closes the port"
)
_GOODBYE = 1.0  # seconds that process 0 stays behind the others; ours
# What schedulers and machines with several processes set; JAX knows these by itself.
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
  count: int = 0
  mine: int = 0  # number of this process
  timeout: float = 300.0  # seconds to wait for all at the start; ours
  heartbeat: int = 100  # seconds without a sign of life that end a run; JAX's default

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
        self.count > 0 and 0 <= self.mine < self.count,
        f"--process_id: {self.mine} of {self.count}; must be 0 to --num_processes - 1",
      )


def find(
  coordinator: str = "",
  count: int = 0,
  mine: int = -1,
  environ: Mapping[str, str] = os.environ,
  timeout: float = Peers.timeout,
  heartbeat: int = Peers.heartbeat,
) -> Peers | None:
  """Flags, else VTR_COORDINATOR, VTR_NUM_PROCESSES and VTR_PROCESS_ID, else what a
  scheduler has set; None = this process is alone.

  The coordinator "auto" means that there are others, and that JAX finds them: Cloud TPU
  lists them on its metadata server only, which is not queried on every machine.

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
      mine = mine if mine >= 0 else int(environ.get("VTR_PROCESS_ID", -1))
    except ValueError as e:
      raise ConfigError(f"VTR_NUM_PROCESSES, VTR_PROCESS_ID: {e}") from e
    return Peers(coordinator, count, mine, **times)
  if count > 0 or mine >= 0:
    raise ConfigError("--num_processes, --process_id: need --coordinator=host:port")
  with contextlib.suppress(ValueError):
    if any(name in environ and says(environ[name]) for name, says in _AUTO):
      return Peers(**times)
  return None


def start(peers: Peers | None) -> None:
  """Connects the processes; from then on JAX sees the devices of all.

  Raises:
    DistributedError: not all are there in time.
  """
  if peers is None:
    return
  # It would catch SIGTERM, which is ours (preemption.py), from here on.
  jax.config.update("jax_enable_preemption_service", False)
  options: dict[str, Any] = dict(
    initialization_timeout=int(peers.timeout),
    heartbeat_timeout_seconds=int(peers.heartbeat),
  )
  if not peers.coordinator:
    with _told_of_waiting(peers):
      jax.distributed.initialize(**options)
    return
  roll_call(peers)
  jax.distributed.initialize(peers.coordinator, peers.count, peers.mine, **options)


def leave(code: int) -> NoReturn:
  """Ends this process when all have come here, process 0 as the last of them.

  The others are connected to it, and end with an error when it goes first. JAX's own
  way out takes its server down while it is still asked, and now and then aborts in it.
  """
  shutdown.flush()  # before all meet: it may take a while
  multihost_utils.sync_global_devices("leave")
  if jax.process_index() == 0:
    time.sleep(_GOODBYE)
  shutdown.leave(code)


def roll_call(peers: Peers) -> None:
  """Returns when all processes have answered process 0, before JAX connects them.

  JAX itself would end the process with a stack trace that names nobody. The port is
  that of the coordinator, which is free until then.

  Raises:
    DistributedError: some have not, with their numbers.
  """
  if peers.count == 1:
    return
  deadline = time.monotonic() + peers.timeout
  if peers.mine == 0:
    _call(peers, deadline)
  else:
    _answer(peers, deadline)


def _call(peers: Peers, deadline: float) -> None:
  """Process 0: collects the others, then sends all of them the list."""
  here: dict[int, socket.socket] = {}
  port = peers.coordinator.rpartition(":")[2]
  with contextlib.ExitStack() as stack:
    try:
      server = stack.enter_context(socket.create_server(("", int(port))))
    except OSError as e:
      raise DistributedError(
        f"{peers.coordinator}: port {port} cannot be opened ({e.strerror}); choose "
        "another in --coordinator"
      ) from e
    while len(here) < peers.count - 1 and (left := deadline - time.monotonic()) > 0:
      server.settimeout(left)
      with contextlib.suppress(TimeoutError, OSError, ValueError, KeyError):
        peer = stack.enter_context(server.accept()[0])
        peer.settimeout(max(deadline - time.monotonic(), 0.1))
        said = json.loads(peer.makefile().readline())
        if said["count"] == peers.count and 0 < said["mine"] < peers.count:
          here[said["mine"]] = peer
    missing = sorted(set(range(1, peers.count)) - set(here))
    for peer in here.values():
      with contextlib.suppress(OSError):
        peer.sendall((json.dumps(dict(missing=missing)) + "\n").encode())
  _check(peers, missing)


def _answer(peers: Peers, deadline: float) -> None:
  """Another process: reports to process 0, and receives the list of the others."""
  host, _, port = peers.coordinator.rpartition(":")
  said = json.dumps(dict(mine=peers.mine, count=peers.count)) + "\n"
  while (left := deadline - time.monotonic()) > 0:
    try:
      with socket.create_connection((host.strip("[]"), int(port)), left) as line:
        line.sendall(said.encode())
        # Process 0 may have begun to wait earlier or later than this one.
        line.settimeout(left + peers.timeout)
        answer = line.makefile().readline()
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
      f"process {names} of {peers.count} did not come to {peers.coordinator} within "
      f"{peers.timeout:g} s; {_CAUSES}"
    )


@contextlib.contextmanager
def _told_of_waiting(peers: Peers) -> Iterator[None]:
  """JAX ends the process when the time is over; the line comes just before."""
  where = f"{socket.gethostname()}: still waits for the other processes; {_CAUSES}"
  timer = threading.Timer(max(peers.timeout - 5, 0), print, (where,), dict(flush=True))
  timer.daemon = True
  timer.start()
  try:
    yield
  finally:
    timer.cancel()
