"""Damaged videos: frames of the right shape, or a reason; no crash."""

import functools
import io
import struct

import clips
import found
import fuzz
import fuzz_work
import movies
from fuzz import Case, Inputs
from mutations import edited_bytes
from PIL import Image

worker, run, CASES = fuzz.worker, fuzz.run, fuzz.Cases()

# Containers and codecs, each read by code of its own.
KINDS = (
  *("b_frames", "faststart", "fragmented", "variable_rate", "ts", "avi", "avi_mpeg4_b"),
  *("mpeg1", "no_container", "vp8", "vp9", "gif", "ten_bit"),
)
FOUND = [name for name in found.VIDEOS if name != "sound"]
IMAGES = ("jpeg", "png", "webp", "bmp", "gif", "avif", "tiff", "mpo")


def damaged(rng, *videos):
  """One of the videos with some of its bytes changed, also sizes in its headers."""
  data = bytearray(rng.choice(videos))
  kind = rng.randrange(5)
  if kind == 0:  # a size, a count or a time of some box or element
    at = rng.randrange(min(len(data) - 4, 1500))
    at = rng.choice((at, len(data) - 4 - at))
    number = rng.choice((0, 1, 8, 0x7FFFFFFF, 0xFFFFFFFF, 0x10000, rng.getrandbits(32)))
    struct.pack_into(rng.choice((">I", "<I")), data, at, number)
  elif kind == 1:  # head of one, tail of another
    other = rng.choice(videos)
    data = data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]
  elif kind == 2:  # much of it noise
    at = rng.randrange(len(data))
    data[at : at + 400] = rng.randbytes(400)
  return edited_bytes(data, rng, rng.randrange(kind in (3, 4), 4))


def videos(kind, _):
  good = movies.movie(kind), movies.movie(kind, 12), movies.movie("b_frames")
  make = lambda rng: damaged(rng, *good[: rng.choice((2, 2, 3))])
  return Inputs({}, good[:1], make)


def found_videos(kind, _):
  good = found.VIDEOS[kind][1](), movies.movie("b_frames")
  return Inputs({}, good[:1], lambda rng: damaged(rng, *good))


def images(kind, _):
  out = io.BytesIO()
  Image.fromarray(movies.picture(3)).save(out, kind.upper())
  return Inputs({}, (out.getvalue(),), lambda rng: damaged(rng, out.getvalue()))


for name, kinds, make, read in (
  ("video", KINDS, videos, fuzz_work.video),
  ("found", FOUND, found_videos, fuzz_work.video),
  ("image", IMAGES, images, fuzz_work.image),
):
  for kind in kinds:
    inputs = functools.partial(make, kind)
    counts = (2 if name == "found" else 5, 600)
    CASES.append(Case(f"{name}-{kind}", counts, inputs, read, in_worker=True))


@CASES.each
def test_damaged_input_is_rejected_in_one_line(run, case, count):
  run(case, count)


@fuzz.sized(40, 2000)
def test_damaged_videos_are_replaced(record_property, tmp_path, worker, count):
  """A data set of such videos and three times as many good ones, read to its end."""
  good, bad = [movies.movie(kind, 12) for kind in KINDS], []
  make = lambda rng: damaged(rng, *good)
  fuzz.explore(record_property, "loader", count, make, bad.append)
  rows = [clips.record(f"bad{i}", data) for i, data in enumerate(bad)]
  rows += [clips.record(f"good{i}", good[i % 3]) for i in range(3 * len(bad))]
  clips.prepare(tmp_path, dict(train=rows))
  clips.train_pieces(tmp_path / "words.model")
  args = str(tmp_path), str(tmp_path / "words.model"), len(rows)
  replaced = worker(fuzz_work.loading, *args, seconds=1500)
  assert 0 < replaced < len(bad)
