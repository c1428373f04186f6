"""Several processes on one machine train one run, also if one of them ends."""

import dataclasses
import json
import os
import signal
import socket
import subprocess

import numpy as np
import pytest
from conftest import ROOT, program, run_main
from jax.sharding import Mesh
from training import losses, without_evals

from configs import miles, simvtp
from vtr_jax.core import distributed, sharding
from vtr_jax.core.errors import ConfigError


def free_port():
  with socket.create_server(("127.0.0.1", 0)) as server:
    return server.getsockname()[1]


def start(config, workdir, processes, devices, mesh, before=()):
  """Starts `processes` processes of `devices` devices each, by the command `before`."""
  config = json.dumps(config | dict(mesh=mesh))
  flags = os.environ["XLA_FLAGS"]
  shared = dict(
    VTR_COORDINATOR=f"127.0.0.1:{free_port()}",
    VTR_NUM_PROCESSES=str(processes),
    XLA_FLAGS=f"{flags} --xla_force_host_platform_device_count={devices}",
    NPROC="16",
  )
  return [
    subprocess.Popen(
      [*before, *program("train_distributed"), config, str(workdir)],
      cwd=ROOT,
      env=os.environ | shared | dict(VTR_PROCESS_ID=str(i)),
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for i in range(processes)
  ]


def finish(started, seconds=200):
  """[(exit code, output)] of the processes."""
  found = [process.communicate(timeout=seconds) for process in started]
  return [(p.returncode, text) for p, (text, _) in zip(started, found, strict=True)]


def wait_for(process, line):
  read = []
  while not (read or [""])[-1].startswith(line):
    assert process.poll() is None, "".join([*read, *process.stdout])
    read.append(process.stdout.readline())


@pytest.fixture(scope="module")
def config(data_dir):
  values = miles.get_config("smoke").to_dict()
  values["data"]["dir"] = str(data_dir)
  return without_evals(values, steps=12, checkpoint_every=4)


@pytest.fixture(scope="module")
def reference_losses(config, tmp_path_factory):
  """Losses of one process with one device."""
  workdir = tmp_path_factory.mktemp("reference")
  ((code, text),) = finish(start(config, workdir, 1, 1, dict(data=1, fsdp=1, tensor=1)))
  assert code == 0, text
  return losses(workdir)


def assert_close(found, reference_losses):
  assert found.keys() == reference_losses.keys()
  for step, value in reference_losses.items():
    assert found[step] == pytest.approx(value, rel=5e-4), step


@pytest.mark.nightly
def test_after_one_of_four_processes_is_killed_two_resume(
  config, reference_losses, tmp_path
):
  """On a mesh of all three axes; the other three end by themselves."""
  mesh = dict(data=2, fsdp=2, tensor=2)
  started = start(config, tmp_path, 4, 2, mesh)
  wait_for(started[0], "step 6/")
  started[2].kill()
  ended = finish(started, 60)  # the heartbeat is 10 s
  assert all(code != 0 for code, _ in ended)
  kept = {int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()}
  assert kept >= {4}
  for code, text in finish(
    start(config, tmp_path, 2, 2, dict(data=2, fsdp=1, tensor=2))
  ):
    assert code == 0, text
  assert_close(losses(tmp_path), reference_losses)


def test_a_host_whose_name_has_no_address_is_an_error(config, tmp_path):
  rename = 'echo nowhere.invalid > /proc/sys/kernel/hostname && exec "$@"'
  own_name = ["unshare", "--map-root-user", "--uts", "sh", "-c", rename, "sh"]
  if subprocess.run([*own_name, "true"], check=False, capture_output=True).returncode:
    pytest.skip("no namespace with another host name can be made")
  mesh = dict(data=2, fsdp=1, tensor=1)
  for code, text in finish(start(config, tmp_path, 2, 1, mesh, own_name)):
    assert code == 2, text
    assert "nowhere.invalid: the name of this host has no address" in text
    assert "/etc/hosts" in text
    assert "Traceback" not in text


def test_sigterm_to_one_process_stops_all_after_the_same_step(config, tmp_path):
  """They save a checkpoint and exit with code 85."""
  mesh = dict(data=2, fsdp=1, tensor=1)
  long = config | dict(checkpoint_every=100)
  started = start(long, tmp_path, 2, 1, mesh)
  wait_for(started[0], "step 2/")
  started[1].send_signal(signal.SIGTERM)
  ended = finish(started, 60)
  assert [code for code, _ in ended] == [85, 85], ended
  (saved,) = (p for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit())
  for _, text in ended:
    assert f"after step {saved.name}, saved" in text


@pytest.mark.nightly
def test_preempted_processes_resume(config, reference_losses, tmp_path):
  mesh = dict(data=2, fsdp=1, tensor=1)
  test_sigterm_to_one_process_stops_all_after_the_same_step(config, tmp_path)
  for code, text in finish(start(config, tmp_path, 2, 1, mesh)):
    assert code == 0, text
  assert_close(losses(tmp_path), reference_losses)


@pytest.mark.nightly
def test_all_processes_skip_a_damaged_checkpoint(config, reference_losses, tmp_path):
  mesh = dict(data=1, fsdp=2, tensor=1)  # each has a part, and can read its own alone
  kept = config | dict(checkpoint_keep=3)
  for code, text in finish(start(kept, tmp_path, 2, 1, mesh)):
    assert code == 0, text
  for path in (tmp_path / "checkpoints/12/state").rglob("d/*"):
    path.write_bytes(path.read_bytes()[:-50])
  (code, text), (other, _) = finish(start(kept, tmp_path, 2, 1, mesh))
  assert (code, other) == (0, 0), text
  assert "checkpoints/12: cannot be restored (" in text
  assert "training from step 8 to 12" in text
  assert (tmp_path / "damaged" / "12-1").is_dir()
  assert_close(losses(tmp_path), reference_losses)


@pytest.mark.nightly
def test_all_processes_roll_back_and_diverge_together(config, tmp_path):
  """Their dump is replayed by one process."""
  diverging = json.loads(json.dumps(config))
  diverging["optim"] |= dict(lr=1e30, clip_norm=0.0)
  started = start(diverging, tmp_path, 2, 1, dict(data=2, fsdp=1, tensor=1))
  ended = finish(started)
  assert [code for code, _ in ended] == [4, 4], ended
  assert all("again after rolling back to step" in text for _, text in ended)
  (place,) = (tmp_path / "dumps").iterdir()
  again = run_main(place, module="vtr_jax.replay")
  assert again.returncode == 4, again.stderr
  assert f"{config['batch_size']} records, 1 device(s)" in again.stdout


@pytest.mark.nightly
def test_distributed_shutdown_never_aborts():
  """JAX's own shutdown aborted now and then, in process 0."""
  for _ in range(20):
    port = free_port()
    started = [
      subprocess.Popen(
        [*program("start_distributed")],
        cwd=ROOT,
        env=os.environ
        | dict(
          VTR_COORDINATOR=f"127.0.0.1:{port}",
          VTR_NUM_PROCESSES="3",
          VTR_PROCESS_ID=str(i),
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
      )
      for i in range(3)
    ]
    ended = finish(started, 60)
    assert [code for code, _ in ended] == [0, 0, 0], ended


@pytest.mark.nightly
def test_two_processes_have_the_evaluation_results_of_one(data_dir, tmp_path):
  """Embeddings, matching and reconstruction; hosts have different rows, or the same."""
  values = simvtp.get_config("smoke").to_dict() | dict(steps=3)
  values["data"]["dir"] = str(data_dir)
  found = []
  for processes, tensor in ((1, 1), (2, 1), (2, 2)):
    mesh = dict(data=-1, fsdp=1, tensor=tensor)
    workdir = tmp_path / f"{processes}-{tensor}"
    for code, text in finish(start(values, workdir, processes, 1, mesh)):
      assert code == 0, text
    found.append(json.loads((workdir / "results.json").read_text())["results"])
  one, *others = found
  assert len(one) > 30
  for two in others:
    assert two == pytest.approx(one, rel=1e-3)


@dataclasses.dataclass(frozen=True)
class FakeDevice:
  """What `host_rows` asks of a device."""

  id: int
  process_index: int


def mesh_of(processes, data, tensor):
  """A mesh of devices that belong to these processes."""
  devices = np.array([FakeDevice(*pair) for pair in enumerate(processes)])
  return Mesh(devices.reshape(data, 1, tensor), ("data", "fsdp", "tensor"))


def test_host_rows_of_a_mesh_that_interleaves_hosts():
  """As on a 4 x 4 TPU slice: a global array has the hosts' rows mixed."""
  mesh = mesh_of([0, 1, 1, 0, 2, 2], 6, 1)
  loaded = np.arange(12)  # in the loaders' order: 4 rows a host
  mine = [sharding.host_rows(mesh, p) for p in range(3)]
  host_rows = [list(loaded[m.local_slice(12)]) for m in mine]
  assert [row for rows in host_rows for row in rows] == list(loaded)
  # Each host's rows, in turn, to its devices in the order of the mesh.
  queues = [list(rows) for rows in host_rows]
  on_devices = [queues[p].pop(0) for p in (0, 0, 1, 1, 1, 1, 0, 0, 2, 2, 2, 2)]
  np.testing.assert_array_equal(mine[0].in_order(np.array(on_devices)), loaded)


def test_host_rows_that_two_hosts_share():
  mesh = mesh_of([0, 1, 0, 1, 2, 3, 2, 3], 4, 2)
  found = [sharding.host_rows(mesh, p) for p in range(4)]
  assert [(f.host, f.count) for f in found] == [(0, 2), (0, 2), (1, 2), (1, 2)]
  with pytest.raises(ConfigError, match="across the processes unevenly"):
    sharding.host_rows(mesh_of([0, 0, 1, 1, 1, 0], 3, 2), 0)


# --- Finding the processes --------------------------------------------------------


def test_every_process_names_the_missing_one():
  port = free_port()
  started = [
    subprocess.Popen(
      [*program("find_processes"), str(port), str(i)],
      cwd=ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for i in (0, 1, 3)
  ]
  for code, text in finish(started, 30):
    assert code == 2
    (line,) = text.splitlines()
    assert f"process 2 of 4 did not connect to 127.0.0.1:{port} within 3 s" in line
    assert "it was not started" in line
    assert "firewall" in line


def test_a_missing_process_0_is_reported_by_the_others():
  peers = distributed.Peers(f"127.0.0.1:{free_port()}", 2, 1, timeout=0.5)
  with pytest.raises(
    distributed.DistributedError, match="process 0 of 2 did not connect"
  ):
    distributed.roll_call(peers)


def test_a_port_in_use_is_reported():
  with socket.create_server(("", 0)) as server:
    port = server.getsockname()[1]
    peers = distributed.Peers(f"127.0.0.1:{port}", 2, 0, timeout=1.0)
    with pytest.raises(distributed.DistributedError, match=f"port {port} cannot be"):
      distributed.roll_call(peers)


@pytest.mark.parametrize(
  ("environ", "found"),
  [
    ({}, None),
    (dict(SLURM_STEP_NUM_TASKS="1"), None),
    (dict(VTR_COORDINATOR="auto"), ""),
    (dict(SLURM_STEP_NUM_TASKS="4"), ""),
    (dict(TPU_WORKER_HOSTNAMES="localhost"), None),
    (dict(TPU_WORKER_HOSTNAMES="a,b"), ""),
    (
      dict(VTR_COORDINATOR="a:1", VTR_NUM_PROCESSES="2", VTR_PROCESS_ID="1"),
      "a:1",
    ),
  ],
)
def test_the_coordinator_is_found_from_the_environment(environ, found):
  peers = distributed.find(environ=environ)
  assert (peers and peers.coordinator) == found


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (("nohost", 2, 0), "must be host:port"),
    (("a:1", 2, 2), "--process_id: 2 of 2"),
    (("a:1", 0, 0), "--process_id: 0 of 0"),
    (("", 2, 0), "need --coordinator"),
  ],
)
def test_incomplete_distributed_flags_are_rejected(flags, message):
  with pytest.raises(ConfigError, match=message):
    distributed.find(*flags, environ={})
