"""Files as people have them: trimmed, joined, with covers, of phones and cameras."""

import functools
import importlib
import io

import av
import movies
import numpy as np
from av.stream import Disposition
from PIL import Image, ImageOps


def copied(data, keep, shift=0, kind="mp4", **options):
  """The packets numbered `keep`, without encoding them again."""
  file = io.BytesIO()
  written = av.open(file, "w", format=kind, options=options)
  with av.open(io.BytesIO(data)) as source, written as out:
    track = out.add_stream_from_template(source.streams.video[0])
    for i, packet in enumerate(source.demux(video=0)):
      if packet.dts is not None and i in keep:
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
        packet.stream = track
        out.mux(packet)
  return file.getvalue()


def with_cover(mark, sound):
  """A JPEG stream, then a video or sound."""
  file = io.BytesIO()
  with av.open(file, "w", format="mp4") as out:
    cover = out.add_stream("mjpeg", rate=1)
    cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
    if mark:
      cover.disposition = Disposition.attached_pic
    picture = av.VideoFrame.from_ndarray(movies.picture(0), format="rgb24")
    if sound:
      track = out.add_stream("aac", rate=16_000, layout="mono")
      silence = np.zeros((1, 1024), np.float32)
      frames = [av.AudioFrame.from_ndarray(silence, "fltp", "mono") for _ in range(8)]
      for frame in frames:
        frame.sample_rate = 16_000
    else:
      track = out.add_stream("libx264", rate=8)
      track.width, track.height, track.pix_fmt = 96, 96, "yuv420p"
      frames = [movies.picture(i, 96, 96) for i in range(8)]
      frames = [av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in frames]
    for stream_, content in ((cover, [picture]), (track, frames)):
      for frame in content:
        out.mux(stream_.encode(frame))
      out.mux(stream_.encode())
  return file.getvalue()


def coded(options, codec="libx264", kind="mp4"):
  """Twelve frames of a movie, encoded with these options."""
  file = io.BytesIO()
  with av.open(file, "w", format=kind) as out:
    # With several threads, x264's output varies.
    track = out.add_stream(codec, rate=25, options=options | {"threads": "1"})
    track.width, track.height, track.pix_fmt = 96, 96, "yuv420p"
    for i in range(12):
      frame = av.VideoFrame.from_ndarray(movies.picture(i), format="rgb24")
      out.mux(track.encode(frame.reformat(96, 96)))
    out.mux(track.encode())
  return file.getvalue()


def trimmed():
  """From its 16th frame on, by an edit list."""
  whole = movies.movie("b_frames")  # a key frame every 12
  with av.open(io.BytesIO(whole)) as source:
    times = sorted(p.pts for p in source.demux(video=0) if p.pts is not None)
  return copied(whole, range(12, movies.FRAMES), shift=times[15])


def dropped():
  """An AVI without three of its frames, which its header counts."""
  keep = {*range(movies.FRAMES)} - {7, 8, 20}
  return copied(movies.movie("avi_mpeg4"), keep, kind="avi")


def untimed():
  """Matroska whose first 20 frames have negative times, which are read as none."""
  whole = movies.movie("b_frames")
  with av.open(io.BytesIO(whole)) as source:
    times = sorted(p.pts for p in source.demux(video=0) if p.pts is not None)
  kept = dict(shift=times[20], kind="matroska", avoid_negative_ts="disabled")
  return copied(whole, range(movies.FRAMES), **kept)


def headless():
  """A transport stream whose first key frame is cut."""
  whole = movies.movie("ts")
  return whole[188 * (len(whole) // 188 // 10) :]


# Name -> (what is unusual, the file).
VIDEOS = {
  name: (text, functools.cache(make))
  for name, text, make in (
    ("trimmed", "trimmed by an edit list", trimmed),
    ("dropped", "frames dropped, which the header counts", dropped),
    ("joined", "two recordings joined", lambda: 2 * movies.movie("ts")),
    ("untimed", "half of its frames have no times", untimed),
    ("headless", "begins between key frames", headless),
    ("cover", "a cover before the video", lambda: with_cover(False, sound=False)),
    ("marked_cover", "a cover, marked", lambda: with_cover(True, sound=False)),
    ("sound", "sound with a cover", lambda: with_cover(True, sound=True)),
    (
      "interlaced",
      "interlaced",
      lambda: coded({"g": "12", "x264-params": "interlaced=1:tff=1"}),
    ),
    ("hdr", "HDR", lambda: coded({"g": "12", "x264-params": "transfer=smpte2084"})),
  )
}

# ----------------------------------------------------------------------- pictures


def saved(picture, kind, **options):
  file = io.BytesIO()
  picture.save(file, kind, **options)
  return file.getvalue()


GRAY = np.tile(np.arange(0, 240, 4, dtype=np.uint8), (40, 1))
PLAIN = Image.fromarray(GRAY)
COLOUR = Image.merge("RGB", (PLAIN, PLAIN.transpose(Image.Transpose.ROTATE_180), PLAIN))
TURNED = [Image.Exif() for _ in range(9)]
for _i, _exif in enumerate(TURNED):
  _exif[0x0112] = _i
OTHER = Image.new("RGB", COLOUR.size, "red")
PICTURES = dict(
  gray=(saved(PLAIN, "PNG"), PLAIN),
  bilevel=(saved(PLAIN.convert("1"), "PNG"), PLAIN.convert("1")),
  palette=(saved(PLAIN.convert("P"), "PNG"), PLAIN),
  alpha=(saved(COLOUR.convert("RGBA"), "PNG"), COLOUR),
  gray_alpha=(saved(PLAIN.convert("LA"), "PNG"), PLAIN),
  cmyk=(saved(COLOUR.convert("CMYK"), "JPEG", quality=100, subsampling=0), COLOUR),
  sixteen=(saved(Image.fromarray(GRAY.astype(np.uint16) * 257), "PNG"), PLAIN),
  integers=(saved(Image.fromarray(GRAY.astype(np.int32)), "TIFF"), PLAIN),
  wide_integers=(saved(Image.fromarray(GRAY.astype(np.int32) * 257), "TIFF"), PLAIN),
  fractions=(saved(Image.fromarray(GRAY.astype(np.float32) / 255), "TIFF"), PLAIN),
  bmp=(saved(COLOUR, "BMP"), COLOUR),
  avif=(saved(COLOUR, "AVIF", quality=100), COLOUR),
  phone=(saved(COLOUR, "MPO", save_all=True, append_images=[OTHER]), COLOUR),
  webp=(saved(COLOUR, "WebP", save_all=True, append_images=[OTHER]), COLOUR),
  apng=(saved(COLOUR, "PNG", save_all=True, append_images=[OTHER]), COLOUR),
)
for _i in range(1, 9):
  _data = saved(COLOUR, "JPEG", quality=100, subsampling=0, exif=TURNED[_i].tobytes())
  PICTURES[f"orientation_{_i}"] = (
    _data,
    ImageOps.exif_transpose(Image.open(io.BytesIO(_data))),
  )

HEIF = ("heif", "heif_tiled", "heif_turned", "heif_ten_bits", "heif_second")


def heif(name):
  """(a file, its picture) of one of `HEIF`; raises ImportError without pillow-heif."""
  library = importlib.import_module("pillow_heif")
  library.register_heif_opener()
  large = np.kron(np.asarray(COLOUR), np.ones((3, 3, 1), np.uint8))
  if name == "heif_tiled":
    picture = Image.fromarray(large)
    return saved(picture, "HEIF", quality=100, tile_size=64), picture
  if name == "heif_turned":
    turned = saved(COLOUR, "HEIF", quality=100, exif=TURNED[6].tobytes())
    return turned, COLOUR.transpose(Image.Transpose.ROTATE_270)
  if name == "heif_ten_bits":
    wide = (np.asarray(COLOUR).astype(np.uint16) * 257).tobytes()
    made = library.from_bytes("RGB;16", COLOUR.size, wide)
  else:
    made = library.from_pillow(OTHER if name == "heif_second" else COLOUR)
  if name == "heif_second":
    made.add_from_pillow(COLOUR)
  file = io.BytesIO()
  made.save(file, quality=100, save_all=True, primary_index=len(made) - 1)
  return file.getvalue(), COLOUR
