"""Videos with distinct frames, and damaged versions of them."""

import functools
import io
from fractions import Fraction

import av
import numpy as np
from PIL import Image


def written(frames, **container):
  """A video of (time in ms, RGB array) pairs."""
  file = io.BytesIO()
  with av.open(file, "w", format="mp4", options=container) as out:
    # Without a number of threads, the bytes depend on the cores.
    stream = out.add_stream("libx264", rate=25, options=dict(g="6", threads="3"))
    stream.height, stream.width = frames[0][1].shape[:2]
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = Fraction(1, 1000)
    for time, picture in frames:
      frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
      frame.pts, frame.time_base = time, stream.codec_context.time_base
      out.mux(stream.encode(frame))
    out.mux(stream.encode())
  return file.getvalue()


def noise(height=64, width=80, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@functools.cache  # x264 encodes the same frames differently once in a hundred times
def textured(**options):
  """24 frames of a detailed image that moves."""
  small = Image.fromarray(noise(20, 40)).resize((320, 160), Image.Resampling.BICUBIC)
  wide = np.asarray(small)
  frames = [(40 * i, wide[:, 4 * i : 4 * i + 192]) for i in range(24)]
  return written([(t, np.ascontiguousarray(f)) for t, f in frames], **options)


def damaged(at=0.5):
  """Name of a kind of damage -> the damaged file.

  Args:
    at: fraction of the file before the damage, for `pieces_cut` and `flipped`.
  """
  whole, pieces = textured(), textured(movflags="frag_keyframe")
  flipped, place = bytearray(whole), int(at * len(whole))
  flipped[place : place + 400] = noise(seed=9).tobytes()[:400]
  return dict(
    empty=b"",
    page=b"<!DOCTYPE html><html><body>404 not found</body></html>",
    playlist=b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://x/y.ts\n",
    cut_95=whole[: len(whole) * 95 // 100],
    cut_50=whole[: len(whole) // 2],
    zero_tail=whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2),
    pieces_cut=pieces[: int(at * len(pieces))],
    flipped=bytes(flipped),
  )
