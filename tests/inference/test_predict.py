"""The command `predict`: classes, scores of texts and embeddings of files."""

import csv
import dataclasses
import json
import os
import re

import clips
import damage
import jax
import numpy as np
import prepare_cases
import pytest
from conftest import run_main
from PIL import Image
from training import trained_smoke

import vtr_jax
from configs import finetune_actions, mac
from vtr_jax import predict as command
from vtr_jax.core.errors import ConfigError, DataError, NotFiniteError
from vtr_jax.data.views import Views
from vtr_jax.data.views import crops as view_crops
from vtr_jax.inference import table, windows
from vtr_jax.predict import Request, predict
from vtr_jax.prepare.formats import base
from vtr_jax.train.loop import train_and_evaluate

TEXTS = ("a red ball moves up", "a blue star falls", "a green disc blinks")
ODD = os.fsdecode(b"odd \xff n\xc3\xa4me\n.mp4")


@pytest.fixture(scope="module")
def runs(data_dir, tmp_path_factory):
  """Directories of a run of actions, and of the run of MAC that it started from."""
  pretrained = trained_smoke(mac, data_dir, tmp_path_factory.mktemp("mac"))
  config = finetune_actions.get_config("moving_shapes,mac,smoke").to_dict()
  config["data"]["dir"] = str(data_dir)
  config["optim"]["warmup_steps"] = 1
  config |= dict(steps=2, batch_size=8, checkpoint_every=2, evals={})
  place = tmp_path_factory.mktemp("actions")
  train_and_evaluate(config | dict(init_from=pretrained), place)
  return str(place), pretrained


@pytest.fixture(scope="module")
def actions(runs):
  return command.load(runs[0], text=False)


@pytest.fixture(scope="module")
def joint(runs):
  return vtr_jax.load(runs[1])


@pytest.fixture(scope="module")
def folder(joint, tmp_path_factory):
  """Three videos, an image, a damaged video, and another file."""
  root, source = tmp_path_factory.mktemp("videos"), joint.config.data.open("test")
  (root / "sub").mkdir()
  for i, name in enumerate(("a.mp4", "sub/b.mp4", ODD)):
    (root / name).write_bytes(source[i]["video"])
  (root / "torn.mp4").write_bytes(source[3]["video"][:500])
  picture = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
  Image.fromarray(picture).save(root / "c.png")
  (root / "notes.txt").write_text("not a video")
  return root


def good(folder):
  """Paths of the readable files, in the order of the folder."""
  return [str(folder / name) for name in ("a.mp4", "c.png", ODD, "sub/b.mp4")]


def rows(columns):
  """A dict for each row of a table."""
  return [
    dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
  ]


def softmax(model, clips):
  """Probabilities of the run's own logits, computed here."""
  logits = model.objective.predict["logits"]
  x = np.asarray(logits(model.params, dict(video=np.stack(clips))), np.float64)
  odds = np.exp(x - x.max(axis=1, keepdims=True))
  return odds / odds.sum(axis=1, keepdims=True)


def test_classes_are_the_softmax_of_the_run_s_logits(runs, actions, folder):
  paths = good(folder)
  found, unreadable = predict(Request(runs[0], (str(folder),), top=0))
  expected = softmax(actions, [actions.clip(path) for path in paths])
  names = actions.config.objective["classes"]
  assert list(found) == ["path", "class", "probability"]
  assert len(found["path"]) == len(paths) * len(names)
  assert list(dict.fromkeys(found["path"].tolist())) == paths
  for row in rows(found):
    exact = expected[paths.index(row["path"]), names.index(row["class"])]
    assert row["probability"] == pytest.approx(exact, abs=1e-5)
  best = found["probability"].reshape(len(paths), -1)
  assert (np.diff(best, axis=1) <= 0).all()
  ((name, reason),) = unreadable
  assert name == str(folder / "torn.mp4")
  assert "not a video" in reason or "frame" in reason
  # Of two, the first two of each file; a file that is named twice is read once.
  few, _ = predict(Request(runs[0], (str(folder), paths[0]), top=2))
  for key in few:
    kept = found[key].reshape(len(paths), -1)[:, :2].reshape(-1)
    np.testing.assert_array_equal(few[key], kept)


@pytest.mark.parametrize("options", [{}, dict(slices=3), dict(windows=2)])
def test_a_video_that_ends_too_early_is_predicted_and_listed(
  options, runs, folder, tmp_path
):
  """By what is left of it; a whole one is not listed."""
  whole = damage.textured(movflags="frag_keyframe")
  (tmp_path / "whole.mp4").write_bytes(whole)
  (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 8 // 10])
  found, unreadable = predict(Request(runs[0], (str(tmp_path),), top=1, **options))
  ((name, reason),) = unreadable
  assert name == str(tmp_path / "cut.mp4")
  assert re.fullmatch(r"damaged after \d+ frames", reason)
  names = [str(tmp_path / f"{name}.mp4") for name in ("cut", "whole")]
  assert list(dict.fromkeys(found["path"].tolist())) == names
  assert len(found["path"]) == 2 * options.get("slices", 1)


def test_probabilities_are_averaged_over_views(runs, actions, folder):
  """Windows times crops; the mean of probabilities, not of logits."""
  path = folder / "a.mp4"
  found, _ = predict(Request(runs[0], (str(path),), top=0, windows=2, crops=3))
  c = actions.config
  views = Views(c.clip.num_frames, c.data.sampling, c.data.stride, 2, 3)
  clips = [
    clip
    for first in (0, 3)
    for clip in view_crops(path.read_bytes(), first, views, c.data, c.clip.image_size)
  ]
  mean = softmax(actions, clips).mean(axis=0)
  np.testing.assert_allclose(found["probability"], np.sort(mean)[::-1], atol=1e-5)


@pytest.mark.parametrize("kind", [0, 1])
def test_embeddings_equal_embed_video(runs, joint, actions, folder, kind):
  """Of a run of actions, without a tokenizer, and of one that embeds texts."""
  model = (actions, joint)[kind]
  request = Request(runs[kind], (str(folder),), what="embeddings", out="e.npz")
  found, unreadable = predict(request)
  assert list(found) == ["path", "embedding"]
  assert found["path"].tolist() == good(folder)
  expected = model.embed_video(good(folder))
  np.testing.assert_allclose(found["embedding"], expected, atol=1e-5)
  assert len(unreadable) == 1


def test_slices_are_rows_with_times(runs, joint, folder):
  """Equal parts of a video; an image has one."""
  paths = good(folder)[:2]
  request = Request(runs[1], tuple(paths), what="embeddings", slices=4, out="e.npz")
  found, _ = predict(request)
  assert found["path"].tolist() == paths[:1] * 4 + paths[1:]
  np.testing.assert_allclose(found["start"], [0, 0.5, 1, 1.5, 0], atol=1e-6)
  np.testing.assert_allclose(found["end"], [0.5, 1, 1.5, 2, 0], atol=1e-6)
  clips = [windows.clip(paths[0], i / 2, (i + 1) / 2, joint).frames for i in range(4)]
  expected = joint.embed_clips([*clips, joint.clip(paths[1])])
  np.testing.assert_allclose(found["embedding"], expected, atol=1e-5)
  assert np.abs(expected[0] - expected[3]).max() > 1e-3
  # More parts than frames: each shows the frame at its time.
  many, problem = windows.slices(paths[0], 300, joint)
  assert (len(many), problem) == (300, "")
  np.testing.assert_array_equal(many[0].frames, many[1].frames)


def test_texts_are_sorted_by_their_cosines(runs, joint, folder):
  found, _ = predict(Request(runs[1], (str(folder),), texts=TEXTS, top=2))
  cosines = joint.similarity(TEXTS, good(folder)).T
  order = np.argsort(-cosines, axis=1)[:, :2]
  assert found["text"].tolist() == [TEXTS[i] for i in order.reshape(-1)]
  best = np.take_along_axis(cosines, order, axis=1).reshape(-1)
  np.testing.assert_allclose(found["score"], best, atol=1e-5)


def test_tables_hold_their_columns_in_every_format(tmp_path):
  """Text formats with 7 decimals; names that are not UTF-8 keep their bytes."""
  columns = dict(
    path=np.array([ODD, 'a, "b"']),
    start=np.array([0.0, 1.25]),
    embedding=np.array([[0.1, -1], [1 / 3, 0]], np.float32),
  )
  for ending in (".csv", ".jsonl", ".npz", ".parquet"):
    if ending != ".parquet":
      table.write(tmp_path / f"t{ending}", columns)
  with open(tmp_path / "t.csv", errors="surrogateescape", newline="") as file:
    header, *lines = csv.reader(file)
  assert header == ["path", "start", "embedding_0", "embedding_1"]
  assert lines == [[ODD, "0.0", "0.1", "-1.0"], ['a, "b"', "1.25", "0.3333333", "0.0"]]
  first, second = map(json.loads, (tmp_path / "t.jsonl").read_text().splitlines())
  assert first == dict(path=ODD, start=0.0, embedding=[0.1, -1.0])
  assert second["embedding"] == [0.3333333, 0.0]
  with np.load(tmp_path / "t.npz", allow_pickle=False) as arrays:
    assert set(arrays) == set(columns)
    for name, column in columns.items():
      np.testing.assert_array_equal(arrays[name], column)
  parquet = pytest.importorskip("pyarrow.parquet")
  table.write(tmp_path / "t.parquet", columns)
  read = parquet.read_table(tmp_path / "t.parquet").to_pydict()
  assert read["path"] == [ODD.replace("\udcff", "?"), 'a, "b"']
  np.testing.assert_array_equal(np.array(read["embedding"], "f"), columns["embedding"])


def test_the_command_prints_and_lists_what_it_skips(runs, folder):
  asked = [f"--checkpoint={runs[0]}", "--top=2", str(folder), str(folder / "no.mp4")]
  done = run_main(*asked, module="vtr_jax.predict")
  assert done.returncode == 0, done.stderr
  found, _ = predict(Request(runs[0], (str(folder),), top=2))
  lines = done.stdout.splitlines()
  assert lines == list(command.report(found))
  assert lines[0] == str(folder / "a.mp4")
  assert lines[1] == f"  {100 * found['probability'][0]:5.1f} %  {found['class'][0]}"
  assert len(lines) == 4 * 3  # a name of two lines takes one
  *_, torn, missing, cure, other, summary = done.stderr.splitlines()
  assert torn.startswith(f"{folder}/torn.mp4: ")
  assert missing == f"{folder}/no.mp4: No such file or directory"
  assert cure.startswith("1 x not a video: copy it again")
  assert other == "1 x No such file or directory: correct its name"
  assert summary == "4 files read, 2 unreadable"


def test_results_are_written_to_a_file(runs, joint, folder, tmp_path, capsys):
  out = tmp_path / "new" / "scores.csv"
  request = Request(runs[1], (str(folder),), texts=TEXTS, slices=1, out=str(out))
  command.main(request)
  captured = capsys.readouterr()
  assert captured.out == ""
  assert f"4 files read, 1 unreadable; 12 rows are in {out}" in captured.err
  with open(out, errors="surrogateescape", newline="") as file:
    written = list(csv.DictReader(file))
  assert list(written[0]) == ["path", "start", "end", "text", "score"]
  assert [float(row["end"]) for row in written[:4]] == [2, 2, 2, 0]
  assert written[0]["path"] == good(folder)[0]
  times = next(command.report(predict(request).columns))
  assert times == f"{folder}/a.mp4  0.00-2.00 s"


def test_a_run_without_a_readable_file_ends_with_the_exit_code_of_data(runs, folder):
  asked = [f"--checkpoint={runs[0]}", str(folder / "torn.mp4")]
  done = run_main(*asked, module="vtr_jax.predict")
  assert done.returncode == 2
  *_, listed, _, error = done.stderr.splitlines()
  assert listed.startswith(f"{folder}/torn.mp4: ")
  assert error == "DataError: none of 1 files can be read; give videos or images"


def test_texts_come_from_flags_and_files(tmp_path):
  path = tmp_path / "texts.txt"
  path.write_text("a ball\n\n  a stär \na ball\n")
  assert command._texts(["a disc"], str(path)) == ("a disc", "a ball", "a stär")
  assert command._texts([], "") == ()
  path.write_text("\n")
  with pytest.raises(ConfigError, match=r"texts\.txt: no text; give one per line"):
    command._texts([], str(path))
  path.write_bytes(b"\xff\xfe")
  with pytest.raises(DataError, match=r"texts\.txt: not UTF-8 text"):
    command._texts([], str(path))


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (dict(checkpoint=""), "--checkpoint: missing"),
    (dict(videos=()), "VIDEOS: missing"),
    (dict(what="class"), "--what: 'class' is unknown; did you mean 'classes'"),
    (dict(top=-1), "--top: -1; must be 0 or more"),
    (dict(windows=0), "--windows: 0; must be 1 or more"),
    (dict(crops=3, slices=2), "--windows, --crops: are for classes of full videos"),
    (dict(crops=3, texts=TEXTS), "--windows, --crops: are for classes of full videos"),
    (dict(what="embeddings"), "--out: missing; name the file of the embeddings"),
    (
      dict(what="embeddings", texts=TEXTS),
      "--texts, --question: are scored, not embedded",
    ),
    (dict(out="classes.txt"), r"--out: .* '\.txt' is unknown; .*\.csv"),
    (dict(out="classes"), r"--out: .* '' is unknown; known: \.csv"),
  ],
)
def test_unfit_requests_are_rejected(changes, message):
  with pytest.raises(ConfigError, match=message):
    Request(**dict(checkpoint="run", videos=("a.mp4",)) | changes)


def test_a_folder_of_each_class_becomes_a_classifier(tmp_path):
  """From own videos to predictions, as docs/finetuning.md describes it."""
  for i, name in enumerate(
    ("train/high jump", "train/run", "test/run", "test/high jump")
  ):
    folder = tmp_path / "videos" / name
    folder.mkdir(parents=True)
    for seed in range(4 if "train" in name else 2):
      (folder / f"{seed}.mp4").write_bytes(clips.mp4(8, 32, 32, seed=10 * i + seed))
  source = str(tmp_path / "videos")
  prepare_cases.make(source, tmp_path, items=base.open("folder", base.Request(source)))
  values = finetune_actions.get_config("folder,mac,smoke")
  values.steps = 2
  values = values.to_dict()
  values["data"] |= dict(name="mine", dir=str(tmp_path), num_workers=0)
  values |= dict(batch_size=8, checkpoint_every=2)
  results = train_and_evaluate(values, tmp_path / "run")
  assert set(results) == {"test/top1", "test/top5", "test/mean_class_top1"}
  found, unreadable = predict(Request(str(tmp_path / "run"), (source,), top=0))
  assert not unreadable
  assert set(found["class"].tolist()) == {"high jump", "run"}
  assert len(found["path"]) == 12 * 2


def test_a_table_that_cannot_be_written_is_refused_before_work(tmp_path):
  (tmp_path / "folder.csv").mkdir()
  (tmp_path / "file").write_text("")
  for name, message in (("folder.csv", "is a folder"), ("file/t.csv", "is no folder")):
    with pytest.raises(ConfigError, match=message):
      table.check(tmp_path / name)
  table.check(tmp_path / "new" / "T.CSV")
  table.write(tmp_path / "T.CSV", dict(path=np.array(["a"])))
  assert (tmp_path / "T.CSV").read_text() == "path\na\n"


def test_parquet_needs_pyarrow(monkeypatch):
  monkeypatch.setattr(table.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ConfigError, match="needs pyarrow; pip install pyarrow, or"):
    table.check("classes.parquet")


def test_what_a_run_does_not_predict_is_rejected(runs, joint, actions, folder):
  videos = (str(folder),)
  words = r"predicts no classes \(embed_.*\); give --texts or --what=embeddings$"
  with pytest.raises(ConfigError, match=words):
    predict(Request(runs[1], videos))
  with pytest.raises(ConfigError, match="mac-smoke: needs logits, which"):
    joint.classify_clips([])
  assert actions.classify_clips([]).shape == (0, len(actions.classes))
  texts = Request(runs[0], videos, texts=TEXTS)
  words = r"--checkpoint: for texts: needs embed_text, which .* \(embed_video, "
  with pytest.raises(ConfigError, match=words):
    command._check(texts, actions)


def test_predictions_that_are_not_finite_are_rejected(
  runs, actions, folder, monkeypatch
):
  params = jax.tree.map(lambda p: p * np.nan, actions.params)
  broken = dataclasses.replace(actions, params=params)
  monkeypatch.setattr(command, "load", lambda *_, **__: broken)
  with pytest.raises(NotFiniteError, match="its predictions are not finite"):
    predict(Request(runs[0], (str(folder / "a.mp4"),)))
