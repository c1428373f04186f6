"""Images, single frames, frame times, and files that take too much time or memory."""

import io
import time

import clips
import movies
import numpy as np
import pytest
from PIL import Image

from vtr_jax.core.errors import BadSample
from vtr_jax.data import crops
from vtr_jax.data.video import container, decode, packets

GOOD = clips.mp4()
SPREAD = lambda n: decode.frame_indices(n, 8, "segments", 1, None)


@pytest.mark.parametrize(
  "kind", ["b_frames", "gif", "avi_mpeg4", "mpeg1", "ts", "vp8", "no_container"]
)
def test_a_single_frame_is_repeated_to_fill_the_clip(kind):
  frames = decode.decode(movies.movie(kind, frames=1), SPREAD, needed=8)
  assert frames.shape == (8, 48, 64, 3)
  assert (frames == frames[0]).all()


def image(kind, array, **options):
  file = io.BytesIO()
  Image.fromarray(array).save(file, kind, **options)
  return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "BMP", "GIF"])
def test_an_image_is_a_video_of_one_frame(kind):
  gradient = np.mgrid[:62, :90][0] * 4
  picture = np.stack([gradient, 255 - gradient, gradient // 2], -1).astype(np.uint8)
  data = image(kind, picture)
  frames = decode.decode(data, SPREAD, needed=8)
  assert frames.shape == (8, 62, 90, 3)
  for frame in frames:
    np.testing.assert_allclose(frame.astype(int), picture, atol=12)
  small = decode.decode(
    data, SPREAD, lambda h, w: crops.resize_view(h, w, 32), needed=8
  )
  assert small.shape == (8, 32, 32, 3)
  np.testing.assert_array_equal(decode.frame_times(data), [0])


def test_transparent_pixels_keep_their_stored_colour():
  picture = np.full((8, 8, 4), (200, 100, 50, 0), np.uint8)
  (frame,) = decode.decode(image("PNG", picture))
  np.testing.assert_array_equal(frame, picture[..., :3])


def test_gray_and_exif_rotated_images_are_decoded():
  gray = np.tile(np.arange(0, 240, 4, dtype=np.uint8), (40, 1))
  (frame,) = decode.decode(image("JPEG", gray))
  np.testing.assert_allclose(frame[..., 1].astype(int), gray, atol=4)
  exif = Image.Exif()
  exif[0x0112] = 6  # turn it a quarter clockwise to see it upright
  (turned,) = decode.decode(image("JPEG", gray, exif=exif.tobytes()))
  assert turned.shape == (60, 40, 3)
  np.testing.assert_allclose(turned, np.rot90(frame, -1))


# --- Times ------------------------------------------------------------------------


def test_frame_times_of_a_variable_rate():
  times = decode.frame_times(movies.movie("variable_rate"))
  starts = np.cumsum([0, *movies.SHOWN_MS[:-1]]) / 1000
  np.testing.assert_allclose(times, starts, atol=1e-9)


@pytest.mark.parametrize("kind", ["b_frames", "avi", "mpeg1", "gif", "vp9", "ts"])
@pytest.mark.parametrize("rate", [2, 25])
def test_frame_times_of_a_constant_rate(kind, rate):
  if kind == "mpeg1" and rate == 2:
    pytest.skip("MPEG-1 has no such rate")
  times = decode.frame_times(movies.movie(kind, rate=rate))
  np.testing.assert_allclose(times, np.arange(movies.FRAMES) / rate, atol=2e-3)


def test_frame_times_of_a_raw_stream_assume_25_fps():
  times = decode.frame_times(movies.movie("no_container"))
  np.testing.assert_allclose(times, np.arange(movies.FRAMES) / 25)


def test_frame_times_of_an_unusable_file_are_a_bad_sample():
  for data, reason in [(b"", "empty file"), (clips.mp4(0), "no ")]:
    with pytest.raises(BadSample, match=reason):
      decode.frame_times(data)


# --- Bombs ------------------------------------------------------------------------


def test_a_file_that_takes_too_long_is_a_bad_sample():
  with pytest.raises(BadSample, match=r"took more than 0\.001 s to decode"):
    decode.decode(movies.movie("b_frames"), seconds=0.001)
  assert len(decode.decode(movies.movie("b_frames"), seconds=60)) == movies.FRAMES


def test_the_decode_timeout_counts_cpu_time_only(monkeypatch):
  """A batch must not depend on what else runs on the machine."""
  wait = lambda n: time.sleep(0.3) or [0]
  assert len(decode.decode(GOOD, wait, seconds=0.2)) == 1


def test_a_decompression_bomb_is_rejected_at_once():
  Image.MAX_IMAGE_PIXELS = None
  bomb = image("PNG", np.zeros((12_000, 12_000), bool))
  assert len(bomb) < 50_000
  began = time.thread_time()
  with pytest.raises(BadSample, match=r"12000 x 12000 pixels, above 2\^26"):
    decode.decode(bomb)
  assert time.thread_time() - began < 0.5


def test_frames_with_too_many_pixels_are_rejected(monkeypatch):
  monkeypatch.setattr(container, "MAX_PIXELS", 96 * 96 - 1)
  with pytest.raises(BadSample, match="frames of 96 x 96 pixels are too large"):
    decode.decode(GOOD)


def test_frames_that_take_too_much_memory_are_rejected(monkeypatch):
  monkeypatch.setattr(decode, "_MAX_BYTES", 96 * 96 * 3 * 10)
  assert len(decode.decode(GOOD, range(10))) == 10
  with pytest.raises(BadSample, match="take fewer"):
    decode.decode(GOOD)


def test_more_packets_than_the_limit_are_rejected(monkeypatch):
  monkeypatch.setattr(packets, "_MAX_PACKETS", 20)
  with pytest.raises(BadSample, match="more than 20 frames"):
    decode.decode(GOOD, [0])
