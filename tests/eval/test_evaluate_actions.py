"""The evaluate command on a fine-tuned classifier, and its evaluator."""

import dataclasses
import json

import clips
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import run_main
from training import trained_smoke

from configs import finetune_actions, mac
from vtr_jax import evaluate
from vtr_jax.core import sharding
from vtr_jax.core.errors import ConfigError, DataError
from vtr_jax.data import sources, views
from vtr_jax.data.moving_shapes import scene
from vtr_jax.eval import protocols
from vtr_jax.eval.evaluators import base, recognition, zero_shot
from vtr_jax.eval.scoring import Extras
from vtr_jax.train.loop import train_and_evaluate

ACTIONS = dict(task="actions")


def smoke(data_dir, module=finetune_actions, variant="moving_shapes,mac,smoke"):
  config = module.get_config(variant).to_dict()
  config["data"]["dir"] = str(data_dir)
  config |= dict(steps=2, checkpoint_every=2, batch_size=16, eval_batch_size=16)
  config["optim"]["warmup_steps"] = 0
  return config


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
  """(directory, results) of a smoke run of the objective "actions"."""
  directory = tmp_path_factory.mktemp("run")
  return directory, train_and_evaluate(smoke(data_dir), directory)


def call(run, name="custom", **flags):
  return evaluate.evaluate(
    evaluate.Request(name, flags.pop("changes", {}), checkpoint=str(run[0]), **flags)
  )


@pytest.mark.nightly  # by day: of retrieval, test_evaluate.py
def test_results_equal_those_of_the_training_run(run, tmp_path, capsys):
  results = call(run, changes=ACTIONS | dict(windows=3), out=str(tmp_path))
  expected = {k.removeprefix("test/"): v for k, v in run[1].items()}
  assert results == pytest.approx(expected)
  assert set(results) == {"top1", "top5", "mean_class_top1"}
  out = capsys.readouterr().out
  assert "custom: 3 x 1 views of each clip" in out
  assert "mean per-class top-1" in out
  assert f"per class: {tmp_path}/custom_classes.md" in out
  assert (tmp_path / "custom_classes.md").read_text().count("\n| move left ") == 1
  assert (tmp_path / "custom_confusion.png").stat().st_size > 1000
  written = json.loads((tmp_path / "results.json").read_text())
  train = json.loads((run[0] / "results.json").read_text())
  assert written["results"] == results
  assert written["classes"] == list(scene.LABELS)
  assert written["differences"] == []
  origin = written["scores"]["manifest"]
  assert (origin["model"]["step"], origin["model"]["objective"]) == (2, "actions")
  assert origin["data"]["fingerprint"] == train["protocols"]["test"]["fingerprint"]


@pytest.mark.nightly
def test_a_named_protocol_reports_other_counts_and_its_views(run, data_dir):
  done = run_main(
    f"--checkpoint={run[0]}", "--protocol=hmdb51_ft", module="vtr_jax.evaluate"
  )
  assert done.returncode == 0, done.stderr
  assert "hmdb51_ft: 5 x 3 views of each clip" in done.stdout
  count = len(sources.labels(sources.find(str(data_dir), "moving_shapes/tiny"), "test"))
  assert f"NOT THE PROTOCOL'S DATA: {count} clips, not 1,530" in done.stdout
  written = json.loads((run[0] / "evaluations/hmdb51_ft/results.json").read_text())
  assert (written["protocol"]["windows"], written["protocol"]["crops"]) == (5, 3)
  assert written["scores"]["manifest"]["clips_seen"]["windows"] == 5


@pytest.mark.parametrize(
  ("name", "clips", "split", "windows"),
  [
    ("ucf101_ft", 3783, "test", 5),
    ("hmdb51_ft", 1530, "test", 5),
    ("kinetics400_ft", 0, "validation", 5),
    ("ssv2_ft", 24_777, "validation", 2),
  ],
)
def test_protocols_of_fine_tuning_are_videomaes(name, clips, split, windows):
  found = protocols.get(name)
  assert (found.task, found.clips, found.split) == ("actions", clips, split)
  assert (found.windows, found.crops, found.frames, found.sampling) == (
    windows, 3, 0, ""
  )  # fmt: skip


def test_other_flags_and_objectives_are_rejected(run, data_dir, tmp_path, monkeypatch):
  """Before a clip is decoded, by one line that says what to do."""
  monkeypatch.setattr(base, "each_view", None)
  with pytest.raises(ConfigError, match=r"custom\.ties: means nothing to .*; omit it"):
    call(run, changes=ACTIONS | dict(ties="optimistic"))
  with pytest.raises(ConfigError, match="rescoring: is for retrieval, not for actions"):
    call(run, changes=ACTIONS, extras=Extras(dual_softmax=0.1))
  for flag in ("candidates", "save_embeddings"):
    with pytest.raises(ConfigError, match=f"--{flag}: .* task 'actions'; omit it"):
      call(run, "ucf101_ft", **{flag: str(tmp_path / "absent")})
  request = evaluate.Request("ucf101_ft", {}, embeddings=str(tmp_path))
  with pytest.raises(ConfigError, match=r"task 'actions' of .*; give --checkpoint"):
    evaluate.evaluate(request)
  for name in ("msvd", "ucf101"):
    with pytest.raises(
      ConfigError, match=r"needs embed_text, .*predict \(.*logits.*; .* ucf101_ft"
    ):
      call(run, name)
  trained_smoke(mac, data_dir, tmp_path / "mac")
  with pytest.raises(ConfigError, match=r"needs logits, .*; fine-tune it by configs"):
    call((tmp_path / "mac",), "ucf101_ft")


# A classifier of three classes whose logits are known: brightness tells the class.


def logits(params, batch):
  """`slope` times the brightness above 88, and `bias`."""
  mean = batch["video"].astype(jnp.float32).mean(axis=(1, 2, 3, 4))
  return jnp.maximum(mean - 88, 0)[:, None] * params["slope"][None] + params["bias"]


ALWAYS_A = dict(slope=jnp.zeros(3), bias=jnp.array([[1.0, 0, 0]]))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
  """Data whose splits have the labels of their names' letters, and one without."""
  root = tmp_path_factory.mktemp("data")
  made = [clips.mp4(12, 32, 64, seed=i) for i in range(3)]
  row = lambda i, label: clips.record(f"c{i}", made[i]) | dict(label=label)
  splits = {name: [row(i, label) for i, label in enumerate(name)] for name in LABELS}
  clips.prepare(root, splits | dict(none=[row(0, "a"), row(1, "")]))
  return root


LABELS = ("abc", "aab", "abd")


def build(root, tokenizer, split, classes="abc", num_classes=0, **changes):
  objective = clips.objective(logits=logits)
  known = dict(classes=tuple(classes), unnamed=num_classes)
  objective = dataclasses.replace(objective, **known)
  context = base.Context(
    objective,
    clips.CLIP,
    clips.TEXT,
    clips.config(root),
    tokenizer,
    sharding.make_mesh(sharding.MeshConfig(-1, 1, 1)),
    batch_size=8,
  )
  section = dict(kind="recognition", split=split) | changes
  return base.build(base.check(dict(test=section)), context)["test"]


def test_the_softmax_of_each_view_is_averaged(labelled, tokenizer):
  """VideoMAE's merge. By the mean of the logits, one sure view of six would decide."""
  evaluator = build(labelled, tokenizer, "aab", windows=2, crops=3)
  params = dict(slope=jnp.array([9.0, 0, 0]), bias=jnp.array([[0.0, 1, 0]]))
  data, seen = clips.config(labelled, split="aab"), views.Views(4, "segments", 1, 2, 3)
  example = views.ViewExample(data.open(), data, clips.CLIP, seen)
  shown = np.stack([example(i)["video"] for i in range(18)])
  each = np.asarray(logits(params, dict(video=shown)), np.float64).reshape(3, 6, 3)
  odds = np.exp(each) / np.exp(each).sum(axis=2, keepdims=True)
  assert odds.mean(axis=1).argmax(axis=1).tolist() == [1, 1, 1]
  assert each.mean(axis=1).argmax(axis=1).tolist() == [0, 0, 0]
  results = evaluator.run(params)
  assert results["top1"] == pytest.approx(100 / 3)
  assert results["mean_class_top1"] == pytest.approx(50)


def test_classes_without_a_clip_do_not_count_in_the_mean(labelled, tokenizer):
  evaluator = build(labelled, tokenizer, "aab")
  # Always the first class: both clips of "a" are right, that of "b" is not.
  results = evaluator.run(ALWAYS_A)
  assert results["top1"] == pytest.approx(200 / 3)
  assert results["mean_class_top1"] == pytest.approx(50)
  report = evaluator.report()
  assert "3 clips, 3 classes" in report
  assert "per-class top-1 50.0 of the 2 classes that have a clip" in report
  names, confusion = ["a", "b", "c"], np.array([[2.0, 0, 0], [1, 0, 0], [0, 0, 0]])
  assert zero_shot.table(names, confusion).splitlines()[-1] == (
    "| c     |     0 |       |  |"
  )


def test_unfit_labels_are_rejected(labelled, tokenizer):
  with pytest.raises(
    ConfigError, match=r"split 'abd' of clips: training never saw label 'd'; remove"
  ):
    build(labelled, tokenizer, "abd")
  with pytest.raises(DataError, match=r"record 1 of 'none' .*\(c1: no label\)"):
    build(labelled, tokenizer, "none")


def test_labels_are_ordered_as_public_data_sets_number_them():
  names = ["HammerThrow", "b", "Hammering", "JumpRope", "JumpingJack", "b", "a"]
  assert recognition.in_usual_order(names) == [
    *("a", "b", "Hammering", "HammerThrow", "JumpingJack", "JumpRope")
  ]
  assert recognition.in_usual_order(["10", "9", "0", "9"]) == ["0", "9", "10"]


def test_an_objective_without_classes_is_told(labelled, tokenizer):
  with pytest.raises(ConfigError, match=r"needs classes, .* \(Objective\.classes"):
    build(labelled, tokenizer, "abc", classes="")


def test_classes_of_converted_weights_are_the_sorted_labels(labelled, tokenizer):
  evaluator = build(labelled, tokenizer, "abc", classes="", num_classes=3)
  evaluator.run(ALWAYS_A)
  assert evaluator.protocol()["classes"] == ["a", "b", "c"]
  assert "convert them with --classes=FILE" in evaluator.report()
  with pytest.raises(ConfigError, match=r"'aab' of clips has 2 labels, the head 3; na"):
    build(labelled, tokenizer, "aab", classes="", num_classes=3)
