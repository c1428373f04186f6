"""Frames of long videos, in memory that does not grow with them.

The file is read twice: once for the times of its frames, and once, group of pictures by
group of pictures, for the requested frames. As in packets.py, groups without such a
frame are not decoded; where the decoded times differ from the packets', all frames are.
"""

import bisect
import collections
import io
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import Float, Int, UInt8

from vtr_jax.core.errors import BadSample
from vtr_jax.data.video import image
from vtr_jax.data.video import packets as packets_lib
from vtr_jax.data.video.container import ends_early, opened, video_stream
from vtr_jax.data.video.decode import Picture, still
from vtr_jax.data.video.packets import Deadline, Run, Surprise

_GROUP = 1000  # ours: packets held at once; larger groups are decoded as they come
_PICTURES = 256  # ours: frames after which their memory is recounted
_FRAMES = 1000  # ours: frames before a clip that allow it as much time as it has itself
_MAX_PACKETS = 5_000_000  # ours: 23 hours at 60 a second; some 100 bytes each


class Timeline(NamedTuple):
  """The frames of a file according to its packets, in the order of display.

  times: seconds since the first. duration: when the last one's time is over.
  shown: times in the file's own unit, None if they are unknown. decoded: of all
  packets, in their own order. starts: packets at which decoding may begin; the first
  only, where that is not known. skip: frames to which no other refers may be skipped.
  damaged: packets after the last frame are truncated or broken.
  """

  times: Float[np.ndarray, " t"]
  duration: float
  shown: list[int] | None
  decoded: list[int]
  starts: list[int]
  skip: bool
  damaged: bool


def timeline(file: io.BufferedIOBase, seconds: float = float("inf")) -> Timeline:
  """Reads all packets and decodes none.

  Args:
    file: the encoded file.
    seconds: of CPU time that it may take.

  Raises:
    BadSample: not a video, without a complete packet, or with more of them than any
      real video has; too slow.
  """
  deadline = Deadline(seconds)
  if _is_picture(file):
    return Timeline(np.zeros(1), 1 / 25, None, [], [0], False, False)
  early = ends_early(file)
  with opened(file) as container:
    stream = video_stream(container)
    codec, keys, decoded, shown, damaged = stream.codec_context, [], [], [], False
    try:
      for packet in packets_lib.demuxed(container, stream):
        deadline.check()
        if packets_lib.restarts(codec, packet):
          keys.append(len(decoded))
        decoded.append(packet.pts)
        if len(decoded) > _MAX_PACKETS:
          raise BadSample(f"more than {_MAX_PACKETS} frames")
        if not packet.is_discard:
          shown.append(packet.pts)
    except (av.FFmpegError, packets_lib.Broken):
      damaged = True
    if not shown:
      raise BadSample("no complete frame")
    damaged |= packets_lib.lacks(stream, len(decoded), early)
    rate = float(stream.guessed_rate or stream.average_rate or 25)
    if None in decoded or len(set(shown)) < len(shown):
      times = np.arange(len(shown)) / rate
      return Timeline(times, len(shown) / rate, None, [], [0], False, damaged)
    shown.sort()
    times = (np.array(shown) - shown[0]) * float(stream.time_base)
    # The last frame is shown as long as most are.
    last = float(np.median(np.diff(times))) if len(times) > 1 else 1 / rate
    reordered = decoded != sorted(decoded)
    timeless = container.format.name == packets_lib.TIMELESS
    unordered = codec.has_b_frames and (timeless or not reordered)
    starts = packets_lib.clean_starts(np.array(decoded), keys) if keys else [0]
    skip = reordered and codec.name in packets_lib.SKIPPING
    large = int(np.diff([*starts, len(decoded)]).max()) > _GROUP
    group_times = None if unordered or damaged or large else shown
    duration = round(float(times[-1]) + last, 6)
    return Timeline(times, duration, group_times, decoded, starts, skip, damaged)


def clips(
  file: io.BufferedIOBase,
  line: Timeline,
  requested: Sequence[Int[np.ndarray, " t"]],
  view: Any,
  seconds: float = float("inf"),
) -> Iterator[UInt8[np.ndarray, "t h w 3"]]:
  """Clips of one file, one after the other.

  Args:
    file: the encoded file.
    line: of it.
    requested: sorted frame numbers of each clip; clips in the order of time.
    view: as `video.decode`'s.
    seconds: of CPU time that each clip may take, and as much for every
      thousand frames since the clip before it, which may have to be decoded.

  Raises:
    BadSample: the file is damaged, and what is left of it lacks frames of the next
      clip; too slow.
  """
  deadline, last = Deadline(seconds), 0
  uses = collections.Counter(int(n) for clip in requested for n in set(clip.tolist()))
  pictures: dict[int, np.ndarray] = {}
  frames, ended = _frames(file, line, sorted(uses), view, deadline), False
  for clip in requested:
    numbers, before = clip.tolist(), last
    last = max(numbers[-1], before)
    deadline.renew(seconds * (1 + (last - before) / _FRAMES))
    while not ended and numbers[-1] not in pictures:
      number, picture = next(frames, (-1, None))
      ended = picture is None
      if picture is not None:
        pictures[number] = picture
    if numbers[0] not in pictures:
      return  # there are fewer frames than packets
    newest = max(n for n in pictures if n <= numbers[-1])
    yield np.stack([pictures[min(n, newest)] for n in numbers])
    for number in set(numbers):
      uses[number] -= 1
      if not uses[number]:
        pictures.pop(number, None)


def small(
  file: io.BufferedIOBase, height: int, width: int, seconds: float = float("inf")
) -> Iterator[UInt8[np.ndarray, "h w"]]:
  """All frames of a file in order, gray and small, as far as they are good.

  Args:
    file: the encoded file.
    height: of what is returned; the proportions are not kept.
    width: the same.
    seconds: of CPU time that the file may take.

  Raises:
    BadSample: too slow.
  """
  reformatter = VideoReformatter()
  for _, frame in _in_order(file, Deadline(seconds)):
    if frame is None:
      return
    gray = reformatter.reformat(
      frame, width=width, height=height, format="gray", threads=1
    )
    yield gray.to_ndarray()


def _frames(
  file: io.BufferedIOBase,
  line: Timeline,
  requested: list[int],
  view: Any,
  deadline: Deadline,
) -> Iterator[tuple[int, UInt8[np.ndarray, "h w 3"]]]:
  """(number, picture) of the requested frames, numbers ascending."""
  done, picture = -1, Picture(view)
  if line.shown is not None and requested[-1] < len(line.shown):
    try:
      for done, rgb in _by_groups(file, line, requested, view, deadline):
        yield done, rgb
      return
    except Surprise:
      pass  # from here on in order, which shows how much of the file is good
  todo = {number for number in requested if number > done}
  for number, frame in _in_order(file, deadline):
    if frame is None:
      raise BadSample(f"damaged after {number} frames")
    if number in todo:
      yield number, picture(frame)
      todo.remove(number)
    if not todo:
      return
    if len(todo) % _PICTURES == 0:
      picture = Picture(view)
  if line.damaged:
    raise BadSample(f"damaged after {len(line.times)} frames")


def _by_groups(
  file: io.BufferedIOBase,
  line: Timeline,
  requested: list[int],
  view: Any,
  deadline: Deadline,
) -> Iterator[tuple[int, np.ndarray]]:
  """Of as few groups of pictures as hold the requested frames.

  Raises:
    Surprise: other frames come out than should, or damaged ones.
    BadSample: too slow.
  """
  assert line.shown is not None
  where = {pts: position for position, pts in enumerate(line.decoded)}
  groups: dict[int, dict[int, int]] = {}  # by place in `starts`: time -> number
  for number in requested:
    pts = line.shown[number]
    group = bisect.bisect_right(line.starts, where[pts]) - 1
    groups.setdefault(group, {})[pts] = number
  ends = [*line.starts[1:], len(line.decoded)]
  with opened(file) as container:
    stream, at = video_stream(container), 0
    packets = packets_lib.demuxed(container, stream)
    for group, numbers in groups.items():
      start, end = line.starts[group], ends[group]
      stop = max(where[pts] for pts in numbers) + 1
      collections.deque(itertools.islice(packets, start - at), maxlen=0)
      held, at = list(itertools.islice(packets, stop - start)), stop
      if [packet.pts for packet in held] != line.decoded[start:stop]:
        raise Surprise
      first = bisect.bisect_left(line.shown, line.decoded[start]) if start else 0
      run = Run(held, line.shown[first : first + end - start], numbers, line.skip)
      codec, picture = stream.codec_context, Picture(view)
      frames = packets_lib.decode_run(codec, run, deadline)
      try:
        for number, frame in frames:
          yield number, picture(frame)
      except (av.FFmpegError, packets_lib.Broken) as e:
        raise Surprise from e  # otherwise `opened` would report that it is not a video


def _is_picture(file: io.BufferedIOBase) -> bool:
  file.seek(0)
  return image.is_image(file.read(image.HEAD))


def _in_order(
  file: io.BufferedIOBase, deadline: Deadline
) -> Iterator[tuple[int, av.VideoFrame | None]]:
  """(number, frame) of all frames as far as they are good; (number, None): not so far.

  Raises:
    BadSample: too slow.
  """
  number, cut = 0, []
  if _is_picture(file):
    file.seek(0)
    yield 0, still(file.read())
    return
  with opened(file) as container:
    stream = video_stream(container)

    def packets() -> Iterator[av.Packet]:
      try:
        yield from packets_lib.demuxed(container, stream)
      except packets_lib.Broken as e:
        cut.append(e)

    codec = stream.codec_context
    for frame in packets_lib.decode_all(codec, packets(), deadline):
      if frame is None or frame.is_corrupt:
        yield number, None
        return
      yield number, frame
      number += 1
    if cut:
      yield number, None
