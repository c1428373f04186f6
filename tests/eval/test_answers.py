"""Metrics of answers: by hand, and the published figures."""

import collections
import csv
import json

import numpy as np
import pytest
from shared import downstream

from vtr_jax.eval import answers


def test_the_most_frequent_answers_keep_the_order_of_equal_ones():
  words = ["b", "a", "c", "a", "d"]
  assert answers.frequent(words) == ["a", "b", "c", "d"]
  assert answers.frequent(words, 2) == ["a", "b"]


def test_a_blind_guess_is_the_usual_answer_after_the_first_word():
  asked = ["Who sits?", "who runs", "who is it", "what is it"]
  usual = ["man", "man", "woman", "cat"]
  guess = answers.guesses(asked, usual, ["WHO is it", "what now", "where is it"])
  assert guess == ["man", "cat", "man"]


def test_accuracy_by_group():
  hits = answers.right(["man", "cat", None, "dog"], ["man", "dog", "man", "dog"])
  assert hits.tolist() == [True, False, False, True]
  assert answers.accuracy(hits, ["who", "what", "who", ""]) == {
    "accuracy": 50,
    "accuracy/what": 0,
    "accuracy/who": 50,
  }


def test_counts_are_rounded_halves_up_and_cut():
  values = np.array([-0.7, 0.49, 0.5, 2.5, 11.2])
  assert answers.counted(values, (0, 10)).tolist() == [0, 0, 1, 3, 10]
  assert answers.counted(values, (1, 10)).tolist() == [1, 1, 1, 3, 10]
  assert answers.squared_error(np.array([2.0, 2]), np.array([0.0, 5])) == 6.5


def table(*names):
  with open(downstream("hqga_videoqa", "dataset", *names), newline="") as f:
    return list(csv.DictReader(f))


@pytest.fixture(scope="module")
def msvd():
  return {split: table("msvd", f"{split}.csv") for split in ("train", "val", "test")}


def column(rows, name):
  return [row[name] for row in rows]


def test_the_published_accuracy_of_hqga_to_the_last_digit(msvd):
  folder = downstream("hqga_videoqa")
  name = "HQGA-bert-8c10b-2L05GCN-FCV-AC-VM-test.json"
  found = json.loads((folder / "results" / "msvd" / name).read_text())
  words = json.loads((folder / "dataset" / "msvd" / "ans_word.json").read_text())
  test = msvd["test"]
  numbers = [found[row["qid"]]["prediction"] for row in test]
  predicted = [words[n - 1] if n else None for n in numbers]
  truth = column(test, "answer")
  hits = answers.right(predicted, truth)
  types = [answers.first_word(row["question"]) for row in test]
  results = {k: round(v, 2) for k, v in answers.accuracy(hits, types).items()}
  assert results == {
    "accuracy": 41.15,
    "accuracy/what": 30.40,
    "accuracy/who": 57.16,
    "accuracy/how": 76.22,
    "accuracy/when": 75.86,
    "accuracy/where": 32.14,
  }
  assert round(100 * hits.mean(), 3) == 41.149
  dropped = answers.inside(truth, words)
  assert round(100 * hits[dropped].mean(), 3) == 43.739
  usual = answers.frequent(column(msvd["train"], "answer"), 1000)
  assert round(100 * hits[answers.inside(truth, usual)].mean(), 2) == 45.18


def test_the_counts_and_ceilings_of_msvd_qa(msvd):
  train = column(msvd["train"], "answer")
  kept = lambda split, k: int(
    answers.inside(column(msvd[split], "answer"), answers.frequent(train, k)).sum()
  )
  assert (kept("test", 1000), kept("val", 1000)) == (11_983, 5749)
  share = lambda k: round(100 * kept("test", k) / 13_157, 2)
  assert (share(1000), share(1500), share(0)) == (91.08, 93.07, 94.08)
  assert len(answers.frequent(train)) == 1852
  every = [answer for rows in msvd.values() for answer in column(rows, "answer")]
  assert len(set(every)) == 2423
  pairs = collections.Counter((r["video"], r["question"]) for r in msvd["test"])
  assert sum(n - 1 for n in pairs.values()) == 520


def test_the_blind_rows_of_msvd_qa(msvd):
  train, test = msvd["train"], msvd["test"]
  asked, truth = column(test, "question"), column(test, "answer")
  guess = answers.guesses(column(train, "question"), column(train, "answer"), asked)
  share = lambda own: round(100 * answers.right(own, truth).mean(), 2)
  assert (share(guess), share(["man"] * len(truth))) == (18.86, 14.08)


def test_the_trivial_baselines_of_tgif_qa():
  truth = column(table("tgifqa", "frameqa", "test.csv"), "answer")
  assert len(truth) == 13_691
  assert round(100 * answers.right(["two"] * len(truth), truth).mean(), 2) == 17.49


def test_the_trivial_baseline_of_tgif_count():
  path = downstream("tgif_qa", "Test_count_question.csv")
  with open(path, newline="") as f:
    rows = list(csv.DictReader(f, delimiter="\t"))
  truth = np.array([float(row["answer"]) for row in rows])
  assert len(truth) == 3554
  error = answers.squared_error(np.full(len(truth), 2.0), truth)
  assert round(error, 3) == 7.783
