"""One video, checked frame by frame and re-encoded, in bounded memory."""

import io
import itertools
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from vtr_jax.core.errors import BadSample, one_line
from vtr_jax.data.video import packets as packets_lib
from vtr_jax.data.video.container import choose_stream, ends_early, opened
from vtr_jax.data.video.decode import unusual
from vtr_jax.data.video.packets import Deadline
from vtr_jax.prepare.options import Options, Result

_JOINED = 0.5  # ours: seconds back by which another recording has begun
_CLOCK = 90_000  # ticks per second of what is written: MPEG's own
_SEEK = 10.0  # ours: up to here, decoding from the start is as fast as seeking
# Containers with an index of key frames and their times; others seek by guess.
_INDEXED = {"mov", "matroska"}
_PRESET = "veryfast"  # ours: half of the time of x264's default, 5 % more bytes
_BLANK = 8  # ours: brightest minus darkest of 255, noise of compression included


class Shown(NamedTuple):
  """A frame and its time in seconds since the first frame."""

  time: float
  frame: av.VideoFrame


def encode(
  data: bytes | io.BufferedIOBase,
  options: Options,
  start: float | None = None,
  end: float | None = None,
  seconds: float = float("inf"),
) -> Result:
  """The video as H.264 in mp4, upright and without sound; with `copy`, unchanged.

  Args:
    data: the bytes of the file, or the open file; `copy` requires the bytes.
    options: size, frame rate and quality of the result, and limits.
    start: second at which the result begins; None is the beginning.
    end: second before which it ends; None is the end.
    seconds: of CPU time that it may take; the rest then counts as damaged.

  Raises:
    BadSample: it cannot be decoded, is damaged, or exceeds a limit.
  """
  first, stop = start or 0.0, float("inf") if end is None else end
  deadline = Deadline(seconds)
  if first > _SEEK:
    try:
      return _encode(data, options, first, stop, deadline, seek=True)
    except BadSample:
      pass  # no index, a wrong one, or frames that refer to some before the key frame
  return _encode(data, options, first, stop, deadline, seek=False)


def _encode(
  data: bytes | io.BufferedIOBase,
  options: Options,
  start: float,
  end: float,
  deadline: Deadline,
  *,
  seek: bool,
) -> Result:
  early = ends_early(data)
  with opened(data) as container:
    reader = _Reader(container, options, deadline, early)
    shown = reader.part(start, end, seek)
    if options.copy:
      assert isinstance(data, bytes)
      return _look(shown, reader)._replace(data=data)
    if options.fps:
      shown = _resampled(shown, options.fps, reader.rate)
    return _write(shown, reader, options)


class _Reader:
  """Frames of a container with their times, as far as they are good."""

  def __init__(self, container: Any, options: Options, deadline: Deadline, early: bool):
    """Takes a container; `early`, see `container.ends_early`."""
    stream = choose_stream(container)
    codec = stream.codec_context
    if codec is None:
      raise BadSample("unknown codec")
    stream.thread_type = "SLICE"
    codec.thread_count = 1
    # Without "explode" a decoder conceals errors and reports none. max_pixels fails
    # before memory is allocated, also where the size changes midway.
    codec.options = dict(err_detect="explode", max_pixels=str(options.max_pixels))
    if codec.width * codec.height > options.max_pixels:
      raise BadSample(f"{codec.width} x {codec.height} pixels, above --max_pixels")
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    self.rate = rate if 0 < rate <= 1000 else 25.0  # 25 if the file's is implausible
    self.warnings: list[str] = []
    self._container, self._stream, self._options = container, stream, options
    self._deadline, self._early = deadline, early

  def part(self, start: float, end: float, seek: bool) -> Iterator[Shown]:
    """Frames shown from `start` until `end`, times counted from `start`.

    Between two frames, the earlier one is shown. `seek` begins to decode at the key
    frame before `start`.
    """
    limit = self._options.max_seconds
    origin, held, any_given = None, None, False
    if seek:
      if _INDEXED.isdisjoint(self._container.format.name.split(",")):
        raise BadSample("no index to seek by")
      origin = float((self._stream.start_time or 0) * self._stream.time_base)
      ticks = int((origin + start) / self._stream.time_base)
      self._container.seek(ticks, stream=self._stream)
    for time, frame in self._timed(complete=not seek):
      if origin is None:
        origin = time
      time -= origin
      if seek and held is None and not any_given and time > start + 1e-6:
        raise BadSample("sought too far")
      if time >= end:
        break
      if time - start > limit:
        raise BadSample(f"longer than --max_seconds={limit:g}")
      if time < start - 1e-6:
        held = frame
        continue
      if held is not None and time > start + 1e-6:
        yield Shown(0.0, held)
      held, any_given = None, True
      yield Shown(max(time - start, 0.0), frame)
    if not any_given:
      # The last frame is shown until its time is over.
      if held is None or time + 1 / self.rate < start:
        raise BadSample(f"no frame from {start:g} s to {end:g} s")
      yield Shown(0.0, held)

  def _timed(self, complete: bool) -> Iterator[Shown]:
    """Decoded frames in the order of display; times always grow.

    Times of a recording that was joined continue from the end of the one before.
    """
    last, shift = -np.inf, 0.0
    for frame in self._decoded(complete):
      if frame.time is None and not complete:
        raise BadSample("no times to seek by")
      following = 0.0 if last == -np.inf else last + 1 / self.rate
      time = following if frame.time is None else frame.time + shift
      if time < last - _JOINED:
        shift += following - time
        time = following
      last = time if time > last else last + 1 / _CLOCK
      yield Shown(last, frame)

  def _decoded(self, complete: bool) -> Iterator[av.VideoFrame]:
    """Frames until the first damage, which ends them if there are `needed` of them.

    `complete`: requires the number of frames that the file declares.
    """
    packets = frames = 0
    declared, stream = packets_lib.declared(self._stream), self._stream
    found = packets_lib.demuxed(self._container, stream)
    try:
      # None asks the decoder for the frames that it has held back.
      for packet in itertools.chain(found, [None]):
        self._deadline.check()
        packets += packet is not None
        for frame in stream.codec_context.decode(packet):
          if frame.is_corrupt:
            raise BadSample("a frame is broken")
          if not frames:
            self.warnings += unusual(frame)
          frame.time_base = stream.time_base
          frames += 1
          yield frame
      # The only sign of a truncated file may be this count; 0: the file has none.
      if complete and packets < declared:
        raise BadSample(f"{packets} of {declared} frames are there")
      if complete and packets_lib.lacks(stream, packets, self._early):
        raise BadSample("the file is shorter than it states")
    except (av.FFmpegError, packets_lib.Broken, BadSample) as e:
      if not 0 < self._options.needed <= frames:
        why = e.strerror if isinstance(e, av.FFmpegError) else one_line(e)
        raise BadSample(f"damaged after {frames} frames ({why})") from e
      self.warnings.append(f"damaged: cut short after {frames} good frames")


def _resampled(shown: Iterator[Shown], fps: float, rate: float) -> Iterator[Shown]:
  """At every tick of `fps` the frame that is shown then; at least one."""
  tick, held, last = 0, None, 0.0
  for time, frame in shown:
    while held is not None and tick / fps < time - 1e-6:
      yield Shown(tick / fps, held)
      tick += 1
    held, last = frame, time
  while held is not None and (tick == 0 or tick / fps < last + 1 / rate - 1e-6):
    yield Shown(tick / fps, held)
    tick += 1


def _look(shown: Iterator[Shown], reader: _Reader) -> Result:
  """The result, without data, of a video whose bytes are copied."""
  small, seen, size = VideoReformatter(), _Seen(), (0, 0)
  for time, frame in shown:
    if not seen.frames:
      size = _size(frame, None)
    gray = small.reformat(frame, width=32, height=32, format="gray", threads=1)
    seen.add(time, gray)
  return seen.facts(reader.warnings, reader.rate, size)


def _write(shown: Iterator[Shown], reader: _Reader, options: Options) -> Result:
  """Scales, turns and encodes, one frame at a time."""
  scaler, seen, size = VideoReformatter(), _Seen(), (0, 0)
  file, ticks, stream = io.BytesIO(), -1, None
  rate = options.fps or reader.rate
  with av.open(file, "w", format="mp4") as out:
    for time, frame in shown:
      if stream is None:
        size = _size(frame, options.short_side)
        stream = _stream(out, frame, size, rate, options)
      picture = _scaled(frame, size, scaler)
      seen.add(time, picture)
      ticks = max(round(time * _CLOCK), ticks + 1)
      picture.pts, picture.time_base = ticks, Fraction(1, _CLOCK)
      picture.pict_type = 0  # else key frames would stay where they were
      out.mux(stream.encode(picture))
    if stream is not None:
      out.mux(stream.encode())
  facts = seen.facts(reader.warnings, rate, size)
  return facts._replace(data=file.getvalue())


def _stream(out, first: av.VideoFrame, size, rate: float, options: Options) -> Any:
  # One thread: the bytes then depend on nothing else, and items are done in parallel.
  x264 = dict(preset=_PRESET, crf=str(options.crf), g=str(options.gop), threads="1")
  # The code for some CPUs (AVX-512) is not deterministic.
  x264["x264-params"] = "cpu-independent=1"
  if options.gop == 1:
    # Decoding, which this option is for, takes three times as long without it.
    x264["tune"] = "fastdecode"
  rate_ = Fraction(rate).limit_denominator(1001)
  stream = out.add_stream("libx264", rate=rate_, options=x264)
  stream.width, stream.height = size
  stream.pix_fmt = "yuv420p"
  stream.codec_context.time_base = Fraction(1, _CLOCK)
  if first.colorspace:  # 0 is RGB; the scaler has left all others as they are
    stream.codec_context.colorspace = first.colorspace
  return stream


def _size(frame: av.VideoFrame, short_side: int | None) -> tuple[int, int]:
  """Width and height of the upright result; even ones, if it is to be scaled."""
  width, height = frame.width, frame.height
  if _turns(frame) % 2:
    width, height = height, width
  if short_side is None:
    return width, height
  scale = min(1.0, short_side / min(width, height))
  # H.264 halves the resolution of colours.
  even = [max(2, 2 * round(side * scale / 2)) for side in (width, height)]
  return even[0], even[1]


def _scaled(frame: av.VideoFrame, size, scaler: VideoReformatter) -> av.VideoFrame:
  """The frame upright, as yuv420p of `size`."""
  turns = _turns(frame)
  width, height = size[::-1] if turns % 2 else size
  # 1 is MPEG's range: files of cameras that use all 256 levels are marked so.
  scaled = scaler.reformat(
    frame, width, height, "yuv420p", dst_color_range=1, threads=1
  )
  if not turns:
    return scaled
  flat = scaled.to_ndarray().astype(np.uint8, copy=False).ravel()
  luma, chroma = np.split(flat, [width * height])
  planes = [luma.reshape(height, width)]
  planes += list(chroma.reshape(2, height // 2, width // 2))
  flat = np.concatenate([np.rot90(plane, turns).ravel() for plane in planes])
  return av.VideoFrame.from_ndarray(flat.reshape(-1, size[0]), format="yuv420p")


def _turns(frame: av.VideoFrame) -> int:
  """Quarter turns counter-clockwise that make the frame upright."""
  return round(frame.rotation / 90) % 4


class _Seen:
  """Counts frames, and those of them whose pixels are nearly equal."""

  def __init__(self):
    self.frames, self.blank, self.time = 0, 0, 0.0

  def add(self, time: float, frame: av.VideoFrame) -> None:
    """Takes a frame whose first plane is its brightness."""
    plane = frame.planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    pixels = rows[: frame.height, : frame.width]
    self.frames, self.time = self.frames + 1, time
    self.blank += int(pixels.max()) - int(pixels.min()) < _BLANK

  def facts(self, warnings: list[str], rate: float, size: tuple[int, int]) -> Result:
    """The result without data; raises BadSample if there was no frame."""
    if not self.frames:
      raise BadSample("no frame can be decoded")
    if self.blank:
      blank = f"blank: {self.blank} of {self.frames} frames have nearly equal pixels"
      warnings = [*warnings, blank]
    seconds = round(self.time + 1 / rate, 3)
    return Result(b"", "", tuple(warnings), self.frames, seconds, *size)
