"""The stream of training batches: order, restarts, hosts, worker processes."""

import dataclasses
import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import clips
import numpy as np
import pytest
from conftest import ROOT, leftover_shared_memory, private_shared_memory

from vtr_jax.core.batch import HOST_KEYS, spec
from vtr_jax.core.errors import ConfigError, DataError
from vtr_jax.data import loader, sources
from vtr_jax.data.tokenizers import base as tokenizers

SIZE = 22  # records; not a multiple of any batch below


class CheckingTokenizer(tokenizers.SentencePiece):
  """A tokenizer that checks that worker processes import and use no accelerator."""

  def encode(self, caption, length):
    if multiprocessing.parent_process() is not None:
      import jax._src.xla_bridge

      assert not jax._src.xla_bridge._backends, "a worker has touched a device"
      assert not {"tensorflow", "torch"} & set(sys.modules)
    return super().encode(caption, length)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp("data")
  clips.prepare(root, dict(train=clips.records(SIZE, frames=10)))
  clips.train_pieces(root / "tokenizer.model")
  return root


@pytest.fixture(scope="module")
def tokenizer(root):
  return CheckingTokenizer(str(root / "tokenizer.model"))


@pytest.fixture(scope="module")
def stream(root, tokenizer):
  """The first eight batches of eight: 64 examples, almost three epochs."""
  return clips.take(root, tokenizer, 8)


# --- Order ------------------------------------------------------------------------


def test_batches_match_the_spec(stream):
  shapes = spec(clips.CLIP, clips.TEXT, clips.MASK, 8)
  for batch in stream:
    assert set(batch) == {*shapes, *HOST_KEYS}
    for key, shape in shapes.items():
      assert (batch[key].shape, batch[key].dtype) == (shape.shape, shape.dtype), key
      assert type(batch[key]) is np.ndarray
    assert batch["record"].dtype == np.int64
    assert batch["valid"].all()
    assert (batch["problem"] == "").all()
    assert (batch["text_ids"][:, 0] == 2).all()
    assert not batch["text_masked"][:, 0].any()


def test_every_epoch_has_each_record_once_in_a_new_order(stream):
  order = np.concatenate([b["record"] for b in stream])
  epochs = [order[:SIZE], order[SIZE : 2 * SIZE]]
  for epoch in epochs:
    np.testing.assert_array_equal(np.sort(epoch), np.arange(SIZE))
  assert (epochs[0] != epochs[1]).any()
  assert (epochs[0] != np.arange(SIZE)).any()


def test_a_record_is_augmented_differently_in_each_epoch(stream):
  """Caption, frames, crop and masks are sampled again."""
  rows = {k: np.concatenate([b[k] for b in stream]) for k in stream[0]}
  first, second = np.flatnonzero(rows["record"] == 5)[:2]
  for key in ("video", "text_masked", "video_keep_idx"):
    assert (rows[key][first] != rows[key][second]).any(), key


def test_whole_word_masking_masks_no_word_in_part(root, tokenizer, stream, monkeypatch):
  """Most of the 16 tokens are letters; without the option, words are masked in part."""
  monkeypatch.setattr(clips, "MASK", dataclasses.replace(clips.MASK, whole_word=True))
  whole = clips.take(root, tokenizer, 8)
  assert partly_masked_words(tokenizer, whole) == 0
  assert partly_masked_words(tokenizer, stream) > 20
  assert sum(b["text_masked"].sum() for b in whole) > 20
  for key in ("video", "text_ids", "video_keep_idx"):
    np.testing.assert_array_equal(whole[7][key], stream[7][key])


def partly_masked_words(tokenizer, batches):
  """Number of words of which some pieces are masked, and others not."""
  total = 0
  for batch in batches:
    for ids, masked in zip(batch["text_ids"], batch["text_masked"], strict=True):
      words = tokenizer.word_ids(ids)
      total += len(set(words[masked]) & set(words[~masked]))
  return total


def test_all_captions_of_a_record_are_used(root, tokenizer):
  batches = clips.take(root, tokenizer, 12)
  used = {
    tokenizer.decode(ids)
    for b in batches
    for ids, record in zip(b["text_ids"], b["record"], strict=True)
    if record == 2
  }
  captions = sources.open_split(sources.find(root, clips.NAME), "train")[2]["captions"]
  assert used == set(captions)


def test_seeds_give_different_orders_not_shifted_ones(root, tokenizer, stream):
  other = clips.take(root, tokenizer, 3, seed=1)
  order = np.concatenate([b["record"] for b in stream])
  assert (np.concatenate([b["record"] for b in other])[:SIZE] != order[:SIZE]).any()
  # grain's shuffle seeds epoch e with seed + e: neighbours must not share orders.
  assert (
    np.concatenate([b["record"] for b in other])[:SIZE] != order[SIZE : 2 * SIZE]
  ).any()


@pytest.mark.parametrize("step", [1, 3, 6])
def test_restart_continues_the_stream(root, tokenizer, stream, step):
  clips.assert_same(
    clips.take(root, tokenizer, 8 - step, start_step=step), stream[step:]
  )


def test_starting_at_a_late_step_computes_no_earlier_batch(root, tokenizer):
  began = time.process_time()  # of the CPU: no step before it is made
  clips.take(root, tokenizer, 1, start_step=10**9)
  assert time.process_time() - began < 5


@pytest.mark.parametrize("num_hosts", [2, 4])
def test_hosts_split_the_batches_of_one(root, tokenizer, stream, num_hosts):
  hosts = [
    clips.take(root, tokenizer, 3, host=host, num_hosts=num_hosts)
    for host in range(num_hosts)
  ]
  joined = [
    {k: np.concatenate([h[k] for h in parts]) for k in parts[0]}
    for parts in zip(*hosts, strict=True)
  ]
  clips.assert_same(joined, stream[:3])


def test_hosts_may_outnumber_the_records(tmp_path, tokenizer):
  """Records are assigned by index, not by shard: every host has some."""
  clips.prepare(tmp_path, dict(train=clips.records(3, frames=4)))
  alone = clips.take(tmp_path, tokenizer, 2)
  hosts = [
    clips.take(tmp_path, tokenizer, 2, host=host, num_hosts=4) for host in range(3)
  ]
  one = clips.config(tmp_path, num_workers=1)
  hosts.append(clips.take(tmp_path, tokenizer, 2, data=one, host=3, num_hosts=4))
  joined = [
    {k: np.concatenate([h[k] for h in parts]) for k in parts[0]}
    for parts in zip(*hosts, strict=True)
  ]
  clips.assert_same(joined, alone)


def test_a_batch_size_that_the_hosts_do_not_divide_is_rejected(root, tokenizer):
  with pytest.raises(ConfigError, match=r"batch_size: 8 .* 3 hosts; use 6 or 9"):
    clips.take(root, tokenizer, 1, num_hosts=3)


def shared_memory(rows):
  """Names of shared-memory segments of the size of a batch's videos."""
  size = rows * clips.CLIP.num_frames * clips.CLIP.image_size**2 * 3
  return {p.name for p in Path("/dev/shm").iterdir() if _size(p) == size}


def _size(path):
  try:
    return path.stat().st_size
  except FileNotFoundError:
    return 0


def test_worker_processes_give_the_same_batches_and_leave_no_shared_memory(
  root, tokenizer
):
  rows = 7  # no other test has batches of 7, so other processes' are not counted
  before = shared_memory(rows)
  two = clips.config(root, num_workers=2)
  take = functools.partial(clips.take, root, tokenizer, 5, batch_size=rows)
  clips.assert_same(take(data=two, start_step=1), take(start_step=1))
  assert not multiprocessing.active_children()
  assert shared_memory(rows) <= before


# --- Configuration and processes --------------------------------------------------


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (dict(sampling="segment"), "did you mean 'segments'"),
    (dict(crop="multiscale"), "did you mean 'multi_scale'"),
    (dict(crop_scales=()), "needs at least one scale"),
    (dict(crop_scales=(1.5,)), r"must be in \(0, 1\]"),
    (dict(crop="random_resized", crop_scales=(1.0, 0.5)), "needs .min, max."),
    (dict(stride=0), "stride: 0"),
    (dict(num_workers=-1), "num_workers: -1"),
    (dict(max_bad_fraction=2.0), "max_bad_fraction: 2.0"),
  ],
)
def test_invalid_data_configs_are_rejected(root, changes, message):
  with pytest.raises(ConfigError, match=message):
    clips.config(root, **changes)


def test_shared_memory_that_is_too_small_is_reported_before_any_worker_starts(
  root, tokenizer, monkeypatch
):
  """A worker that writes beyond its end would be killed without a word."""
  found = os.statvfs("/dev/shm")
  small = types.SimpleNamespace(f_bavail=1, f_frsize=4096)
  monkeypatch.setattr(
    os, "statvfs", lambda path: small if path == "/dev/shm" else found
  )
  message = r"num_workers: 2 workers need .* MiB of /dev/shm, which has 0 MiB; .*=1g"
  with pytest.raises(ConfigError, match=message):
    clips.take(root, tokenizer, 1, data=clips.config(root, num_workers=2))
  source = clips.config(root).open()
  with pytest.raises(ConfigError, match=message):
    loader.eval_videos(source, clips.config(root), clips.CLIP, 4, workers=2)
  assert len(clips.take(root, tokenizer, 1)) == 1  # threads need none


def test_a_vocab_size_below_the_tokenizer_s_is_rejected(root, tokenizer):
  with pytest.raises(DataError, match="set vocab_size"):
    loader.train_batches(
      clips.config(root),
      clips.CLIP,
      dataclasses.replace(clips.TEXT, vocab_size=10),
      clips.MASK,
      tokenizer,
      batch_size=4,
      seed=0,
    )


KILLED = """
import _posixshmem, multiprocessing, os, signal, sys
sys.path.insert(0, {root!r})
from multiprocessing import shared_memory
from vtr_jax.core import processes

def work():
  processes.track_shared_memory()
  make = _posixshmem.shm_open

  def killed(name, *args, **kwargs):
    make(name, *args, **kwargs)
    print(name, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

  _posixshmem.shm_open = killed
  shared_memory.SharedMemory(create=True, size=1000)

if __name__ == "__main__":
  process = multiprocessing.get_context("spawn").Process(target=work)
  process.start()
  process.join()
  assert process.exitcode == -signal.SIGKILL
"""


def test_a_worker_killed_while_it_creates_shared_memory_leaves_none(tmp_path):
  """Killed after the allocation, before Python's resource tracker knows of it."""
  script = tmp_path / "script.py"
  script.write_text(KILLED.format(root=str(Path(__file__).parents[2])))
  command = [sys.executable, str(script)]
  done = subprocess.run(command, capture_output=True, text=True, check=True)
  (name,) = done.stdout.split()
  assert name.startswith("/psm_")
  assert not Path(f"/dev/shm{name}").exists()


SCRIPT = """
import multiprocessing, os, sys, time
sys.path[:0] = {paths!r}
import clips
from vtr_jax.data import loader; from vtr_jax.data.tokenizers import base as text
# Without the guard that multiprocessing asks for: many scripts have none.
batches = loader.train_batches(
  clips.config({root!r}, num_workers=1), clips.CLIP, clips.TEXT, clips.MASK,
  text.SentencePiece({root!r} + "/tokenizer.model"), batch_size=8, seed=0,
)
for _ in range(3):
  next(batches)
print(*[p.pid for p in multiprocessing.active_children()], flush=True)
end = sys.stdin.readline().strip()
if end == "raise":
  raise RuntimeError("an error")
if end == "exit":
  os._exit(7)
if end == "wait":
  time.sleep(60)
"""
# What the script does at the end, the signal it is sent, and its exit code.
ENDS = (
  ("return", None, 0),
  ("raise", None, 1),
  ("exit", None, 7),
  ("wait", signal.SIGTERM, -signal.SIGTERM),
  ("wait", signal.SIGINT, -signal.SIGINT),
  ("wait", signal.SIGKILL, -signal.SIGKILL),
)


def run_script(path, own):
  """A process with a worker, which never closes its batches."""
  return subprocess.Popen(
    [sys.executable, "-W", "error", str(path)],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    env=os.environ | own | dict(TMPDIR=str(path.parent / "tmp")),
    text=True,
  )


def has_ended(pid, seconds=10.0):
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


@pytest.mark.parametrize(
  "ends", [(ENDS[0], ENDS[-1]), pytest.param(ENDS, marks=pytest.mark.nightly)]
)
def test_however_a_script_ends_no_worker_and_no_shared_memory_is_left(
  root, tmp_path, ends
):
  (own, prefix), script = private_shared_memory(tmp_path), root / "script.py"
  paths = [str(ROOT / p) for p in (".", "tests", "tests/support")]
  script.write_text(SCRIPT.format(paths=paths, root=str(root)))
  (root / "tmp").mkdir(exist_ok=True)
  parents = [run_script(script, own) for _ in ends]
  workers = [int(parent.stdout.readline()) for parent in parents]
  for number in (signal.SIGTERM, signal.SIGINT):  # as a launcher does to a whole group
    os.kill(workers[0], number)
  assert not has_ended(workers[0], 0.5)
  for parent, (what, number, _) in zip(parents, ends, strict=True):
    parent.stdin.write(what + "\n")
    parent.stdin.flush()
    if number:
      parent.send_signal(number)
  errors = [parent.communicate(timeout=60)[1] for parent in parents]
  assert [parent.returncode for parent in parents] == [code for *_, code in ends]
  assert errors[0] == ""
  assert all(has_ended(worker) for worker in workers)
  assert not leftover_shared_memory(prefix)
  assert not list((root / "tmp").glob("vtr_*"))
