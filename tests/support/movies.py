"""Encoded movies of many kinds, for tests of the decoder."""

import functools
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FRAMES = 40
# Milliseconds that each frame of a movie of variable rate is shown.
SHOWN_MS = [(33, 100, 20, 7, 400)[i % 5] for i in range(FRAMES)]

# name -> (container, codec, pixel format, encoder options, container options)
KINDS = dict(
  b_frames=("mp4", "libx264", "yuv420p", dict(g="12", bf="3"), {}),
  open_gop=(
    "mp4",
    "libx264",
    "yuv420p",
    {"g": "10", "bf": "4", "x264-params": "open-gop=1:b-pyramid=normal:ref=4"},
    {},
  ),
  intra_refresh=(
    "mp4",
    "libx264",
    "yuv420p",
    {"g": "12", "bf": "2", "x264-params": "intra-refresh=1"},
    {},
  ),
  all_intra=("mp4", "libx264", "yuv420p", dict(g="1"), {}),
  faststart=(
    "mp4",
    "libx264",
    "yuv420p",
    dict(g="12", bf="3"),
    dict(movflags="faststart"),
  ),
  fragmented=(
    "mp4",
    "libx264",
    "yuv420p",
    dict(g="12", bf="3"),
    dict(movflags="frag_keyframe+empty_moov"),
  ),
  variable_rate=("matroska", "libx264", "yuv420p", dict(g="12", bf="3"), {}),
  yuv444p=("mp4", "libx264", "yuv444p", dict(g="12", bf="3"), {}),
  ten_bit=("mp4", "libx264", "yuv420p10le", dict(g="12", bf="3"), {}),
  ts=("mpegts", "libx264", "yuv420p", dict(g="12", bf="3"), {}),
  avi=("avi", "libx264", "yuv420p", dict(g="12", bf="3"), {}),
  avi_mpeg4=("avi", "mpeg4", "yuv420p", dict(g="12"), {}),
  avi_mpeg4_b=("avi", "mpeg4", "yuv420p", dict(g="12", bf="2"), {}),
  mpeg1=("mpeg", "mpeg1video", "yuv420p", dict(g="12", bf="2"), {}),
  no_container=("h264", "libx264", "yuv420p", dict(g="12", bf="3"), {}),
  vp8=("webm", "libvpx", "yuv420p", {"g": "12", "auto-alt-ref": "1"}, {}),
  vp9=("webm", "libvpx-vp9", "yuv420p", {"g": "12", "cpu-used": "8"}, {}),
  gif=("gif", "gif", "rgb8", {}, {}),
)


def picture(frame: int, height: int = 48, width: int = 64) -> np.ndarray:
  """Moving noise, and a square that identifies the frame."""
  noise = np.random.default_rng(0).integers(0, 256, (height // 4, width // 4, 3))
  big = np.kron(noise, np.ones((4, 4, 1))).astype(np.uint8)
  image = np.roll(big, (2 * frame, 3 * frame), (0, 1))
  image[:16, :16] = frame * 6
  return image


@functools.cache
def movie(kind: str, frames: int = FRAMES, rate: int = 25) -> bytes:
  """A movie of one of `KINDS`."""
  container, codec, pix_fmt, options, container_options = KINDS[kind]
  with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "movie"
    with av.open(path, "w", format=container, options=container_options) as out:
      stream = out.add_stream(codec, rate=rate, options=options)
      stream.height, stream.width = picture(0).shape[:2]
      stream.pix_fmt = pix_fmt
      if kind == "variable_rate":
        stream.codec_context.time_base = Fraction(1, 1000)
      for i in range(frames):
        frame = av.VideoFrame.from_ndarray(picture(i), format="rgb24")
        if kind == "variable_rate":
          frame.pts, frame.time_base = sum(SHOWN_MS[:i]), Fraction(1, 1000)
        out.mux(stream.encode(frame))
      out.mux(stream.encode())
    return path.read_bytes()
