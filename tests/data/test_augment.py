"""RandAugment, random erasing and repeated augmentation of training clips."""

import clips
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from vtr_jax.core.errors import ConfigError
from vtr_jax.data import augment, sources
from vtr_jax.data.examples import EvalExample, read_clip
from vtr_jax.data.mixture import Part

FULL = augment.RandAugment(n=4)
GREY = (128, 128, 128)
BICUBIC = Image.Resampling.BICUBIC


def clip(frames=3, height=40, width=48, seed=0):
  """Smooth frames with a different brightness range each."""
  rng = np.random.default_rng(seed)
  noise = rng.integers(20, 200, (frames, height // 8, width // 8, 3))
  ranges = np.linspace(0.5, 1, frames)[:, None, None, None]
  blocks = noise.repeat(8, axis=1).repeat(8, axis=2) * ranges
  return (blocks + np.arange(width)[None, None, :, None] % 8).astype(np.uint8)


def state(rng):
  return rng.bit_generator.state


# --- RandAugment ------------------------------------------------------------------


def affine(*matrix):
  return lambda image: image.transform(
    image.size, Image.Transform.AFFINE, matrix, BICUBIC, fillcolor=GREY
  )


def add_to_dark_pixels(image):
  pixels = np.asarray(image).astype(int)
  return np.where(pixels < 128, np.minimum(pixels + 77, 255), pixels).astype(np.uint8)


# At magnitude 7 of 10, of a frame of 40 x 48 pixels.
PILLOW = dict(
  auto_contrast=ImageOps.autocontrast,
  equalize=ImageOps.equalize,
  invert=ImageOps.invert,
  posterize=lambda image: ImageOps.posterize(image, 2),
  solarize=lambda image: ImageOps.solarize(image, 77),
  solarize_add=add_to_dark_pixels,
  color=lambda image: ImageEnhance.Color(image).enhance(1.63),
  contrast=lambda image: ImageEnhance.Contrast(image).enhance(1.63),
  brightness=lambda image: ImageEnhance.Brightness(image).enhance(1.63),
  sharpness=lambda image: ImageEnhance.Sharpness(image).enhance(1.63),
  rotate=lambda image: image.rotate(21, BICUBIC, fillcolor=GREY),
  shear_x=affine(1, 0.21, 0, 0, 1, 0),
  shear_y=affine(1, 0, 0, 0.21, 1, 0),
  translate_x=affine(1, 0, 0.315 * 48, 0, 1, 0),
  translate_y=affine(1, 0, 0, 0, 1, 0.315 * 40),
)


def test_there_are_the_fifteen_operations_of_timm():
  assert set(augment.OPERATIONS) == set(PILLOW)
  assert len(PILLOW) == 15


@pytest.mark.parametrize("name", PILLOW)
def test_an_operation_is_pillow_s_on_each_frame(name):
  before = clip()
  after = augment.operate(before, [(name, 0.7)])
  assert after.shape == before.shape
  assert after.dtype == np.uint8
  for frame, got in zip(before, after, strict=True):
    np.testing.assert_array_equal(got, np.asarray(PILLOW[name](Image.fromarray(frame))))
  assert (after != before).any()


@pytest.mark.parametrize("name", PILLOW)
def test_at_level_0_all_but_four_operations_are_the_identity(name):
  """Why magnitude 0 must mean that nothing is applied."""
  same = (augment.operate(clip(), [(name, 0.0)]) == clip()).all()
  assert same == (name not in ("auto_contrast", "equalize", "invert", "posterize"))


def test_operations_are_applied_in_order():
  first = augment.operate(clip(), [("rotate", 0.5)])
  both = augment.operate(clip(), [("rotate", 0.5), ("invert", 0.5)])
  np.testing.assert_array_equal(both, 255 - first)


@pytest.mark.parametrize(
  "off", [augment.RandAugment(), augment.RandAugment(n=4, magnitude=0.0)]
)
def test_magnitude_0_is_the_identity_and_draws_nothing(off):
  rng = np.random.default_rng(0)
  before = state(rng)
  np.testing.assert_array_equal(augment.rand_augment(clip(), off, rng), clip())
  assert state(rng) == before


def test_equal_frames_stay_equal():
  frames = clip(frames=1).repeat(4, axis=0)
  changed = 0
  for seed in range(40):
    got = augment.rand_augment(frames, FULL, np.random.default_rng(seed))
    assert (got == got[:1]).all()
    changed += (got != frames).any()
  assert changed > 30


def test_a_clip_follows_its_generator_alone():
  draw = lambda seed: augment.rand_augment(clip(), FULL, np.random.default_rng(seed))
  np.testing.assert_array_equal(draw(3), draw(3))
  assert (draw(3) != draw(4)).any()


def test_draws_are_those_of_rand_m7_n4_mstd05():
  """Half of four operations, all equally often, of magnitude N(7, 0.5), both signs."""
  rng = np.random.default_rng(0)
  draws = [augment.draw_operations(FULL, rng) for _ in range(4000)]
  counts = np.bincount([len(draw) for draw in draws], minlength=5) / len(draws)
  np.testing.assert_allclose(counts, np.array([1, 4, 6, 4, 1]) / 16, atol=0.02)
  chosen = [pair for draw in draws for pair in draw]
  for name, operation in augment.OPERATIONS.items():
    levels = np.array([level for found, level in chosen if found == name])
    assert len(levels) / len(chosen) == pytest.approx(1 / 15, abs=0.01)
    assert np.abs(levels).mean() == pytest.approx(0.7, abs=0.01)
    assert np.abs(levels).std() == pytest.approx(0.05, abs=0.01)
    negative = (levels < 0).mean()
    assert negative == pytest.approx(0.5 if operation.signed else 0, abs=0.08)


def test_levels_stay_in_the_valid_range():
  wild = augment.RandAugment(n=200, magnitude=9.0, std=20.0)
  levels = [abs(v) for _, v in augment.draw_operations(wild, np.random.default_rng(0))]
  assert min(levels) == 0
  assert max(levels) == 1


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (dict(n=-1), "n: -1"),
    (dict(magnitude=11.0), r"magnitude: 11.0 not in \[0, 10\]"),
    (dict(std=-0.5), "std: -0.5"),
  ],
)
def test_invalid_configs_are_rejected(changes, message):
  with pytest.raises(ConfigError, match=message):
    augment.RandAugment(**changes)


# --- Random erasing ---------------------------------------------------------------

MEAN, STD = (0.4, 0.5, 0.6), (0.05, 0.06, 0.07)  # so far from 0 and 1 nothing is cut


def erased(seed, probability=1.0, frames=None):
  frames = np.zeros((4, 60, 80, 3), np.uint8) if frames is None else frames
  rng = np.random.default_rng(seed)
  return augment.erase(frames, probability, MEAN, STD, rng)


def test_erasing_replaces_one_box_in_all_frames():
  for seed in range(30):
    changed = (erased(seed) > 0).all(axis=-1)
    assert (changed == changed[:1]).all()
    rows, columns = (np.flatnonzero(changed[0].any(axis=axis)) for axis in (1, 0))
    box = changed[0, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert box.all()
    assert 0.015 < box.size / (60 * 80) < 0.34
    assert 0.25 < box.shape[0] / box.shape[1] < 4


def test_erased_pixels_are_standard_noise_once_normalised():
  clips_ = [erased(seed) for seed in range(30)]
  noise = np.concatenate([c[:, (c[0] > 0).all(axis=-1)] for c in clips_], axis=1)
  normalised = (noise / 255 - MEAN) / STD
  np.testing.assert_allclose(normalised.mean(axis=(0, 1)), 0, atol=0.02)
  np.testing.assert_allclose(normalised.std(axis=(0, 1)), 1, atol=0.02)
  assert np.corrcoef(normalised[:2, :, 0])[0, 1] == pytest.approx(0, abs=0.05)


def test_erasing_happens_as_often_as_configured_and_leaves_the_input():
  frames = np.full((2, 32, 32, 3), 7, np.uint8)
  hit = [(erased(seed, 0.25, frames) != 7).any() for seed in range(800)]
  assert np.mean(hit) == pytest.approx(0.25, abs=0.05)
  assert (frames == 7).all()


def test_probability_0_draws_nothing():
  rng = np.random.default_rng(0)
  before = state(rng)
  augment.erase(clip(), 0.0, MEAN, STD, rng)
  assert state(rng) == before


def test_a_frame_of_one_pixel_has_no_box_to_erase():
  frames = np.full((1, 1, 1, 3), 7, np.uint8)
  np.testing.assert_array_equal(erased(0, 1.0, frames), frames)


# --- In the stream ----------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp("data")
  clips.prepare(root, dict(train=clips.records(11, frames=6)))
  return root


def augmented(root, **changes):
  return clips.config(root, rand_augment=FULL, erase=0.5, repeats=2, **changes)


def test_training_clips_are_augmented_after_the_crop(root):
  video = clips.mp4(6)
  rng = np.random.default_rng(5)
  want = read_clip(video, clips.CLIP, clips.config(root), rng)
  want = augment.rand_augment(want, FULL, rng)
  want = augment.erase(want, 0.5, clips.CLIP.mean, clips.CLIP.std, rng)
  rng = np.random.default_rng(5)
  got = read_clip(video, clips.CLIP, augmented(root), rng)
  np.testing.assert_array_equal(got, want)


def test_evaluation_clips_are_not_augmented(root):
  source = sources.open_split(sources.find(str(root), clips.NAME), "train")
  plain, other = (
    EvalExample(source, data, clips.CLIP)(3)["video"]
    for data in (clips.config(root), augmented(root))
  )
  np.testing.assert_array_equal(plain, other)


def test_switched_off_the_stream_is_the_same(root, tokenizer):
  off = augment.RandAugment(n=4, magnitude=0.0)
  data = clips.config(root, rand_augment=off, erase=0.0, repeats=1)
  clips.assert_same(
    clips.take(root, tokenizer, 2, data=data), clips.take(root, tokenizer, 2)
  )


def test_repeats_are_neighbours_with_draws_of_their_own(root, tokenizer):
  data = clips.config(root, repeats=2)
  rows = joined(clips.take(root, tokenizer, 4, data=data))
  plain = joined(clips.take(root, tokenizer, 2))
  np.testing.assert_array_equal(rows["record"], plain["record"].repeat(2))
  for key in ("video", "video_keep_idx"):
    pairs = rows[key].reshape(-1, 2, *rows[key].shape[1:])
    assert np.mean([(a != b).any() for a, b in pairs]) > 0.5, key


def test_workers_hosts_and_restarts_change_no_augmented_batch(root, tokenizer):
  want = clips.take(root, tokenizer, 3, data=augmented(root))
  one = augmented(root, num_workers=1)
  clips.assert_same(clips.take(root, tokenizer, 2, data=one, start_step=1), want[1:])
  hosts = [
    clips.take(root, tokenizer, 3, data=augmented(root), host=host, num_hosts=4)
    for host in range(4)
  ]
  clips.assert_same([joined(parts) for parts in zip(*hosts, strict=True)], want)


def test_a_mixture_repeats_the_records_of_each_part(root, tokenizer):
  parts = (Part(clips.NAME, "train[:5]", 1.0), Part(clips.NAME, "train[5:]", 1.0))
  take = lambda count, repeats: joined(
    clips.take(
      root, tokenizer, count, data=clips.config(root, mixture=parts, repeats=repeats)
    )
  )
  np.testing.assert_array_equal(take(4, 2)["record"], take(2, 1)["record"].repeat(2))


def test_invalid_data_keys_are_rejected(root, tokenizer):
  for changes, message in (
    (dict(erase=1.5), r"erase: 1.5 not in \[0, 1\]"),
    (dict(repeats=0), "repeats: 0"),
  ):
    with pytest.raises(ConfigError, match=message):
      clips.config(root, **changes)
  with pytest.raises(ConfigError, match=r"8 is not a multiple of .*data.repeats = 3"):
    clips.take(root, tokenizer, 1, data=clips.config(root, repeats=3))


def joined(batches):
  return {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}
