"""Time of a training step against its FLOPs, at several shares of hidden video.

  python -m benchmarks.step [--config=configs/simvtp.py] [--batch_size=64]

The masks are measured in turn, round after round, so that a machine whose speed
drifts slows all of them alike; medians are printed. FLOPs are the compiler's count.
"""

import dataclasses
import statistics
import time

import flax.linen as nn
import jax
from absl import app, flags
from ml_collections import config_flags

from vtr_jax import batch, optim, sharding, state, step
from vtr_jax.config import read
from vtr_jax.experiment import TrainConfig
from vtr_jax.objectives import base


class Case:
  """A step at one share of hidden video, compiled, with its own state."""

  def __init__(self, config: TrainConfig, hidden: float, batch_size: int):
    mask = dataclasses.replace(config.mask, video_ratio=hidden)
    shape = config.clip, config.text, mask, batch_size
    spec = batch.spec(*shape)
    objective = base.build(config.objective, *shape[:3])
    mesh = sharding.make_mesh(config.mesh)
    params = nn.unbox(state.abstract_params(objective, spec))
    optimizer = optim.make(config.optim, config.steps, params)
    self._state, shardings = state.init(objective, optimizer, spec, mesh, 0)
    self._batch = sharding.put_batch(batch.fake(*shape), mesh)
    self._step = step.make_train_step(
      objective, optimizer, config.weights, 0, mesh, shardings
    )
    with sharding.scope(mesh):
      compiled = self._step.jitted.lower(self._state, self._batch).compile()
    self.flops = compiled.cost_analysis()["flops"]
    self.visible = spec["video_keep_idx"].shape[1]
    self.times = []

  def run(self) -> None:
    begin = time.perf_counter()
    self._state, metrics = self._step(self._state, self._batch)
    jax.block_until_ready(metrics)
    self.times.append(time.perf_counter() - begin)


def main(_) -> None:
  values, rows = flags.FLAGS, flags.FLAGS.batch_size
  config = read(TrainConfig, values.config.to_dict())
  cases = {h: Case(config, int(h) / 100, rows) for h in values.hidden}
  for _ in range(1 + values.rounds):
    for case in cases.values():
      case.run()
  first = next(iter(cases.values()))
  whole = statistics.median(first.times[1:])
  print(f"{config.name}, batch {rows}, {jax.devices()[0].device_kind}")
  print(
    "hidden  visible   ms/step  clips/s  GFLOP/step  GFLOP/s   faster  FLOPs fewer  "
    "reached"
  )
  for hidden, case in cases.items():
    seconds = statistics.median(case.times[1:])
    faster, fewer = whole / seconds, first.flops / case.flops
    print(
      f"{hidden:>4} %  {case.visible:7}  {1e3 * seconds:8.1f}  "
      f"{rows / seconds:7.0f}  {case.flops / 1e9:10.1f}  "
      f"{case.flops / seconds / 1e9:7.0f}  {faster:6.2f}x  {fewer:10.2f}x  "
      f"{faster / fewer:7.2f}"
    )


if __name__ == "__main__":
  config_flags.DEFINE_config_file("config", "configs/simvtp.py")
  flags.DEFINE_integer("batch_size", 64, "Clips per step.")
  flags.DEFINE_integer("rounds", 5, "Measured rounds, after one to warm up.")
  flags.DEFINE_list("hidden", ["0", "50", "75", "90"], "Percent of the video.")
  app.run(main)
