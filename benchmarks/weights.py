"""Time and memory of public weights: a random ViT-B/16 file, converted and loaded.

  python -m benchmarks.weights [--config=configs/mac.py:webvid2m_cc3m]

Each in its own process: `vtr_jax.convert --to`; loading the converted run; loading the
file itself as `init_from` does. Memory is the growth of the process's peak, as a
multiple of the parameters' bytes.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import orbax.checkpoint  # noqa: F401 (excluded from the measurement)
from absl import app, flags, logging
from flax.traverse_util import flatten_dict
from ml_collections import config_flags
from safetensors.numpy import save_file

from vtr_jax.core.config import read
from vtr_jax.inference import load as load_lib
from vtr_jax.train import state
from vtr_jax.train.config import TrainConfig
from vtr_jax.weights import load, save

_CONFIG = config_flags.DEFINE_config_file("config", "configs/mac.py:webvid2m_cc3m")
_CHILD = flags.DEFINE_string("child", "", "What this process measures; set by itself.")
_PLACE = flags.DEFINE_string("place", "", "Directory of the files; set by itself.")


def model_of(config: Any) -> tuple[Any, Mapping[str, jax.ShapeDtypeStruct]]:
  """(objective, shapes of its parameters by path)."""
  c = read(TrainConfig, config.to_dict() | dict(evals={}))
  objective = c.make_objective()
  boxed = state.abstract_params(objective, c.spec())
  shapes: dict[str, Any] = flatten_dict(nn.unbox(boxed), sep="/")
  return objective, shapes


def make(path: pathlib.Path) -> None:
  """Writes a timm file of random values."""
  objective, shapes = model_of(_CONFIG.value)
  rng = np.random.default_rng(0)
  draw = lambda shape: 0.02 * rng.standard_normal(shape, np.float32)
  tower = "video_tower/"
  params = {k: draw(s.shape) for k, s in shapes.items() if k.startswith(tower)}
  params[tower + "time_positions"] *= 0  # timm has none
  arrays, _ = save.save("timm_vit", objective.model, params)
  save_file(arrays, path)


def memory(name: str) -> int:
  """Bytes of this process from /proc; getrusage's peak includes the parent's."""
  status = pathlib.Path("/proc/self/status").read_text()
  return 1024 * int(status.split(f"{name}:")[1].split()[0])


def measure(what: str, call: Callable[[], Any]) -> None:
  """Calls `call`; prints its time and memory relative to its result."""
  jax.devices()
  before, begin = memory("VmRSS"), time.perf_counter()
  found = jax.block_until_ready(call())
  seconds = time.perf_counter() - begin
  size = sum(x.nbytes for x in jax.tree.leaves(found))
  print(
    f"{what}: {size / 1e6:.0f} MB of parameters in {seconds:.1f} s, "
    f"{(memory('VmHWM') - before) / size:.2f} times that in memory",
    flush=True,
  )


def child(place: pathlib.Path) -> None:
  if _CHILD.value == "run":
    run = str(place / "run")
    measure("the converted run", lambda: load_lib.load(run, text=False).params)
    return
  objective, shapes = model_of(_CONFIG.value)
  source = f"vit:{place}/vit.safetensors"

  def put() -> Any:
    return jax.device_put(load.load(source, objective.model, shapes)[0])

  measure("the file, by init_from", put)


def main(argv: list[str]) -> None:
  logging.set_verbosity(logging.WARNING)
  if _CHILD.value:
    return child(pathlib.Path(_PLACE.value))
  with tempfile.TemporaryDirectory() as folder:
    place = pathlib.Path(folder)
    make(place / "vit.safetensors")
    call = lambda *args: subprocess.run([sys.executable, "-m", *args], check=True)
    begin = time.perf_counter()
    subprocess.run(
      [
        *(sys.executable, "-m", "vtr_jax.convert", "--from=vit"),
        *(f"--checkpoint={place}/vit.safetensors", f"--to={place}/run"),
      ],
      check=True,
      stdout=subprocess.DEVNULL,
    )
    print(f"convert --to, the whole command: {time.perf_counter() - begin:.1f} s")
    for what in ("run", "file"):
      call("benchmarks.weights", f"--child={what}", f"--place={place}", *argv[1:])


if __name__ == "__main__":
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  app.run(main)
