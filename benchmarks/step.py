"""Time of a training step against its FLOPs, at several mask ratios.

  python -m benchmarks.step [--config=configs/simvtp.py] [--batch_size=64]
  taskset -c 0 python -m benchmarks.step --config=configs/mac.py:webvid2m_cc3m \\
    --masked=0,60,75,90 --batch_size=2 --config.objective.compute.dtype=float32
  python -m benchmarks.step --config=configs/miles.py --masked=20 --without=features

Works with any config of any objective. The mask ratios alternate round by round, so
that changes of the machine's speed affect all equally; medians are printed. FLOPs are
the compiler's count of the full step. It counts a scanned layer only once, so layers
are unrolled here (`compute.scan` is set to False). `--without` measures the cost of a
loss term: the same step with that weight at 0.
"""

import dataclasses
import statistics
import time
import types

import jax
from absl import app, flags
from ml_collections import config_flags

from vtr_jax.core import batch, sharding
from vtr_jax.core.config import read
from vtr_jax.train.config import TrainConfig

# The allocator settles during the first steps.
WARM_UP = 3
# On a shared core, CPU time is steadier than wall-clock time.
CLOCKS = dict(wall=time.perf_counter, cpu=time.process_time)


class Case:
  """A compiled step at one mask ratio that trains its own state.

  Args:
    like: case whose state is shared; masks do not change the parameters.
    clock: of `times`, seconds.
  """

  def __init__(
    self,
    config: TrainConfig,
    masked: float,
    batch_size: int,
    like: "Case | None" = None,
    clock: str = "wall",
  ):
    c = dataclasses.replace(
      config,
      mask=dataclasses.replace(config.mask, video_ratio=masked),
      objective=unrolled(config.objective),
      batch_size=batch_size,
    )
    parts, mesh = c.parts(), sharding.make_mesh(c.mesh)
    if like is None:
      self._shared = types.SimpleNamespace(state=parts.init(mesh))
    else:
      self._shared = like._shared
    fake = batch.fake(c.clip, c.text, c.make_objective().mask, batch_size)
    self._batch = sharding.put_batch(fake, mesh)
    self._step = parts.train_step(mesh)
    with sharding.scope(mesh):
      lowered = self._step.jitted.lower(self._shared.state, self._batch)
    self.flops = lowered.compile().cost_analysis()["flops"]
    self.visible = parts.spec["video_keep_idx"].shape[1]
    self.times = []
    self._clock = CLOCKS[clock]

  def run(self) -> None:
    begin = self._clock()
    self._shared.state, metrics = self._step(self._shared.state, self._batch)
    jax.block_until_ready((self._shared.state, metrics))
    self.times.append(self._clock() - begin)


def unrolled(objective: dict) -> dict:
  """The section `objective` of a config without scan."""
  return objective | dict(compute=objective["compute"] | dict(scan=False))


def main(_) -> None:
  values, rows = flags.FLAGS, flags.FLAGS.batch_size
  config = read(TrainConfig, values.config.to_dict())
  cases, first = {}, None
  for masked in values.masked:
    cases[masked] = Case(config, int(masked) / 100, rows, first, values.clock)
    first = first or cases[masked]
    if values.without:
      less = config.loss_weights | {values.without: 0.0}
      lean = dataclasses.replace(config, loss_weights=less)
      cases[f"{masked}*"] = Case(lean, int(masked) / 100, rows, first, values.clock)
  for _ in range(WARM_UP + values.rounds):
    for case in cases.values():
      case.run()
  assert first is not None  # --masked names at least one
  whole = statistics.median(first.times[WARM_UP:])
  print(
    f"{config.name}, {config.objective['compute']['dtype']}, batch {rows}, "
    f"{jax.devices()[0].device_kind}, {values.clock} time"
  )
  print(
    "masked  visible   ms/step  clips/s  GFLOP/step  GFLOP/s  speed-up  FLOP ratio   "
    "speed-up / FLOP ratio"
  )
  for masked, case in cases.items():
    seconds = statistics.median(case.times[WARM_UP:])
    faster, fewer = whole / seconds, first.flops / case.flops
    print(
      f"{masked:>4} %  {case.visible:7}  {1e3 * seconds:8.1f}  "
      f"{rows / seconds:7.1f}  {case.flops / 1e9:10.1f}  "
      f"{case.flops / seconds / 1e9:7.0f}  {faster:6.2f}x  {fewer:10.2f}x  "
      f"{faster / fewer:7.2f}"
    )
  for masked in values.masked if values.without else ():
    both = (statistics.median(cases[h].times[WARM_UP:]) for h in (masked, f"{masked}*"))
    ratio = next(both) / next(both)
    print(f"{masked} % masked: {ratio:.2f} times the step without {values.without} (*)")


if __name__ == "__main__":
  config_flags.DEFINE_config_file("config", "configs/simvtp.py")
  flags.DEFINE_integer("batch_size", 64, "Clips per step.")
  flags.DEFINE_integer("rounds", 5, f"Measured rounds, after {WARM_UP} to warm up.")
  flags.DEFINE_list("masked", ["0", "50", "75", "90"], "Percent of the video.")
  flags.DEFINE_alias("hidden", "masked")  # its name in 0.1.0
  flags.DEFINE_string("without", "", "A loss term to measure the cost of.")
  flags.DEFINE_enum("clock", "wall", CLOCKS, "cpu: for one core of a busy machine.")
  app.run(main)
