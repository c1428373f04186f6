"""Encoded videos to frames: which of them, and at which size."""

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import Int, UInt8

from vtr_jax.data.crops import View
from vtr_jax.errors import BadSample

SAMPLINGS = ("segments", "contiguous")

# Containers that need no other file. Without the list, a text that names a URL
# (an HLS playlist) would be opened and followed.
_FORMATS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,ogg,flv,asf,gif,h264,hevc,ivf"


def decode(
  data: bytes,
  indices: Iterable[int] | Callable[[int], Iterable[int]] | None = None,
  view: Callable[[int, int], View] | None = None,
  needed: int = 1,
) -> UInt8[np.ndarray, "t h w 3"]:
  """Decodes the wanted frames as RGB, on one thread.

  Frames are counted in the order of display, whatever their times are. Only
  wanted frames are converted, and decoding stops after the last of them.

  Args:
    data: the encoded file.
    indices: sorted frame numbers, or a function of the number of frames that
      returns them; None takes every frame.
    view: from (height, width) of the frames to the part that is cut out; the
      same for all frames. None keeps the whole frame.
    needed: a damaged file with fewer good frames than this is refused; an
      intact file may be shorter.

  Raises:
    BadSample: no frame can be decoded, or too few.
  """
  with opened(data) as container:
    return _decode(container, indices, view, needed)


@contextlib.contextmanager
def opened(data: bytes) -> Iterator[Any]:
  """An encoded file's PyAV container; what it names outside itself is not followed.

  Raises:
    BadSample: not a video, also where that shows only inside the `with`.
  """
  if not data:
    raise BadSample("empty file")
  try:
    with av.open(
      io.BytesIO(data),
      metadata_errors="replace",
      container_options={"format_whitelist": _FORMATS},
    ) as container:
      yield container
  except av.FFmpegError as e:
    raise BadSample(f"not a video ({_reason(e)})") from e


def _decode(container, indices, view, needed: int) -> np.ndarray:
  """`decode` of an opened container."""
  if not container.streams.video:
    raise BadSample("no video stream")
  stream = container.streams.video[0]
  if stream.codec_context is None:
    raise BadSample("unknown codec")
  stream.thread_type = "SLICE"
  stream.codec_context.thread_count = 1
  packets, damaged = _packets(container, stream)
  count = sum(p.size > 0 and not p.is_discard for p in packets)
  damaged |= count < stream.frames  # 0 where the container does not say
  # One packet is one frame, except in damaged and in unusual files: there the
  # first pass finds out how many frames there are, and the second uses that.
  for _ in range(2):
    if not count:
      raise BadSample("no frame can be decoded")
    if damaged and count < needed:
      break
    wanted = _wanted(indices, count)
    frames, decoded = _convert(stream.codec_context, packets, wanted, view)
    if len(frames) == len(set(wanted)):
      return np.stack([frames[i] for i in wanted])
    damaged, count = True, decoded
    stream.codec_context.flush_buffers()
  raise BadSample(f"only {count} frames can be decoded, fewer than needed")


def _packets(container, stream) -> tuple[list[av.Packet], bool]:
  """Packets before the first damaged one, and whether there was one."""
  packets = []
  try:
    for packet in container.demux(stream):
      if packet.is_corrupt:
        return packets, True
      packets.append(packet)
  except av.FFmpegError:
    return packets, True
  return packets, False


def _wanted(indices: Any, count: int) -> list[int]:
  if indices is None:
    return list(range(count))
  chosen: Any = indices(count) if callable(indices) else indices
  return [int(i) for i in chosen]


def _frames(codec, packets) -> Iterator[av.VideoFrame]:
  """Frames in order of display, as far as the packets are good."""
  # The second part asks the decoder for the frames that it has held back.
  for part in ([p for p in packets if p.size], [None]):
    try:
      for packet in part:
        yield from codec.decode(packet)
    except av.FFmpegError:
      continue


def _convert(codec, packets, wanted, view) -> tuple[dict[int, np.ndarray], int]:
  """Wanted frames as RGB by their number, and how many frames were decoded."""
  reformatter, found, decoded = VideoReformatter(), {}, 0
  todo, last, cut = set(wanted), max(wanted), None
  for frame in _frames(codec, packets):
    if decoded in todo:
      if cut is None:
        cut = _view_of(frame, view)
      found[decoded] = _to_rgb(frame, cut, reformatter)
    decoded += 1
    if decoded > last:
      break
  return found, decoded


def _view_of(frame: av.VideoFrame, view) -> View | None:
  """The part to cut, as seen after the frame is turned upright."""
  if view is None:
    return None
  turned = _quarter_turns(frame) % 2
  return view(frame.width, frame.height) if turned else view(frame.height, frame.width)


def _to_rgb(frame: av.VideoFrame, view: View | None, reformatter) -> np.ndarray:
  """Resizes while converting: far cheaper than doing it afterwards."""
  turns = _quarter_turns(frame)
  height, width = (view.height, view.width) if view else (frame.height, frame.width)
  if view and turns % 2:
    height, width = width, height
  # One thread: starting swscale's own threads costs more than the conversion.
  rgb = reformatter.reformat(
    frame, width=width, height=height, format="rgb24", threads=1
  ).to_ndarray()
  rgb = np.rot90(rgb, turns)
  if not view:
    return rgb
  rgb = rgb[view.top : view.top + view.size, view.left : view.left + view.size]
  return rgb[:, ::-1] if view.flip else rgb


def _quarter_turns(frame: av.VideoFrame) -> int:
  """How often to turn counter-clockwise; telephones film on their side."""
  return round(frame.rotation / 90) % 4


def _reason(error: av.FFmpegError) -> str:
  return " ".join((error.strerror or str(error)).split())[:80]


def frame_indices(
  num_frames: int,
  clip_frames: int,
  sampling: str,
  stride: int,
  rng: np.random.Generator | None,
) -> Int[np.ndarray, "t"]:
  """Which frames of a video make the clip, sorted. Never fails for short videos.

  Args:
    num_frames: frames of the video, at least 1.
    clip_frames: frames of the clip.
    sampling: "segments" takes one frame from each of `clip_frames` equal parts
      (TSN, Frozen in Time); a video with fewer frames repeats some of them.
      "contiguous" takes every `stride`-th frame of one window; a video that is
      shorter than the window repeats its last frame (SimVTP).
    stride: frames from one to the next; read by "contiguous" only.
    rng: the example's generator; None takes the middle, for evaluation.
  """
  steps = np.arange(clip_frames)
  if sampling == "segments":
    start = steps * num_frames // clip_frames
    # A part is at least one frame long: Frozen in Time fails where it is not.
    end = np.maximum((steps + 1) * num_frames // clip_frames, start + 1)
    return (start + end - 1) // 2 if rng is None else rng.integers(start, end)
  free = max(num_frames - clip_frames * stride, 0)
  start = free // 2 if rng is None else rng.integers(free + 1)
  return np.minimum(start + steps * stride, num_frames - 1)
