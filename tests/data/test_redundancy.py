"""What benchmarks.redundancy says of clips whose redundancy is known."""

import numpy as np
import pytest

from benchmarks import redundancy
from vtr_jax.core.batch import ClipSpec, MaskSpec

CLIP = ClipSpec(num_frames=2, image_size=8, tubelet_size=(1, 2, 2))
MASK = MaskSpec("random", 0.5)


def found(make, clips=200):
  """(mean, nearest, linear) of clips that `make` draws."""
  draws = [np.random.default_rng(seed) for seed in range(2 * clips)]
  made = [redundancy.sample(make(rng), CLIP, MASK, rng) for rng in draws]
  return redundancy.shares(iter(made[:clips]), iter(made[clips:]))


def test_clips_of_one_colour_are_recovered_from_any_tubelet():
  def make(rng):
    return np.broadcast_to(rng.integers(0, 256, 3, np.uint8), (2, 8, 8, 3))

  assert found(make) == pytest.approx((1, 1, 1), abs=0.01)
  black = lambda rng: np.zeros((2, 8, 8, 3), np.uint8)
  assert found(black)[:2] == (1, 1)


def test_nothing_is_recovered_of_noise():
  mean, copy, linear = found(lambda rng: rng.integers(0, 256, (2, 8, 8, 3), np.uint8))
  assert mean == pytest.approx(0, abs=0.02)
  assert copy == pytest.approx(-1, abs=0.05)  # the variance of a difference is twice
  assert -0.1 < linear < 0.02


def test_the_share_is_that_of_the_variance_around_the_mean_tubelet():
  truth = np.array([[0.0], [2.0], [4.0], [6.0]])
  assert redundancy.share(truth, truth) == 1
  assert redundancy.share(truth, np.full((4, 1), 3.0)) == 0
  assert redundancy.share(truth, truth + 1) == pytest.approx(1 - 4 / 20)


def test_the_nearest_tubelets_come_first():
  keep = np.array([0, 3, 17, 30], np.int32)  # (t, y, x) of 2 x 4 x 4: 000 003 101 132
  near = redundancy.nearest((2, 4, 4), keep, np.array([1, 31], np.int32))
  # 001 is as near to 101 as to 000: in time first.
  assert near.tolist() == [[17, 0, 3, 30], [30, 3, 17, 0]]
