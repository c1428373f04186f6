"""Clips decoded per second of CPU time, ours and other libraries, in one run.

  python -m benchmarks.decode [--rounds=5] [--videos=2]

Makes videos of 320 x 240 pixels, 30 frames a second, H.264 with B-frames, in a
temporary directory: originals with a key frame every 250 and every 50 frames, and the
outputs of `prepare`. decord, OpenCV and torchcodec are measured if installed (`pip
install decord opencv-python-headless torchcodec`; nothing else here needs them), each
on one thread. Libraries alternate file by file; medians are printed.

"same" means frames bitwise identical to ours; others convert colours differently, and
the maximum difference of a pixel is given. Prepared data are compared as training reads
them: clips of 224 or 112 pixels, from the same size or larger. "fast" is x264's
tune=fastdecode: no CABAC and no deblocking, for a sixth more bytes.
"""

import functools
import importlib
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from absl import app, flags
from av.video.reformatter import VideoReformatter

from vtr_jax.data import crops
from vtr_jax.data.video import decode

_ROUNDS = flags.DEFINE_integer("rounds", 5, "Measured rounds, after one of warm-up.")
_SECONDS = flags.DEFINE_float("seconds", 10.0, "Length of each video.")
_VIDEOS = flags.DEFINE_integer("videos", 2, "Videos of each kind.")
_FRAMES = flags.DEFINE_list("frames", ["4", "16"], "Frames of a clip.")

RATE = 30


class Kind(NamedTuple):
  """How a video is encoded."""

  short_side: int  # pixels
  options: dict[str, str]  # of x264


ORIGINALS = {"GOP 250": Kind(240, dict(g="250")), "GOP 50": Kind(240, dict(g="50"))}
_PREPARED = dict(preset="veryfast", crf="20")
_INTRA = _PREPARED | dict(g="1", tune="fastdecode")
PREPARED = {
  "GOP 16": Kind(240, _PREPARED | dict(g="16")),
  "all intra": Kind(240, _PREPARED | dict(g="1")),
  "fast all intra": Kind(240, _INTRA),
  "fast all intra, 224 px": Kind(224, _INTRA),
  "fast all intra, 112 px": Kind(112, _INTRA),
}


@functools.cache
def film(seed: int) -> list[np.ndarray]:
  """Frames of a camera panning over a landscape, with squares that cross it."""
  rng, frames = np.random.default_rng(seed), []
  land = sum(
    np.kron(rng.normal(size=(640 // s, 960 // s, 3)), np.ones((s, s, 1))) * s**0.5
    for s in (4, 16, 64)
  )
  land = np.clip(128 + 6 * land, 0, 255).astype(np.uint8)
  for i in range(round(_SECONDS.value * RATE)):
    t = i / RATE
    y, x = round(200 + 120 * np.sin(t / 2)), round(300 + 240 * np.sin(t / 3 + seed))
    image = land[y : y + 240, x : x + 320].copy()
    for k in range(4):
      at = round(110 + 90 * np.sin(t * (k + 1))), round(140 + 120 * np.cos(t + 2 * k))
      image[at[0] : at[0] + 40, at[1] : at[1] + 40] = 60 * k
    frames.append(image)
  return frames


def encode(path: Path, kind: Kind, seed: int) -> None:
  """Writes the film at the kind's size."""
  with av.open(path, "w", format="mp4") as out:
    stream = out.add_stream("libx264", rate=RATE, options=kind.options)
    stream.height, stream.pix_fmt = kind.short_side, "yuv420p"
    stream.width = round(kind.short_side * 2 / 3) * 2
    for image in film(seed):
      out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
    out.mux(stream.encode())


class Method(NamedTuple):
  """A decoder: (path, bytes, frame numbers) to RGB frames."""

  name: str
  read: Callable[[Path, bytes, list[int]], np.ndarray]


def in_order(path: Path, data: bytes, wanted: list[int]) -> np.ndarray:
  """PyAV alone, every frame up to the last one needed."""
  reformatter, frames = VideoReformatter(), []
  with av.open(io.BytesIO(data), "r") as container:
    container.streams.video[0].codec_context.thread_count = 1
    for number, frame in enumerate(container.decode(video=0)):
      if number in wanted:
        rgb = reformatter.reformat(frame, format="rgb24", threads=1)
        frames.append(rgb.to_ndarray())
      if number == wanted[-1]:
        break
  return np.stack(frames)


def with_decord(decord, path: Path, data: bytes, wanted: list[int]) -> np.ndarray:
  reader = decord.VideoReader(str(path), num_threads=1)
  return reader.get_batch(wanted).asnumpy()


def with_opencv(cv2, path: Path, data: bytes, wanted: list[int]) -> np.ndarray:
  """In order, since seeking to every frame takes longer."""
  capture, frames = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG), []
  for number in range(wanted[-1] + 1):
    capture.grab()
    if number in wanted:
      frames.append(cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB))
  capture.release()
  return np.stack(frames)


def with_torchcodec(decoders, path: Path, data: bytes, wanted: list[int]) -> np.ndarray:
  decoder = decoders.VideoDecoder(
    str(path), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="approximate"
  )
  return decoder.get_frames_at(wanted).data.numpy()


def methods() -> list[Method]:
  """Ours, and the installed libraries."""
  found = [
    Method("ours", lambda path, data, wanted: decode.decode(data, wanted)),
    Method("PyAV in order", in_order),
  ]
  os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "threads;1"
  for name, module, read in (
    ("decord", "decord", with_decord),
    ("OpenCV in order", "cv2", with_opencv),
    ("torchcodec", "torchcodec.decoders", with_torchcodec),
  ):
    try:
      found.append(
        Method(name, functools.partial(read, importlib.import_module(module)))
      )
    except (ImportError, OSError, RuntimeError):
      print(f"{name}: not installed")
  return found


def trained(size: int, path: Path, data: bytes, wanted: list[int]) -> np.ndarray:
  """Decodes as training on clips of `size` pixels does."""
  return decode.decode(data, wanted, lambda h, w: crops.resize_view(h, w, size))


def measure(cases: dict, paths: dict[str, list[Path]], frames: int) -> dict:
  """Median seconds of CPU time per clip of each (kind, method) of `cases`."""
  times = {case: [] for case in cases}
  for turn in range(_ROUNDS.value + 1):
    for (kind, name), read in cases.items():
      for path in paths[kind]:
        data = path.read_bytes()
        count = len(decode.frame_times(data))
        wanted = decode.frame_indices(count, frames, "segments", 1, None).tolist()
        begin = time.process_time()
        read(path, data, wanted)
        if turn:
          times[kind, name].append(time.process_time() - begin)
  return {case: statistics.median(found) for case, found in times.items()}


def difference(one: np.ndarray, other: np.ndarray) -> str:
  largest = np.abs(one.astype(int) - other).max() if one.shape == other.shape else -1
  return "same" if largest == 0 else f"differs by up to {largest}"


def row(name: str, frames: int, seconds: float, reference: float, note: str) -> None:
  print(
    f"  {name:24} {frames:3} frames {1 / seconds:7.1f} clips/s "
    f"{frames / seconds:7.0f} frames/s {reference / seconds:6.2f} {note}"
  )


def main(_) -> None:
  tools = methods()
  reference = "decord" if "decord" in [tool.name for tool in tools] else "PyAV in order"
  with tempfile.TemporaryDirectory() as folder:
    paths = {}
    for name, kind in (ORIGINALS | PREPARED).items():
      paths[name] = [Path(folder) / f"{name} {i}.mp4" for i in range(_VIDEOS.value)]
      for seed, path in enumerate(paths[name]):
        encode(path, kind, seed)
      size = sum(path.stat().st_size for path in paths[name]) / _VIDEOS.value
      print(f"{name}: {size / 1e3:.0f} kB a video", flush=True)
    for frames in map(int, _FRAMES.value):
      cases = {(k, tool.name): tool.read for k in ORIGINALS for tool in tools}
      found = measure(cases, paths, frames)
      for kind in ORIGINALS:
        print(f"{kind}, full frames; last column: speed relative to {reference}")
        path = paths[kind][0]
        wanted = np.linspace(0, 100, frames).astype(int).tolist()
        ours = tools[0].read(path, path.read_bytes(), wanted)
        for tool in tools:
          note = difference(ours, tool.read(path, path.read_bytes(), wanted))
          row(tool.name, frames, found[kind, tool.name], found[kind, reference], note)
      for size in (224, 112):
        read = functools.partial(trained, size)
        kinds = [k for k, v in (ORIGINALS | PREPARED).items() if v.short_side >= size]
        found = measure({(kind, "trained"): read for kind in kinds}, paths, frames)
        print(f"{size} pixels for training; last column: speed relative to GOP 250")
        for kind in kinds:
          row(kind, frames, found[kind, "trained"], found["GOP 250", "trained"], "")


if __name__ == "__main__":
  app.run(main)
