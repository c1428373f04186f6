"""Preparing one video or image: the result, and which files are rejected."""

import io

import av
import clips
import damage
import movies
import numpy as np
import pytest
from PIL import Image

from vtr_jax.core.errors import BadSample
from vtr_jax.data.video.decode import decode
from vtr_jax.data.video.image import is_image
from vtr_jax.prepare import image, video
from vtr_jax.prepare.options import Options


def times(data):
  """Times of all frames in seconds, and which are key frames."""
  with av.open(io.BytesIO(data)) as container:
    frames = list(container.decode(video=0))
  return [round(float(f.time), 3) for f in frames], [f.key_frame for f in frames]


def test_frames_and_times_of_a_variable_rate_are_kept():
  at = [0, 40, 80, 500, 540, 1500]
  data = damage.written([(t, np.full((64, 64, 3), 20 + t // 10, np.uint8)) for t in at])
  result = video.encode(data, Options())
  assert times(result.data)[0] == [t / 1000 for t in at]
  assert (result.frames, result.width, result.height) == (6, 64, 64)
  shown = decode(result.data)[:, 30, 30, 0].astype(int)
  np.testing.assert_allclose(shown, [20 + t // 10 for t in at], atol=3)


def test_a_constant_rate_repeats_and_drops_frames():
  """At 4 frames per second: those shown at 0, 0.25, 0.5 ... s."""
  at = {0: 40, 100: 80, 300: 120, 1000: 200}
  data = damage.written([(t, np.full((64, 64, 3), v, np.uint8)) for t, v in at.items()])
  result = video.encode(data, Options(fps=4))
  assert times(result.data)[0] == [0, 0.25, 0.5, 0.75, 1]
  shown = decode(result.data)[:, 30, 30, 0].astype(int)
  np.testing.assert_allclose(shown, [40, 80, 120, 120, 200], atol=3)


@pytest.mark.parametrize(
  ("start", "end", "frames"), [(1, 2, 8), (0.9, 1, 1), (2, 9, 8)]
)
def test_a_segment_begins_with_the_frame_shown_at_its_start(start, end, frames):
  """At 8 frames per second."""
  data = clips.mp4(frames=24, fps=8)
  part = decode(video.encode(data, Options(crf=10), start, end).data)
  whole = decode(data)
  assert len(part) == frames
  first = int(start * 8)
  expected = whole[first : first + frames, 10, -10].astype(int)
  np.testing.assert_allclose(part[:, 10, -10].astype(int), expected, atol=4)


def test_a_late_segment_found_by_seeking_has_the_same_frames():
  """As a segment that starts earlier, which is found without seeking."""
  data = clips.mp4(frames=120, fps=4)
  near = decode(video.encode(data, Options(crf=10), 9.0, 16.0).data)
  far = decode(video.encode(data, Options(crf=10), 13.0, 16.0).data)
  assert len(far) == 12
  np.testing.assert_allclose(near[16:].astype(int), far.astype(int), atol=5)


@pytest.mark.parametrize("kind", sorted(movies.KINDS))
def test_a_segment_of_any_container_equals_decoding_from_the_start(kind, monkeypatch):
  """Seeking is inexact in transport and program streams, AVI and fragmented files."""
  if kind == "no_container":
    pytest.skip("is not a video to prepare")
  data = movies.movie(kind)

  def part(start, end, seek):
    monkeypatch.setattr(video, "_SEEK", seek)
    made = video.encode(data, Options(crf=10), start, end).data
    corner = decode(made)[:, 2:14, 2:14]  # 6 brighter in each frame
    return times(made)[0], corner.mean((1, 2, 3))

  for start, end in ((0.6, 1.3), (0.9, 1.2), (1.1, 1.2)):
    plain, sought = part(start, end, 10.0), part(start, end, 0.5)
    assert sought[0] == plain[0]
    np.testing.assert_allclose(sought[1], plain[1], atol=2)


def test_a_segment_after_the_end_is_rejected():
  with pytest.raises(BadSample, match="no frame from 5 s to 6 s"):
    video.encode(clips.mp4(frames=24, fps=8), Options(), 5, 6)


@pytest.mark.parametrize(("gop", "keys"), [(1, 24), (8, 3), (250, 1)])
def test_key_frames_have_the_requested_distance(gop, keys):
  """Those of the original, every sixth frame, are not kept."""
  result = video.encode(damage.textured(), Options(gop=gop))
  assert sum(times(result.data)[1]) == keys


def test_all_intra_videos_use_fast_decoding_settings():
  """x264 writes its settings into the stream."""
  fast, small = (
    video.encode(damage.textured(), Options(gop=gop)).data for gop in (1, 16)
  )
  assert b"cabac=0" in fast
  assert b"deblock=0" in fast
  assert b"cabac=1" in small


def test_the_short_side_is_even_and_never_enlarged():
  data = clips.mp4(height=90, width=150)
  small = video.encode(data, Options(short_side=33))
  assert (small.width, small.height) == (54, 32) or small.height == 34
  assert decode(small.data).shape[1:3] == (small.height, small.width)
  assert video.encode(data, Options(short_side=200)).height == 90


def test_a_rotated_video_is_turned_upright():
  """The result has no rotation flag, and looks the same."""
  data = rotated(clips.mp4(height=64, width=96))
  whole = decode(data)
  assert whole.shape[1:3] == (96, 64)
  result = video.encode(data, Options(crf=10))
  assert (result.width, result.height) == (64, 96)
  with av.open(io.BytesIO(result.data)) as container:
    assert next(container.decode(video=0)).rotation == 0
  difference = decode(result.data).astype(int) - whole
  assert np.abs(difference).mean() < 3


def rotated(data):
  """The mp4 with a matrix that turns it by a quarter (ISO 14496-12, tkhd)."""
  upright = b"\0\1\0\0" + 12 * b"\0" + b"\0\1\0\0" + 12 * b"\0" + b"\x40\0\0\0"
  quarter = 4 * b"\0" + b"\0\1\0\0" + 4 * b"\0" + b"\xff\xff\0\0"
  quarter += 16 * b"\0" + b"\x40\0\0\0"
  at = data.index(upright, data.index(b"tkhd"))
  return data[:at] + quarter + data[at + 36 :]


@pytest.mark.parametrize("pix_fmt", ["yuv444p", "yuv420p10le", "yuvj420p", "gray"])
def test_other_pixel_formats_look_the_same_after_encoding(pix_fmt):
  data = clips.mp4(pix_fmt=pix_fmt)
  result = video.encode(data, Options(crf=10))
  with av.open(io.BytesIO(result.data)) as container:
    assert container.streams.video[0].pix_fmt == "yuv420p"
  assert np.abs(decode(result.data).astype(int) - decode(data)).mean() < 3


def test_a_gif_is_a_video():
  frames = [np.full((40, 60), 60 * i, np.uint8) for i in range(4)]
  first, *rest = [Image.fromarray(f) for f in frames]
  file = io.BytesIO()
  first.save(file, "GIF", save_all=True, append_images=rest, duration=500)
  assert not is_image(file.getvalue())
  result = video.encode(file.getvalue(), Options())
  assert (result.frames, result.width, result.height) == (4, 60, 40)
  assert result.seconds == pytest.approx(2, abs=0.5)


def test_copy_keeps_the_bytes():
  data = damage.textured()
  result = video.encode(data, Options(copy=True))
  assert result.data == data
  assert (result.frames, result.width, result.height) == (24, 192, 160)


@pytest.mark.parametrize("short_side", [32, 256])
def test_encoding_is_deterministic(short_side):
  # Contents and addresses of memory, other each time, must not matter.
  data, held, results = movies.movie("b_frames"), [], set()
  rng = np.random.default_rng(0)
  for _ in range(12):
    held.append(rng.bytes(rng.integers(1000, 3_000_000)))
    results.add(video.encode(data, Options(short_side=short_side)).data)
  assert len(results) == 1


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("kind", damage.damaged())
def test_damaged_files_are_rejected(kind, copy):
  with pytest.raises(BadSample) as caught:
    video.encode(damage.damaged()[kind], Options(copy=copy))
  assert "\n" not in str(caught.value)


def test_a_damaged_file_is_truncated_on_request():
  """Good frames keep their times; if there are too few, it is rejected."""
  data = damage.damaged()["pieces_cut"]
  result = video.encode(data, Options(needed=6, crf=10))
  assert 6 <= result.frames < 24
  assert result.warnings == (f"damaged: cut short after {result.frames} good frames",)
  with pytest.raises(BadSample, match="damaged after"):
    video.encode(data, Options(needed=24))


def test_limits_of_pixels_and_seconds_are_enforced():
  data = clips.mp4(frames=24, fps=8, height=64, width=64)
  with pytest.raises(BadSample, match="64 x 64 pixels"):
    video.encode(data, Options(max_pixels=64 * 63))
  with pytest.raises(BadSample, match="longer than --max_seconds=2"):
    video.encode(data, Options(max_seconds=2))
  assert video.encode(data, Options(max_seconds=2), 0, 2).frames == 16


def test_blank_frames_are_reported():
  data = damage.written([(40 * i, np.full((64, 64, 3), 7, np.uint8)) for i in range(5)])
  for copy in (False, True):
    (warning,) = video.encode(data, Options(copy=copy)).warnings
    assert warning == "blank: 5 of 5 frames have nearly equal pixels"
  assert not video.encode(damage.textured(), Options()).warnings


def picture(kind, size=(80, 60), **options):
  file = io.BytesIO()
  Image.fromarray(damage.noise(size[1], size[0])).resize((8, 6)).resize(size).save(
    file, kind, **options
  )
  return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_an_image_becomes_a_small_jpeg(kind):
  data = picture(kind)
  assert is_image(data)
  result = image.encode(data, Options(short_side=30))
  small = Image.open(io.BytesIO(result.data))
  assert (small.format, small.size, result.frames) == ("JPEG", (40, 30), 1)
  reference = Image.open(io.BytesIO(data)).convert("RGB").resize((40, 30))
  assert np.abs(np.asarray(small).astype(int) - np.asarray(reference)).mean() < 6


def test_a_rotated_image_is_turned_upright():
  exif = Image.Exif()
  exif[0x0112] = 6
  result = image.encode(picture("JPEG", exif=exif), Options())
  assert (result.width, result.height) == (60, 80)


def test_an_image_is_copied_or_rejected():
  data = picture("PNG")
  assert image.encode(data, Options(copy=True)).data == data
  with pytest.raises(BadSample, match="WEBP cannot be copied"):
    image.encode(picture("WEBP"), Options(copy=True))
  with pytest.raises(BadSample, match="not an image"):
    image.encode(picture("JPEG")[:-200], Options())
  with pytest.raises(BadSample, match="above --max_pixels"):
    image.encode(data, Options(max_pixels=4000))
