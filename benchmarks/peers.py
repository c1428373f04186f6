"""Training steps against PyTorch's, same models and batches, in one run.

  python -m benchmarks.peers [--batch_size=2] [--threads=1] [--rounds=5]

Needs `pip install torch transformers`, which nothing else here does. Peers:
  mac       ViT-B/16 with joint attention over 4 frames of 224 pixels, masked patches
            dropped, and DistilBERT; contrastive loss, backward pass, AdamW.
  videomae  transformers' VideoMAEForPreTraining, ViT-B, 16 frames, 90 percent of the
            tubes masked. Ours is SimVTP's masked autoencoder with all other losses off;
            the minimum of two tokens per text stays in its joint pass.
Both are measured alternately in one process, step by step, on the same cores with the
same allocator (launch/setup.sh sets GLIBC_TUNABLES; do the same, and add
:glibc.malloc.arena_max=1, see docs/performance.md). bfloat16 applies to activations;
parameters and optimiser are float32, in PyTorch by autocast. Medians are printed.
"""

import dataclasses
import gc
import os
import statistics
import sys
from collections.abc import Callable

from absl import app, flags

from benchmarks.step import CLOCKS, WARM_UP, Case
from configs import mac, simvtp
from vtr_jax.core import batch
from vtr_jax.core.config import read
from vtr_jax.train.config import TrainConfig

_WORKS = flags.DEFINE_list("works", ["mac", "videomae"], "mac, videomae.")
_DTYPES = flags.DEFINE_list("dtypes", ["float32", "bfloat16"], "float32, bfloat16.")
_MASKED = flags.DEFINE_list("masked", ["0", "60", "75", "90"], "Percent; mac only.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 2, "Clips per step.")
_TEXT_LENGTH = flags.DEFINE_integer("text_length", 32, "Tokens of a caption; mac only.")
_THREADS = flags.DEFINE_integer("threads", 1, "Cores for each side.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Measured rounds, after warm-up.")
_CLOCK = flags.DEFINE_enum("clock", "wall", CLOCKS, "cpu: for one core, machine busy.")


def config_of(work: str, dtype: str) -> TrainConfig:
  """The recipe's config, reduced to the work of both sides."""
  if work == "mac":
    c = mac.get_config("webvid2m_cc3m").to_dict()
    c["text"]["max_length"] = _TEXT_LENGTH.value
  else:
    c = simvtp.get_config("webvid2m").to_dict()
    c["loss_weights"] = dict(vtc=0.0, pixels=1.0, mlm=0.0, vtm=0.0)
    c["text"] = dict(max_length=2, vocab_size=8, mask_id=3)
  c["objective"]["compute"]["dtype"] = dtype
  return read(TrainConfig, c)


class PeerCase:
  """The peer's step on one batch, timed as `Case` times ours."""

  def __init__(self, step: Callable, inputs: tuple, clock: str):
    self._step, self._inputs, self._clock = step, inputs, CLOCKS[clock]
    self.times = []

  def run(self) -> None:
    begin = self._clock()
    self._step(*self._inputs)
    self.times.append(self._clock() - begin)


def measure(work: str, dtype: str, kind: type) -> None:
  """Prints the rows of one work in one dtype."""
  from benchmarks import torch_peers

  config, rows, clock = config_of(work, dtype), _BATCH_SIZE.value, _CLOCK.value
  trainer = torch_peers.Trainer(kind, config, dtype)
  cases, first = {}, None
  for masked in _MASKED.value if work == "mac" else ["90"]:
    share = int(masked) / 100
    ours = Case(config, share, rows, first, clock)
    first = first or ours
    mask = dataclasses.replace(config.mask, video_ratio=share)
    inputs = trainer.inputs(batch.fake(config.clip, config.text, mask, rows))
    cases[masked] = ours, PeerCase(trainer.step, inputs, clock)
  for _ in range(WARM_UP + _ROUNDS.value):
    for ours, peer in cases.values():
      ours.run()
      peer.run()
  for masked, pair in cases.items():
    ours, peer = (1e3 * statistics.median(case.times[WARM_UP:]) for case in pair)
    print(
      f"{work:8}  {dtype:8}  {masked:>4} %  {ours:9.0f}  {peer:9.0f}  "
      f"{peer / ours:9.2f}",
      flush=True,
    )


def main(_) -> None:
  cores = sorted(os.sched_getaffinity(0))[: _THREADS.value]
  os.sched_setaffinity(0, cores)  # before either makes its threads
  try:
    import torch  # pyright: ignore[reportMissingImports] - optional
    import transformers  # pyright: ignore[reportMissingImports] - optional

    from benchmarks import torch_peers
  except ModuleNotFoundError as e:
    sys.exit(f"{e.name} is not installed: python -m pip install torch transformers")
  torch.set_num_threads(len(cores))
  kinds = dict(mac=torch_peers.DualEncoder, videomae=torch_peers.VideoMAE)
  print(
    f"batch {_BATCH_SIZE.value}, {len(cores)} core(s), {_CLOCK.value} time, "
    f"torch {torch.__version__}, transformers {transformers.__version__}, "
    f"GLIBC_TUNABLES={os.environ.get('GLIBC_TUNABLES', 'not set')}"
  )
  print("work      dtype     masked    ours ms    peer ms  peer/ours")
  for work in _WORKS.value:
    for dtype in _DTYPES.value:
      measure(work, dtype, kinds[work])
      gc.collect()  # both models, before the next ones


if __name__ == "__main__":
  app.run(main)
