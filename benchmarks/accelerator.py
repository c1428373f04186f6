"""Best step time, clips/s and MFU of each recipe on one accelerator.

  python -m benchmarks.accelerator [--minutes=7] [--recipes=mac,miles,simvtp]
  python -m benchmarks.accelerator --tiny --minutes=1            on any CPU

For each recipe (ViT-B/16, its own mask, bfloat16): every combination of attention and
remat at a first batch size, then each at twice the batch while clips/s grow by 2
percent and memory suffices, fastest first. Each trial is compiled and run for a few
steps. When a recipe's time is used up, the best combination so far is printed.

MFU is the FLOPs of the model's matrix products (`vtr_jax.train.flops`; without
recomputation) over time and peak: the vendor's figure, and one measured here on a large
matrix product. With torch and transformers installed, PyTorch's step of the same model
and batch follows: MAC's two towers, and for SimVTP transformers' VideoMAE, which does
less work than ours. Each runs in its own process, so that the accelerator's memory is
free for the next.
"""

import concurrent.futures
import dataclasses
import functools
import gc
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from absl import app, flags

from configs import mac, miles, simvtp
from vtr_jax.core import batch, sharding
from vtr_jax.core.config import choose, read
from vtr_jax.plan import chips, problem
from vtr_jax.train import flops
from vtr_jax.train.config import TrainConfig

T = TypeVar("T")
MODULES = dict(mac=mac, miles=miles, simvtp=simvtp)
PEERS = dict(mac="DualEncoder", simvtp="VideoMAE")
WARM_UP, STEPS = 2, 5
GAIN = 1.02  # minimum gain of a larger batch; ours


@dataclasses.dataclass(frozen=True)
class Way:
  """Attention, remat and batch size of a step."""

  attention: str
  remat: str
  rows: int

  def of(self, config: TrainConfig) -> TrainConfig:
    compute = config.objective["compute"] | dict(
      attention=self.attention, remat=self.remat
    )
    objective = config.objective | dict(compute=compute)
    return dataclasses.replace(config, objective=objective, batch_size=self.rows)


def recipe(name: str, tiny: bool) -> TrainConfig:
  variant = "webvid2m" if name == "simvtp" else "webvid2m_cc3m"
  c = MODULES[name].get_config("smoke" if tiny else variant).to_dict()
  c["mesh"] = dict(data=1, fsdp=1, tensor=1)
  c["objective"]["compute"] |= dict(dtype="bfloat16")
  return read(TrainConfig, c)


class Step:
  """A compiled training step with its own state and batch."""

  def __init__(self, config: TrainConfig):
    c, parts = config, config.parts()
    mesh = sharding.make_mesh(c.mesh, jax.devices()[:1])
    self.state, self.run = parts.init(mesh), parts.train_step(mesh)
    mask = c.make_objective().mask
    fake = batch.fake(c.clip, c.text, mask, c.batch_size)
    self.batch = sharding.put_batch(fake, mesh)

  def __call__(self) -> None:
    self.state, metrics = self.run(self.state, self.batch)
    jax.block_until_ready((self.state, metrics))


def products(config: TrainConfig) -> float:
  """FLOPs of a step, from shapes alone."""
  devices = tuple(jax.devices()[:1])
  here = chips.Target("local", 1, 1, chips.Chip("", None, None, None), devices)
  return problem.make(config, here).flops()


def median(call: Callable[[], object]) -> float:
  """Median seconds of a call."""
  times = []
  for _ in range(WARM_UP + STEPS):
    begin = time.perf_counter()
    call()
    times.append(time.perf_counter() - begin)
  return statistics.median(times[WARM_UP:])


def try_out(config: TrainConfig, way: Way) -> float | None:
  """Seconds of a step; None if out of memory."""
  try:
    return median(Step(way.of(config)))
  except jax.errors.JaxRuntimeError as e:
    if "RESOURCE_EXHAUSTED" not in str(e):
      raise
    return None
  finally:
    gc.collect()


def ways(platform: str) -> Iterator[tuple[str, str]]:
  """(attention, remat) combinations to try."""
  if platform != "cpu":  # there "auto" is "xla"
    yield "auto", "none"
    yield "auto", "dots"
  yield "xla", "none"
  yield "xla", "dots"


def best(
  measure: Callable[[Way], float | None],
  choices: list[tuple[str, str]],
  rows: int,
  most: int,
  left: Callable[[], float],
) -> tuple[Way, float] | None:
  """(combination with most clips/s, seconds of its step); None if nothing ran.

  Args:
    measure: seconds of a step, or None.
    rows: first batch size; halved until a step runs.
    most: maximum batch size.
    left: remaining seconds; the first trial is always made.
  """
  found: dict[Way, float] = {}
  speed = lambda way: way.rows / found[way]

  def attempt(way: Way) -> bool:
    seconds = measure(way) if not found or left() > 0 else None
    if seconds is not None:
      found[way] = seconds
    return seconds is not None

  while rows and not found:
    for choice in choices:
      attempt(Way(*choice, rows))
    rows //= 2
  # Fastest first; where it runs out of memory, one that keeps less may continue.
  for way in sorted(found, key=speed, reverse=True):
    now = way
    while 2 * now.rows <= most:
      larger = dataclasses.replace(now, rows=2 * now.rows)
      if not attempt(larger) or speed(larger) < GAIN * speed(now):
        break
      now = larger
  top = max(found, key=speed, default=None)
  return None if top is None else (top, found[top])


def measured_peak(size: int) -> float:
  """FLOP/s of one large bfloat16 matrix product."""
  x = jnp.ones((size, size), jnp.bfloat16)
  product = jax.jit(lambda x: x @ x)
  return 2.0 * size**3 / median(lambda: product(x).block_until_ready())


def peer(name: str, config: TrainConfig, rows: int) -> float | None:
  """Seconds of PyTorch's step for `rows` clips, halving the batch until it runs."""
  try:
    import torch  # pyright: ignore[reportMissingImports] - optional

    from benchmarks import torch_peers
  except ModuleNotFoundError:
    return None
  if name not in PEERS:
    return None
  device = "cuda" if torch.cuda.is_available() else "cpu"
  kind, share = getattr(torch_peers, PEERS[name]), rows
  while share:
    try:
      trainer = torch_peers.Trainer(kind, config, "bfloat16", device)
      inputs = trainer.inputs(batch.fake(config.clip, config.text, config.mask, share))
      # A step ends by reading its loss, so it is complete.
      return median(functools.partial(trainer.step, *inputs)) * rows / share
    except torch.OutOfMemoryError:
      share //= 2
      gc.collect()
      torch.cuda.empty_cache()
  return None


def ours(
  config: TrainConfig, most: int, seconds: float
) -> tuple[Way, float, float] | None:
  """(best combination, seconds of its step, its FLOPs without remat)."""
  end = time.perf_counter() + seconds
  choices = list(ways(jax.devices()[0].platform))
  left = lambda: end - time.perf_counter()
  found = best(functools.partial(try_out, config), choices, min(64, most), most, left)
  if found is None:
    return None
  way, took = found
  return way, took, products(dataclasses.replace(way, remat="none").of(config))


def device(size: int) -> tuple[str, float | None, float]:
  """(kind, vendor's peak, measured peak)."""
  kind = jax.devices()[0].device_kind
  return kind, flops.PEAKS.get(kind), measured_peak(size)


def apart(function: Callable[..., T], *args: Any) -> T:
  """`function(*args)` in its own process."""
  spawn = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
    return pool.submit(function, *args).result()


def row(
  name: str,
  found: tuple[Way, float, float] | None,
  torch_time: float | None,
  peaks: tuple[float | None, float],
) -> str:
  """One recipe's line."""
  if found is None:
    return f"{name:8} nothing fits"
  way, took, once = found
  rows = f"{way.attention:6} {way.remat:5} {way.rows:5} {1e3 * took:9.1f}"
  rates = f"{way.rows / took:9.1f} {once / 1e12:8.3f}"
  mfu = (f"{100 * once / took / p:9.1f}" if p else f"{'-':>9}" for p in peaks)
  torch_row = (
    f"{1e3 * torch_time:9.1f} {torch_time / took:6.2f}" if torch_time else f"{'-':>9}"
  )
  return f"{name:8} {rows} {rates} {' '.join(mfu)} {torch_row}"


def main(_) -> None:
  values = flags.FLAGS
  for name in values.recipes:
    choose(name, MODULES, "--recipes")
  kind, maker, measured = apart(device, 256 if values.tiny else 8192)
  told = "unknown" if maker is None else f"{maker / 1e12:.0f}"
  print(
    f"{kind}: bfloat16 peak, TFLOP/s: vendor's {told}, measured {measured / 1e12:.1f}\n"
    "recipe   attend remat  rows   ms/step   clips/s    TFLOP MFU vendor "
    "measured  torch ms  ratio",
    flush=True,
  )
  each = 60 * values.minutes / len(values.recipes)
  for name in values.recipes:
    config = recipe(name, values.tiny)
    # Start-up, PyTorch's step and the running trial come on top.
    found = apart(ours, config, values.most, 0.6 * each)
    torch_time = found and apart(peer, name, config, found[0].rows)
    print(row(name, found, torch_time, (maker, measured)), flush=True)


if __name__ == "__main__":
  flags.DEFINE_list("recipes", list(MODULES), "mac, miles, simvtp.")
  flags.DEFINE_float("minutes", 7.0, "Approximate total time.")
  flags.DEFINE_integer("most", 1024, "Maximum batch size.")
  flags.DEFINE_bool("tiny", False, "Smoke sizes, for machines without an accelerator.")
  app.run(main)
