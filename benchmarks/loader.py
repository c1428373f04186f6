"""How many training clips the loader alone makes in a second.

  python -m benchmarks.loader

Clips of the demo: 8 frames of 64 x 64 out of 24 of 96 x 96, batches of 128. Uses
data/moving_shapes where it is prepared, else builds the small variant for itself.
Machines differ and are shared: compare only numbers of one run.
"""

import os
import tempfile
import time

from vtr_jax.batch import ClipSpec, MaskSpec, TextSpec
from vtr_jax.data import loader, moving_shapes, sources, text

BATCH = 128
WORKERS = (0, 1, 2)
CLIP = ClipSpec(8, 64, (2, 8, 8), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
MASK = MaskSpec("tube", 0.9, 0.75)


def config(root: str, name: str, workers: int) -> loader.DataConfig:
  """The demo's way of cutting clips."""
  return loader.DataConfig(
    name=name,
    dir=root,
    split="train",
    sampling="segments",
    stride=1,
    crop="multi_scale",
    crop_scales=(1.0, 0.875, 0.75),
    flip=False,
    workers=workers,
    bad_budget=0.0,
  )


def measure(root: str, name: str, workers: int, seconds: float = 6.0) -> tuple:
  """Seconds to the first batch, and clips per second once it runs."""
  directory = sources.find(root, name)
  tokenizer = text.SentencePiece(os.path.join(directory, moving_shapes.TOKENIZER))
  spec = TextSpec(24, tokenizer.vocab_size, tokenizer.mask_id)
  began = time.perf_counter()
  with loader.train_batches(
    config(root, name, workers), CLIP, spec, MASK, tokenizer, batch_size=BATCH, seed=0
  ) as batches:
    next(batches)
    first = time.perf_counter() - began
    # What the workers have put by while they started would count as speed.
    for _ in range(8):
      next(batches)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
      next(batches)
      count += BATCH
    return first, count / (time.perf_counter() - began)


def main() -> None:
  """Prints one line per number of workers."""
  with tempfile.TemporaryDirectory() as folder:
    root, name = "data", "moving_shapes/full"
    if not os.path.exists(os.path.join(root, name)):
      root, name = folder, "moving_shapes/tiny"
      moving_shapes.build(root, "tiny")
    for workers in WORKERS:
      first, rate = measure(root, name, workers)
      print(f"workers {workers}: {rate:7.0f} clips/s, first batch after {first:.1f} s")


if __name__ == "__main__":
  main()
