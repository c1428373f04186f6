"""Long videos, a group of pictures at a time: the same frames as `decode` gives."""

import io

import damage
import movies
import numpy as np
import pytest

from vtr_jax.core.errors import BadSample
from vtr_jax.data.video import decode, packets, stream


def read(data, wanted):
  file = io.BytesIO(data)
  wanted = [np.array(clip) for clip in wanted]
  return list(stream.clips(file, stream.timeline(file), wanted, None))


@pytest.mark.parametrize("kind", movies.KINDS)
def test_frames_are_those_of_decode(kind):
  """Clips that overlap, repeat a frame, and are in groups far apart."""
  data = movies.movie(kind)
  line = stream.timeline(io.BytesIO(data))
  np.testing.assert_allclose(line.times, decode.frame_times(data), atol=1e-9)
  assert line.times[-1] < line.duration < line.times[-1] + 1
  last = len(line.times) - 1
  wanted = [[0, 0, 3, 7], [5, 8, 12, 12], [20, 30, 31, last]]
  found = read(data, wanted)
  assert len(found) == 3
  frames = decode.decode(data)
  for clip, numbers in zip(found, wanted, strict=True):
    np.testing.assert_array_equal(clip, frames[numbers])


def test_a_single_frame_may_be_repeated():
  data = movies.movie("gif", frames=1)
  (clip,) = read(data, [[0, 0]])
  np.testing.assert_array_equal(clip, decode.decode(data, [0, 0]))


def test_only_groups_with_selected_frames_are_decoded(monkeypatch):
  decoded, run = [], packets.decode_run
  monkeypatch.setattr(
    packets,
    "decode_run",
    lambda codec, group, deadline: (
      decoded.append(len(group.packets)) or run(codec, group, deadline)
    ),
  )
  read(movies.movie("b_frames"), [[1], [38]])  # groups of 12 pictures
  assert len(decoded) == 2
  assert max(decoded) <= 12


def test_a_file_of_one_large_group_is_decoded_without_holding_it(monkeypatch):
  data, wanted = movies.movie("open_gop"), [[2, 20], [30, 35]]
  before = read(data, wanted)
  monkeypatch.setattr(stream, "_GROUP", 10)
  assert stream.timeline(io.BytesIO(data)).shown is None
  np.testing.assert_array_equal(before, read(data, wanted))


@pytest.mark.parametrize("kind", ["flipped", "pieces_cut"])
def test_clips_before_the_damage_are_returned(kind):
  """Complete and unchanged; then the error comes."""
  data = damage.damaged(0.6)[kind]
  whole = decode.decode(damage.textured())
  file, found = io.BytesIO(data), []
  line = stream.timeline(file)
  clips = stream.clips(file, line, [np.array([i]) for i in range(24)], None)
  with pytest.raises(BadSample, match="damaged after"):
    found.extend(clip[0] for clip in clips)
  assert 0 < len(found) < 24
  np.testing.assert_array_equal(found, whole[: len(found)])


def test_small_has_every_frame_and_a_deadline():
  data = movies.movie("b_frames")
  pictures = list(stream.small(io.BytesIO(data), 9, 16))
  assert len(pictures) == movies.FRAMES
  assert pictures[0].shape == (9, 16)
  with pytest.raises(BadSample, match="took more than"):
    list(stream.small(io.BytesIO(data), 9, 16, seconds=0))


class Clock:
  """A CPU clock that advances by a second at every call."""

  def __init__(self):
    self.now = 0.0

  def thread_time(self):
    self.now += 1
    return self.now


@pytest.mark.parametrize("kind", ["b_frames", "open_gop"])
def test_every_clip_has_one_deadline_however_many_frames_it_has(kind, monkeypatch):
  """Decoded by groups or sequentially; earlier clips are kept, and not counted."""
  data = movies.movie(kind)
  file = io.BytesIO(data)
  if kind == "open_gop":
    monkeypatch.setattr(stream, "_GROUP", 10)
  line = stream.timeline(file)
  monkeypatch.setattr(packets, "time", Clock())
  monkeypatch.setattr(packets, "_CALLS", 1)  # looks at the clock at every packet
  monkeypatch.setattr(stream, "_FRAMES", 10**9)
  every = list(range(len(line.times)))
  cost = len(every) + 8  # of all packets, and of a few looks besides them
  assert len(list(stream.clips(file, line, [np.array(every)], None, cost))) == 1
  with pytest.raises(BadSample, match="took more than 12 s"):
    list(stream.clips(file, line, [np.array(every)], None, 12.0))
  one_by_one = [np.array([i]) for i in every]
  found = list(stream.clips(file, line, one_by_one, None, 26.0))
  assert len(found) == len(every)


def test_more_packets_than_the_limit_are_rejected(monkeypatch):
  monkeypatch.setattr(stream, "_MAX_PACKETS", 20)
  with pytest.raises(BadSample, match="more than 20 frames"):
    stream.timeline(io.BytesIO(movies.movie("b_frames")))
