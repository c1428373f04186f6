"""Encoded videos to frames: which frames, which part of them, at which size."""

import io
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import Int, UInt8

from vtr_jax.errors import BadSample

SAMPLINGS = ("segments", "contiguous")
CROPS = ("resize", "multi_scale", "random_resized")

# Containers that need no other file. Without the list, a text that names a URL
# (an HLS playlist) would be opened and followed.
_FORMATS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,ogg,flv,asf,gif,image2,h264,hevc,ivf"

# Corners, middle and half-way points of the free space, in quarters of it.
_OFFSETS = (
  *((y, x) for y in (0, 2, 4) for x in (0, 2, 4)),
  *((y, x) for y in (1, 3) for x in (1, 3)),
)


class View(NamedTuple):
  """A square cut out of the resized frame; pixels of the resized frame."""

  height: int  # the whole frame is resized to this
  width: int
  top: int
  left: int
  size: int  # height and width of the cut
  flip: bool = False  # mirror left and right


def decode(
  data: bytes,
  indices: Sequence[int] | Callable[[int], Sequence[int]] | None = None,
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
  if not data:
    raise BadSample("empty file")
  try:
    with av.open(
      io.BytesIO(data),
      metadata_errors="replace",
      container_options={"format_whitelist": _FORMATS},
    ) as container:
      return _decode(container, indices, view, needed)
  except av.FFmpegError as e:
    raise BadSample(f"not a video ({_reason(e)})") from e


def _decode(container, indices, view, needed: int) -> np.ndarray:
  """`decode` of an opened container."""
  if not container.streams.video:
    raise BadSample("no video stream")
  stream = container.streams.video[0]
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


def _wanted(indices, count: int) -> list[int]:
  if indices is None:
    return list(range(count))
  return [int(i) for i in (indices(count) if callable(indices) else indices)]


def _until_damage(source: Iterator) -> Iterator:
  """Everything that comes before the first error."""
  try:
    yield from source
  except av.FFmpegError:
    return


def _frames(codec, packets) -> Iterator[av.VideoFrame]:
  """Frames in order of display, up to the first damaged packet."""
  yield from _until_damage(f for p in packets if p.size for f in codec.decode(p))
  yield from _until_damage(iter(codec.decode(None)))


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


def resize_view(height: int, width: int, size: int) -> View:
  """The short side becomes `size`; the middle is cut out."""
  short = min(height, width)
  return _box_view(
    height, width, ((height - short) / 2, (width - short) / 2, short, short), size
  )


def random_view(
  height: int,
  width: int,
  size: int,
  crop: str,
  scales: Sequence[float],
  flip: bool,
  rng: np.random.Generator,
) -> View:
  """Draws the part of the frame that a training clip shows.

  Args:
    height: of the frames, pixels.
    width: of the frames, pixels.
    size: of the clip, pixels.
    crop: "resize" as in evaluation; "multi_scale" takes one of 13 places and a
      height and width among `scales` of the short side, at most one step apart
      (TSN; SimVTP with 1, .875, .75, .66); "random_resized" takes a share of the
      area between the two `scales`, of aspect 3/4 to 4/3 (Inception; Frozen in
      Time with .5, 1).
    scales: see `crop`; not read by "resize".
    flip: mirror left and right with chance 1/2.
    rng: the example's generator.
  """
  if crop == "resize":
    view = resize_view(height, width, size)
  elif crop == "multi_scale":
    view = _box_view(height, width, _multi_scale_box(height, width, scales, rng), size)
  else:
    box = _random_resized_box(height, width, scales, rng)
    view = _box_view(height, width, box, size)
  return view._replace(flip=bool(flip and rng.random() < 0.5))


def _multi_scale_box(height, width, scales, rng):
  """(top, left, height, width) in pixels of the frame."""
  pairs = [
    (a, b)
    for i, a in enumerate(scales)
    for j, b in enumerate(scales)
    if abs(i - j) <= 1
  ]
  tall, wide = np.array(pairs[rng.integers(len(pairs))]) * min(height, width)
  y, x = _OFFSETS[rng.integers(len(_OFFSETS))]
  return (height - tall) * y / 4, (width - wide) * x / 4, tall, wide


def _random_resized_box(height, width, scales, rng):
  """(top, left, height, width) in pixels of the frame."""
  for _ in range(10):
    area = height * width * rng.uniform(*scales)
    ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    tall, wide = np.sqrt(area / ratio), np.sqrt(area * ratio)
    if tall <= height and wide <= width:
      return rng.uniform(0, height - tall), rng.uniform(0, width - wide), tall, wide
  # As torchvision does where the frame is too long for any such box.
  tall, wide = min(height, width * 4 / 3), min(width, height * 4 / 3)
  return (height - tall) / 2, (width - wide) / 2, tall, wide


def _box_view(height: int, width: int, box, size: int) -> View:
  """The frame is resized so that `box` becomes the clip."""
  top, left, tall, wide = box
  full = max(round(height * size / tall), size), max(round(width * size / wide), size)
  at = round(top * size / tall), round(left * size / wide)
  return View(*full, min(at[0], full[0] - size), min(at[1], full[1] - size), size)
