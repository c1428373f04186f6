"""The stream of batches: order, restarts, bad records, worker processes."""

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import clips
import numpy as np
import pytest

from vtr_jax.batch import HOST_KEYS, ClipSpec, MaskSpec, TextSpec, spec
from vtr_jax.data import loader, sources, text
from vtr_jax.errors import ConfigError, DataBudgetError, DataError

CLIP = ClipSpec(4, 32, (2, 16, 16), (0.5,) * 3, (0.5,) * 3)
TEXT = TextSpec(16, 64, 3)
MASK = MaskSpec("tube", 0.5, 0.5)
SIZE = 22  # records; not a multiple of any batch below


class Probe(text.SentencePiece):
  """A tokenizer that looks at the process it works in."""

  def encode(self, caption, length):
    if multiprocessing.parent_process() is not None:
      import jax._src.xla_bridge

      assert not jax._src.xla_bridge._backends, "a worker has touched a device"
      assert not {"tensorflow", "torch"} & set(sys.modules)
    return super().encode(caption, length)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp("data")
  clips.prepare(root, dict(train=clips.records(SIZE, frames=10), test=_odd_records()))
  clips.train_pieces(root / "tokenizer.model")
  return root


@pytest.fixture(scope="module")
def tokenizer(root):
  return Probe(str(root / "tokenizer.model"))


def _odd_records():
  """What is unusual, but fine."""
  return [
    clips.record("one frame", clips.mp4(1)),
    clips.record("odd", clips.mp4(5, 97, 131, pix_fmt="yuv444p"), ["a", "b ball"]),
    clips.record("gray", clips.mp4(6, pix_fmt="gray"), ["a"] * 3),
    clips.record("ten bits", clips.mp4(6, pix_fmt="yuv420p10le")),
    clips.record("tall", clips.mp4(6, 128, 48)),
  ]


def config(root, **changes):
  return loader.DataConfig(
    **dict(
      name=clips.NAME,
      dir=str(root),
      split="train",
      sampling="segments",
      stride=1,
      crop="multi_scale",
      crop_scales=(1.0, 0.75),
      flip=True,
      workers=0,
      bad_budget=0.1,
    )
    | changes
  )


def take(root, tokenizer, count, *, data=None, batch_size=8, seed=0, **kwargs):
  data = data or config(root)
  with loader.train_batches(
    data, CLIP, TEXT, MASK, tokenizer, batch_size=batch_size, seed=seed, **kwargs
  ) as batches:
    return [next(batches) for _ in range(count)]


def assert_same(left, right):
  assert len(left) == len(right)
  for a, b in zip(left, right, strict=True):
    assert a.keys() == b.keys()
    for key in a:
      np.testing.assert_array_equal(a[key], b[key], err_msg=key)


@pytest.fixture(scope="module")
def stream(root, tokenizer):
  """The first eight batches of eight: 64 examples, almost three epochs."""
  return take(root, tokenizer, 8)


# --- Order ------------------------------------------------------------------------


def test_batches_are_as_promised(stream):
  shapes = spec(CLIP, TEXT, MASK, 8)
  for batch in stream:
    assert set(batch) == {*shapes, *HOST_KEYS}
    for key, shape in shapes.items():
      assert (batch[key].shape, batch[key].dtype) == (shape.shape, shape.dtype), key
      assert type(batch[key]) is np.ndarray
    assert batch["record"].dtype == np.int64
    assert batch["valid"].all()
    assert (batch["problem"] == "").all()
    assert (batch["text_ids"][:, 0] == 2).all()
    assert not batch["text_hidden"][:, 0].any()


def test_every_epoch_has_each_record_once_in_a_new_order(stream):
  order = np.concatenate([b["record"] for b in stream])
  epochs = [order[:SIZE], order[SIZE : 2 * SIZE]]
  for epoch in epochs:
    np.testing.assert_array_equal(np.sort(epoch), np.arange(SIZE))
  assert (epochs[0] != epochs[1]).any()
  assert (epochs[0] != np.arange(SIZE)).any()


def test_one_record_differs_from_epoch_to_epoch(stream):
  """Caption, frames, crop and masks are drawn anew."""
  rows = {k: np.concatenate([b[k] for b in stream]) for k in stream[0]}
  first, second = np.flatnonzero(rows["record"] == 5)[:2]
  for key in ("video", "text_hidden", "video_keep_idx"):
    assert (rows[key][first] != rows[key][second]).any(), key


def test_captions_of_a_record_are_all_used(root, tokenizer):
  batches = take(root, tokenizer, 12)
  used = {
    tokenizer.decode(ids)
    for b in batches
    for ids, record in zip(b["text_ids"], b["record"], strict=True)
    if record == 2
  }
  captions = sources.open_split(sources.find(root, clips.NAME), "train")[2]["captions"]
  assert used == set(captions)


def test_seed_changes_order_and_seeds_are_no_shifted_copies(root, tokenizer, stream):
  other = take(root, tokenizer, 3, seed=1)
  order = np.concatenate([b["record"] for b in stream])
  assert (np.concatenate([b["record"] for b in other])[:SIZE] != order[:SIZE]).any()
  # grain's shuffle seeds epoch e with seed + e: neighbours must not share orders.
  assert (
    np.concatenate([b["record"] for b in other])[:SIZE] != order[SIZE : 2 * SIZE]
  ).any()


@pytest.mark.parametrize("step", [1, 3, 6])
def test_restart_continues_the_stream(root, tokenizer, stream, step):
  assert_same(take(root, tokenizer, 8 - step, start_step=step), stream[step:])


def test_a_far_step_starts_at_once(root, tokenizer):
  began = time.monotonic()
  take(root, tokenizer, 1, start_step=10**9)
  assert time.monotonic() - began < 5


@pytest.mark.parametrize("num_hosts", [2, 4])
def test_hosts_share_the_same_batches(root, tokenizer, stream, num_hosts):
  hosts = [
    take(root, tokenizer, 3, host=host, num_hosts=num_hosts)
    for host in range(num_hosts)
  ]
  joined = [
    {k: np.concatenate([h[k] for h in parts]) for k in parts[0]}
    for parts in zip(*hosts, strict=True)
  ]
  assert_same(joined, stream[:3])


def test_uneven_hosts_are_refused(root, tokenizer):
  with pytest.raises(ConfigError, match=r"batch_size: 8 .* 3 hosts; use 6 or 9"):
    take(root, tokenizer, 1, num_hosts=3)


def shared_memory():
  """Segments of the size of a batch's videos; other programs have other sizes."""
  size = 8 * CLIP.frames * CLIP.size**2 * 3
  return {p.name for p in Path("/dev/shm").iterdir() if _size(p) == size}


def _size(path):
  try:
    return path.stat().st_size
  except FileNotFoundError:
    return 0


def test_workers_bring_the_same_batches_and_leave_nothing(root, tokenizer, stream):
  before = shared_memory()
  two = config(root, workers=2)
  assert_same(take(root, tokenizer, 5, data=two, start_step=1), stream[1:6])
  assert not multiprocessing.active_children()
  assert shared_memory() <= before


# --- Bad records ------------------------------------------------------------------

GOOD = clips.mp4(10)
BAD = dict(
  empty=(b"", "empty file"),
  html=(b"<html>Not Found</html>" * 9, "not a video"),
  cut=(GOOD[: len(GOOD) // 2], "not a video"),
  zero=(clips.mp4(0), "no "),
)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
  """20 records: clip0 to clip13 good; then one frame, four bad, no caption."""
  root = tmp_path_factory.mktemp("damaged")
  rows = clips.records(14, frames=10)
  rows.append(clips.record("one frame", clips.mp4(1)))
  rows += [clips.record(name, data) for name, (data, _) in BAD.items()]
  rows.append(clips.record("silent", GOOD, []))
  clips.prepare(root, dict(train=rows))
  return root


def test_bad_records_are_replaced_one_for_one(damaged, tokenizer):
  batches = take(damaged, tokenizer, 3, batch_size=20)
  for batch in batches:
    assert sorted(batch["record"]) == list(range(20))
    for row, record in enumerate(batch["record"]):
      problem = batch["problem"][row]
      if record < 15:
        assert problem == ""
        assert batch["valid"][row]
      elif record == 19:
        assert problem == "silent: no caption"
        assert not batch["valid"][row]
      else:
        name = list(BAD)[record - 15]
        assert problem.startswith(f"{name}: {BAD[name][1]}")
        assert not batch["valid"][row]
    # A substitute is a real clip, never a black one.
    assert (batch["video"].reshape(20, -1).std(1) > 5).all()
    assert batch["text_valid"].any(1).all()
  assert_same(take(damaged, tokenizer, 1, batch_size=20, start_step=2), batches[2:])


def test_substitutes_differ(damaged, tokenizer):
  batches = take(damaged, tokenizer, 6, batch_size=20)
  tints = {
    b["video"][row].max() for b in batches for row in np.flatnonzero(~b["valid"])
  }
  assert len(tints) > 5


def test_worker_error_keeps_its_type_and_message(tmp_path, tokenizer):
  clips.prepare(tmp_path, dict(train=[clips.record(f"c{i}", b"") for i in range(5)]))
  data = config(tmp_path, workers=1)
  message = r"10 records in a row cannot be used, the first is c\d: empty file"
  with pytest.raises(DataBudgetError, match=message):
    take(tmp_path, tokenizer, 1, data=data)
  assert not multiprocessing.active_children()


def batch_of(problems, first=0):
  return dict(
    problem=np.array(problems, "U160"),
    record=np.arange(first, first + len(problems), dtype=np.int64),
  )


def test_quarantine_lists_each_record_once(tmp_path):
  path = tmp_path / "quarantine.jsonl"
  quarantine = loader.Quarantine(str(path), budget=1.0)
  quarantine.add(batch_of(["", ""]), step=0)
  assert not path.exists()
  quarantine.add(batch_of(["", "é: empty file", "b: no: frame"]), step=1)
  quarantine.add(batch_of(["", "é: empty file", ""]), step=2)
  assert (quarantine.seen, quarantine.bad) == (8, 3)
  with open(path, "a") as f:
    f.write('{"record": 7, "pro')  # killed while writing
  # A continued run lists only what is new.
  loader.Quarantine(str(path), budget=1.0).add(
    batch_of(["x: gone", "é: empty file"]), step=3
  )
  lines = path.read_text().splitlines()
  assert json.loads(lines[0]) == dict(record=1, problem="é: empty file", step=1)
  assert [json.loads(line)["record"] for line in lines] == [
    1,
    2,
    0,
  ]


def test_quarantine_stops_when_too_many_are_bad(tmp_path):
  path = tmp_path / "quarantine.jsonl"
  quarantine = loader.Quarantine(str(path), budget=0.1, judge_after=50)
  many = [f"a{i}: empty file" for i in range(3)] + ["b: not a video"] + [""] * 6
  for step in range(4):  # 16 of 40: over the budget, but too few to judge
    quarantine.add(batch_of(many), step)
  with pytest.raises(DataBudgetError) as e:
    quarantine.add(batch_of(many), 4)
  assert "20 of 50 samples" in str(e.value)
  assert "bad_budget = 0.1" in str(e.value)
  assert "15 x empty file, 5 x not a video" in str(e.value)
  assert str(path) in str(e.value)
  assert e.value.exit_code == 3


def test_quarantine_allows_what_is_within_the_budget(tmp_path):
  path = str(tmp_path / "quarantine.jsonl")
  quarantine = loader.Quarantine(path, budget=0.1, judge_after=10)
  for step in range(20):
    quarantine.add(batch_of(["a: empty file"] + [""] * 9), step)
  assert quarantine.bad == 20


# --- Evaluation -------------------------------------------------------------------


def open_test(root):
  return config(root, split="test").open()


@pytest.mark.parametrize("num_hosts", [1, 2, 4])
def test_eval_has_every_record_once_and_equal_steps(root, num_hosts):
  source, data = open_test(root), config(root)
  hosts = [
    list(loader.eval_videos(source, data, CLIP, 4, host=h, num_hosts=num_hosts))
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


def test_eval_is_deterministic_and_ignores_augmentations(root):
  source = open_test(root)
  plain = config(root, crop="resize", crop_scales=(), flip=False)
  assert_same(
    list(loader.eval_videos(source, plain, CLIP, 3)),
    list(loader.eval_videos(source, config(root), CLIP, 3)),
  )


def test_eval_refuses_a_bad_record(damaged):
  source = config(damaged).open()
  message = r"record 15 of 'train' cannot be used \(empty: empty file\); repair"
  with pytest.raises(DataError, match=message):
    list(loader.eval_videos(source, config(damaged), CLIP, 8))
  with pytest.raises(DataError, match=r"record 19 .* \(silent: no caption\)"):
    loader.captions(source)


def test_captions_name_their_records_and_decode_nothing(root, monkeypatch):
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
def test_eval_texts(root, tokenizer, num_hosts):
  source = open_test(root)
  hosts = [
    list(loader.eval_texts(source, TEXT, tokenizer, 6, host=h, num_hosts=num_hosts))
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


def test_eval_texts_of_plain_texts(tokenizer):
  (batch,) = loader.eval_texts(["a ball", "a red box"], TEXT, tokenizer, 2)
  assert batch["text_ids"].shape == batch["text_valid"].shape == (2, 16)
  np.testing.assert_array_equal(batch["record"], [0, 1])
  with pytest.raises(DataError, match=r"caption 1 \(' '\): empty caption"):
    list(loader.eval_texts(["a", " "], TEXT, tokenizer, 2))


# --- Configuration and processes --------------------------------------------------


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (dict(sampling="segment"), "did you mean 'segments'"),
    (dict(crop="multiscale"), "did you mean 'multi_scale'"),
    (dict(crop_scales=()), "needs at least one scale"),
    (dict(crop_scales=(1.5,)), r"must be in \(0, 1\]"),
    (dict(crop="random_resized", crop_scales=(1.0, 0.5)), "needs .least, most."),
    (dict(stride=0), "stride: 0"),
    (dict(workers=-1), "workers: -1"),
    (dict(bad_budget=2.0), "bad_budget: 2.0"),
  ],
)
def test_config_is_checked(root, changes, message):
  with pytest.raises(ConfigError, match=message):
    config(root, **changes)


def test_tokenizer_must_fit_the_model(root, tokenizer):
  with pytest.raises(DataError, match="set vocab_size"):
    loader.train_batches(
      config(root),
      CLIP,
      dataclasses.replace(TEXT, vocab_size=10),
      MASK,
      tokenizer,
      batch_size=4,
      seed=0,
    )


ORPHANS = """
import sys, time
sys.path[:0] = {paths!r}
if __name__ == "__main__":
  import multiprocessing
  import clips
  import test_loader as t
  root = {root!r}
  tokenizer = t.text.SentencePiece(root + "/tokenizer.model")
  batches = t.loader.train_batches(
    t.config(root, workers=1), t.CLIP, t.TEXT, t.MASK, tokenizer, batch_size=8, seed=0
  )
  next(batches)
  print(*[p.pid for p in multiprocessing.active_children()], flush=True)
  if {wait}:
    time.sleep(60)
"""


def run_script(root, wait):
  """A process with a worker, which never closes its batches."""
  script = ORPHANS.format(
    paths=[str(p) for p in Path(__file__).parents[:2]], root=str(root), wait=wait
  )
  path = root / f"script{wait}.py"
  path.write_text(script)
  return subprocess.Popen(
    [sys.executable, "-W", "error", str(path)],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def gone(pid, seconds=10.0):
  """Whether the process ends in time."""
  until = time.monotonic() + seconds
  while time.monotonic() < until:
    try:
      with open(f"/proc/{pid}/stat") as f:
        if f.read().split()[2] == "Z":
          return True
    except FileNotFoundError:
      return True
    time.sleep(0.05)
  return False


def test_workers_die_with_a_killed_parent_and_outlive_signals(root):
  parent = run_script(root, wait=True)
  worker = int(parent.stdout.readline())
  os.kill(worker, signal.SIGTERM)  # as a launcher does to the whole group
  os.kill(worker, signal.SIGINT)
  assert not gone(worker, 0.5)
  parent.kill()
  parent.communicate()
  assert gone(worker)


def test_leaving_without_close_is_quiet_and_leaves_nothing(root):
  parent = run_script(root, wait=False)
  out, errors = parent.communicate(timeout=60)
  assert (parent.returncode, errors) == (0, "")
  assert gone(int(out))
