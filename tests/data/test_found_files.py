"""Files as people have them: trimmed, joined, with covers, of phones and cameras."""

import io
import sys

import av
import clips
import file_table
import found
import movies
import numpy as np
import pytest

from vtr_jax.core.errors import BadSample
from vtr_jax.data.video import container, decode, stream
from vtr_jax.data.video.image import is_image
from vtr_jax.prepare import image, video
from vtr_jax.prepare.options import Options


def by_stream(data, name=None):
  """All frames as search reads them, and the timeline."""
  file = io.BytesIO(data)
  if name:
    file.name = name
  line = stream.timeline(file)
  numbers = [np.arange(len(line.times))]
  (frames,) = stream.clips(file, line, numbers, None)
  return frames, line


def check(data, count):
  """The same frames by decoding and by search, whole for all; returns them."""
  frames = decode.decode(data, needed=count)
  streamed, line = by_stream(data)
  np.testing.assert_array_equal(frames, streamed)
  assert (len(frames), line.damaged) == (count, False)
  assert len(decode.frame_times(data)) == count
  prepared = video.encode(data, Options())
  assert (prepared.frames, prepared.warnings) == (count, ())
  return frames


def test_a_video_trimmed_at_its_start_by_an_edit_list_is_whole():
  frames = check(found.trimmed(), movies.FRAMES - 15)
  whole = decode.decode(movies.movie("b_frames"))
  np.testing.assert_array_equal(frames, whole[15:])


def test_an_avi_without_the_frames_that_were_dropped_is_whole():
  data = found.dropped()
  with av.open(io.BytesIO(data)) as source:
    assert source.streams.video[0].frames == movies.FRAMES
  decode_only = decode.decode(data, needed=37)
  assert len(decode_only) == len(decode.frame_times(data)) == 37
  line = stream.timeline(io.BytesIO(data))
  assert (len(line.times), line.damaged) == (37, False)


def test_frames_without_times_are_shown_at_the_rate_of_the_file():
  data = found.untimed()
  with av.open(io.BytesIO(data)) as source:
    assert sum(p.pts is None for p in source.demux(video=0) if p.size) > 15
  frames = check(data, movies.FRAMES)
  np.testing.assert_array_equal(frames, decode.decode(movies.movie("b_frames")))
  np.testing.assert_allclose(np.diff(decode.frame_times(data)), 1 / 25, atol=1e-6)


def test_two_transport_streams_joined_are_one_video():
  whole = movies.movie("ts")
  frames = check(whole + whole, 2 * movies.FRAMES)
  np.testing.assert_array_equal(frames, np.tile(decode.decode(whole), (2, 1, 1, 1)))
  times = decode.frame_times(video.encode(whole + whole, Options()).data)
  np.testing.assert_allclose(np.diff(times), 1 / 25, atol=2e-3)


def test_a_transport_stream_begins_at_its_first_key_frame():
  whole = movies.movie("ts")
  data = found.headless()
  frames = decode.decode(data)
  assert movies.FRAMES - 15 < len(frames) < movies.FRAMES
  np.testing.assert_array_equal(frames, decode.decode(whole)[-len(frames) :])
  np.testing.assert_array_equal(frames, by_stream(data)[0])


@pytest.mark.parametrize("kind", ["matroska", "webm", "avi", "flv", "asf", "gif"])
def test_a_file_that_ends_too_early_is_damaged_by_every_way_in(kind):
  """Also where FFmpeg ends without an error; a stream without a length is whole."""
  whole = movies.movie(dict(webm="vp9", gif="gif").get(kind, "ts"))
  if kind != "gif":
    whole = found.copied(whole, range(99), kind=kind)
  check(whole, movies.FRAMES)
  cut, damage = whole[: len(whole) * 3 // 5], []
  frames = decode.decode(cut, damage=damage)
  good = len(frames)
  assert 5 < good < movies.FRAMES
  assert damage == [f"damaged after {good} frames"]
  assert stream.timeline(io.BytesIO(cut)).damaged
  for copy in (False, True):
    with pytest.raises(BadSample, match=r"^damaged after \d+ frames \("):
      video.encode(cut, Options(copy=copy))
  if kind == "gif":  # what follows it, or no trailer, is no damage
    check(whole + bytes(50), movies.FRAMES)
    check(whole[:-1], movies.FRAMES)
  if kind == "asf":  # a live recording states no length
    at = whole.index(container._ASF_FILE) + 88
    check(whole[:at] + b"\1" + whole[at + 1 :], movies.FRAMES)
  if kind in ("matroska", "webm"):
    at = whole.index(b"\x18\x53\x80\x67") + 4
    endless = whole[:at] + b"\x01" + b"\xff" * 7 + whole[at + 8 :]
    check(endless, movies.FRAMES)


@pytest.mark.parametrize("mark", [False, True])
def test_a_cover_before_the_video_is_not_the_video(mark):
  assert check(found.with_cover(mark, sound=False), 8).shape == (8, 96, 96, 3)


def test_sound_with_a_cover_is_no_video():
  data = found.with_cover(True, sound=True)
  for read in (decode.decode, by_stream, lambda d: video.encode(d, Options())):
    with pytest.raises(BadSample, match="no video stream"):
      read(data)


def test_the_page_of_files_tells_what_is_read():
  """To update it: PYTHONPATH=. python tests/support/file_table.py."""
  page = file_table.PAGE.read_text()
  try:
    found.heif("heif")
  except ImportError:  # its rows need the extra heif
    lines = page.splitlines(keepends=True)
    page = "".join(line for line in lines if not line.startswith("| heif"))
  assert page == file_table.page()


# --- Pictures -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*found.PICTURES, *found.HEIF])
def test_a_picture_has_one_answer_by_every_way_in(kind):
  if kind in found.HEIF:
    pytest.importorskip("pillow_heif", reason="needs the extra heif: pillow-heif")
    data, expected = found.heif(kind)
  else:
    data, expected = found.PICTURES[kind]
  expected = np.asarray(expected.convert("RGB")).astype(int)
  assert is_image(data)
  (frame,) = decode.decode(data)
  assert np.abs(frame - expected).mean() < 3
  # By its content, whatever it is called.
  for name in (None, "photo.jpg", "photo.mp4", "00001.png"):
    frames, line = by_stream(data, name)
    np.testing.assert_array_equal(frames, [frame])
    assert (len(line.times), line.damaged) == (1, False)
  prepared = image.encode(data, Options())
  assert np.abs(decode.decode(prepared.data)[0] - expected).mean() < 4
  several = dict(webp="animated", apng="animated", heif_second="several pictures")
  assert [w.partition(":")[0] for w in prepared.warnings] == (
    [several[kind]] if kind in several else []
  )
  if data[:3] == b"\xff\xd8\xff" or data[1:4] == b"PNG":
    assert image.encode(data, Options(copy=True)).data == data


def test_avif_under_a_brand_of_heif_needs_no_other_library(monkeypatch):
  monkeypatch.setitem(sys.modules, "pillow_heif", None)
  data, _ = found.PICTURES["avif"]
  shared = data.replace(b"ftypavif", b"ftypmif1")
  np.testing.assert_array_equal(decode.decode(shared), decode.decode(data))


def test_a_picture_that_needs_another_library_names_it(monkeypatch):
  monkeypatch.setitem(sys.modules, "pillow_heif", None)
  head = b"\0\0\0\x18ftypheic" + bytes(100)
  with pytest.raises(BadSample, match="pip install pillow-heif"):
    decode.decode(head)


def test_a_damaged_picture_is_a_bad_sample():
  data = found.PICTURES["orientation_1"][0]
  with pytest.raises(BadSample, match="not an image"):
    decode.decode(data[: len(data) // 2])
  with pytest.raises(BadSample, match=r"not an image \(damaged, or of an unknown kind"):
    decode.decode(data[:20])
  assert not is_image(clips.mp4()[:16])


@pytest.mark.parametrize(
  ("params", "text"),
  [
    ("interlaced=1:tff=1", "interlaced: it is not deinterlaced"),
    ("transfer=smpte2084", "HDR (PQ): no tone mapping"),
    ("transfer=arib-std-b67", "HDR (HLG): no tone mapping"),
  ],
)
def test_what_is_read_by_a_rule_is_warned_of_once(params, text, capfd):
  """By prepare for each file, by readers once; frames are those of the plain file."""
  data = found.coded({"g": "12", "x264-params": params})
  for copy in (False, True):
    assert video.encode(data, Options(copy=copy)).warnings == (text,)
  decode._told.clear()
  frames = decode.decode(data)
  decode.decode(data)
  assert capfd.readouterr().err == f"WARNING: {text} (said once)\n"
  if "transfer" in params:
    plain = decode.decode(found.coded({"g": "12"}))
    assert np.abs(frames.astype(int) - plain).mean() < 3
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("workers", [0, 1])
def test_training_warns_once_also_with_worker_processes(
  workers, tmp_path, tokenizer, capfd
):
  """Of each kind; the batches are the same."""
  kinds = ("interlaced=1:tff=1", "transfer=smpte2084")
  videos = [found.coded({"g": "12", "x264-params": params}) for params in kinds]
  rows = [clips.record(f"c{i}", video) for i, video in enumerate([*videos, *videos])]
  clips.prepare(tmp_path, dict(train=rows))
  decode._told.clear()
  capfd.readouterr()
  config = clips.config(tmp_path, num_workers=workers)
  batches = clips.take(tmp_path, tokenizer, 3, data=config, batch_size=4)
  told = [line for line in capfd.readouterr().err.splitlines() if "WARNING" in line]
  assert sorted(told) == [
    "WARNING: HDR (PQ): no tone mapping (said once)",
    "WARNING: interlaced: it is not deinterlaced (said once)",
  ]
  decode._told.clear()
  plain = clips.config(tmp_path)
  clips.assert_same(
    batches, clips.take(tmp_path, tokenizer, 3, data=plain, batch_size=4)
  )
