"""Encoded videos and images to frames: which of them, when, and at which size.

One image is a video of one frame. See packets.py for how little is decoded.
"""

import dataclasses
import multiprocessing
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import Float, Int, UInt8

from vtr_jax.core.errors import BadSample
from vtr_jax.core.shutdown import warn
from vtr_jax.data.crops import View
from vtr_jax.data.video import image
from vtr_jax.data.video import packets as packets_lib
from vtr_jax.data.video.container import MAX_PIXELS, ends_early, opened, video_stream
from vtr_jax.data.video.packets import Deadline, Surprise

SAMPLINGS = ("segments", "time_segments", "contiguous")
Indices = Sequence[int] | Int[np.ndarray, " n"]  # sorted frame numbers

# Transfer characteristics (ITU-T H.273, table 3).
_HDR = {16: "PQ", 18: "HLG"}
_MAX_GAP = 1000  # ours: half a minute at 30 frames a second
_told: set[str] = set()  # warnings of this process; several threads decode
_untold: list[str] = []  # those of a worker process that its parent has not told
_lock = threading.Lock()
_MAX_BYTES = 2**34  # of frames that are kept; a small file may unfold to any size; ours


def decode(
  data: bytes,
  indices: Indices | Callable[[int], Indices] | None = None,
  view: Callable[[int, int], View] | None = None,
  needed: int = 1,
  seconds: float = float("inf"),
  damage: list[str] | None = None,
) -> UInt8[np.ndarray, "t h w 3"]:
  """Decodes the requested frames as RGB, on one thread.

  Frames are counted in the order of display, whatever their times are. Only
  requested frames are converted, and little more than these is decoded. What is
  transparent shows the colour that is stored there.

  Args:
    data: the encoded file: a video, or a picture, see image.py.
    indices: sorted frame numbers, or a function of the number of frames that
      returns them; None takes every frame.
    view: from (height, width) of the frames to the part that is cut out; the
      same for all frames. None keeps the full frame.
    needed: a damaged file with fewer good frames than this is rejected; an
      intact file may be shorter.
    seconds: of CPU time that the file may take; see packets.Deadline.
    damage: gets a line if frames are taken from a file that is found damaged.

  Raises:
    BadSample: no frame can be decoded, or too few; too large; too slow.
  """
  deadline, picture = Deadline(seconds), Picture(view)
  if image.is_image(data[: image.HEAD]):
    return np.stack([picture(still(data))] * len(_requested(indices, 1, [])))
  early = ends_early(data)
  with opened(data) as container:
    stream = video_stream(container)
    codec = stream.codec_context
    packets, damaged = packets_lib.read(container, stream, deadline)
    damaged |= packets_lib.lacks(stream, len(packets), early)
    count = sum(not packet.is_discard for packet in packets)
    # One packet is one frame, except in damaged and in unusual files: there the
    # first pass finds out how many frames there are, and the second uses that.
    torn = False
    for attempt in range(2):
      if not count or (damaged and count < needed):
        break
      requested, pictures = _requested(indices, count, packets), None
      if not damaged and attempt == 0:
        pictures = _decode_runs(stream, packets, requested, picture, deadline)
      if pictures is None:
        pictures, count, found = _decode_all(
          codec, packets, requested, picture, deadline
        )
        torn |= found
        damaged |= torn
      if len(pictures) == len(set(requested)):
        if damaged and damage is not None:
          good = count if torn else sum(not packet.is_discard for packet in packets)
          damage.append(f"damaged after {good} frames")
        return np.stack([pictures[number] for number in requested])
  if not count:
    raise BadSample("no frame can be decoded")
  raise BadSample(f"only {count} frames can be decoded, fewer than needed")


def frame_times(data: bytes, seconds: float = float("inf")) -> Float[np.ndarray, " t"]:
  """When each frame is shown, in seconds since the first; decodes nothing.

  Where a file has no times, frames follow each other at its frame rate.

  Args:
    data: the encoded file.
    seconds: of CPU time that the file may take.

  Raises:
    BadSample: not a video, or without a complete packet.
  """
  if image.is_image(data[: image.HEAD]):
    return np.zeros(1)
  with opened(data) as container:
    stream = video_stream(container)
    packets, _ = packets_lib.read(container, stream, Deadline(seconds))
    count = sum(not packet.is_discard for packet in packets)
    if not count:
      raise BadSample("no complete frame")
    shown = packets_lib.times(packets)
    if shown is not None:
      return (np.array(shown) - shown[0]) * float(stream.time_base)
    return np.arange(count) / float(stream.guessed_rate or stream.average_rate or 25)


def still(data: bytes) -> av.VideoFrame:
  """The only frame of a picture.

  Raises:
    BadSample: it cannot be decoded, or is too large.
  """
  picture, kind, count = image.read(data, MAX_PIXELS)
  if animated := image.animated(kind, count):
    tell(animated)
  rgb = np.asarray(picture)
  return av.VideoFrame.from_ndarray(rgb, format="rgb24")


def _requested(indices: Any, count: int, packets: Sequence[av.Packet]) -> list[int]:
  if indices is None:
    return list(range(count))
  if isinstance(indices, TimeSegments):
    shown = packets_lib.times(packets)
    if shown and len(shown) == count:
      return indices.at(np.array(shown, np.float64)).tolist()
  chosen: Any = indices(count) if callable(indices) else indices
  return [int(i) for i in chosen]


def _decode_runs(
  stream, packets, requested: list[int], picture, deadline: Deadline
) -> dict[int, np.ndarray] | None:
  """Requested frames by number, from as little as possible; None: take all packets."""
  if max(requested) >= len(packets):
    return None
  runs, pictures = packets_lib.runs(stream, packets, requested), {}
  try:
    for run in runs:
      for number, frame in packets_lib.decode_run(stream.codec_context, run, deadline):
        pictures[number] = picture(frame)
  except (Surprise, av.FFmpegError):
    return None
  return pictures if runs else None


def _decode_all(
  codec, packets, requested: list[int], picture, deadline: Deadline
) -> tuple[dict[int, np.ndarray], int, bool]:
  """Requested frames by number, how many were decoded, and whether any failed."""
  pictures, decoded, torn = {}, 0, False
  todo, last, shown = set(requested), max(requested), None
  for frame in packets_lib.decode_all(codec, packets, deadline):
    if frame is None:
      torn, shown = True, packets_lib.times(packets)
      continue
    # What was held back may be shown after the frame that is lost.
    if torn and shown and shown[decoded : decoded + 1] != [frame.pts]:
      break
    torn |= frame.is_corrupt
    if decoded in todo:
      pictures[decoded] = picture(frame)
    decoded += 1
    if decoded > last:
      break
  return pictures, decoded, torn


class Picture:
  """Frames to RGB, all turned, resized and cut as the first one.

  It raises BadSample once they have taken too much: what is to be read without end
  takes a new one at times.
  """

  def __init__(self, view: Callable[[int, int], View] | None):
    self._view, self._cut = view, None
    self._reformatter = VideoReformatter()
    self._turns, self._size = -1, (0, 0)
    self._bytes = 0

  def __call__(self, frame: av.VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
    if self._turns < 0:
      self._look_at(frame)
    height, width = self._size
    # Resizes while converting: far cheaper than doing it afterwards. One thread:
    # starting swscale's own threads costs more than the conversion.
    rgb = self._reformatter.reformat(
      frame, width=width, height=height, format="rgb24", threads=1
    ).to_ndarray()
    self._bytes += rgb.nbytes
    if self._bytes > _MAX_BYTES:
      raise BadSample(f"frames take more than {_MAX_BYTES >> 30} GiB; take fewer")
    if self._turns:
      rgb = np.rot90(rgb, self._turns)
    cut = self._cut
    if not cut:
      return rgb
    rgb = rgb[cut.top : cut.top + cut.size, cut.left : cut.left + cut.size]
    return rgb[:, ::-1] if cut.flip else rgb

  def _look_at(self, frame: av.VideoFrame) -> None:
    """Fixes the turn, the size before it, and the part to cut after it."""
    for text in unusual(frame):
      tell(text)
    # Counter-clockwise; telephones film on their side.
    self._turns = round(frame.rotation / 90) % 4
    self._size = frame.height, frame.width
    if self._view:
      self._cut = self._view(*self._turned(self._size))
      self._size = self._turned((self._cut.height, self._cut.width))

  def _turned(self, size: tuple[int, int]) -> tuple[int, int]:
    height, width = size
    return (width, height) if self._turns % 2 else size


def unusual(frame: av.VideoFrame) -> Iterator[str]:
  """Warnings about properties that decoding does not correct, see docs/data.md."""
  if frame.interlaced_frame:
    yield "interlaced: it is not deinterlaced"
  if (name := _HDR.get(int(frame.color_trc or 0))) is not None:
    yield f"HDR ({name}): no tone mapping"


def tell(text: str) -> None:
  """Warns once, in the process that a user sees; a worker keeps it, see `untold`."""
  with _lock:  # also while it prints: two lines would mix
    if text in _told:
      return
    _told.add(text)
    if multiprocessing.parent_process() is None:
      warn(f"{text} (said once)")
    else:
      _untold.append(text)


def untold() -> list[str]:
  """Takes the warnings that this worker process keeps for its parent to tell."""
  with _lock:
    texts = _untold.copy()
    _untold.clear()
  return texts


def frame_indices(
  num_frames: int,
  clip_frames: int,
  sampling: str,
  stride: int,
  rng: np.random.Generator | None,
) -> Int[np.ndarray, " t"]:
  """Which frames of a video make the clip, sorted. Never fails for short videos.

  Args:
    num_frames: frames of the video, at least 1.
    clip_frames: frames of the clip.
    sampling: "segments" takes one frame from each of `clip_frames` equal parts
      (TSN, Frozen in Time); a video with fewer frames repeats some of them.
      "time_segments" is the same here, see `TimeSegments`.
      "contiguous" takes every `stride`-th frame of one window; a video that is
      shorter than the window repeats its last frame (SimVTP).
    stride: frames from one to the next; read by "contiguous" only.
    rng: the example's generator; None takes the middle, for evaluation.
  """
  steps = np.arange(clip_frames)
  if sampling != "contiguous":
    start = steps * num_frames // clip_frames
    # A part is at least one frame long: Frozen in Time fails where it is not.
    end = np.maximum((steps + 1) * num_frames // clip_frames, start + 1)
    return (start + end - 1) // 2 if rng is None else rng.integers(start, end)
  free = max(num_frames - clip_frames * stride, 0)
  start = free // 2 if rng is None else rng.integers(free + 1)
  return np.minimum(start + steps * stride, num_frames - 1)


@dataclasses.dataclass(frozen=True)
class TimeSegments:
  """One frame from each of `clip_frames` parts of equal time ("time_segments").

  A phone in low light, or a screen recorder, writes frames at a rate that varies: the
  same number of frames may last a second or a minute. If every frame is within half a
  segment of its time at a constant rate, "segments" is used.

  A gap of more than a thousand median ones counts as one: it is a wrong time, or a
  recorder that was stopped, and would fill the clip with one frame.
  """

  clip_frames: int
  rng: np.random.Generator | None = None  # None takes the middle of each part

  def __call__(self, num_frames: int) -> Int[np.ndarray, " t"]:
    """Of a video whose times are unknown: by numbers of frames."""
    return frame_indices(num_frames, self.clip_frames, "segments", 1, self.rng)

  def at(self, times: Float[np.ndarray, " n"]) -> Int[np.ndarray, " t"]:
    """Numbers of the frames that are shown then, sorted.

    Args:
      times: when each frame is first shown, ascending, in any unit.
    """
    count, parts = len(times), self.clip_frames
    gaps = np.diff(times)
    # The last frame is shown as long as most are.
    last = np.median(gaps) if count > 1 else 1.0
    gaps = np.where(gaps > _MAX_GAP * last, last, gaps)
    since = np.concatenate([[0.0], np.cumsum(gaps)])
    share = since / (since[-1] + last)
    if np.abs(share - np.arange(count) / count).max() <= 0.5 / parts:
      return self(count)
    within = 0.5 if self.rng is None else self.rng.random(parts)
    moments = (np.arange(parts) + within) / parts
    return np.searchsorted(share, moments, side="right") - 1


def chooser(
  clip_frames: int, sampling: str, stride: int, rng: np.random.Generator | None
) -> Callable[[int], Indices]:
  """`frame_indices` as `decode` asks for it, by time where `sampling` says so."""
  if sampling == "time_segments":
    return TimeSegments(clip_frames, rng)
  return lambda count: frame_indices(count, clip_frames, sampling, stride, rng)
