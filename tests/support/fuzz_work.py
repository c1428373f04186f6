"""Readers whose code in C, C++ or Rust may end the process; a worker calls them."""

import contextlib
import io
import json

import av
import clips
import fuzz
import numpy as np

from vtr_jax.core.errors import BadSample
from vtr_jax.data import crops, loader, sources
from vtr_jax.data.tokenizers import base as tokenizers
from vtr_jax.data.video import decode as video_lib
from vtr_jax.data.video import stream
from vtr_jax.data.video.container import LENIENT, choose_stream
from vtr_jax.data.video.image import HEAD, is_image
from vtr_jax.prepare import check
from vtr_jax.prepare import image as images
from vtr_jax.prepare import video as prepare_video
from vtr_jax.prepare.options import Options
from vtr_jax.weights import files


def vocabulary(folder):
  """Reads a vocabulary, and if it is accepted, encodes captions with it."""
  path = folder / "tokenizer.model"
  tokenizer = fuzz.outcome(lambda: tokenizers.load(str(path)), path)
  if tokenizer is None:
    return
  for caption in json.loads((folder / "captions.json").read_bytes()):
    try:
      with fuzz.bounded():
        ids, valid = tokenizer.encode(caption, 8)
    except BadSample:
      continue
    assert (ids.dtype, ids.shape, valid.shape) == (np.int32, (8,), (8,))
    assert valid.any()
    assert ids.min() >= 0
    assert ids.max() < tokenizer.vocab_size
    assert tokenizer.word_ids(ids).shape == (8,)
    assert len(tokenizer.pieces(ids)) == 8
    tokenizer.decode(ids)


def records(folder):
  """Opens a prepared split, reads its records, and verifies it."""
  directory = str(folder / "1.0.0")
  fuzz.outcome(lambda: sources.fingerprint(directory, "train"), directory)
  split = fuzz.outcome(lambda: sources.open_split(directory, "train"), directory)
  for index in range(min(len(split or ()), 20)):
    found = fuzz.outcome(lambda i=index: split[i])
    if found:
      assert isinstance(found["video"], bytes)
      "".join([found["id"], found["label"], *found["captions"]]).encode()
  silent = io.StringIO()
  with contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
    fuzz.outcome(lambda: check.check(directory, 1), directory)


def weights(folder):
  """Reads a weights file, and every array in it."""
  path = str(folder / "weights")
  for name, array in (fuzz.outcome(lambda: files.read(path), path) or {}).items():
    assert isinstance(name, str)
    with fuzz.bounded():
      np.asarray(array).tobytes()


def video(data):
  """Decodes a video in all the ways in which one is read."""
  indices = lambda n: video_lib.frame_indices(n, 4, "segments", 1, None)
  view = lambda height, width: crops.resize_view(height, width, 32)
  frames = fuzz.outcome(lambda: video_lib.decode(data, indices, view, 4, 5.0))
  assert frames is None or (frames.shape, frames.dtype) == ((4, 32, 32, 3), np.uint8)
  times = fuzz.outcome(lambda: video_lib.frame_times(data, 5.0))
  assert times is None or (np.isfinite(times).all() and (np.diff(times) >= 0).all())
  file = io.BytesIO(data)
  if line := fuzz.outcome(lambda: stream.timeline(file, 5.0)):
    assert np.isfinite(line.times).all()
    wanted = [indices(len(line.times)), np.array([len(line.times) - 1])]
    read = lambda: list(stream.clips(file, line, wanted, view, 5.0))
    for clip in fuzz.outcome(read) or ():
      assert (clip.shape[1:], clip.dtype) == ((32, 32, 3), np.uint8)
    fuzz.outcome(lambda: sum(1 for _ in stream.small(file, 8, 8, 5.0)))
  for options in (Options(short_side=32, needed=2, max_seconds=60), Options(copy=True)):
    made = fuzz.outcome(lambda o=options: prepare_video.encode(data, o))
    assert made is None or (made.frames > 0 and made.data)
    if made and not made.warnings and not is_image(data[:HEAD]):
      own = fuzz.outcome(lambda: ffmpegs_count(data))
      assert own in (None, made.frames), f"{made.frames} frames, FFmpeg reads {own}"
  made = fuzz.outcome(lambda: prepare_video.encode(data, Options(fps=5.0), 0.1, 0.5))
  assert made is None or made.frames > 0
  fuzz.outcome(lambda: prepare_video.encode(data, Options(max_seconds=60), 11.0, 12.0))


def ffmpegs_count(data):
  """Frames that FFmpeg decodes, damage concealed; None where it decodes none."""
  try:
    with av.open(io.BytesIO(data), **LENIENT) as container:
      stream = choose_stream(container)
      return sum(1 for _ in container.decode(stream)) or None
  except (av.FFmpegError, BadSample):
    return None


def image(data):
  """Decodes an image in the same ways."""
  if is_image(data[:HEAD]):
    for options in (Options(short_side=32), Options(copy=True)):
      made = fuzz.outcome(lambda o=options: images.encode(data, o))
      assert made is None or made.frames == 1
  video(data)


def loading(root, words, count):
  """Reads all records once; returns how many were replaced."""
  data, seen, replaced = clips.config(root, decode_timeout=5.0), set(), 0
  with loader.train_batches(
    data,
    clips.CLIP,
    clips.TEXT,
    clips.MASK,
    tokenizers.load(words),
    batch_size=8,
    seed=0,
  ) as batches:
    for _ in range(count // 8):
      batch = next(batches)
      video = batch["video"]
      assert (video.shape, video.dtype) == ((8, 4, 32, 32, 3), np.uint8)
      assert (batch["valid"] == (batch["problem"] == "")).all()
      assert all(str(text).isprintable() for text in batch["problem"])
      seen.update(batch["record"].tolist())
      replaced += int((~batch["valid"]).sum())
  assert len(seen) == count // 8 * 8
  return replaced
