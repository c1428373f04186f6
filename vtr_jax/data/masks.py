"""Video and text masks: drawn on the host for each example, with fixed counts."""

import math
from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Int32, Int64

from vtr_jax.core.batch import MaskSpec

_MIN_BLOCK = 16  # patches of a block, as in BEiT; on a small grid a quarter of it
_ASPECT = 0.3  # height / width of a block lies in [0.3, 1 / 0.3], as in BEiT


def video_mask(
  spec: MaskSpec, grid: tuple[int, int, int], rng: np.random.Generator
) -> tuple[Int32[np.ndarray, " k"], Int32[np.ndarray, " m"]]:
  """Splits the tubelets of a clip into visible and masked ones.

  Args:
    spec: "tube" masks the same patches in every time slice (VideoMAE, SimVTP),
      "per_frame" the same number in every slice, drawn independently (MAC),
      "random" any tubelets (MAE); "block" draws blocks for each slice (BEiT),
      "block_tube" once for all of them (MILES).
    grid: tubelets along (time, height, width).
    rng: the example's generator.

  Returns:
    keep_idx and mask_idx, both sorted; together every index exactly once.
  """
  t, h, w = grid
  masked = np.zeros(grid, np.bool_)
  count = spec.num_masked(grid) // t  # in each slice; not read by "random"
  if spec.video == "random":
    masked.flat[rng.permutation(masked.size)[: spec.num_masked(grid)]] = True
  elif spec.video == "tube":
    masked[:] = _scattered(h, w, count, rng)
  elif spec.video == "block_tube":
    masked[:] = _blocks(h, w, count, rng)
  else:
    draw = _scattered if spec.video == "per_frame" else _blocks
    masked[:] = [draw(h, w, count, rng) for _ in range(t)]
  return (
    np.flatnonzero(~masked).astype(np.int32),
    np.flatnonzero(masked).astype(np.int32),
  )


def text_mask(
  spec: MaskSpec,
  ids: Int32[np.ndarray, " l"],
  valid: Bool[np.ndarray, " l"],
  words: Int64[np.ndarray, " l"],
  special_ids: Iterable[int],
  rng: np.random.Generator,
) -> Bool[np.ndarray, " l"]:
  """Masks each real, non-special token with probability `spec.text_ratio`.

  Every masked token is to be replaced by the mask token, as in SimVTP, or to be
  left out; BERT's 80/10/10 rule is not used. With `spec.whole_word` the pieces of
  a word share one draw, special tokens among them excepted. A short caption may
  end up with nothing masked. Of more than `spec.text_max` drawn tokens a random choice
  is masked: those of the lowest draws, whole words again.

  Args:
    spec: its `text_ratio`, `whole_word` and `text_max` are read.
    ids: as `Tokenizer.encode` gives them.
    valid: True = a real token.
    words: as `Tokenizer.word_ids` gives them.
    special_ids: ids that stay.
    rng: the example's generator.
  """
  draws = rng.random(ids.shape)
  if spec.whole_word:
    draws = draws[words]
  masked = (draws < spec.text_ratio) & valid & ~np.isin(ids, list(special_ids))
  most = spec.max_masked_tokens(len(ids))
  if np.count_nonzero(masked) > most:
    masked &= draws < np.sort(draws[masked])[most]  # the first one too many
  return masked


def _scattered(
  h: int, w: int, count: int, rng: np.random.Generator
) -> Bool[np.ndarray, "h w"]:
  """Masks `count` patches anywhere."""
  masked = np.zeros((h, w), np.bool_)
  masked.flat[rng.permutation(h * w)[:count]] = True
  return masked


def _blocks(
  h: int, w: int, count: int, rng: np.random.Generator
) -> Bool[np.ndarray, "h w"]:
  """Masks `count` patches in rectangles (BEiT, arXiv 2106.08254, algorithm 1).

  Size and aspect ratio are drawn as there, the ratio log-uniformly as in its code.
  Two things differ, so that the count is always exact: each block covers a
  visible patch, and the last one ends within a row when that is enough.
  """
  masked = np.zeros((h, w), np.bool_)
  smallest = min(_MIN_BLOCK, math.ceil(h * w / 4))
  while (missing := count - np.count_nonzero(masked)) > 0:
    size = rng.uniform(smallest, max(smallest, missing))
    aspect = math.exp(rng.uniform(math.log(_ASPECT), -math.log(_ASPECT)))
    rows = min(max(round(math.sqrt(size * aspect)), 1), h)
    columns = min(max(round(math.sqrt(size / aspect)), 1), w)
    visible = np.flatnonzero(~masked)
    row, column = divmod(int(visible[rng.integers(len(visible))]), w)
    top, left = _start(row, rows, h, rng), _start(column, columns, w, rng)
    block = masked[top : top + rows, left : left + columns]
    block.flat[np.flatnonzero(~block)[:missing]] = True
  return masked


def _start(index: int, size: int, length: int, rng: np.random.Generator) -> int:
  """Random start of an interval of `size` in [0, length) that contains `index`."""
  return int(rng.integers(max(index - size + 1, 0), min(index, length - size) + 1))
