"""Evaluation batches: everything once, in order, the same on every host."""

import clips
import numpy as np
import pytest

from vtr_jax.core.errors import DataError
from vtr_jax.data import loader


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp("data")
  clips.prepare(root, dict(test=_odd_records()))
  return root


def _odd_records():
  """Unusual, but valid records."""
  return [
    clips.record("one frame", clips.mp4(1)),
    clips.record("odd", clips.mp4(5, 97, 131, pix_fmt="yuv444p"), ["a", "b ball"]),
    clips.record("gray", clips.mp4(6, pix_fmt="gray"), ["a"] * 3),
    clips.record("ten bits", clips.mp4(6, pix_fmt="yuv420p10le")),
    clips.record("tall", clips.mp4(6, 128, 48)),
  ]


def open_test(root):
  return clips.config(root, split="test").open()


@pytest.mark.parametrize("num_hosts", [1, 2, 4])
def test_eval_has_every_record_once_and_equal_steps_on_all_hosts(root, num_hosts):
  source, data = open_test(root), clips.config(root)
  hosts = [
    list(loader.eval_videos(source, data, clips.CLIP, 4, host=h, num_hosts=num_hosts))
    for h in range(num_hosts)
  ]
  assert {len(batches) for batches in hosts} == {2}  # 5 records in batches of 4
  records, valid, video = (
    np.concatenate([h[step][key] for step in range(2) for h in hosts])
    for key in ("record", "valid", "video")
  )
  np.testing.assert_array_equal(records, [0, 1, 2, 3, 4, -1, -1, -1])
  np.testing.assert_array_equal(valid, records >= 0)
  assert video.dtype == np.uint8
  assert video.shape == (8, 4, 32, 32, 3)
  assert (video[:5].reshape(5, -1).std(1) > 5).all()
  assert not video[5:].any()


def test_eval_pads_if_there_are_fewer_records_than_hosts(tmp_path):
  clips.prepare(tmp_path, dict(test=[clips.record("only", clips.mp4(4))]))
  source, data = open_test(tmp_path), clips.config(tmp_path)
  for host in range(4):
    (batch,) = loader.eval_videos(source, data, clips.CLIP, 4, host=host, num_hosts=4)
    assert batch["record"].tolist() == ([0] if host == 0 else [-1])


def test_eval_is_deterministic_and_ignores_augmentations(root):
  source = open_test(root)
  plain = clips.config(root, crop="resize", crop_scales=(), flip=False)
  clips.assert_same(
    list(loader.eval_videos(source, plain, clips.CLIP, 3)),
    list(loader.eval_videos(source, clips.config(root), clips.CLIP, 3)),
  )


def test_eval_rejects_a_bad_record(tmp_path):
  rows = [clips.record("a"), clips.record("b", b""), clips.record("c", captions=[])]
  clips.prepare(tmp_path, dict(test=rows))
  source = open_test(tmp_path)
  message = r"record 1 of 'test' cannot be used \(b: empty file\); repair"
  with pytest.raises(DataError, match=message):
    list(loader.eval_videos(source, clips.config(tmp_path), clips.CLIP, 2))
  with pytest.raises(DataError, match=r"record 2 .* \(c: no caption\)"):
    loader.captions(source)


def test_captions_are_read_with_their_owners_without_decoding(root, monkeypatch):
  monkeypatch.setattr("vtr_jax.data.video.decode", None)
  texts, owner = loader.captions(open_test(root))
  assert texts == [
    "a red ball",
    "a",
    "b ball",
    "a",
    "a",
    "a",
    "a red ball",
    "a red ball",
  ]
  np.testing.assert_array_equal(owner, [0, 1, 1, 2, 2, 2, 3, 4])


@pytest.mark.parametrize("num_hosts", [1, 2])
def test_eval_texts_are_all_captions_in_order(root, tokenizer, num_hosts):
  source = open_test(root)
  hosts = [
    list(
      loader.eval_texts(source, clips.TEXT, tokenizer, 6, host=h, num_hosts=num_hosts)
    )
    for h in range(num_hosts)
  ]
  assert {len(batches) for batches in hosts} == {2}
  ids, valid, record = (
    np.concatenate([h[step][key] for step in range(2) for h in hosts])
    for key in ("text_ids", "valid", "record")
  )
  texts, owner = loader.captions(source)
  np.testing.assert_array_equal(record, [*owner, -1, -1, -1, -1])
  np.testing.assert_array_equal(valid, record >= 0)
  assert [tokenizer.decode(i) for i in ids[valid]] == texts


def test_eval_texts_accept_a_list_of_strings(tokenizer):
  (batch,) = loader.eval_texts(["a ball", "a red box"], clips.TEXT, tokenizer, 2)
  assert batch["text_ids"].shape == batch["text_valid"].shape == (2, 16)
  np.testing.assert_array_equal(batch["record"], [0, 1])
  with pytest.raises(DataError, match=r"caption 1 \(' ': empty caption\)"):
    loader.eval_texts(["a", " "], clips.TEXT, tokenizer, 2)
