"""Masks: counts, cover, determinism; at awkward sizes too."""

import numpy as np
import pytest

from vtr_jax.batch import MaskSpec
from vtr_jax.data import masks

GRIDS = [(1, 1, 1), (1, 1, 2), (8, 14, 14), (3, 5, 7), (4, 1, 3), (1, 2, 2)]


@pytest.mark.parametrize("kind", ["tube", "per_frame", "random"])
@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.5, 0.7, 0.9, 0.999])
@pytest.mark.parametrize("grid", GRIDS)
def test_video_mask_splits_every_tubelet(kind, ratio, grid):
  spec = MaskSpec(kind, ratio, 0.0)
  keep, hide = masks.video_mask(spec, grid, np.random.default_rng(0))
  assert len(hide) == spec.num_hidden(grid)
  assert keep.dtype == hide.dtype == np.int32
  assert len(keep) >= 1
  np.testing.assert_array_equal(np.sort([*keep, *hide]), np.arange(np.prod(grid)))
  assert (np.diff(keep) > 0).all()
  assert (np.diff(hide) > 0).all()


def test_tube_hides_the_same_places_in_every_slice():
  grid = (8, 14, 14)
  _, hide = masks.video_mask(MaskSpec("tube", 0.9, 0), grid, np.random.default_rng(0))
  places = hide.reshape(8, 176) % 196  # SimVTP: int(0.9 * 196) = 176 in each slice
  assert (places == places[0]).all()


def test_per_frame_hides_as_many_but_other_places_in_every_slice():
  spec = MaskSpec("per_frame", 0.6, 0)
  _, hide = masks.video_mask(spec, (4, 14, 14), np.random.default_rng(0))
  places = hide.reshape(4, 117)  # int(0.6 * 196) in each slice
  np.testing.assert_array_equal(places // 196, np.arange(4)[:, None].repeat(117, 1))
  assert len({tuple(row) for row in places % 196}) == 4


def test_random_does_not_follow_slices():
  spec = MaskSpec("random", 0.5, 0)
  _, hide = masks.video_mask(spec, (8, 14, 14), np.random.default_rng(0))
  assert len(set(np.bincount(hide // 196))) > 1


def test_video_mask_is_drawn_from_the_generator():
  spec, grid = MaskSpec("tube", 0.5, 0), (2, 4, 4)
  draw = lambda seed: masks.video_mask(spec, grid, np.random.default_rng(seed))[0]
  np.testing.assert_array_equal(draw(3), draw(3))
  assert (draw(3) != draw(4)).any()
  # Every place is hidden half of the time.
  rng = np.random.default_rng(0)
  drawn = [masks.video_mask(spec, grid, rng)[0] for _ in range(2000)]
  share = np.bincount(np.concatenate(drawn), minlength=32) / 2000
  np.testing.assert_allclose(share, 0.5, atol=0.06)


def test_text_mask_hides_only_real_words():
  ids = np.array([2, 7, 1, 8, 9, 3, 0, 0], np.int32)
  valid = np.arange(8) < 6
  hidden = masks.text_mask(
    MaskSpec("tube", 0, 1.0), ids, valid, (0, 1, 2, 3), np.random.default_rng(0)
  )
  assert hidden.dtype == np.bool_
  np.testing.assert_array_equal(hidden, [0, 1, 0, 1, 1, 0, 0, 0])


@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.75, 1.0])
def test_text_mask_ratio(ratio):
  ids = np.full(20_000, 9, np.int32)
  rng = np.random.default_rng(0)
  spec = MaskSpec("tube", 0, ratio)
  hidden = masks.text_mask(spec, ids, ids > 0, (0,), rng)
  assert hidden.mean() == pytest.approx(ratio, abs=0.015)
  if ratio in (0, 1):
    assert (hidden == bool(ratio)).all()
