"""Whatever is left of a video: frames of the right shape, or a reason; no crash."""

import io
import struct

import clips
import fuzz
import fuzz_work
import movies
import pytest
from PIL import Image

# Containers and codecs, each read by code of its own.
KINDS = (
  *("b_frames", "faststart", "fragmented", "variable_rate", "ts", "avi", "avi_mpeg4_b"),
  *("mpeg1", "no_container", "vp8", "vp9", "gif", "ten_bit"),
)
IMAGES = ("jpeg", "png", "webp", "bmp", "gif")


@pytest.fixture(scope="module")
def worker():
  with fuzz.Worker() as running:
    yield running


def video(rng, *wholes):
  """A video with some of its bytes changed, and sizes in its headers too."""
  data = bytearray(rng.choice(wholes))
  kind = rng.randrange(5)
  if kind == 0:  # a size, a count or a time of some box or element
    at = rng.randrange(min(len(data) - 4, 1500))
    at = rng.choice((at, len(data) - 4 - at))
    number = rng.choice((0, 1, 8, 0x7FFFFFFF, 0xFFFFFFFF, 0x10000, rng.getrandbits(32)))
    struct.pack_into(rng.choice((">I", "<I")), data, at, number)
  elif kind == 1:  # head of one, tail of another
    other = rng.choice(wholes)
    data = data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]
  elif kind == 2:  # much of it noise
    at = rng.randrange(len(data))
    data[at : at + 400] = rng.randbytes(400)
  return fuzz.edited_bytes(data, rng, rng.randrange(kind in (3, 4), 4))


@pytest.mark.parametrize("kind", KINDS)
@fuzz.sized(5, 600)
def test_decoding(record_property, worker, kind, count):
  """All ways in which a video is read."""
  wholes = movies.movie(kind), movies.movie(kind, 12), movies.movie("b_frames")
  strategy = fuzz.from_random(lambda rng: video(rng, *wholes[: rng.choice((2, 2, 3))]))
  check = lambda data: worker(fuzz_work.video, data)
  fuzz.explore(record_property, f"video {kind}", count, strategy, check, *wholes[:1])


@pytest.mark.parametrize("kind", IMAGES)
@fuzz.sized(5, 600)
def test_images(record_property, worker, kind, count):
  out = io.BytesIO()
  Image.fromarray(movies.picture(3)).save(out, kind.upper())
  strategy = fuzz.from_random(lambda rng: video(rng, out.getvalue()))
  check = lambda data: worker(fuzz_work.image, data)
  fuzz.explore(record_property, f"image {kind}", count, strategy, check, out.getvalue())


@fuzz.sized(40, 2000)
def test_loading(record_property, tmp_path, worker, count):
  """A data set of such videos and three times as many good ones, read to its end."""
  wholes = [movies.movie(kind, 12) for kind in KINDS]
  bad = fuzz.drawn(count, fuzz.from_random(lambda rng: video(rng, *wholes)))
  rows = [clips.record(f"bad{i}", data) for i, data in enumerate(bad)]
  rows += [clips.record(f"good{i}", wholes[i % 3]) for i in range(3 * len(bad))]
  clips.prepare(tmp_path, dict(train=rows))
  clips.train_pieces(tmp_path / "words.model")
  args = str(tmp_path), str(tmp_path / "words.model"), len(rows)
  replaced = worker(fuzz_work.loading, *args, seconds=1500)
  assert 0 < replaced < len(bad)
  record_property("fuzz inputs, loader", len(bad))
