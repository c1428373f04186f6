"""Shared by all tests: small sizes, strict JAX, one tiny data set."""

import contextlib
import os
import pathlib
import secrets
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[1]

# Most of the time of these tests is XLA's compilation: without optimisation it is four
# times faster, and almost twice as fast again without MLIR's fusion emitters. Processes
# share compiled programs.
FAST = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
os.environ |= dict(
  XLA_FLAGS=FAST + os.environ.get("XLA_FLAGS", ""),
  JAX_COMPILATION_CACHE_DIR=str(ROOT / ".pytest_cache" / "xla"),
  JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
  JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1",
)

import pytest  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

# Shapes, dtypes and types in signatures are checked at every call in this process: in
# tests of these folders, with VTR_TYPECHECK=all in all tests, with 0 in none. Checking
# all takes a seventh of the tests' time; ./launch/nightly.sh does it.
TYPECHECK = os.environ.get("VTR_TYPECHECK", "contract models objectives").split()
FOLDERS = {path.name for path in (ROOT / "tests").iterdir()}
assert set(TYPECHECK) <= FOLDERS | {"all", "0"}, (
  f"VTR_TYPECHECK: no folder: {TYPECHECK}"
)
if TYPECHECK != ["0"]:
  install_import_hook("vtr_jax", "runtime_types.checked")

import clips  # noqa: E402
import jax  # noqa: E402
from bucket import gcs, url  # noqa: E402, F401 (fixtures)
from runtime_types import unchecked  # noqa: E402

from configs import mac, simvtp  # noqa: E402
from vtr_jax.data.embedded import build as embedded  # noqa: E402

# Variables of other names would be ignored.
assert jax.config.jax_persistent_cache_min_compile_time_secs == 0
assert jax.config.jax_persistent_cache_min_entry_size_bytes == -1

# No array gains an axis implicitly.
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True)
def runtime_types(request):
  """Checks signatures in tests of TYPECHECK; in fixtures of wider scope always."""
  on = TYPECHECK == ["all"] or request.path.parent.name in TYPECHECK
  with contextlib.nullcontext() if on else unchecked():
    yield


@pytest.fixture(autouse=True)
def strict_dtypes(request):
  """No array of a model or an objective changes its dtype implicitly.

  Elsewhere it may: optax's own arithmetic needs that.
  """
  strict = request.path.parent.name in ("models", "objectives")
  with jax.numpy_dtype_promotion("strict" if strict else "standard"):
    yield


def pytest_collection_modifyitems(items):
  """Files that take minutes come first: two processes then end at the same time."""
  slow = ("robustness", "train", "contract")
  items.sort(key=lambda item: item.path.parent.name not in slow)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
  """A directory that holds moving_shapes/tiny."""
  directory = tmp_path_factory.mktemp("data")
  embedded.build(directory, "moving_shapes/tiny", progress=False)
  return directory


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
  """The tokenizer of `clips`."""
  return clips.tokenizer(tmp_path_factory.mktemp("text"))


@pytest.fixture
def smoke(data_dir):
  """SimVTP's smoke config as a plain dict, on the session's data."""
  return _smoke(simvtp, data_dir)


@pytest.fixture
def mac_smoke(data_dir):
  """MAC's smoke config, the fastest to compile, on the session's data."""
  return _smoke(mac, data_dir)


def _smoke(module, data_dir):
  config = module.get_config("smoke").to_dict()
  config["data"]["dir"] = str(data_dir)
  return config


def eight_devices():
  """Environment of a process that sees eight devices on this machine."""
  flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
  # Collectives need a thread for each device, and this machine may have two cores.
  return dict(XLA_FLAGS=flags, NPROC="16")


def program(name):
  """The command of a program in tests/support/programs; it runs in ROOT."""
  return [sys.executable, "-m", f"tests.support.programs.{name}"]


def on_eight_devices(name, *args):
  """Runs a program where JAX sees eight devices; returns the lines that it printed."""
  run = subprocess.run(
    [*program(name), *map(str, args)],
    cwd=ROOT,
    env=os.environ | eight_devices() | dict(PYTHONPATH=str(ROOT / "tests" / "support")),
    capture_output=True,
    text=True,
  )
  assert run.returncode == 0, run.stderr
  return run.stdout.splitlines()


def run_main(*args, module="vtr_jax.main", **env):
  """Runs a command in a process of its own; returns the process, output captured."""
  command = [sys.executable, "-m", module, *map(str, args)]
  return subprocess.run(
    command, cwd=ROOT, env=os.environ | env, capture_output=True, text=True
  )


def private_shared_memory(folder):
  """(environment in which names of shared memory get a random prefix, the prefix)."""
  prefix = f"t{secrets.token_hex(2)}"
  (folder / "own").mkdir()
  (folder / "own" / "sitecustomize.py").write_text(
    "from multiprocessing import shared_memory\n"
    f"shared_memory._SHM_NAME_PREFIX = '/{prefix}'\n"
  )
  return dict(PYTHONPATH=str(folder / "own")), prefix


def leftover_shared_memory(prefix):
  """Shared memory with this prefix that is left after Python had time to clean up."""
  until = time.monotonic() + 10
  find = lambda: list(pathlib.Path("/dev/shm").glob(f"{prefix}*"))
  while find() and time.monotonic() < until:
    time.sleep(0.1)
  return find()


def pytest_terminal_summary(terminalreporter, config):
  """Prints what the tests of a nightly run have measured by record_property."""
  reports = terminalreporter.stats.get("passed", [])
  found = [
    pair
    for report in sorted(reports, key=lambda r: r.nodeid)
    if report.when == "call"
    for pair in report.user_properties
  ]
  if inputs := sum(n for name, n in found if name.startswith("fuzz inputs")):
    found.append(("fuzz inputs in all", inputs))
  if config.option.markexpr == "nightly" and found:
    terminalreporter.section("measured")
    for name, value in found:
      terminalreporter.line(f"{name}: {value}")
