"""Decoding: damaged and unusual files, frame choice."""

import struct

import clips
import damage
import numpy as np
import pytest

from vtr_jax.core.batch import ClipSpec
from vtr_jax.core.errors import BadSample
from vtr_jax.data import crops
from vtr_jax.data.examples import read_clip
from vtr_jax.data.video import decode
from vtr_jax.data.views import Views
from vtr_jax.data.views import crops as view_crops

GOOD = clips.mp4()
FAST = clips.mp4(movflags="faststart")
FRAGMENTED = clips.mp4(movflags="frag_keyframe+empty_moov")


def levels(frames):
  """Brightness of the right half of each frame."""
  return frames[:, :, frames.shape[2] * 3 // 4].mean(axis=(1, 2))


# --- Frames and sizes -------------------------------------------------------------


def test_frames_are_selected_by_number():
  every = decode.decode(GOOD)
  assert every.shape == (24, 96, 96, 3)
  assert every.dtype == np.uint8
  assert (np.diff(levels(every)) > 4).all()
  some = decode.decode(GOOD, [0, 7, 7, 23])
  np.testing.assert_array_equal(some, every[[0, 7, 7, 23]])


def test_indices_may_depend_on_the_number_of_frames():
  seen = []
  frames = decode.decode(GOOD, lambda n: seen.append(n) or [n - 1])
  assert seen == [24]
  np.testing.assert_array_equal(frames, decode.decode(GOOD)[-1:])


def test_an_error_of_the_caller_is_not_a_bad_sample():
  def wrong(num_frames):
    raise ValueError("mine")

  with pytest.raises(ValueError, match="mine"):
    decode.decode(GOOD, wrong)


def test_a_view_resizes_crops_and_flips():
  whole = decode.decode(GOOD, [5], lambda h, w: crops.View(64, 64, 0, 0, 64))
  cut = decode.decode(GOOD, [5], lambda h, w: crops.View(64, 64, 8, 40, 16))
  np.testing.assert_array_equal(cut, whole[:, 8:24, 40:56])
  flip = decode.decode(GOOD, [5], lambda h, w: crops.View(64, 64, 0, 0, 64, True))
  np.testing.assert_array_equal(flip, whole[:, :, ::-1])
  assert whole[0, 32, 10].mean() < whole[0, 32, 50].mean() - 20


@pytest.mark.parametrize("pix_fmt", ["gray", "yuv422p", "yuv444p", "yuv420p10le"])
def test_all_pixel_formats_decode_to_the_same_brightness(pix_fmt):
  frames = decode.decode(clips.mp4(9, pix_fmt=pix_fmt))
  assert frames.shape == (9, 96, 96, 3)
  # The encoder takes gray for full range and does not say so: hence the 10.
  np.testing.assert_allclose(levels(frames), levels(decode.decode(GOOD))[:9], atol=10)


@pytest.mark.parametrize(
  ("height", "width", "pix_fmt"),
  [(97, 131, "yuv444p"), (98, 130, "yuv420p"), (16, 300, "yuv420p"), (2, 2, "gray")],
)
def test_odd_sizes_are_decoded_and_resized(height, width, pix_fmt):
  data = clips.mp4(5, height, width, pix_fmt=pix_fmt)
  assert decode.decode(data).shape == (5, height, width, 3)
  view = lambda h, w: crops.resize_view(h, w, 64)
  assert decode.decode(data, None, view).shape == (5, 64, 64, 3)


def test_rotated_videos_are_turned_upright():
  data = bytearray(clips.mp4(2, 64, 96))
  at = data.index(b"tkhd") + 4 + 40
  data[at : at + 36] = struct.pack(
    ">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 64 << 16, 0, 1 << 30
  )
  frames = decode.decode(bytes(data))
  assert frames.shape == (2, 96, 64, 3)
  # A quarter turn clockwise brings the dark left half to the top.
  assert frames[0, 20].mean() < frames[0, 80].mean() - 15
  seen = []
  view = lambda h, w: seen.append((h, w)) or crops.resize_view(h, w, 32)
  small = decode.decode(bytes(data), None, view)
  assert seen == [(96, 64)]
  assert small.shape == (2, 32, 32, 3)
  assert small[0, 4].mean() < small[0, 28].mean() - 15


# --- Damage -----------------------------------------------------------------------


@pytest.mark.parametrize(
  ("data", "reason"),
  [
    (b"", "empty file"),
    (b"<html><body>404 Not Found</body></html>" * 20, "not a video"),
    (b"#EXTM3U\n#EXTINF:9,\nfile:///etc/passwd\n", "not a video"),
    (bytes(5000), "not a video"),
    (np.random.default_rng(0).bytes(20_000), "not a video"),
    (GOOD[: len(GOOD) // 2], "not a video"),  # the index is at the end
    (GOOD[: len(GOOD) * 95 // 100], "not a video"),
    (GOOD[: len(GOOD) // 2] + bytes(len(GOOD) // 2), "not a video"),
    (GOOD.replace(b"avc1", b"zzz1").replace(b"avcC", b"zzzC"), "unknown codec"),
    (clips.mp4(0), "no "),  # "no video stream", or "no frame" of an empty one
  ],
)
def test_unusable_files_are_bad_samples(data, reason):
  with pytest.raises(BadSample, match=reason) as e:
    decode.decode(data)
  assert "\n" not in str(e.value)


@pytest.mark.parametrize("data", [FAST, FRAGMENTED], ids=["faststart", "fragmented"])
def test_a_truncated_file_is_used_if_enough_frames_are_left(data):
  """The header still promises all frames, or none at all (fragmented)."""
  start = data.index(b"mdat")
  cut = data[: start + (len(data) - start) * 7 // 10]
  frames = decode.decode(cut)
  assert 8 <= len(frames) < 24
  np.testing.assert_array_equal(frames, decode.decode(data)[: len(frames)])
  spread = lambda n: decode.frame_indices(n, 8, "segments", 1, None)
  assert len(decode.decode(cut, spread, needed=8)) == 8
  with pytest.raises(BadSample, match=f"only {len(frames)} frames"):
    decode.decode(cut, spread, needed=len(frames) + 1)


def test_frames_before_damaged_data_are_unchanged():
  data = bytearray(FRAGMENTED)
  middle = data.rindex(b"mdat") + 8
  data[middle : middle + 400] = bytes(400)
  frames = decode.decode(bytes(data))
  assert 1 <= len(frames) <= 24
  good = decode.decode(FRAGMENTED)
  np.testing.assert_array_equal(frames[:12], good[:12])


# --- Which frames -----------------------------------------------------------------


@pytest.mark.parametrize("sampling", decode.SAMPLINGS)
@pytest.mark.parametrize("clip_frames", [1, 4, 8, 16])
def test_frame_indices_are_sorted_and_valid_for_every_length(sampling, clip_frames):
  for num_frames in range(1, 41):
    for stride in (1, 4):
      for seed in (None, 0, 1, 2):
        rng = None if seed is None else np.random.default_rng(seed)
        index = decode.frame_indices(num_frames, clip_frames, sampling, stride, rng)
        assert index.shape == (clip_frames,)
        assert (index >= 0).all()
        assert (index < num_frames).all()
        assert (np.diff(index) >= 0).all()
        if sampling == "segments" and num_frames >= clip_frames:
          assert (np.diff(index) > 0).all()
        if sampling == "contiguous" and num_frames >= clip_frames * stride:
          assert (np.diff(index) == stride).all()


def test_segments_take_the_middle_or_a_random_frame_of_each_segment():
  middle = decode.frame_indices(24, 8, "segments", 1, None)
  np.testing.assert_array_equal(middle, np.arange(8) * 3 + 1)
  rng = np.random.default_rng(0)
  drawn = np.stack(
    [decode.frame_indices(24, 8, "segments", 1, rng) for _ in range(200)]
  )
  assert (drawn // 3 == np.arange(8)).all()
  # Every frame is used, the last of each part too.
  assert set(drawn.ravel()) == set(range(24))


def test_contiguous_starts_anywhere_and_repeats_the_last_frame():
  rng = np.random.default_rng(0)
  starts = {decode.frame_indices(20, 4, "contiguous", 4, rng)[0] for _ in range(200)}
  assert starts == {0, 1, 2, 3, 4}
  assert decode.frame_indices(20, 4, "contiguous", 4, None)[0] == 2
  short = decode.frame_indices(6, 4, "contiguous", 4, rng)
  np.testing.assert_array_equal(short, [0, 4, 5, 5])


def test_segments_of_equal_time_are_taken_where_the_rate_varies():
  """By hand: ten frames in the first second, then one a second; the last for 0.1 s."""
  times = np.array([*np.arange(10) / 10, *range(1, 11)])
  by_time = decode.TimeSegments(4)
  # Parts of 2.525 s, whose middles are 1.26, 3.79, 6.31 and 8.84 s.
  assert by_time.at(times).tolist() == [10, 12, 15, 17]
  assert by_time(20).tolist() == [2, 7, 12, 17]
  for even in (np.arange(20.0), np.arange(20) / 30 + 5, np.r_[np.arange(19), 19.3]):
    np.testing.assert_array_equal(by_time.at(even), by_time(20))
  assert by_time.at(np.zeros(1)).tolist() == [0] * 4
  draw = lambda seed: decode.TimeSegments(4, np.random.default_rng(seed)).at(times)
  drawn = list(map(draw, range(999)))
  low, high = np.min(drawn, axis=0), np.max(drawn, axis=0)
  # The frames shown at the beginning and before the end of each part.
  assert low.tolist() == [0, 11, 14, 16]
  assert high.tolist() == [11, 14, 16, 19]


def test_frames_are_chosen_by_their_times_in_every_reader(tmp_path):
  """A file of that kind: 24 frames in the first half of its time, then one."""
  grays = [np.full((64, 64, 3), 10 * i, np.uint8) for i in range(25)]
  shown = [(40 * i, gray) for i, gray in enumerate(grays[:24])] + [(1920, grays[24])]
  data = damage.written(shown)
  times = decode.frame_times(data)
  chosen = decode.TimeSegments(4).at(times)
  assert chosen.tolist() != decode.TimeSegments(4)(25).tolist()
  frames = decode.decode(data)[chosen]
  np.testing.assert_array_equal(decode.decode(data, decode.TimeSegments(4)), frames)
  config = clips.config(tmp_path, sampling="time_segments")
  spec = ClipSpec(4, 64, (1, 16, 16))
  np.testing.assert_array_equal(read_clip(data, spec, config, None), frames)
  views = Views(4, "time_segments", 1)
  (seen,) = view_crops(data, 0, views, config, 64)
  np.testing.assert_array_equal(seen, frames)
  plain = clips.config(tmp_path)
  assert (read_clip(data, spec, plain, None) != frames).any()


@pytest.mark.parametrize("at", [100, 40])
def test_a_wrong_time_makes_no_clip_a_still(at):
  """A far outlier, at the end or where a recorder was stopped, counts as one gap."""
  uneven = np.cumsum(np.tile([0.02, 0.06], 50)) - 0.02
  wrong = np.concatenate([uneven[:at], uneven[at:] + 1e5])
  wrong = np.append(wrong, uneven[-1] + 2e5)
  plain = np.append(uneven, uneven[-1] + 0.06)
  expected = decode.TimeSegments(8).at(plain)
  found = decode.TimeSegments(8).at(wrong)
  assert len({*found.tolist()}) == 8
  np.testing.assert_allclose(found, expected, atol=1)
  # A still of half a minute among 30 frames a second is a still.
  held = np.concatenate([np.arange(30) / 30, 30 + np.arange(30) / 30])
  assert decode.TimeSegments(8).at(held).tolist().count(29) >= 6
