"""Decoding only what is needed: bitwise the same frames."""

import io
import os
from pathlib import Path

import av
import movies
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from conftest import ROOT

from vtr_jax.core.errors import BadSample
from vtr_jax.data.video import container as containers
from vtr_jax.data.video import decode, packets

ORIGINALS = (
  Path(os.environ.get("VTR_SHARED", ROOT.parent / "shared")) / "data/originals_sample"
)
# Frames, and seconds from the first to the last.
FOUND = {
  "1020335461.mp4": (161, 160 * 1001 / 30000),
  "6543449.mp4": (175, 174 / 25),
  "WTf5EgVY5uU_124_128.avi": (120, 119 * 12 / 359),
  "banana.gif": (28, 2.7),
  "bbaf2n.mpg": (75, 74 / 25),
  "bridge_data_v1_berkeley_toykitchen1_put_banana_on_plate.mp4": (30, 29 / 15),
  "fi001.mp4": (53, 52 / 25),
  "grid_sample.mpg": (75, 74 / 25),
  "j2Dhf-xFUxU_13_20.avi": (106, 105 / 15),
  "klteYv1Uv9A_27_33.avi": (91, 90 / 15),
  "mmaction2_demo_demo.mp4": (280, 279 / 28),
  "mmaction2_demo_demo_spatiotemporal_det.mp4": (57, 56 / 6),
  "mmaction2_demo_test_video_structuralize.mp4": (300, 299 * 1001 / 30000),
  # The last of 32 frames comes one late.
  "mmaction2_tests_data_rawvideo_dataset_part_0.mp4": (32, 32 / 30),
  "mmaction2_tests_data_rawvideo_dataset_part_1.mp4": (32, 32 / 30),
  "mmaction2_tests_data_test.avi": (164, 163 / 25),
  "video9770.mp4": (330, 329 / 30),
  "video9771.mp4": (419, 418 * 1001 / 30000),
}


def decode_sequentially(data):
  """Every frame, by PyAV alone, from the first packet to the last."""
  reformatter = VideoReformatter()
  with av.open(io.BytesIO(data)) as container:
    return np.stack(
      [
        reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        for frame in container.decode(video=0)
      ]
    )


def random_selection(count, seed):
  """Frame numbers: the first (seed 0), the last (1), else one to eight random ones."""
  rng = np.random.default_rng(seed)
  if seed < 2:
    return [seed * (count - 1)]
  return np.sort(rng.integers(0, count, rng.integers(1, 9)))


def runs_of(data, selected):
  with containers.opened(data) as container:
    stream = container.streams.video[0]
    found, _ = packets.read(container, stream, packets.Deadline(9))
    return packets.runs(stream, found, selected)


@pytest.mark.parametrize("kind", movies.KINDS)
def test_selected_frames_equal_those_of_sequential_decoding(kind):
  data = movies.movie(kind)
  every = decode_sequentially(data)
  assert len(every) == movies.FRAMES
  np.testing.assert_array_equal(decode.decode(data), every)
  for seed in range(10):
    selected = random_selection(len(every), seed)
    np.testing.assert_array_equal(
      decode.decode(data, selected), every[selected], err_msg=str(selected)
    )


@pytest.mark.parametrize(
  ("kind", "lengths"),
  [
    # Groups of 12: frame 0 of the first, frames 24 to 26 of the third.
    ("faststart", [1, None]),
    ("avi_mpeg4", [1, 3]),
    ("vp9", [1, 3]),
    ("all_intra", [1, 1, 1]),
  ],
)
def test_only_groups_with_selected_frames_are_decoded(kind, lengths):
  runs = runs_of(movies.movie(kind), [0, 24, 26])
  assert len(runs) == len(lengths)
  for run, length in zip(runs, lengths, strict=True):
    assert len(run.packets) == (length or len(run.packets)) <= 6


def test_unselected_non_reference_frames_are_not_decoded():
  data, decoded = movies.movie("b_frames"), []
  (run,) = runs_of(data, [11])
  with containers.opened(data) as container:
    stream = container.streams.video[0]
    codec = stream.codec_context
    packets.read(container, stream, packets.Deadline(9))
    codec.skip_frame = "NONREF"
    for packet in run.packets:
      decoded += codec.decode(packet)
  assert len(decoded) < len(run.packets) - 3


@pytest.mark.parametrize("kind", ["avi", "avi_mpeg4_b", "no_container"])
def test_files_with_invented_timestamps_are_decoded_sequentially(kind):
  assert runs_of(movies.movie(kind), [5, 30]) == []


def test_damage_between_the_selected_frames_does_not_change_them():
  """Sequential decoding would lose everything after it."""
  good = movies.movie("all_intra")
  every = decode_sequentially(good)
  with containers.opened(good) as container:
    packet = list(container.demux(video=0))[20]
  data = bytearray(good)
  data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
  np.testing.assert_array_equal(
    decode.decode(bytes(data), [3, 19, 21, 39]), every[[3, 19, 21, 39]]
  )
  spread = lambda n: decode.frame_indices(n, 8, "segments", 1, None)
  with pytest.raises(BadSample, match="only 20 frames"):
    decode.decode(bytes(data), [19, 20, 21], needed=30)
  few = decode.decode(bytes(data), lambda n: [20 * n // 40], needed=8)
  np.testing.assert_array_equal(few, every[[10]])
  assert len(decode.decode(bytes(data), spread, needed=8)) == 8


@pytest.mark.parametrize("kind", ["b_frames", "faststart", "fragmented", "ts", "vp9"])
def test_truncated_files_give_the_frames_before_the_cut(kind):
  good = movies.movie(kind)
  every, used = decode_sequentially(good), 0
  for fraction in (0.95, 0.8, 0.6, 0.4):
    cut = good[: int(len(good) * fraction)]
    try:
      frames = decode.decode(cut)
    except BadSample:
      continue
    used += 1
    # The last one may be torn.
    np.testing.assert_array_equal(frames[:-1], every[: len(frames) - 1])
    selected = random_selection(len(frames), 7)
    np.testing.assert_array_equal(decode.decode(cut, selected), frames[selected])
  assert used >= 2 or kind == "b_frames"  # its index is at the end


# --- Real files -------------------------------------------------------------------


@pytest.mark.skipif(not ORIGINALS.is_dir(), reason=f"needs {ORIGINALS}")
@pytest.mark.parametrize("name", FOUND)
def test_real_files_equal_sequential_decoding(name):
  data = (ORIGINALS / name).read_bytes()
  count, seconds = FOUND[name]
  times = decode.frame_times(data)
  assert len(times) == count
  assert (np.diff(times) > 0).all()
  np.testing.assert_allclose(times[[0, -1]], [0, seconds], atol=1e-6)
  every = decode_sequentially(data)
  assert len(every) == count
  for seed in range(4):
    selected = random_selection(count, seed)
    np.testing.assert_array_equal(decode.decode(data, selected), every[selected])
  with pytest.raises(BadSample, match=f"only {count} frames"):
    decode.decode(data, [count + 5], needed=count + 6)
