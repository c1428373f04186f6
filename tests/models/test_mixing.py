"""Mixup and CutMix: what is mixed with what, by how much, on any mesh."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import on_eight_devices

from vtr_jax.core.errors import ConfigError
from vtr_jax.models import mixing
from vtr_jax.models.mixing import MixConfig

B, T, H, W, CLASSES = 8, 3, 16, 12, 5
RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (B, T, H, W, 3), np.uint8)
VIDEO = BYTES.astype(np.float32) / 255
TARGETS = mixing.smooth_targets(jnp.arange(B, dtype=jnp.int32) % CLASSES, CLASSES, 0.1)
VALID = np.ones(B, bool)
ROW = np.arange(B, dtype=np.int32)
MIXUP, CUTMIX = MixConfig(cutmix=0.0), MixConfig(mixup=0.0)
ONE_HOT = jnp.eye(B, dtype=jnp.float32)


_mix = jax.jit(mixing.mix, static_argnames="config")


def mix(key, config, video=VIDEO, targets=TARGETS, valid=VALID, row=ROW):
  return jax.device_get(_mix(key, video, targets, valid, row, config=config))


def mirrored(x, group=4):
  """Each row's partner."""
  x = np.asarray(x)
  return x.reshape(-1, group, *x.shape[1:])[:, ::-1].reshape(x.shape)


def weights(targets):
  """Weight of each row's own target, from targets mixed from ONE_HOT."""
  return np.diagonal(targets)


@pytest.mark.parametrize("config", [MixConfig(), MIXUP, CUTMIX, MixConfig(prob=0.5)])
def test_targets_sum_to_1_and_pixels_stay_in_range(config):
  for seed in range(20):
    video, targets = mix(jax.random.key(seed), config)
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)
    assert video.shape == VIDEO.shape
    assert video.dtype == jnp.float32
    assert video.min() >= 0
    assert video.max() <= 1 + 1e-6


def test_mixup_weighs_pixels_and_targets_equally():
  for seed in range(10):
    video, targets = mix(jax.random.key(seed), MIXUP, targets=ONE_HOT)
    own = weights(targets)
    np.testing.assert_allclose(
      targets,
      own[:, None] * ONE_HOT + (1 - own[:, None]) * mirrored(ONE_HOT),
      atol=1e-6,
    )
    own = own[:, None, None, None, None]
    want = own * VIDEO + (1 - own) * mirrored(VIDEO)
    np.testing.assert_allclose(video, want, atol=1e-6)


def test_cutmix_pastes_one_box_and_weighs_targets_by_its_true_area():
  other = mirrored(VIDEO)
  areas = []
  for seed in range(60):
    video, targets = mix(jax.random.key(seed), CUTMIX, targets=ONE_HOT)
    own = weights(targets)
    for r in range(B):
      # Equal pixels of both clips would count as either.
      pasted = (video[r] != VIDEO[r]).any(axis=(0, 3))
      rows, columns = (np.flatnonzero(pasted.any(axis=axis)) for axis in (1, 0))
      if len(rows):
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert pasted[box].all()
        np.testing.assert_array_equal(video[r][:, *box], other[r][:, *box])
      assert 1 - own[r] == pytest.approx(pasted.sum() / (H * W), abs=1e-6)
    areas.append(1 - own[0])
  assert min(areas) < 0.1
  assert max(areas) > 0.5


def test_a_box_is_as_large_as_asked_unless_the_frame_cuts_it():
  box = jax.jit(lambda key, outside: mixing._box(key, (40, 20), outside))
  found = [box(jax.random.key(i), jnp.float32(0.75)) for i in range(200)]
  tall = np.array([b.any(axis=1).sum() for b in found])
  wide = np.array([b.any(axis=0).sum() for b in found])
  assert tall.max() == 20
  assert wide.max() == 10
  # Its centre is uniform: 21 of 40 places leave it whole.
  assert np.mean(tall == 20) == pytest.approx(21 / 40, abs=0.12)
  assert tall.min() == 10


@pytest.mark.parametrize("alpha", [0.01, 0.3, 1.0])
def test_beta_draws_have_its_mean_and_variance(alpha):
  keys = jax.random.split(jax.random.key(0), 4000)
  found = jax.jit(jax.vmap(lambda key: mixing._beta(key, alpha)))(keys)
  assert np.mean(found) == pytest.approx(0.5, abs=0.03)
  assert np.var(found) == pytest.approx(0.25 / (2 * alpha + 1), abs=0.01)


def test_draws_are_those_of_the_configured_distributions():
  """CutMix in half of the groups; Beta(0.8, 0.8) has mean 1/2, variance 1 / 10.4."""
  row = 4 * np.arange(800, dtype=np.int32).repeat(4)
  small = dict(
    video=np.zeros((3200, 1, 2, 2, 1), np.float32),
    targets=jnp.tile(ONE_HOT[:4, :4], (800, 1)),
    valid=np.ones(3200, bool),
    row=row,
  )
  _, targets = mix(jax.random.key(0), MIXUP, **small)
  own = np.asarray(targets)[::4, 0]
  assert own.mean() == pytest.approx(0.5, abs=0.03)
  assert own.var() == pytest.approx(1 / 10.4, abs=0.01)
  _, targets = mix(jax.random.key(0), MixConfig(), **small)
  quarters = np.asarray(targets)[::4, 0] * 4
  assert np.mean(quarters == quarters.round()) == pytest.approx(0.5, abs=0.06)
  _, targets = mix(jax.random.key(0), MixConfig(cutmix=0.0, prob=0.3), **small)
  assert np.mean(np.asarray(targets)[::4, 0] == 1) == pytest.approx(0.7, abs=0.05)


@pytest.mark.parametrize("kind", [MixConfig(), MIXUP, CUTMIX])
def test_unmixed_groups_are_bitwise_the_input(kind):
  video, targets = mix(jax.random.key(0), dataclasses.replace(kind, prob=0.0))
  np.testing.assert_array_equal(video, VIDEO)
  np.testing.assert_array_equal(targets, TARGETS)


@pytest.mark.parametrize("kind", [MIXUP, CUTMIX])
def test_invalid_rows_are_mixed_into_no_other(kind):
  """Even where they hold no numbers; their partners stay bitwise as they are."""
  valid = VALID.copy()
  valid[[1, 6, 5]] = False  # partners 2; 5 and 6 of each other
  broken = np.where(valid[:, None, None, None, None], VIDEO, np.float32(np.nan))
  for seed in range(5):
    video, targets = mix(jax.random.key(seed), kind, video=broken, valid=valid)
    whole, _ = mix(jax.random.key(seed), kind)
    np.testing.assert_array_equal(video[2], VIDEO[2])
    np.testing.assert_array_equal(targets[2], TARGETS[2])
    for r in (0, 3, 4, 7):
      np.testing.assert_array_equal(video[r], whole[r])


def test_rows_in_parts_are_mixed_as_all_at_once():
  """As on several devices, or in microbatches, in any order of the groups."""
  key, config = jax.random.key(7), MixConfig()
  video, targets = mix(key, config)
  halves = [np.s_[4:], np.s_[:4]]
  found = [
    mix(key, config, VIDEO[part], TARGETS[part], VALID[part], ROW[part])
    for part in halves
  ]
  for part, (some, some_targets) in zip(halves, found, strict=True):
    np.testing.assert_allclose(some, video[part], atol=1e-6)
    np.testing.assert_allclose(some_targets, targets[part], atol=1e-6)
  assert (targets[0] != targets[4]).any()  # groups have their own draws


def test_devices_that_have_whole_groups_exchange_nothing():
  """And mix as one device does."""
  assert on_eight_devices("mix_on_devices") == [""]


def test_floats_and_bytes_are_mixed_equally():
  key = jax.random.key(0)
  found = mix(key, MixConfig(), video=BYTES)
  for a, b in zip(found, mix(key, MixConfig()), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_smoothing_by_hand():
  got = mixing.smooth_targets(jnp.array([2], jnp.int32), 4, 0.1)
  np.testing.assert_allclose(got, [[0.025, 0.025, 0.925, 0.025]], rtol=1e-6)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (dict(mixup=-1.0), r"mixup: -1.0 not in \[0, 1\]"),
    (dict(prob=1.5), "prob: 1.5"),
    (dict(mixup=0.0, cutmix=0.0), "set one of them"),
    (dict(group=3), "group: 3 must be even"),
  ],
)
def test_invalid_configs_are_rejected(changes, message):
  with pytest.raises(ConfigError, match=message):
    MixConfig(**changes)


def test_rows_that_make_no_whole_groups_are_rejected():
  with pytest.raises(ConfigError, match=r"mix\.group: 6 does not divide the 8 rows"):
    mix(jax.random.key(0), MixConfig(group=6))
