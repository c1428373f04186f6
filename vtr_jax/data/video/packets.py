"""Partial decoding of a video: no more than the requested frames need.

All packets are read first, which costs a copy: they contain the positions of the key
frames and the time of each frame. Then only the groups of pictures with a requested
frame are decoded, up to the last requested frame, skipping frames that no other refers
to. The decoded times are checked against the packets'; where they differ, the full file
is decoded in order. Either way the frames are bitwise identical.
"""

import bisect
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import av
import numpy as np

from vtr_jax.core.errors import BadSample

# Codecs that can skip, packet by packet, frames to which no other refers. libdav1d
# reads the option only once, VP9 has no such frames.
SKIPPING = ("h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4")

# A container without times of display; those that come with its packets are made up.
TIMELESS = "avi"

# A container that announces no frames: FFmpeg counts those that are there.
COUNTED = "gif"

# Streams as they are sent, of a camera or joined from parts. A packet after a gap is
# marked as corrupt, though it is whole; the first ones may refer to earlier ones.
_SENT = ("mpegts", "mpeg")
_MAX_SKIPPED = 1000  # ours: packets before the first key frame of such a stream

# Packets between two looks at the clock, each of which takes half a microsecond.
_CALLS = 8

# A packet takes half a kilobyte, however little is in it; 4.6 hours at 60 a second.
_MAX_PACKETS = 1_000_000  # ours


class Deadline:
  """Bounds the CPU time that this thread spends on one file.

  Not the time that passes: a busy or sleeping machine must not change a batch. A
  single call of the decoder is not interrupted.
  """

  def __init__(self, seconds: float):
    self._calls = 0
    self.renew(seconds)

  def renew(self, seconds: float) -> None:
    """The file may take so much more, from now on."""
    self._seconds, self._end = seconds, time.thread_time() + seconds

  def check(self) -> None:
    """Raises BadSample when the time is up; looks at the clock at times."""
    self._calls += 1
    if self._calls % _CALLS == 0 and time.thread_time() > self._end:
      raise BadSample(f"took more than {self._seconds:g} s to decode")


class Run(NamedTuple):
  """A part that can be decoded without what is before it."""

  packets: list[av.Packet]  # in order of decoding, up to the last requested one
  times: list[int]  # of its frames, in order of display
  requested: dict[int, int]  # time -> number of the frame in the file
  skip: bool  # skip frames that are neither requested nor referred to


class Surprise(Exception):
  """The decoded frames do not match the packets."""


class Broken(Exception):
  """A packet is truncated or broken."""


def declared(stream: Any) -> int:
  """Packets that a container announces when it is opened; 0 if it does not.

  An mp4 announces all frames, and its index lacks those that an edit list cuts off; an
  AVI announces also frames that were dropped, of which its index has none.
  """
  indexed = len(stream.index_entries or ())
  return min(stream.frames, indexed) if indexed else stream.frames


def lacks(stream: Any, count: int, early: bool) -> bool:
  """Whether a file of `count` packets lacks some that it announces.

  Args:
    stream: of the file, opened.
    count: of its packets.
    early: see `container.ends_early`; ignored if all announced frames are there, since
      a file may state a wrong length.
  """
  announced = 0 if stream.container.format.name == COUNTED else stream.frames
  complete = 0 < announced <= count
  return count < declared(stream) or (early and not complete)


def demuxed(container: Any, stream: Any) -> Iterator[av.Packet]:
  """Packets that have content, of a sent stream from its first key frame on.

  Raises:
    Broken: after the packets before the first damaged one.
  """
  sent = container.format.name in _SENT
  begun, skipped = not sent, []
  for packet in container.demux(stream):
    if packet.is_corrupt and not sent:
      raise Broken("a packet is cut or broken")
    if not packet.size:
      continue
    if begun or packet.is_keyframe:
      begun, skipped = True, []
      yield packet
      continue
    skipped.append(packet)
    if len(skipped) == _MAX_SKIPPED:
      yield from skipped
      begun, skipped = True, []
  yield from skipped  # no key frame is marked


def read(container, stream, deadline: Deadline) -> tuple[list[av.Packet], bool]:
  """Packets before the first damaged one, and whether there was one.

  Raises:
    BadSample: more packets than any real video has, or the time is up.
  """
  packets = []
  try:
    for packet in demuxed(container, stream):
      packets.append(packet)
      if len(packets) > _MAX_PACKETS:
        raise BadSample(f"more than {_MAX_PACKETS} frames")
      deadline.check()
  except (av.FFmpegError, Broken):
    return packets, True
  return packets, False


def times(packets: Sequence[av.Packet]) -> list[int] | None:
  """Times of the shown frames in order of display, if every packet has its own."""
  shown = [p.pts for p in packets if not p.is_discard]
  known = [pts for pts in shown if pts is not None]
  if len(set(known)) < len(shown):
    return None
  return sorted(known)


def runs(stream, packets: Sequence[av.Packet], requested: Sequence[int]) -> list[Run]:
  """Parts to decode for the requested frames; none if they cannot be determined.

  Args:
    stream: of the container.
    packets: all of the file, undamaged.
    requested: frame numbers in order of display.
  """
  codec = stream.codec_context
  keys = [i for i, packet in enumerate(packets) if restarts(codec, packet)]
  decoded = [packet.pts for packet in packets if packet.pts is not None]
  shown = times(packets)
  if shown is None or len(decoded) < len(packets):
    return []
  reordered = decoded != sorted(decoded)
  timeless = stream.container.format.name == TIMELESS
  if codec.has_b_frames and (timeless or not reordered):
    return []
  if not reordered and len(keys) < 2:
    return []  # as good as in order
  starts = clean_starts(np.array(decoded), keys)
  where = {pts: position for position, pts in enumerate(decoded)}
  skip = reordered and codec.name in SKIPPING
  chosen: dict[int, dict[int, int]] = {}
  for number in requested:
    pts = shown[number]
    start = starts[bisect.bisect_right(starts, where[pts]) - 1]
    chosen.setdefault(start, {})[pts] = number
  result = []
  for start, numbers in chosen.items():
    stop = max(where[pts] for pts in numbers) + 1
    first = bisect.bisect_left(shown, decoded[start]) if start else 0
    result.append(Run(list(packets[start:stop]), shown[first:], numbers, skip))
  return result


def restarts(codec, packet: av.Packet) -> bool:
  """Whether nothing after the packet refers to what is before it.

  In H.264, decoders may start at other key frames, but what they show differs a
  little: only an IDR picture (ITU-T H.264, 7.4.1.2.4) restarts decoding.
  """
  if not packet.is_keyframe or codec.name != "h264":
    return packet.is_keyframe
  data, header = memoryview(packet), codec.extradata or b""
  if header[:1] != b"\1":  # units after start codes
    return re.search(rb"\x00\x00\x01[\x25\x45\x65]", data) is not None
  at, prefix = 0, (header[4] & 3) + 1  # units after their lengths
  while at + prefix < len(data):
    if data[at + prefix] & 31 == 5:
      return True
    at += prefix + int.from_bytes(data[at : at + prefix])
  return False


def clean_starts(decoded: np.ndarray, keys: list[int]) -> list[int]:
  """Key frames that all earlier packets are shown before, and all later ones after."""
  before = np.maximum.accumulate(decoded)
  after = np.minimum.accumulate(decoded[::-1])[::-1]
  clean = [k for k in keys if before[k] == decoded[k] == after[k]]
  return clean if clean[:1] == [0] else [0, *clean]


def decode_run(
  codec, run: Run, deadline: Deadline
) -> Iterator[tuple[int, av.VideoFrame]]:
  """(number, frame) of the requested frames of one part.

  Raises:
    Surprise: other frames come out than should, or damaged ones.
    FFmpegError: a packet is damaged.
    BadSample: the time is up.
  """
  codec.flush_buffers()
  expected, left = iter(run.times), len(run.requested)
  for packet in (*run.packets, None):
    deadline.check()
    if run.skip:
      codec.skip_frame = "DEFAULT" if _keep(packet, run.requested) else "NONREF"
    for frame in codec.decode(packet):
      if not _follows(frame, expected, run.skip):
        raise Surprise
      if frame.pts in run.requested:
        yield run.requested[frame.pts], frame
        left -= 1
    if not left:
      return
  raise Surprise


def _keep(packet: av.Packet | None, requested: dict[int, int]) -> bool:
  return packet is None or packet.pts in requested


def _follows(frame: av.VideoFrame, expected: Iterator[int], gaps: bool) -> bool:
  """Whether the frame is intact and the next one, or with `gaps` any later one."""
  if frame.is_corrupt:
    return False
  if gaps:
    return any(pts == frame.pts for pts in expected)  # takes the times up to this one
  return frame.pts == next(expected, None)


def decode_all(
  codec, packets: Iterable[av.Packet], deadline: Deadline
) -> Iterator[av.VideoFrame | None]:
  """Frames in order of display, as far as the packets are good; None: not so far.

  Raises:
    BadSample: the time is up.
  """
  codec.flush_buffers()
  codec.skip_frame = "DEFAULT"
  # The second part asks the decoder for the frames that it has held back.
  for part in (packets, [None]):
    try:
      for packet in part:
        deadline.check()
        yield from codec.decode(packet)
    except av.FFmpegError:
      yield None
