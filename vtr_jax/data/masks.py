"""What is hidden: drawn on the host for each example, with fixed counts."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Int32

from vtr_jax.batch import MaskSpec


def video_mask(
  spec: MaskSpec, grid: tuple[int, int, int], rng: np.random.Generator
) -> tuple[Int32[np.ndarray, "k"], Int32[np.ndarray, "m"]]:
  """Splits the tubelets of a clip into visible and hidden ones.

  Args:
    spec: "tube" hides the same places in every time slice (VideoMAE, SimVTP),
      "per_frame" as many in every slice but other ones in each (MAC), "random"
      any tubelets (MAE).
    grid: tubelets along (time, height, width).
    rng: the example's generator.

  Returns:
    keep_idx and mask_idx, both sorted; together every index exactly once.
  """
  t, h, w = grid
  hidden = np.zeros((t, h * w), np.bool_)
  count = spec.num_hidden(grid) // t  # in each slice; not read by "random"
  if spec.video == "tube":
    hidden[:, rng.permutation(h * w)[:count]] = True
  elif spec.video == "per_frame":
    for places in hidden:
      places[rng.permutation(h * w)[:count]] = True
  else:
    hidden.flat[rng.permutation(hidden.size)[: spec.num_hidden(grid)]] = True
  hidden = hidden.ravel()
  return (
    np.flatnonzero(~hidden).astype(np.int32),
    np.flatnonzero(hidden).astype(np.int32),
  )


def text_mask(
  spec: MaskSpec,
  ids: Int32[np.ndarray, "l"],
  valid: Bool[np.ndarray, "l"],
  special_ids: Iterable[int],
  rng: np.random.Generator,
) -> Bool[np.ndarray, "l"]:
  """Hides each real, non-special token with chance `spec.text_ratio`.

  Every hidden token is to be replaced by the mask token, as in SimVTP; BERT's
  80/10/10 rule is not used. A short caption may end up with nothing hidden.
  """
  drawn = rng.random(ids.shape) < spec.text_ratio
  return drawn & valid & ~np.isin(ids, list(special_ids))
