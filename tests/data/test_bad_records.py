"""Unusable records: replaced one for one, listed, counted; too many end the run."""

import itertools
import json
import multiprocessing
import os
import pathlib
import signal
import subprocess
import threading
import types

import clips
import numpy as np
import pytest
import training
from conftest import ROOT, program
from endless import HangingSplit, HangingVideo

from vtr_jax.core import processes
from vtr_jax.core.errors import ConfigError, DataBudgetError, DataError
from vtr_jax.data import loader, sources, workers
from vtr_jax.data.quarantine import Quarantine
from vtr_jax.data.video import packets

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
  batches = clips.take(damaged, tokenizer, 3, batch_size=20)
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
  clips.assert_same(
    clips.take(damaged, tokenizer, 1, batch_size=20, start_step=2), batches[2:]
  )


def test_bad_records_get_varied_substitutes(damaged, tokenizer):
  batches = clips.take(damaged, tokenizer, 6, batch_size=20)
  used = {tokenizer.decode(i) for b in batches for i in b["text_ids"][~b["valid"]]}
  assert len(used) > 5


class Clock(threading.local):
  """A thread's CPU clock that advances by a second at every call."""

  def __init__(self):
    self._ticks = itertools.count()

  def thread_time(self):
    return float(next(self._ticks))


def test_a_record_over_the_decode_timeout_is_replaced(tmp_path, tokenizer, monkeypatch):
  rows = [*clips.records(7, frames=10), clips.record("long", clips.mp4(200))]
  clips.prepare(tmp_path, dict(train=rows))
  free = clips.take(tmp_path, tokenizer, 3)
  monkeypatch.setattr(packets, "time", Clock())
  bound = clips.take(
    tmp_path, tokenizer, 3, data=clips.config(tmp_path, decode_timeout=12.0)
  )
  for one, other in zip(bound, free, strict=True):
    np.testing.assert_array_equal(one["record"], other["record"])
    long = one["record"] == 7
    assert one["problem"][long].tolist() == ["long: took more than 12 s to decode"]
    np.testing.assert_array_equal(one["valid"], ~long)
    for key in one:
      np.testing.assert_array_equal(one[key][~long], other[key][~long], err_msg=key)
  with pytest.raises(ConfigError, match=r"decode_timeout: 0\.0 must be positive"):
    clips.config(tmp_path, decode_timeout=0.0)


def hang_on(monkeypatch, videos):
  """From now on, decoding hangs at these records: {index: how}, see `Endless`."""
  opened = sources.open_split
  monkeypatch.setattr(
    sources, "open_split", lambda *where: HangingSplit(opened(*where), videos)
  )


@pytest.fixture(scope="module")
def good_root(tmp_path_factory):
  root = tmp_path_factory.mktemp("good")
  clips.prepare(root, dict(train=clips.records(8, frames=10)))
  return root


def test_a_record_whose_decoding_hangs_is_replaced_and_so_is_its_worker(
  tmp_path, tokenizer, monkeypatch
):
  clips.prepare(tmp_path, dict(train=clips.records(16, frames=10)))
  data = clips.config(tmp_path, num_workers=1, decode_timeout=0.3)
  free = clips.take(tmp_path, tokenizer, 4, data=data)
  hang_on(monkeypatch, {3: b"wait", 11: b"spin"})
  replaced = clips.take(tmp_path, tokenizer, 4, data=data)
  for one, other in zip(replaced, free, strict=True):
    np.testing.assert_array_equal(one["record"], other["record"])
    bad = np.isin(one["record"], (3, 11))
    for record, problem in zip(one["record"][bad], one["problem"][bad], strict=True):
      assert problem == f"clip{record}: decoding it did not end in 0.6 s"
    np.testing.assert_array_equal(one["valid"], ~bad)
    for key in one:
      np.testing.assert_array_equal(one[key][~bad], other[key][~bad], err_msg=key)
  assert sum((~batch["valid"]).sum() for batch in replaced) == 4
  assert not multiprocessing.active_children()


@pytest.mark.nightly  # by day: one that is replaced
def test_three_hanging_records_in_a_row_are_an_error(tmp_path, tokenizer, monkeypatch):
  clips.prepare(tmp_path, dict(train=clips.records(8, frames=10)))
  hang_on(monkeypatch, dict.fromkeys(range(8), b"wait"))
  data = clips.config(tmp_path, num_workers=1, decode_timeout=0.2)
  message = r"decoding clip\d, clip\d, clip\d did not end, one after the other"
  with pytest.raises(DataError, match=message):
    clips.take(tmp_path, tokenizer, 1, data=data)
  assert not multiprocessing.active_children()


def test_a_hanging_decoding_thread_is_an_error_that_names_the_record(
  tmp_path, tokenizer, monkeypatch, capsys
):
  """In training without worker processes, and in evaluation, which skips no record."""
  clips.prepare(tmp_path, dict(train=clips.records(8, frames=10)))
  free = threading.Event()
  monkeypatch.setattr(HangingVideo, "__bool__", lambda self: free.wait() or False)
  hang_on(monkeypatch, {5: b"wait"})
  data = clips.config(tmp_path, decode_timeout=0.2)
  with pytest.raises(
    DataError, match=r"decoding clip5 did not end.*data\.num_workers=1"
  ):
    clips.take(tmp_path, tokenizer, 1, data=data)
  with (
    loader.eval_videos(data.open(), data, clips.CLIP, 4) as batches,
    pytest.raises(DataError, match="decoding clip5 did not end"),
  ):
    list(batches)
  free.set()  # only now: the errors came while the thread was stuck
  assert "decoding clip5 has taken" in capsys.readouterr().err


@pytest.mark.nightly
def test_a_run_with_a_hanging_decoding_thread_saves_and_exits(smoke, tmp_path):
  """Python itself would wait for such threads for ever at exit."""
  config = training.without_evals(smoke, steps=500, checkpoint_every=500)
  config["data"] |= dict(num_workers=0, decode_timeout=1.0)
  ended = subprocess.run(
    [*program("stick_in_decoding"), json.dumps(config), str(tmp_path / "run")],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert ended.returncode == 2, ended.stderr
  assert "did not end, and nothing ends a thread" in ended.stderr.splitlines()[-1]
  assert list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))


def test_stopped_workers_are_reported(good_root, tokenizer, capfd, monkeypatch):
  """Such as one that was stopped by a signal, or that waits for a disk."""
  data = clips.config(good_root, num_workers=1)
  with loader.train_batches(
    data, clips.CLIP, clips.TEXT, clips.MASK, tokenizer, batch_size=8, seed=0
  ) as batches:
    next(batches)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGSTOP)
    threading.Timer(2.0, os.kill, (worker.pid, signal.SIGCONT)).start()
    monkeypatch.setattr(workers, "_LOOK", 0.05)
    for _ in range(6):  # more than are there already
      next(batches)
  errors = capfd.readouterr().err
  assert f"no batch for 1 s: process {worker.pid} is stopped, by a signal" in errors


@pytest.mark.parametrize(
  ("state", "message"),
  [("D", "waits for a disk or the network"), ("t", "is stopped"), ("W", "in state W")],
)
def test_child_states_name_what_a_worker_waits_for(state, message, monkeypatch):
  """Read from /proc, where it follows a name that may have brackets and spaces."""
  worker = types.SimpleNamespace(pid=7)
  monkeypatch.setattr(multiprocessing, "active_children", lambda: [worker])
  stat = f"7 (a) S (b c) {state} 1 7 7 0 -1"
  monkeypatch.setattr(pathlib.Path, "read_text", lambda path: stat)
  (state_line,) = processes.child_states()
  assert state_line.startswith("process 7 ")
  assert message in state_line


def test_an_error_in_a_worker_keeps_its_type_and_message(tmp_path, tokenizer):
  clips.prepare(tmp_path, dict(train=[clips.record(f"c{i}", b"") for i in range(5)]))
  data = clips.config(tmp_path, num_workers=1)
  message = r"10 records in a row cannot be used, the first is c\d: empty file"
  with pytest.raises(DataBudgetError, match=message):
    clips.take(tmp_path, tokenizer, 1, data=data)
  assert not multiprocessing.active_children()


def batch_of(problems, first=0):
  return dict(
    problem=np.array(problems, "U160"),
    record=np.arange(first, first + len(problems), dtype=np.int64),
  )


def test_quarantine_lists_each_record_once(tmp_path):
  path = tmp_path / "quarantine.jsonl"
  quarantine = Quarantine(str(path), budget=1.0)
  quarantine.add(batch_of(["", ""]), step=0)
  assert not path.exists()
  quarantine.add(batch_of(["", "é: empty file", "b: no: frame"]), step=1)
  quarantine.add(batch_of(["", "é: empty file", ""]), step=2)
  assert (quarantine.seen, quarantine.bad) == (8, 3)
  with open(path, "a") as f:
    f.write('{"record": 7, "pro')  # killed while writing
  # A continued run lists only what is new.
  Quarantine(str(path), budget=1.0).add(batch_of(["x: gone", "é: empty file"]), step=3)
  lines = path.read_text().splitlines()
  assert json.loads(lines[0]) == dict(record=1, problem="é: empty file", step=1)
  assert [json.loads(line)["record"] for line in lines] == [
    1,
    2,
    0,
  ]


def test_quarantine_stops_when_too_many_are_bad(tmp_path):
  path = tmp_path / "quarantine.jsonl"
  quarantine = Quarantine(str(path), budget=0.1, min_samples=50)
  many = [f"a{i}: empty file" for i in range(3)] + ["b: not a video"] + [""] * 6
  for step in range(4):  # 16 of 40: over the budget, but too few to judge
    quarantine.add(batch_of(many), step)
  with pytest.raises(DataBudgetError) as e:
    quarantine.add(batch_of(many), 4)
  assert "20 of 50 samples" in str(e.value)
  assert "max_bad_fraction = 0.1" in str(e.value)
  assert "15 x empty file, 5 x not a video" in str(e.value)
  assert str(path) in str(e.value)
  assert e.value.exit_code == 3


def test_quarantine_allows_bad_records_within_the_budget(tmp_path):
  path = str(tmp_path / "quarantine.jsonl")
  quarantine = Quarantine(path, budget=0.1, min_samples=10)
  for step in range(20):
    quarantine.add(batch_of(["a: empty file"] + [""] * 9), step)
  assert quarantine.bad == 20


def test_quarantine_stops_soon_if_records_begin_to_fail_late_in_a_run(tmp_path):
  """A failing file server: the fraction over the whole run stays small for hours."""
  path = str(tmp_path / "quarantine.jsonl")
  quarantine = Quarantine(path, budget=0.01, min_samples=100)
  for step in range(1000):
    quarantine.add(batch_of([""] * 10), step)
  some = ["a: empty file"] * 2 + [""] * 8  # one batch in five: 4 %
  for step in range(25):
    quarantine.add(batch_of([""] * 10 if step % 5 else some), 1000 + step)
  with pytest.raises(DataBudgetError, match="of the last 100 samples could not"):
    _ = [quarantine.add(batch_of(some), 2000 + i) for i in range(10)]
  assert quarantine.bad < 0.01 * quarantine.seen
