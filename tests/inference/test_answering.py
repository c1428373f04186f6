"""Runs that answer questions: in Python, by `predict`, and in their evaluation."""

import numpy as np
import pytest
from training import trained_smoke

import vtr_jax
from configs import finetune_answers, mac
from vtr_jax.core.errors import ConfigError, DataError
from vtr_jax.data import notes
from vtr_jax.data.moving_shapes import questions
from vtr_jax.eval.evaluators import base as evaluators
from vtr_jax.predict import Request, predict, report
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
  return np.asarray(model.objective.predict["answers"](model.params, batch))


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
  with pytest.raises(ConfigError, match="predicts no classes"):
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


def test_a_run_chooses_among_the_options_that_it_is_given(data_dir, videos, tmp_path):
  choice = vtr_jax.load(trained(data_dir, tmp_path, form="choice"))
  options = [("red", "green", "blue", "white", "black")] * 2
  asked = ["what colour is the star"] * 2
  found = choice.answer(videos[:2], asked, options)
  turned = choice.answer(videos[:2], asked, [own[::-1] for own in options])
  assert found == turned
  assert set(found) <= set(options[0])
  with pytest.raises(ConfigError, match=r"options: 0 of question 0.* among 5"):
    choice.answer(videos[:2], asked)
