"""Damaged annotations, lists and notes of runs: accepted, or rejected in one line."""

import functools
import io
import math
import os

import fuzz
import numpy as np
from fuzz import Case, Inputs
from fuzz_formats import EXAMPLES, FOUND
from mutations import Lines

from vtr_jax.data.notes import Note
from vtr_jax.data.quarantine import Quarantine
from vtr_jax.eval import embeddings, moments, multiple_choice, predictions
from vtr_jax.prepare.formats import base
from vtr_jax.prepare.options import Options, digest, unfit
from vtr_jax.train import writer
from vtr_jax.train.study import config as study
from vtr_jax.train.study import report, results

worker, run, CASES = fuzz.worker, fuzz.run, fuzz.Cases()


def annotations(name, variant, folder):
  """Items are as `prepare` expects."""
  kind = "" if variant == "plain" else variant
  request = base.Request(str(folder), "", kind, allow_pickle=True)
  for item in fuzz.outcome(lambda: base.open(name, request), folder) or ():
    path = os.path.abspath(item.media.path)
    assert os.path.commonpath([folder, path]) == str(folder)
    for text in (item.id, item.split, item.label, *item.captions):
      text.encode()
    assert item.id
    assert all(text.strip() for text in item.captions)
    if item.start is not None:
      assert 0 <= item.start < item.end < math.inf
    unfit(item, Options())
    digest(item, b"")


for key, files in EXAMPLES.items():
  name = "-".join(["annotations", *filter(None, key)])
  inputs = Inputs(files, FOUND.get(key, ()))
  read = functools.partial(annotations, *key)
  CASES.append(Case(name, (12, 1000), inputs, read))


def test_every_format_is_mutated():
  assert sorted({name for name, _ in EXAMPLES}) == base.kinds()


_VIDEO = {"video": "a/v0.mp4", "caption": ["one", "two"], "answer": 1}
CANDIDATES = (
  [_VIDEO, {"video": "v1", "caption": ["three"], "answer": 0}],
  Lines([dict(clip_name=f"v{i}", options=["a", "b"], answer=i) for i in (0, 1)]),
)


@CASES.reader(12, 3000, {"candidates.json": CANDIDATES})
def candidates(folder):
  path = folder / "candidates.json"
  call = lambda: multiple_choice.read_candidates(str(path), ["v0", "v1"])
  if found := fuzz.outcome(call, path):
    texts, owner, right = found
    assert len(texts) == len(owner) == len(right)
    assert [right[owner == i].sum() for i in (0, 1)] == [1, 1]


ASKED = [Note("question", i, "who is it", "man", "who") for i in "ab"]
LOCATED = [Note("moment", i, "x", windows=((0.0, 2.0),), duration=8.0) for i in "ab"]
WINDOWS = dict(pred_relevant_windows=[[0, 2.5, 0.9], [1, 8, 0.1]])
PREDICTIONS = {
  "list.json": [dict(question_id="b", answer="man"), dict(qid="a", pred="x", answer=1)],
  "object.json": dict(a=dict(prediction=1, answer=1), b=dict(prediction=0, answer=1)),
  "moments.jsonl": Lines([dict(qid="a") | WINDOWS, dict(qid="b") | WINDOWS]),
}


@CASES.reader(15, 3000, PREDICTIONS, name="predictions")
def read_predictions(folder):
  for name in ("list.json", "object.json"):
    path = folder / name
    call = functools.partial(predictions.answers, str(path), ASKED, ["man", "x"])
    if found := fuzz.outcome(call, path):
      assert len(found) == 2
      assert all(answer is None or answer.strip() for answer in found)
  path = folder / "moments.jsonl"
  if found := fuzz.outcome(lambda: predictions.moments(str(path), LOCATED), path):
    padded = moments.pad(found.windows)
    assert (padded.times[..., 1] <= 8.01).all()
    best = moments.best_iou(padded, moments.pad([note.windows for note in LOCATED]))
    assert np.isfinite(best).all()


def npy(values):
  out = io.BytesIO()
  np.save(out, values)
  return out.getvalue()


EMBEDDINGS = {
  "videos.jsonl": Lines([dict(id="v0", label="cat"), dict(id="v1")]),
  "texts.jsonl": Lines([dict(id="v0", caption="a", right=True), dict(id="v1")]),
  "bank.jsonl": Lines([dict(id="v9")]),
  "manifest.json": dict(model="x"),
  "video.npy": npy(np.eye(2, 3, dtype="f")),
  "text.npy": npy(np.eye(2, 3, dtype="d")),
  "bank.npy": npy(np.ones((1, 3), "f2")),
}
DAMAGED_EMBEDDINGS = (
  {"video.npy": npy(np.eye(2, 3)).replace(b"3), }" + b" " * 11, b"399999999999), }")},
  {"video.npy": npy(np.full((2, 3), 1e300))},
)


@CASES.reader(15, 4000, EMBEDDINGS, *DAMAGED_EMBEDDINGS, name="embeddings")
def load_embeddings(folder):
  if found := fuzz.outcome(lambda: embeddings.load(folder), folder):
    assert found.video.shape == (len(found.ids), 3)
    assert found.text.shape == (len(found.texts), 3)
    np.testing.assert_allclose(np.linalg.norm(found.video, axis=1), 1, rtol=1e-5)
    assert len(embeddings.fingerprint(found)) == 16


METRICS = Lines(
  [{"step": 1, "loss/total": 2.5}, {"step": 2, "loss/total": 1}, {"step": 2, "t2v": 3}]
)


@CASES.reader(8, 1500, {"metrics.jsonl": METRICS})
def metrics(folder):
  """A run resumes with its metrics, whatever a crash has left of them."""
  with fuzz.bounded():
    out = writer.Writer(folder, 2)
  out.scalars(3, {"x": 1.0})
  out.close()
  assert writer.read(folder / "metrics.jsonl")[-1] == {"step": 3, "x": 1.0}


BAD_RECORDS = Lines([dict(record=i, problem=f"v{i}: empty", step=3) for i in (4, 7)])


@CASES.reader(8, 1500, {"quarantine.jsonl": BAD_RECORDS})
def quarantine(folder):
  path = folder / "quarantine.jsonl"
  path.write_bytes(path.read_bytes() + b"\n")
  if found := fuzz.outcome(lambda: Quarantine(str(path), 0.5), path):
    found.add(dict(problem=np.array(["v4: x", ""]), record=np.array([4, 5])), 9)
    assert Quarantine(str(path), 0.5)


STUDY = study.StudyConfig(
  name="s",
  data_dir="",
  seeds=(0,),
  budgets=(1.0,),
  evals=dict(test={}),
  trial_evals=dict(test={}),
  trial="test/t2v/R@1",
  metrics=("test/t2v/R@1",),
  tables=(study.Table("t", "mac:demo", {}, (study.Row("r", {}),)),),
)
RESULT = dict(row="t / r", budget=1.0, seed=0, rate=1.0, steps=[2], gflop=[0.5])
RESULT |= dict(metrics={"test/t2v/R@1": 1.5}, diverged="", commands=["c"])
RESULT |= dict(fingerprint="f")
TIMES = dict(seconds={"t / r": [0.1]})


@CASES.reader(
  5,
  800,
  {
    "t-r/1-0/study.json": RESULT,
    "results.json": dict(runs=[RESULT]),
    "times.json": TIMES,
  },
)
def results_of_a_study(folder):
  def read():
    return results.load(STUDY, folder), results.read_times(folder / "times.json")

  if found := fuzz.outcome(read, folder):
    report.to_markdown(STUDY, *found)


@CASES.each
def test_damaged_input_is_rejected_in_one_line(run, case, count):
  run(case, count)
