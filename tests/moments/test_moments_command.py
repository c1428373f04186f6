"""`python -m vtr_jax.moments`: features, table, files, and errors."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from training import trained_smoke

from configs import mac
from vtr_jax import evaluate
from vtr_jax.core.errors import ConfigError
from vtr_jax.data import notes, sources
from vtr_jax.data.embedded import build as embedded
from vtr_jax.data.embedded import long
from vtr_jax.data.notes import Note
from vtr_jax.inference.load import load
from vtr_jax.moments import __main__ as command
from vtr_jax.moments import features
from vtr_jax.moments.__main__ import Request, moments
from vtr_jax.moments.features import Features
from vtr_jax.moments.grid import Grid

GRID = Grid((2.0, 4.0), 2.0)
TINY = f"{long.NAME}/tiny"


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
  """A smoke run, and the generated data next to its own."""
  embedded.build(data_dir, f"{long.NAME}/tiny", workers=1, progress=False)
  return pathlib.Path(trained_smoke(mac, data_dir, tmp_path_factory.mktemp("run")))


def test_zero_shot_writes_what_evaluate_scores_the_same(run, capsys, tmp_path):
  results = moments(Request(str(run), data=TINY, grid=GRID))
  printed = capsys.readouterr().out
  rows = ("predictions", "whole video", "always", "random window", "another query")
  for row in (*rows, "ceiling", "half/R@1,0.5", "NOT THE PROTOCOL'S DATA"):
    assert row in printed
  out = run / "moments" / "zero_shot"
  kept = json.loads((out / "results.json").read_text())
  assert kept["results"] == results
  asked = [note for i in range(2) for note in long.moments("test", i)]
  written = [
    json.loads(x) for x in (out / "predictions.jsonl").read_text().splitlines()
  ]
  assert [row["qid"] for row in written] == [note.id for note in asked]
  for row, note in zip(written, asked, strict=True):
    times = np.array(row["pred_relevant_windows"])
    assert np.all(np.diff(times[:, 2]) <= 0)
    assert np.all((times[:, 0] >= 0) & (times[:, 1] <= note.duration))
  again = evaluate.evaluate(
    evaluate.Request(
      long.NAME,
      {},
      predictions=str(out / "predictions.jsonl"),
      data=kept["data"]["directory"],
      out=str(tmp_path),
    )
  )
  assert again == {key: results[key] for key in again}
  assert results["ceiling/R@1,0.7"] == 100


@pytest.fixture(scope="module")
def rated(run, tmp_path_factory):
  """The generated data, whose moments' clips two raters have scored."""
  origin = sources.find(load(run, text=False).config.data.dir, TINY)
  directory = tmp_path_factory.mktemp("rated") / "data"
  shutil.copytree(origin, directory)
  lines = []
  for i, own in enumerate(notes.read(origin, "test", "moment", name=long.NAME)):
    for note in own:
      start, end = (int(t // 2) for t in note.windows[0])
      scores = tuple((clip, 4, 2) for clip in range(start, max(end, start + 1)))
      value = notes.to_json(note._replace(saliency=scores))
      lines.append(notes.lines(f"test-{i:05d}", i, "test", [value]))
  path = directory / "manifest.json"
  manifest = json.loads(path.read_text())
  splits = manifest["notes"][long.NAME]["splits"]
  splits |= notes.save(directory, long.NAME, dict(test="".join(lines)))
  path.write_text(json.dumps(manifest))
  return str(directory)


def test_highlights_are_written_and_scored_where_clips_are_rated(run, rated, tmp_path):
  out = run / "moments" / "rated"
  results = moments(Request(str(run), data=rated, grid=GRID, out=str(out)))
  path = out / "predictions.jsonl"
  again = evaluate.evaluate(
    evaluate.Request(
      long.NAME, {}, predictions=str(path), data=rated, out=str(tmp_path)
    )
  )
  assert again == {key: results[key] for key in again}
  assert {"highlights/VeryGood/mAP", "highlights/Fair/Hit@1"} < set(again)
  assert "another query/highlights/VeryGood/mAP" in results
  assert results["raters' mean/highlights/VeryGood/Hit@1"] == 100
  model = load(run)
  written = [json.loads(line) for line in path.read_text().splitlines()]
  source = sources.open_split(rated, "test")
  videos = features.of_split(model, source, GRID, run / "moments" / "features")
  f, first = videos[0], written[0]
  duration = long.moments("test", 0)[0].duration
  assert len(first["pred_saliency_scores"]) == int(duration / 2)
  cosines = np.float32(f.vectors) @ model.embed_text([first["query"]])[0]
  cosines -= cosines.mean()
  for i, score in enumerate(first["pred_saliency_scores"]):
    around = (f.times[:, 0] <= 2 * i + 1) & (2 * i + 1 < f.times[:, 1])
    assert score == pytest.approx(cosines[around].mean(), abs=1e-5)


def test_the_head_is_trained_stored_and_uses_the_same_features(run, capsys):
  first = moments(Request(str(run), "head", TINY, grid=GRID, epochs=2))
  capsys.readouterr()
  second = moments(Request(str(run), "head", TINY, grid=GRID, epochs=2))
  assert capsys.readouterr().out.count("cached features are reused") == 2
  assert first == second
  names = {path.name for path in (run / "moments" / "head").iterdir()}
  assert names == {"head.json", "head.npz", "predictions.jsonl", "results.json"}


def test_features_are_computed_again_for_another_grid(run, tmp_path):
  model = load(run)
  source = sources.open_split(
    embedded.build(model.config.data.dir, f"{long.NAME}/tiny"), "validation"
  )
  for grid in (GRID, Grid((3.0,), 3.0)):
    found = features.of_split(model, source, grid, tmp_path)
    assert len(found) == len(source)
    for i, f in enumerate(found):
      duration = long.moments("validation", i)[0].duration
      np.testing.assert_array_equal(f.times, grid.windows(duration))
      assert f.vectors.shape == (len(f.times), model.dim)
      norms = np.linalg.norm(np.float32(f.vectors), axis=1)
      np.testing.assert_allclose(norms, 1, atol=1e-2)


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    (dict(checkpoint=""), "--checkpoint"),
    (dict(kind="heads"), "head"),
    (dict(protocol="msvd"), "not moments"),
    (dict(epochs=-1), "--epochs"),
  ],
)
def test_wrong_flags_are_named(run, changes, words):
  with pytest.raises(ConfigError, match=words):
    moments(Request(**dict(checkpoint=str(run), data=TINY) | changes))


def test_data_are_a_directory_or_a_name(run, tmp_path, monkeypatch):
  data = pathlib.Path(load(str(run)).config.data.dir)
  moments(Request(str(run), data=TINY, grid=GRID, out=str(tmp_path / "a")))
  monkeypatch.chdir(data.parent)
  there = f"{data.name}/{TINY}"  # not below the run's data.dir
  moments(Request(str(run), data=there, grid=GRID, out=str(tmp_path / "b")))
  first, second = (
    json.loads((tmp_path / name / "results.json").read_text()) for name in "ab"
  )
  assert first["results"] == second["results"]


def test_other_queries_are_never_of_the_own_video():
  records = ["a", "a", "a", "b", "c", "c"]
  text = np.arange(6.0)[:, None]
  others = command._others(text, records)[:, 0].astype(int)
  assert all(records[i] != own for i, own in zip(others, records, strict=True))
  np.testing.assert_array_equal(command._others(text[:3], records[:3]), text[:3])


def test_a_window_that_rounding_empties_is_left_out():
  """It starts just before the annotated end; a reader would reject the file."""
  f = Features(np.array([(0.0, 40.0)]), np.ones((1, 1), np.float32))
  times, score = np.array([[(30.95996, 31.4), (2.0, 3.0)]]), np.array([[0.9, 0.5]])
  query = Note("moment", "0", "x", duration=30.96)
  found = command._found(
    lambda *_: (times, score), {"v": f}, ["v"], [query], np.ones((1, 1), np.float32)
  )
  assert found.windows == [[[2.0, 3.0, 0.5]]]
