"""Runs that answer questions: in Python, by `predict`, and in their evaluation."""

import json

import clips
import jax
import numpy as np
import pytest
from training import trained_smoke

import vtr_jax
from configs import finetune_answers, mac
from vtr_jax import evaluate
from vtr_jax.core.errors import ConfigError, DataError
from vtr_jax.data import notes
from vtr_jax.data.moving_shapes import questions
from vtr_jax.data.notes import Note
from vtr_jax.data.questions import QuestionRows
from vtr_jax.eval import predictions, protocols
from vtr_jax.eval.evaluators import answers as evaluator
from vtr_jax.eval.evaluators import base as evaluators
from vtr_jax.eval.noted import Truth
from vtr_jax.inference import answer_split
from vtr_jax.predict import Request, predict, report
from vtr_jax.prepare import notes as adding
from vtr_jax.prepare.formats import base as formats
from vtr_jax.train.loop import train_and_evaluate

ASK = "what does the red circle do"


def trained(data_dir, root, **changes):
  """Directory of a run of one step."""
  pretrained = trained_smoke(mac, data_dir, root / "mac")
  config = finetune_answers.get_config("moving_shapes,mac,smoke").to_dict()
  config["data"]["dir"] = str(data_dir)
  config["optim"]["warmup_steps"] = 0
  config["objective"] |= changes
  config |= dict(steps=1, batch_size=8, evals={}, init_from=pretrained)
  train_and_evaluate(config, root / "run")
  return str(root / "run")


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
  return trained(data_dir, tmp_path_factory.mktemp("open"))


@pytest.fixture(scope="module")
def model(run):
  return vtr_jax.load(run)


@pytest.fixture(scope="module")
def videos(model):
  source = model.config.data.open("test")
  return [source[i]["video"] for i in range(3)]


def own_scores(model, videos, question):
  """The run's own scores, computed here."""
  ids, valid = model.tokenizer.encode(question, model.config.text.max_length)
  batch = dict(
    video=np.stack([model.clip(video) for video in videos]),
    text_ids=np.stack([ids] * len(videos)),
    text_valid=np.stack([valid] * len(videos)),
  )
  return np.asarray(jax.jit(model.objective.predict["answers"])(model.params, batch))


def test_an_answer_is_the_best_of_the_run_s_scores(model, videos):
  asked = [ASK, "how many are there", "what colour is the star"]
  found = model.answer(videos, asked)
  for video, question, answer in zip(videos, asked, found, strict=True):
    best = own_scores(model, [video], question)[0].argmax()
    assert answer == questions.ANSWERS[best]
  assert model.answer([], []) == []


@pytest.mark.parametrize(
  ("changes", "error", "message"),
  [
    (dict(questions=[ASK]), DataError, "3 videos, 1 questions; give one for each"),
    (dict(questions=ASK), DataError, "one of them; give lists"),
    (
      dict(questions=[ASK, " ", ASK]),
      DataError,
      "question 1: empty caption.*; correct",
    ),
    (dict(options=[("a", "b")] * 3), ConfigError, "takes none; omit them"),
  ],
)
def test_questions_that_do_not_fit_are_rejected(model, videos, changes, error, message):
  with pytest.raises(error, match=message):
    model.answer(**dict(videos=videos, questions=[ASK] * 3) | changes)


def test_predict_lists_answers_by_probability(run, model, videos, tmp_path):
  paths = []
  for i, video in enumerate(videos):
    paths.append(str(tmp_path / f"{i}.mp4"))
    (tmp_path / f"{i}.mp4").write_bytes(video)
  found, unreadable = predict(Request(run, tuple(paths), question=ASK, top=2))
  assert not unreadable
  assert list(found) == ["path", "answer", "probability"]
  scores = own_scores(model, videos, ASK).astype(np.float64)
  odds = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
  best = np.argsort(-odds, axis=1)[:, :2]
  assert found["answer"].tolist() == [questions.ANSWERS[i] for i in best.reshape(-1)]
  expected = np.take_along_axis(odds, best, axis=1).reshape(-1)
  np.testing.assert_allclose(found["probability"], expected, atol=1e-5)
  lines = list(report(found))
  assert lines[0] == paths[0]
  assert lines[1] == f"  {100 * expected[0]:5.1f} %  {found['answer'][0]}"
  with pytest.raises(ConfigError, match=r"--texts: 1 options .* takes none; omit them"):
    predict(Request(run, tuple(paths), question=ASK, texts=("a",)))
  with pytest.raises(ConfigError, match=r"predicts no classes .*give --question"):
    predict(Request(run, tuple(paths)))


def test_the_evaluation_scores_the_answers_of_all_questions(model):
  c = model.config
  sections = dict(test=dict(kind="answers", split="test[:6]"))
  context = evaluators.Context(
    model.objective, c.clip, c.text, c.data, model.tokenizer, model.mesh, 4
  )
  (found,) = evaluators.build(evaluators.check(sections), context).values()
  results = found.run(model.params)
  source = c.data.open("test[:6]")
  asked = notes.read(source.directory, "test[:6]", "question", name="questions")
  pairs = [(source[i]["video"], note) for i, own in enumerate(asked) for note in own]
  answers = model.answer(*zip(*((v, note.text) for v, note in pairs), strict=True))
  right = [a == note.answer for a, (_, note) in zip(answers, pairs, strict=True)]
  assert results["accuracy"] == pytest.approx(100 * np.mean(right))
  assert {"blind/accuracy", "blind_type/accuracy"} < set(results)
  assert results["ceiling/accuracy"] == 100
  assert "test[:6]: 18 questions, 6 clips" in found.report()
  assert found.protocol()["outside"] == "wrong"


def evaluated(name="moving_shapes_qa", changes=None, **flags):
  return evaluate.evaluate(evaluate.Request(name, changes or {}, **flags))


def test_the_command_s_results_are_the_evaluator_s_and_can_be_read_back(
  run, model, tmp_path, capsys
):
  results = evaluated(checkpoint=run, out=str(tmp_path))
  printed = capsys.readouterr().out
  for row in ("predictions", "blind", "blind_type", "ceiling", "transition"):
    assert f" {row} " in printed.replace("\n", " ")
  assert "NOT THE PROTOCOL'S DATA: 32 clips, not 1,000; 96 queries, not" in printed
  c = model.config
  context = evaluators.Context(
    model.objective, c.clip, c.text, c.data, model.tokenizer, model.mesh, 8
  )
  sections = evaluators.check(dict(test=dict(kind="answers", split="test")))
  own = evaluators.build(sections, context)["test"].run(model.params)
  assert results == pytest.approx(own)
  written = json.loads((tmp_path / "results.json").read_text())
  assert written["results"] == results
  origin = written["scores"]["manifest"]
  assert (origin["model"]["step"], origin["data"]["split"]) == (1, "test")
  directory = c.data.open("test").directory
  again = evaluated(
    predictions=str(tmp_path / "predictions.jsonl"),
    answers=str(tmp_path / "answers.json"),
    data=directory,
    out=str(tmp_path / "again"),
  )
  assert again == results
  assert json.loads((tmp_path / "answers.json").read_text()) == [*questions.ANSWERS]


@pytest.fixture(scope="module")
def divided(tmp_path_factory):
  """Data of which one test question is about a video of another split."""
  names, root = ("v0", "v1", "v2"), tmp_path_factory.mktemp("divided")
  records = [clips.record(name, clips.mp4(seed=i)) for i, name in enumerate(names)]
  data = clips.prepare(root, dict(train=records[:2], test=records[2:]))
  items = [
    formats.Item(name, split, formats.Media(""), (), notes=(note,))
    for name, split, note in (
      ("v0", "train", Note("question", "0", "what is it", "circle", "what")),
      ("v1", "test", Note("question", "1", "who is it", "star", "who")),
      ("v2", "test", Note("question", "2", ASK, "circle", "what")),
    )
  ]
  adding.add(data, items, dict(format="msrvtt_qa"), 0.0)
  return data, [record["video"] for record in records]


def test_questions_belong_to_the_split_of_their_annotations(
  run, model, divided, tmp_path
):
  data, shown = divided
  evaluated("msrvtt_qa", checkpoint=run, data=data, out=str(tmp_path))
  lines = (tmp_path / "predictions.jsonl").read_text().splitlines()
  written = {row["video"]: row["answer"] for row in map(json.loads, lines)}
  expected = model.answer(shown[1:], ["who is it", ASK])
  assert [written["v1"], written["v2"]] == expected
  assert written.keys() == {"v1", "v2"}


def test_scores_that_are_not_finite_answer_nothing():
  asked = [Note("question", name, "what", "a") for name in ("a", "b")]
  scores = np.array([[0.0, 1.0], [np.nan, 0.0]], np.float32)
  rows = QuestionRows("x", classes=("a", "b"))
  assert evaluator.given(rows, scores[:1], asked[:1]) == ["b"]
  with pytest.raises(DataError, match=r"^question 'b': .* 1 of 2 questions; the run"):
    evaluator.given(rows, scores, asked)


def test_counts_are_written_as_they_were_predicted(tmp_path):
  asked = [Note("question", name, "how many", "2") for name in ("a", "b")]
  scores = np.array([[1.5], [11.25]], np.float32)
  found = evaluator.given(QuestionRows("x", form="count"), scores, asked)
  (path,) = answer_split.save(tmp_path, Truth(asked, ["v", "v"], []), found, ())
  assert predictions.counts(str(path), asked) == found == [1.5, 11.25]


def test_runs_and_data_that_do_not_fit_a_protocol_are_named(
  run, divided, data_dir, tmp_path
):
  retrieval = trained_smoke(mac, data_dir, tmp_path / "mac")
  with pytest.raises(ConfigError, match=r"needs answers, .*; fine-tune it by configs/"):
    evaluated(checkpoint=retrieval)
  with pytest.raises(ConfigError, match="form 'open', but the protocol's are of form "):
    evaluated("tgif_action", checkpoint=run)
  with pytest.raises(DataError, match=r"no notes of msvd_qa \(it has msrvtt_qa\); add"):
    evaluated("msvd_qa", checkpoint=run, data=divided[0])
  with pytest.raises(ConfigError, match=r"--save_embeddings: .* 'answers'; omit it"):
    evaluated(checkpoint=run, save_embeddings="x")
  with pytest.raises(ConfigError, match=r"--protocol=charades_sta --data=some$"):
    evaluated("charades_sta", checkpoint="run", data="some")
  asked = Note("question", "9", ASK, "circle")
  opened = answer_split.Answering(run, protocols.get("msrvtt_qa"), divided[0])
  with pytest.raises(DataError, match=r"split 'test' has no record 'v9', of which"):
    opened.answers(Truth([asked], ["v9"], [], [("test", 9)]))


def test_a_run_chooses_among_the_options_that_it_is_given(data_dir, videos, tmp_path):
  directory = trained(data_dir, tmp_path, form="choice")
  choice = vtr_jax.load(directory)
  options = [("red", "green", "blue", "white", "black")] * 2
  asked = ["what colour is the star"] * 2
  found = choice.answer(videos[:2], asked, options)
  turned = choice.answer(videos[:2], asked, [own[::-1] for own in options])
  assert found == turned
  assert set(found) <= set(options[0])
  with pytest.raises(ConfigError, match=r"options: 0 of question 0.* among 5"):
    choice.answer(videos[:2], asked)
  changes = dict(form="choice", types=("colour", "shape"))
  results = evaluated(changes=changes, checkpoint=directory, out=str(tmp_path))
  assert results["blind/accuracy"] == pytest.approx(20)
  again = evaluated(
    changes=changes,
    predictions=str(tmp_path / "predictions.jsonl"),
    data=choice.config.data.open("test").directory,
    out=str(tmp_path / "again"),
  )
  assert again == results
  with pytest.raises(DataError, match="has no options; use --set=form=open"):
    evaluated(changes=dict(form="choice"), checkpoint=directory)
  opened = answer_split.Answering(
    directory, protocols.get("moving_shapes_qa", dict(form="choice"))
  )
  asked = Note("question", "9", "is it red", "no", options=("yes", "no"))
  with pytest.raises(DataError, match=r"has 2 options, but .* among 5; take other typ"):
    opened.answers(Truth([asked], ["test-00000"], [], [("test", 0)]))
