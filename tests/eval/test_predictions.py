"""Files of predictions: the layouts of peers, and the first line that does not fit."""

import json

import clips
import numpy as np
import pytest
from shared import downstream

from vtr_jax import evaluate
from vtr_jax.core.errors import ConfigError, DataError, NotFiniteError
from vtr_jax.data.notes import Note
from vtr_jax.eval import noted, noted_answers, noted_moments, predictions, protocols
from vtr_jax.prepare import notes as adding
from vtr_jax.prepare.formats import base

TEXTS = dict(a="who is it", b="what is it", c="who runs")
ASKED = [
  Note("question", name, text, answer, text.split()[0])
  for (name, text), answer in zip(TEXTS.items(), ("man", "cat", "boy"), strict=True)
]
WORDS = ["man", "cat", "dog"]
OPTIONS = [note._replace(options=("man", "cat", "boy")) for note in ASKED]
COUNTS = [note._replace(answer=n) for note, n in zip(ASKED, "035", strict=True)]
MOMENTS = [
  Note("moment", "1", "he sits", windows=((0.0, 10.0),), duration=20.0),
  Note("moment", "2", "he runs", windows=((5.0, 15.0),), duration=20.0),
]
RATED = [note._replace(saliency=((0, 4, 2), (1, 0, 2))) for note in MOMENTS]


@pytest.fixture
def write(tmp_path):
  """Writes a file, a text or a JSON value indented by its entries; returns its path."""

  def call(value, name="p.json"):
    path = tmp_path / name
    if not isinstance(value, str):
      inner = [json.dumps(v) for v in value] if isinstance(value, list) else []
      if isinstance(value, dict):
        inner = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in value.items()]
      ends = "[]" if isinstance(value, list) else "{}"
      value = ends[0] + "\n" + ",\n".join(inner) + "\n" + ends[1]
    path.write_text(value)
    return str(path)

  return call


def lines(*rows):
  return "".join(json.dumps(row) + "\n" for row in rows)


LISTED = [dict(question_id=n, answer=a) for n, a in zip("cab", WORDS, strict=True)]
OF_LIST = ["cat", "dog", "man"]


@pytest.mark.parametrize(
  ("value", "expected"),
  [
    (LISTED, OF_LIST),  # UMT, VindLU, ActivityNet-QA
    (lines(*LISTED), OF_LIST),
    ([row | dict(pred="dog") for row in LISTED], ["dog"] * 3),  # answer is the truth
    (dict(a="cat", b=" man ", c="x"), ["cat", "man", "x"]),
    (["cat", "man", "x"], ["cat", "man", "x"]),
    ([1, 0, 2], ["cat", "man", "dog"]),
    (
      dict(
        a=dict(prediction=2, answer=1),
        c=dict(prediction=0, answer=0),  # boy is not in the list
        b=dict(prediction=3, answer=2),
      ),
      ["cat", "dog", None],
    ),
  ],
)
def test_answers_are_read_in_the_layouts_of_peers(write, value, expected):
  assert predictions.answers(write(value), ASKED, WORDS) == expected


def test_numbers_of_options_count_from_0(write):
  hqga = dict(
    a=dict(prediction=1, answer=0),
    b=dict(prediction=1, answer=1),
    c=dict(prediction=0, answer=2),
  )
  assert predictions.answers(write(hqga), OPTIONS) == ["cat", "cat", "man"]
  assert predictions.answers(write(["boy", 0, 2]), OPTIONS) == ["boy", "man", "boy"]


def answer(write, value, notes=ASKED, words=()):
  with pytest.raises(DataError) as caught:
    predictions.answers(write(value), notes, words)
  text = str(caught.value)
  assert "\n" not in text
  return text


def listed(*rows):
  return [dict(zip(("question_id", "answer"), row, strict=True)) for row in rows]


@pytest.mark.parametrize(
  ("value", "line", "says"),
  [
    (listed("ax", "dx"), 3, "question 'd' is not in the 3 of the split; known: a, b"),
    (listed("ax", "bx", "ax"), 4, "question 'a' was already at {path}:2; remove one"),
    ('{"a": "x",\n"b": "x",\n"a": "x"}', 3, "question 'a' was already at {path}:1"),
    (listed("ax", "bx"), None, "no prediction for 1 of 3 questions, the first is 'c'"),
    (["x"], None, "1 answers without ids, for 3 questions; give one a question"),
    (["x"] * 4, None, "4 answers without ids, for 3 questions"),
    (["x", "x", ""], 4, "no answer to question 'c', but ''"),
    (listed("ax", ("b", None)), 3, "no answer to question 'b', but None"),
    ([dict(id="a", text="x")], 2, "no answer to question 'a'; add it"),
    ([dict(name="a")], 2, "no id; add question_id, qid or id"),
    ([1, 2, 3], 2, "answer 1 to question 'a' is a number; give --answers"),
    ("[1,\n2", 2, "not JSON (Expecting ',' delimiter); fix it"),
    ("[] x", 1, "not JSON (Extra data); fix it"),
    ("{", 1, "not JSON"),
    ('["x", "x",\n"x",]', 2, "not JSON (Illegal trailing comma); fix it"),
    ('{"a": "x",}', 1, "not JSON ("),
    (["x", "x", dict(id="a", answer="x")], 4, "an object among answers without ids"),
    (dict(a=dict(qid="b", answer="x")), 2, "'b' below the key 'a'; give one id of the"),
    (listed("ax", ("d" * 500, "x")), 3, f"question '{'d' * 79}... is not in the 3 of"),
    ("", None, "no predictions; docs/evaluation.md has the layouts"),
  ],
)
def test_the_first_answer_that_does_not_fit_is_named(
  write, tmp_path, value, line, says
):
  path = f"{tmp_path}/p.json"
  where = f"{path}:{line}: " if line else f"{path}: "
  found = answer(write, value)
  assert found.startswith(where + says.format(path=path))


@pytest.mark.parametrize(
  ("value", "notes", "says"),
  [
    (
      [0, 1, 3],
      ASKED,
      ":4: answer 3 to question 'c', but there are 3 answers, numbered",
    ),
    (
      dict(a=4),
      ASKED,
      ":2: answer 4 to question 'a', but there are 3 answers, numbered",
    ),
    (
      dict(a=dict(prediction=1, answer=2)),
      ASKED,
      ":2: question 'a' has answer 2, 'cat' of the 3 answers, but it is 'man'; give th",
    ),
    (
      dict(a=dict(prediction=1, answer=9)),
      ASKED,
      ":2: question 'a' has answer 9, None",
    ),
    (["cow", 1, 1], OPTIONS, ":2: answer 'cow' to question 'a' is none of its options"),
    ([1, 1, 3], OPTIONS, ":4: answer 3 to question 'c', but there are 3 answers"),
  ],
)
def test_an_answer_list_of_another_size_is_noticed(write, value, notes, says):
  assert says in answer(write, value, notes, WORDS)


def test_an_answer_list_has_each_text_once(write):
  assert predictions.answer_list(write(WORDS)) == WORDS
  with pytest.raises(DataError, match=r"p\.json:4: answer 'a' occurs twice"):
    predictions.answer_list(write(["a", "b", "a"]))
  with pytest.raises(DataError, match=r"p\.json:2: not a text; give a JSON list"):
    predictions.answer_list(write([1]))
  with pytest.raises(DataError, match=r"p\.json: no answers; docs"):
    predictions.answer_list(write([]))
  with pytest.raises(DataError, match="none: No such file or directory; fix --answers"):
    predictions.answer_list("none")


def test_counts_are_numbers_or_their_texts(write):
  assert predictions.counts(write(["1", 2.5, 0]), COUNTS) == [1, 2.5, 0]
  with pytest.raises(DataError, match=r":3: the answer to question 'b' is 'x'; give a"):
    predictions.counts(write([1, "x", 0]), COUNTS)
  with pytest.raises(NotFiniteError, match=r":1: the answer to question 'b' is nan"):
    predictions.counts(write("[1, NaN, 0]"), COUNTS)


def located(qid, *windows, **more):
  return dict(qid=qid, pred_relevant_windows=[list(w) for w in windows]) | more


def test_moments_are_read_in_the_order_of_the_queries(write):
  path = write(lines(located(2, (0, 5, 0.5)), located(1, (1, 20, 0.9), (0, 21, 0.1))))
  found = predictions.moments(path, MOMENTS, padded=25)
  assert found.windows == [[[1, 20, 0.9], [0, 21, 0.1]], [[0, 5, 0.5]]]
  assert (found.saliency, found.beyond) == (None, 1)
  rated = [located(i, (0, 5), pred_saliency_scores=[0.5, i]) for i in (1, 2)]
  assert predictions.moments(write(lines(*rated)), MOMENTS).saliency == [
    [0.5, 1],
    [0.5, 2],
  ]


FIT = located(1, (0, 5, 0.5))
SCORED = located(1, (0, 5, 0.5), pred_saliency_scores=[1, 2])


@pytest.mark.parametrize(
  ("rows", "line", "says"),
  [
    (
      (FIT, located(2, (7, 3, 0.1))),
      2,
      "window [7, 3, 0.1] of query '2': expected 0 <=",
    ),
    (
      (located(1, (3, 3, 0.1)),),
      1,
      "window [3, 3, 0.1] of query '1': expected 0 <= st",
    ),
    ((located(1, (-1, 3, 0.1)),), 1, "window [-1, 3, 0.1] of query '1': expected 0 <="),
    (
      (FIT, located(2, (0, 20.5, 1))),
      2,
      "window [0, 20.5, 1] of query '2' ends after ",
    ),
    (
      (located(1, (0, 5, np.nan)),),
      1,
      "a number of window [0, 5, nan] of query '1' is",
    ),
    (
      (located(1, (0, np.inf, 1)),),
      1,
      "a number of window [0, inf, 1] of query '1' is",
    ),
    (
      (located(1, (0, "x", 1)),),
      1,
      "a number of window [0, 'x', 1] of query '1' is 'x'",
    ),
    ((located(1, (0,)),), 1, "window [0] of query '1' is not [start, end, score]"),
    (
      (FIT, located(2, (0, 5))),
      2,
      "window [0, 5] of query '2' has 2 numbers, others 3",
    ),
    ((FIT, located(3, (0, 5, 1))), 2, "query '3' is not in the 2 of the split"),
    ((FIT, FIT), 2, "query '1' was already at {path}:1; remove one"),
    ((FIT,), None, "no prediction for 1 of 2 queries, the first is '2'; predict all"),
    ((dict(qid=1),), 1, "no list pred_relevant_windows for query '1'; add it"),
    (
      (SCORED, located(2, (0, 5, 1))),
      2,
      "query '2': pred_saliency_scores must be of al",
    ),
    (
      (located(1, (0, 5, 1), pred_saliency_scores=[1, np.nan]),),
      *(1, "a score of pred_saliency_scores of query '1' is nan; give a number"),
    ),
  ],
)
def test_the_first_window_that_does_not_fit_is_named(write, tmp_path, rows, line, says):
  path = f"{tmp_path}/p.json"
  with pytest.raises(DataError) as caught:
    predictions.moments(write(lines(*rows)), MOMENTS)
  where = f"{path}:{line}: " if line else f"{path}: "
  assert str(caught.value).startswith(where + says.format(path=path))
  assert "\n" not in str(caught.value)


def scored(path, name, notes, training=(), words="", **changes):
  protocol = protocols.get(name, changes)
  truth = noted.Truth(list(notes), ["v"] * len(notes), list(training))
  if protocol.task == "answers":
    scores = noted_answers.score(path, protocol, truth, words)
  else:
    scores = noted_moments.score(path, protocol, truth)
  return scores, "\n".join(scores.report())


TRAINING = [
  Note("question", "x", "who goes", "man", "who"),
  Note("question", "y", "who goes", "man", "who"),
  Note("question", "z", "what goes", "dog", "what"),
]


def test_answers_have_a_blind_row_and_a_ceiling(write):
  path = write(["man", "cow", "boy"])
  scores, text = scored(path, "msvd_qa", ASKED, TRAINING)
  accuracy = {k: v for k, v in scores.results().items() if k.endswith("accuracy")}
  third = pytest.approx(100 / 3)
  assert accuracy == {
    "accuracy": pytest.approx(200 / 3),
    "blind/accuracy": third,
    "blind_type/accuracy": third,
    "ceiling/accuracy": third,
  }
  assert scores.rows["blind"]["accuracy/who"] == 50
  assert "2 of 3 questions have an answer outside the vocabulary, 2 of training" in text
  assert "they stay in the denominator" in text
  assert "1 of them are answered right: the model has another vocabulary" in text
  given = write(WORDS[:2], "words.json")
  dropped, text = scored(path, "msvd_qa", ASKED, TRAINING, given, outside="dropped")
  assert dropped.rows["predictions"]["accuracy"] == 50
  assert dropped.rows["ceiling"]["accuracy"] == 100
  assert "1 of 3 questions have an answer outside the vocabulary, 2 of the m" in text
  assert "ARE LEFT OUT" in text
  alone, text = scored(path, "msvd_qa", ASKED)
  assert list(alone.rows) == ["predictions"]
  assert "no training questions: the blind row is left out" in text
  with pytest.raises(DataError, match="outside: needs a vocabulary"):
    scored(path, "msvd_qa", ASKED, outside="dropped")


def test_a_vocabulary_is_of_the_most_frequent_answers(write):
  path = write(["man", "cow", "boy"])
  scores, _ = scored(path, "msvd_qa", ASKED, TRAINING, vocabulary=1)
  assert scores.rows["ceiling"]["accuracy"] == pytest.approx(100 / 3)
  notes = [note._replace(answer="dog") for note in ASKED]
  scores, _ = scored(path, "msvd_qa", notes, TRAINING, vocabulary=1)
  assert scores.rows["ceiling"]["accuracy"] == 0
  scores, _ = scored(path, "msvd_qa", notes, TRAINING, write(["dog"], "list.json"))
  assert scores.rows["ceiling"]["accuracy"] == 100


def test_multiple_choice_has_its_chance(write):
  scores, _ = scored(write(["man", "man", "boy"]), "tgif_action", OPTIONS)
  assert scores.rows["predictions"]["accuracy"] == pytest.approx(200 / 3)
  assert scores.rows["blind"]["accuracy"] == pytest.approx(100 / 3)
  assert scores.rows["ceiling"]["accuracy"] == 100
  with pytest.raises(DataError, match="question 'a': has no options"):
    scored(write(["man"] * 3), "tgif_action", ASKED)
  with pytest.raises(ConfigError, match="--answers: is for open questions alone"):
    scored(write(["man"] * 3), "tgif_action", OPTIONS, words="words.json")


def test_an_open_answer_need_not_be_an_option(write):
  path = write(["man", "cow", "boy"])
  scores, _ = scored(path, "tgif_action", OPTIONS, form="open")
  assert scores.rows["predictions"]["accuracy"] == pytest.approx(200 / 3)


def test_counts_have_their_error_and_the_rule_of_others(write):
  path = write([0.4, 2, 9])
  scores, text = scored(path, "tgif_count", COUNTS, COUNTS[1:])
  assert scores.rows["predictions"] == {
    "mse": pytest.approx((0 + 1 + 16) / 3),
    "accuracy": pytest.approx(100 / 3),
  }
  assert scores.rows["blind"]["mse"] == pytest.approx((16 + 1 + 1) / 3)
  assert scores.rows["ceiling"]["mse"] == 0
  assert "blind: always 4, the mean of training" in text
  other, text = scored(path, "tgif_count", COUNTS, counts=(1, 10))
  assert other.rows["predictions"]["mse"] == pytest.approx((1 + 1 + 16) / 3)
  assert other.rows["ceiling"]["mse"] == pytest.approx(1 / 3)
  assert "1 cut" in text
  _, text = scored(write([-0.3, 10.4, 10.5]), "tgif_count", COUNTS)
  assert "counts are rounded and cut to 0 to 10, 1 cut" in text  # 11
  odd = [COUNTS[0], COUNTS[1]._replace(answer="nan"), COUNTS[2]]
  with pytest.raises(DataError, match="question 'b': answer 'nan' is no count"):
    scored(path, "tgif_count", odd)
  with pytest.raises(DataError, match="question 'a': answer 'man' is no count"):
    scored(path, "tgif_count", ASKED)


def test_moments_have_blind_windows_and_a_ceiling(write):
  path = write(lines(located(2, (5, 15, 1)), located(1, (5, 10, 1), (0, 10, 0.5))))
  training = [MOMENTS[1]._replace(windows=((0.0, 10.0),))]
  scores, text = scored(path, "tacos", MOMENTS, training)
  found = scores.rows["predictions"]
  assert (found["R@1,0.5"], found["R@1,0.7"], found["R@5,0.5"]) == (100, 50, 100)
  assert found["mIoU"] == 75
  assert scores.rows["whole video"]["mIoU"] == 50
  assert scores.rows["always 0-50 %"]["R@1,0.7"] == 50
  assert scores.rows["ceiling"]["mIoU"] == 100
  assert {"R@1,0.1", "R@5,0.5", "mIoU", "mAP@0.75"} <= set(text.split())
  strict, _ = scored(path, "tacos", MOMENTS, strict=True)
  assert strict.rows["predictions"]["R@1,0.5"] == 50
  assert "no training moments: the row of a constant window" in strict.remarks[0]


def test_true_windows_beyond_the_video_lower_the_ceiling_or_are_clamped(write):
  notes = [MOMENTS[0]._replace(windows=((10.0, 30.0),)), MOMENTS[1]]
  path = write(lines(located(1, (10, 20, 1)), located(2, (5, 15, 1))))
  scores, text = scored(path, "tacos", notes)
  assert scores.rows["ceiling"]["mIoU"] == 75
  assert "1 true windows end after their video: they are kept as published" in text
  scores, text = scored(path, "tacos", notes, clamp=True)
  assert scores.rows["predictions"]["mIoU"] == 100
  assert "1 true windows end after their video: they are cut to it" in text
  unknown = [note._replace(duration=0.0) for note in notes]
  scores, text = scored(path, "tacos", unknown)
  assert list(scores.rows) == ["predictions"]
  assert "durations are not known of 2 of 2 queries: rows without a video" in text
  late = [MOMENTS[0]._replace(windows=((50.0, 99.0),)), MOMENTS[1]]
  for clamp in (False, True):
    scores, text = scored(path, "tacos", late, clamp=clamp)
    assert "1 true windows begin after their video: they are kept" in text
    assert scores.rows["ceiling"]["mIoU"] == scores.rows["ceiling"]["mAP"] == 50


def test_highlights_are_scored_where_clips_are_rated(write):
  rows = [located(i, (0, 5, 1), pred_saliency_scores=[1, 0]) for i in (1, 2)]
  path = write(lines(*rows))
  scores, text = scored(path, "qvhighlights", RATED)
  assert scores.rows["predictions"]["highlights/VeryGood/mAP"] == 50
  assert scores.rows["all clips equal"]["highlights/VeryGood/mAP"] < 20
  assert "2 lists of saliency scores have another number of clips" in text
  _, text = scored(path, "qvhighlights", MOMENTS)
  assert "pred_saliency_scores are not scored: no clip of the truth is rated" in text
  _, text = scored(path, "qvhighlights", [RATED[0], MOMENTS[1]])
  assert "1 queries without ratings are left out of highlights" in text


def test_the_command_scores_a_file_by_published_annotations(tmp_path, write, capsys):
  folder = tmp_path / "qa"
  folder.mkdir()
  rows = [dict(video_id=1, id=i, question="who is it", answer="man") for i in (7, 8)]
  (folder / "test_qa.json").write_text(json.dumps(rows))
  train = json.dumps([dict(video_id=2, id=9, question="who", answer="boy")])
  (folder / "train_qa.json").write_text(train)
  path = write([dict(question_id=8, answer="boy"), dict(question_id=7, answer="man")])
  request = evaluate.Request("msrvtt_qa", {}, predictions=path, annotations=str(folder))
  assert evaluate.evaluate(request)["accuracy"] == 50
  out = capsys.readouterr().out
  assert "msrvtt_qa: 2 questions, 1 clips" in out
  assert "NOT THE PROTOCOL'S DATA: 1 clips, not 2,990; 2 queries, not 72,821" in out
  written = json.loads((tmp_path / "p/evaluations/msrvtt_qa/results.json").read_text())
  assert written["rows"]["blind"]["accuracy"] == 0
  assert len(written["predictions"]["sha256"]) == 64
  assert written["protocol"]["outside"] == "wrong"


def test_the_command_scores_a_file_by_the_notes_of_prepared_data(tmp_path, write):
  """Notes are taken by the annotations' split, whatever the records' is."""
  names = ("video1", "video2", "video3")
  records = [clips.record(name, b"-") for name in names]
  data = clips.prepare(tmp_path, dict(train=records[:1], test=records[1:]))
  request = dict(predictions=write(dict(a="man", b="cow")), data=str(data))
  call = lambda **more: evaluate.evaluate(
    evaluate.Request("msrvtt_qa", {}, out=str(tmp_path), **request | more)
  )
  with pytest.raises(DataError, match=r"no notes of msrvtt_qa \(it has none\); add"):
    call()
  with pytest.raises(DataError, match="--data: msrvtt is no directory of prepared"):
    call(data="msrvtt")
  items = [
    base.Item("video1", "test", base.Media(""), (), notes=(ASKED[0],)),
    base.Item("video2", "test", base.Media(""), (), notes=(ASKED[1],)),
    base.Item("video3", "train", base.Media(""), (), notes=(ASKED[2],)),
  ]
  adding.add(data, items, dict(format="msrvtt_qa"), 0.0)
  results = call()
  assert (results["accuracy"], results["blind/accuracy"]) == (50, 0)
  other = evaluate.Request("msrvtt_qa", dict(split="validation"), **request)
  with pytest.raises(DataError, match="split 'validation' has no question of msrvtt"):
    evaluate.evaluate(other)


def published(protocol, file, place, tmp_path, **more):
  out = dict(out=str(tmp_path), annotations=str(downstream(place)))
  path = str(downstream(file))
  return evaluate.evaluate(
    evaluate.Request(protocol, {}, predictions=path, **out, **more)
  )


def test_the_command_gives_the_figures_of_qvhighlights(tmp_path, capsys):
  file = "qvhighlights/sample_val_preds.jsonl"
  results = published("qvhighlights", file, "qvhighlights", tmp_path)
  assert round(results["mAP"], 2) == 32.20
  assert round(results["short/mAP"], 2) == 3.28
  assert round(results["highlights/VeryGood/Hit@1"], 2) == 55.55
  assert "NOT THE PROTOCOL'S DATA" not in capsys.readouterr().out


@pytest.mark.nightly
def test_the_command_gives_the_figures_of_hqga(tmp_path, capsys):
  name = "HQGA-bert-8c10b-2L05GCN-FCV-AC-VM-test.json"
  place = "hqga_videoqa/dataset/msvd"
  results = published(
    *("msvd_qa", f"hqga_videoqa/results/msvd/{name}", place, tmp_path),
    answers=str(downstream(place, "ans_word.json")),
  )
  found = [results[key] for key in ("accuracy", "blind/accuracy", "ceiling/accuracy")]
  assert [round(x, 2) for x in found] == [41.15, 18.86, 94.08]
  assert "NOT THE PROTOCOL'S DATA" not in capsys.readouterr().out


@pytest.mark.parametrize(
  ("name", "given", "says"),
  [
    ("msvd_qa", {}, "--data, --annotations: give exactly one with --predictions"),
    ("msvd", {}, "--predictions: is not how task 'retrieval' of protocol msvd is"),
    ("msvd_qa", dict(checkpoint="x"), "--predictions: give exactly one"),
    ("msvd_qa", dict(batch_size=3), "--batch_size: 3 is not for --predictions"),
    (
      "msvd_qa",
      dict(changes=dict(ties="average")),
      "ties: means nothing to task 'answe",
    ),
    (
      "qvhighlights",
      dict(changes=dict(outside="wrong")),
      "outside: means nothing to ta",
    ),
    ("qvhighlights", dict(changes=dict(thresholds=())), "thresholds: (); give IoUs"),
    ("qvhighlights", dict(changes=dict(nms=2.0)), "nms: 2.0 is not an IoU"),
    ("tgif_count", dict(changes=dict(counts=(3, 1))), "counts: (3, 1); give the least"),
    ("tacos", dict(changes=dict(constant=(0.5, 0.2))), "constant: (0.5, 0.2) is not a"),
  ],
)
def test_unfit_requests_are_rejected(write, name, given, says):
  given = dict(given)
  changes = given.pop("changes", {})
  call = lambda path: evaluate.evaluate(
    evaluate.Request(name, changes, predictions=path, **given)
  )
  path = write(["x"])
  with pytest.raises(ConfigError) as caught:
    call(path)
  assert says in str(caught.value)


def test_predictions_are_needed_for_questions():
  request = evaluate.Request("msvd_qa", {}, embeddings="x")
  with pytest.raises(
    ConfigError, match=r"task 'answers' .*; give --checkpoint or --pred"
  ):
    evaluate.evaluate(request)
  with pytest.raises(ConfigError, match="--answers: x is not for --embeddings; omit"):
    evaluate.Request("msvd", {}, embeddings="x", answers="x")
