"""Masks: counts, coverage, determinism; at awkward sizes too."""

import dataclasses

import numpy as np
import pytest

from vtr_jax.core.batch import MaskSpec
from vtr_jax.core.errors import ConfigError
from vtr_jax.data import masks

KINDS = ["tube", "per_frame", "random", "block", "block_tube"]
RATIOS = [0.0, 0.1, 0.5, 0.7, 0.9, 0.99, 0.999]
GRIDS = [
  (1, 1, 1),
  (1, 1, 2),
  (8, 14, 14),
  (3, 5, 7),
  (3, 3, 5),
  (4, 1, 3),
  (2, 1, 17),
  (2, 17, 1),
  (1, 2, 2),
]


def make(video="tube", video_ratio=0.0, text_ratio=0.0, whole_word=False):
  return MaskSpec(video, video_ratio, "replace", text_ratio, whole_word)


def draw(spec, grid, rng):
  """The video mask, bool [t h w]."""
  masked = np.zeros(grid, bool)
  masked.flat[masks.video_mask(spec, grid, rng)[1]] = True
  return masked


# --- Video ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("grid", GRIDS)
def test_every_tubelet_is_either_masked_or_visible(kind, ratio, grid):
  spec = make(kind, ratio)
  for seed in range(3):
    keep, hide = masks.video_mask(spec, grid, np.random.default_rng(seed))
    assert len(hide) == spec.num_masked(grid)
    assert keep.dtype == hide.dtype == np.int32
    assert len(keep) >= 1
    np.testing.assert_array_equal(np.sort([*keep, *hide]), np.arange(np.prod(grid)))
    assert (np.diff(keep) > 0).all()
    assert (np.diff(hide) > 0).all()


@pytest.mark.parametrize("kind", ["tube", "block_tube"])
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("grid", GRIDS)
def test_tube_masks_mask_the_same_patches_at_every_time(kind, ratio, grid):
  masked = draw(make(kind, ratio), grid, np.random.default_rng(0))
  assert (masked == masked[0]).all()


@pytest.mark.parametrize("kind", ["per_frame", "block"])
def test_per_frame_masks_mask_equally_many_but_other_patches_at_every_time(kind):
  masked = draw(make(kind, 0.6), (4, 14, 14), np.random.default_rng(0))
  assert masked.sum((1, 2)).tolist() == [117] * 4  # int(0.6 * 196) in each slice
  assert len({places.tobytes() for places in masked}) == 4


def test_masked_counts_are_those_of_the_papers():
  assert make("tube", 0.9).num_masked((8, 14, 14)) == 8 * 176  # SimVTP: int(176.4)
  assert make("block_tube", 0.4).num_masked((4, 14, 14)) == 4 * 78  # BEiT: 40 %


def test_random_masks_mask_unequally_many_patches_at_each_time():
  masked = draw(make("random", 0.5), (8, 14, 14), np.random.default_rng(0))
  assert len(set(masked.sum((1, 2)))) > 1


def masked_neighbours(masked):
  """Mean number of masked patches above, below, left and right of a masked one."""
  around = np.pad(masked, 1).astype(int)
  near = around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:]
  return near[masked].mean()


@pytest.mark.parametrize(("size", "ratio"), [(14, 0.25), (14, 0.5), (7, 0.4), (4, 0.5)])
@pytest.mark.parametrize("kind", ["block", "block_tube"])
def test_block_masks_are_contiguous(size, ratio, kind):
  """Independent patches would have 4 x ratio masked neighbours, fewer at the edges."""
  rng = np.random.default_rng(0)
  grid = (1, size, size)
  drawn = [masked_neighbours(draw(make(kind, ratio), grid, rng)[0]) for _ in range(200)]
  assert np.mean(drawn) > 4 * ratio + (1.0 if size > 4 else 0.1)


def test_a_block_is_a_rectangle_of_bounded_aspect_ratio():
  """BEiT: at least 16 patches, 1 : 3.3 at most; 12 of them end within a row."""
  rng, shapes = np.random.default_rng(0), set()
  for _ in range(200):
    masked = draw(make("block", 12 / 196), (1, 14, 14), rng)[0]
    rows, columns = np.nonzero(masked)
    box = masked[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert box.ravel()[:12].all()
    shapes.add(box.shape)
  heights, widths = zip(*shapes, strict=True)
  assert (min(widths), max(widths)) == (2, 7)
  assert (min(heights), max(heights)) == (2, 6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_video_mask_depends_on_the_generator_alone(kind):
  spec, grid = make(kind, 0.5), (2, 6, 6)
  first = lambda seed: draw(spec, grid, np.random.default_rng(seed))
  np.testing.assert_array_equal(first(3), first(3))
  assert (first(3) != first(4)).any()


@pytest.mark.parametrize(
  ("kind", "atol"), [("tube", 0.06), ("random", 0.06), ("block_tube", 0.35)]
)
def test_every_patch_is_masked_half_of_the_time(kind, atol):
  """At ratio 0.5; blocks reach the corners less often than the middle."""
  rng = np.random.default_rng(0)
  drawn = [draw(make(kind, 0.5), (2, 4, 4), rng) for _ in range(2000)]
  np.testing.assert_allclose(np.mean(drawn, 0), 0.5, atol=atol)


# --- Text -------------------------------------------------------------------------

SPECIAL = (0, 1, 2, 3)
IDS = np.array([2, 7, 1, 8, 9, 3, 0, 0], np.int32)
VALID = np.arange(8) < 6


@pytest.mark.parametrize("whole_word", [False, True])
def test_special_tokens_and_padding_are_never_masked(whole_word):
  spec = make(text_ratio=1.0, whole_word=whole_word)
  words = np.array([0, 1, 1, 1, 2, 3, 3, 3])  # the worst: specials within words
  masked = masks.text_mask(spec, IDS, VALID, words, SPECIAL, np.random.default_rng(0))
  assert masked.dtype == np.bool_
  np.testing.assert_array_equal(masked, [0, 1, 0, 1, 1, 0, 0, 0])


@pytest.mark.parametrize("whole_word", [False, True])
@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.75, 1.0])
def test_the_text_mask_has_the_given_ratio(ratio, whole_word):
  ids = np.full(20_000, 9, np.int32)
  rng = np.random.default_rng(0)
  spec = make(text_ratio=ratio, whole_word=whole_word)
  masked = masks.text_mask(spec, ids, ids > 0, np.arange(20_000) // 2, (0,), rng)
  assert masked.mean() == pytest.approx(ratio, abs=0.015)
  if ratio in (0, 1):
    assert (masked == bool(ratio)).all()


def test_whole_word_masking_masks_no_word_in_part():
  ids, words = np.full(600, 9, np.int32), np.arange(600) // 3

  def masked_pieces(whole_word):
    spec, rng = make(text_ratio=0.5, whole_word=whole_word), np.random.default_rng(0)
    masked = masks.text_mask(spec, ids, ids > 0, words, (0,), rng)
    return set(masked.reshape(200, 3).sum(1))

  assert masked_pieces(True) == {0, 3}
  assert masked_pieces(False) == {0, 1, 2, 3}


@pytest.mark.parametrize("whole_word", [False, True])
@pytest.mark.parametrize("most", [0, 1, 5, 32, 64])
def test_no_caption_has_more_masked_tokens_than_its_length_and_text_max(
  most, whole_word
):
  """Nor a word in part; of captions that do not reach the limit nothing changes."""
  rng, reached = np.random.default_rng(most), 0
  for _ in range(400):
    length, ratio = int(rng.integers(2, 65)), float(rng.choice([0.15, 0.75, 1.0]))
    ids, valid = np.full(length, 9, np.int32), np.arange(length) < rng.integers(65)
    ids[0] = rng.choice([0, 9])  # some vocabularies have no special tokens
    words = np.sort(rng.integers(0, length, length))
    words = np.unique(words, return_inverse=True)[1]
    free = make(text_ratio=ratio, whole_word=whole_word)
    spec, seed = dataclasses.replace(free, text_max=most), int(rng.integers(1000))
    draw = lambda spec, seed=seed, row=(ids, valid, words): masks.text_mask(
      spec, *row, (0,), np.random.default_rng(seed)
    )
    masked, wanted = draw(spec), draw(free)
    limit = spec.max_masked_tokens(length)
    assert limit == min(most or length, length)
    assert masked.sum() <= limit
    assert not (masked & ~wanted).any()
    if wanted.sum() <= limit:
      np.testing.assert_array_equal(masked, wanted)
    elif whole_word:
      assert not {*words[masked]} & {*words[wanted & ~masked]}
    else:
      assert masked.sum() == limit
    reached += wanted.sum() > limit
  assert bool(reached) == (0 < most < 64)


def test_what_a_limit_leaves_unmasked_is_drawn_uniformly():
  ids = np.full(10, 9, np.int32)
  spec = MaskSpec("tube", 0.0, text_ratio=0.8, text_max=4)
  rng = np.random.default_rng(0)
  drawn = [
    masks.text_mask(spec, ids, ids > 0, np.arange(10), (0,), rng) for _ in range(3000)
  ]
  np.testing.assert_allclose(np.mean(drawn, axis=0), 0.4, atol=0.03)


def test_a_negative_limit_is_refused():
  with pytest.raises(ConfigError, match="text_max: -1 is negative; use 1 or more"):
    MaskSpec("tube", 0.0, text_max=-1)


def test_token_masking_ignores_word_boundaries():
  """Data streams of runs without whole-word masking stay bitwise identical."""
  ids = np.full(64, 9, np.int32)
  masked = masks.text_mask(
    make(text_ratio=0.4),
    ids,
    ids > 0,
    np.zeros(64, int),
    (0,),
    np.random.default_rng(7),
  )
  want = np.random.default_rng(7).random(64) < 0.4
  np.testing.assert_array_equal(masked, want)
