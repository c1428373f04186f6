"""The frame curriculum: how long clips are at each step, on every host and restart."""

import dataclasses

import clips
import numpy as np
import pytest

from vtr_jax.core.batch import HOST_KEYS, spec
from vtr_jax.core.config import read
from vtr_jax.core.errors import BadSample, ConfigError
from vtr_jax.data import loader, sources
from vtr_jax.data.examples import DataConfig, check_frames
from vtr_jax.data.video import decode

# Clips of clips.CLIP have 4 frames, tubelets 2 of them.
STAGES = ((0, (2,)), (2, (2, 4)), (6, (4,)))
FRAMES = [2, 2, 2, 4, 2, 4, 4, 4]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp("data")
  clips.prepare(root, dict(train=clips.records(11, frames=10)))
  return root


@pytest.fixture(scope="module")
def staged(root):
  return clips.config(root, curriculum=STAGES)


@pytest.fixture(scope="module")
def stream(root, staged, tokenizer):
  return clips.take(root, tokenizer, len(FRAMES), data=staged)


@pytest.mark.parametrize(
  ("curriculum", "frames"),
  [
    ((), {0: 4, 10**9: 4}),
    (((0, (1,)), (1000, (4,))), {0: 1, 999: 1, 1000: 4, 10**9: 4}),
    (((0, (1, 4)),), {0: 1, 1: 4, 2: 1, 10**9: 1}),
    (((0, (4,)), (5, (1, 2, 4))), {4: 4, 5: 1, 6: 2, 7: 4, 8: 1}),
  ],
)
def test_the_number_of_frames_follows_the_stages(tmp_path, curriculum, frames):
  data = clips.config(tmp_path, curriculum=curriculum)
  assert {step: data.frames_at(clips.CLIP, step) for step in frames} == frames
  assert data.frame_counts(clips.CLIP) == tuple(sorted(set(frames.values())))


def test_clips_and_masks_have_the_frames_of_their_step(stream):
  for batch, frames in zip(stream, FRAMES, strict=True):
    clip = dataclasses.replace(clips.CLIP, num_frames=frames)
    shapes = spec(clip, clips.TEXT, clips.MASK, 8)
    assert set(batch) == {*shapes, *HOST_KEYS}
    for key, shape in shapes.items():
      assert (batch[key].shape, batch[key].dtype) == (shape.shape, shape.dtype), key
    indices = np.concatenate([batch["video_keep_idx"], batch["video_mask_idx"]], 1)
    assert (np.sort(indices) == np.arange(clip.num_tubelets)).all()


def test_a_curriculum_keeps_the_record_order_and_the_full_length_batches(
  root, tokenizer, stream
):
  """Batches of clip.num_frames are those of a run without a curriculum."""
  plain = clips.take(root, tokenizer, len(FRAMES))
  for one, other, frames in zip(stream, plain, FRAMES, strict=True):
    np.testing.assert_array_equal(one["record"], other["record"])
    if frames == clips.CLIP.num_frames:
      clips.assert_same([one], [other])


@pytest.mark.parametrize("start", [1, 3, 6])
def test_restart_continues_the_stream(root, staged, tokenizer, stream, start):
  rest = clips.take(root, tokenizer, 2, data=staged, start_step=start)
  clips.assert_same(rest, stream[start : start + 2])


def test_two_hosts_split_the_batches_of_one(root, staged, tokenizer, stream):
  hosts = [
    clips.take(root, tokenizer, 5, data=staged, host=host, num_hosts=2)
    for host in range(2)
  ]
  joined = [
    {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    for parts in zip(*hosts, strict=True)
  ]
  clips.assert_same(joined, stream[:5])


def test_worker_processes_give_the_same_batches(root, tokenizer, stream):
  data = clips.config(root, curriculum=STAGES, num_workers=2)
  clips.assert_same(
    clips.take(root, tokenizer, 5, data=data, start_step=1), stream[1:6]
  )


def decodable(data):
  try:
    return len(decode.decode(data))
  except BadSample:
    return 0


def test_a_truncated_video_is_used_for_clips_that_are_short_enough(tmp_path, tokenizer):
  """Three frames are left: enough for clips of two frames, not of four."""
  whole = clips.mp4(movflags="faststart")
  start = whole.index(b"mdat")
  ends = range(start, len(whole), 20)
  cut = next(whole[:end] for end in ends if decodable(whole[:end]) == 3)
  rows = [clips.record("cut", cut), *clips.records(3, frames=10)]
  clips.prepare(tmp_path, dict(train=rows))
  data = clips.config(tmp_path, curriculum=((0, (2, 4)),))
  short, long = clips.take(tmp_path, tokenizer, 2, data=data, batch_size=4)
  assert (short["problem"] == "").all()
  assert long["problem"][long["record"] == 0].item().startswith("cut: only 3 frames")


def test_evaluation_uses_full_length_clips(root, staged):
  source = sources.open_split(sources.find(str(root), clips.NAME), "train")
  with loader.eval_videos(source, staged, clips.CLIP, 4) as batches:
    assert next(batches)["video"].shape[1] == clips.CLIP.num_frames


@pytest.mark.parametrize(
  ("curriculum", "message"),
  [
    (((5, (1,)),), r"curriculum: stages start at steps \[5\]; start at 0"),
    (((0, (1,)), (9, (2,)), (9, (4,))), r"start at steps \[0, 9, 9\]"),
    (((0, (1,)), (9, (2,)), (3, (4,))), r"start at steps \[0, 9, 3\]"),
    (((0, ()),), r"frames \(\) from step 0; give one positive number"),
    (((0, (4,)), (8, (4, 0))), r"frames \(4, 0\) from step 8"),
  ],
)
def test_invalid_stages_are_rejected(tmp_path, curriculum, message):
  with pytest.raises(ConfigError, match=message):
    clips.config(tmp_path, curriculum=curriculum)


@pytest.mark.parametrize(
  ("frames", "message"),
  [
    (
      3,
      r"data\.curriculum: 3 frames are not a multiple of clip\.tubelet_size\[0\] = 2",
    ),
    (8, r"data\.curriculum: 8 frames are more than clip\.num_frames = 4"),
  ],
)
def test_stages_must_fit_the_clip(tmp_path, tokenizer, frames, message):
  data = clips.config(tmp_path, curriculum=((0, (2,)), (9, (4, frames))))
  with pytest.raises(ConfigError, match=message):
    check_frames(data, clips.CLIP)
  with pytest.raises(ConfigError, match=message):  # before data is looked for
    clips.take(tmp_path, tokenizer, 1, data=data)


def test_a_curriculum_is_read_from_json(tmp_path):
  """JSON has lists, not tuples."""
  values = dataclasses.asdict(clips.config(tmp_path)) | dict(
    curriculum=[[0, [1]], [1000, [2, 4]]]
  )
  assert read(DataConfig, values).curriculum == ((0, (1,)), (1000, (2, 4)))
  with pytest.raises(ConfigError, match=r"curriculum\[0\]\[1\]: expected a tuple"):
    read(DataConfig, values | dict(curriculum=[[0, 1]]))
