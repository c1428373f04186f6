"""Crops of frames: inside the frame, central, and distributed as documented."""

import numpy as np
import pytest

from vtr_jax.data import crops


@pytest.mark.parametrize("crop", crops.CROPS)
@pytest.mark.parametrize(
  "shape", [(96, 96), (97, 131), (240, 320), (10, 400), (1, 1), (720, 64)]
)
def test_views_lie_inside_the_frame(crop, shape):
  scales = {"multi_scale": (1, 0.875, 0.75, 0.66), "random_resized": (0.5, 1)}
  rng = np.random.default_rng(0)
  for _ in range(50):
    view = crops.random_view(*shape, 64, crop, scales.get(crop, ()), True, rng)
    assert view.size == 64
    assert 0 <= view.top <= view.height - 64
    assert 0 <= view.left <= view.width - 64


def test_resize_takes_the_central_square():
  assert crops.resize_view(96, 96, 64) == crops.View(64, 64, 0, 0, 64)
  assert crops.resize_view(100, 200, 50) == crops.View(50, 100, 0, 25, 50)
  assert crops.resize_view(300, 100, 50) == crops.View(150, 50, 50, 0, 50)


def test_multi_scale_has_thirteen_positions_and_the_given_scales():
  rng = np.random.default_rng(0)
  draw = lambda: crops.random_view(160, 160, 80, "multi_scale", (1.0, 0.5), False, rng)
  views = [draw() for _ in range(600)]
  # Scale 1 shows the whole square at 80, scale .5 shows half of it at 160.
  assert {(v.height, v.width) for v in views} == {
    (80, 80), (160, 160), (80, 160), (160, 80)
  }  # fmt: skip
  places = {(v.top, v.left) for v in views if v.height == v.width == 160}
  assert len(places) == 13
  assert {(0, 0), (80, 80), (40, 40), (20, 60)} <= places


def test_random_resized_keeps_area_and_aspect():
  rng = np.random.default_rng(0)
  for _ in range(200):
    view = crops.random_view(1000, 1000, 500, "random_resized", (0.5, 0.8), False, rng)
    tall, wide = 500 * 1000 / view.height, 500 * 1000 / view.width
    assert 0.49 < tall * wide / 1e6 < 0.81
    assert 0.74 < wide / tall < 1.35


def test_flip_is_an_option_and_happens_half_of_the_time():
  rng = np.random.default_rng(0)
  draw = lambda flip: crops.random_view(96, 96, 64, "resize", (), flip, rng).flip
  assert not any(draw(False) for _ in range(50))
  assert 60 < sum(draw(True) for _ in range(200)) < 140
