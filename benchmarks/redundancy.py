"""How redundant clips are: what visible tubelets say of masked ones, without a model.

  python -m benchmarks.redundancy --config=configs/mac.py [--masks=tube:0.9]

Prints for each mask the share of variance of the masked tubelets' pixels (R^2: all if
exact, none if no better than the mean tubelet of all clips) that three guesses recover:

  mean      the mean colour of the clip's visible tubelets
  nearest   a copy of the nearest visible tubelet; steps in time, down and right count
            the same, and of equally near tubelets that in time is taken
  linear    ridge regression from the 8 nearest visible tubelets, reduced to 4 x 4
            pixels, and their offsets; fitted on `train`, measured like the others on
            `test`

Data and clip are the config's; embedded data are built if they are missing.
"""

from collections.abc import Iterator

import numpy as np
from absl import app, flags
from jaxtyping import Float64, Int64, Integer, Shaped
from ml_collections import config_flags

from vtr_jax.core.batch import ClipSpec, MaskSpec, patchify
from vtr_jax.core.config import read
from vtr_jax.data import loader
from vtr_jax.data.embedded import build as embedded
from vtr_jax.data.masks import video_mask
from vtr_jax.train.config import TrainConfig

_CONFIG = config_flags.DEFINE_config_file("config")
_MASKS = flags.DEFINE_list(
  "masks", ["per_frame:0.75", "random:0.75"], "Kinds of masks and their ratios."
)
_CLIPS = flags.DEFINE_integer(
  "clips", 1000, "Clips to fit, and half as many to measure."
)

NEIGHBOURS = 8
TARGETS = 64  # masked tubelets drawn from each clip
RIDGE = 1e-2  # of the mean variance of a feature; ours
_WIDE = 4  # pixels of a neighbour's side that the regression reads, each a mean; ours

# Masked tubelets [m p] of 0 to 1, mean colour [p], nearest tubelets [m p], features.
Sample = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def share(truth: Shaped[np.ndarray, "m p"], guess: Shaped[np.ndarray, "m p"]) -> float:
  """Share of the variance around the mean tubelet that a guess recovers."""
  error = np.square(truth - guess).sum()
  spread = np.square(truth - truth.mean(axis=0, keepdims=True)).sum()
  return 1.0 if error == 0 else float(1 - error / spread)


def nearest(
  grid: tuple[int, int, int],
  keep: Integer[np.ndarray, " k"],
  masked: Integer[np.ndarray, " m"],
) -> Int64[np.ndarray, "m n"]:
  """The `NEIGHBOURS` nearest visible tubelets of each masked one, nearest first."""
  a, b = (np.stack(np.unravel_index(i, grid), axis=1) for i in (masked, keep))
  steps = np.square(a[:, None, :] - b[None, :, :])
  distance = steps.sum(axis=2) - 1e-3 * steps[:, :, 0]  # of equal ones, those in time
  order = np.argsort(distance, axis=1, kind="stable")[:, :NEIGHBOURS]
  return keep.astype(np.int64)[order]


def sample(
  video: Shaped[np.ndarray, "t h w c"],
  clip: ClipSpec,
  mask: MaskSpec,
  rng: np.random.Generator,
) -> Sample:
  """Masked tubelets of one clip and what the guesses are made from."""
  keep, masked = video_mask(mask, clip.grid, rng)
  masked = np.sort(rng.permutation(masked)[:TARGETS])
  near = nearest(clip.grid, keep, masked)
  pixels = patchify(video[None], clip.tubelet_size)[0].astype(np.float32) / 255
  colour = pixels[keep].reshape(-1, 3).mean(axis=0)
  at = lambda i: np.stack(np.unravel_index(i, clip.grid), axis=-1)
  offsets = (at(near) - at(masked)[:, None, :]).astype(np.float32)
  seen = _reduced(pixels, clip)[near].reshape(len(masked), -1)
  features = np.concatenate([seen, offsets.reshape(len(masked), -1)], axis=1)
  mean = np.tile(colour, pixels.shape[1] // 3)
  return pixels[masked], mean, pixels[near[:, 0]], features


def _reduced(
  pixels: Shaped[np.ndarray, "n p"], clip: ClipSpec
) -> Shaped[np.ndarray, "n q"]:
  """Tubelets at `_WIDE` x `_WIDE` at most, each value a mean."""
  t, h, w = clip.tubelet_size
  down, right = max(h // _WIDE, 1), max(w // _WIDE, 1)
  cells = pixels.reshape(len(pixels), t, h // down, down, w // right, right, 3)
  return cells.mean(axis=(3, 5)).reshape(len(pixels), -1)


def fit(samples: Iterator[Sample]) -> Float64[np.ndarray, "f p"]:
  """Weights of the regression; the last row is the bias."""
  gram, cross = 0.0, 0.0
  for truth, _, _, features in samples:
    inputs = _with_bias(features)
    gram, cross = gram + inputs.T @ inputs, cross + inputs.T @ truth
  gram = np.asarray(gram, np.float64)
  gram[np.diag_indices_from(gram)] += RIDGE * np.trace(gram) / len(gram)
  return np.linalg.solve(gram, np.asarray(cross, np.float64))


def _with_bias(features: Shaped[np.ndarray, "m f"]) -> Shaped[np.ndarray, "m g"]:
  return np.concatenate([features, np.ones_like(features[:, :1])], axis=1)


def shares(train: Iterator[Sample], test: Iterator[Sample]) -> tuple[float, ...]:
  """Share recovered by the mean colour, the nearest tubelet and the regression."""
  weights = fit(train)
  rows = [
    (truth, np.broadcast_to(mean, truth.shape), near, _with_bias(features) @ weights)
    for truth, mean, near, features in test
  ]
  truth, *guesses = (np.concatenate(column) for column in zip(*rows, strict=True))
  return tuple(share(truth, guess) for guess in guesses)


def main(_) -> None:
  config = read(TrainConfig, _CONFIG.value.to_dict())
  data, clip = config.data, config.clip
  embedded.find(data.dir, data.name)  # builds it
  splits = f"train[:{_CLIPS.value}]", f"test[:{_CLIPS.value // 2}]"
  videos = [
    [batch["video"][0] for batch in loader.eval_videos(data.open(split), data, clip, 1)]
    for split in splits
  ]
  grid = " x ".join(map(str, clip.grid))
  print(f"{data.name}, {grid} tubelets of {clip.tubelet_size}")
  print(f"{'mask':16} {'mean':>8} {'nearest':>8} {'linear':>8}")
  for name in _MASKS.value:
    kind, _, ratio = name.partition(":")
    mask, rng = MaskSpec(kind, float(ratio)), np.random.default_rng(0)
    train, test = ((sample(v, clip, mask, rng) for v in some) for some in videos)
    found = (f"{100 * value:7.1f}%" for value in shares(train, test))
    print(f"{name:16} {' '.join(found)}", flush=True)


if __name__ == "__main__":
  flags.mark_flag_as_required("config")
  app.run(main)
