"""Metrics of moments and highlights: by hand, and the published figures."""

import json

import numpy as np
import pytest
from conftest import ROOT
from shared import downstream

from vtr_jax.eval import highlights, moments


def one(*windows):
  return moments.pad([windows])


def best(predicted, truth):
  return moments.best_iou(one(*predicted), one(*truth))


@pytest.mark.parametrize(
  ("a", "b", "expected"),
  [
    ((0, 10), (0, 10), 1),
    ((0, 10), (5, 15), 5 / 15),
    ((0, 10), (2, 4), 2 / 10),
    ((0, 10), (10, 20), 0),  # they touch
    ((0, 1), (5, 6), 0),
  ],
)
def test_iou_by_hand(a, b, expected):
  found = moments.iou(np.array([[a]], float), np.array([[b]], float))
  assert found.tolist() == [[[pytest.approx(expected)]]]


def test_queries_of_any_number_of_windows():
  windows = moments.pad([[], [(0, 1, 0.5)], [(0, 1, 0.1), (2, 4, 0.9)]])
  assert windows.valid.tolist() == [[False, False], [True, False], [True, True]]
  assert moments.by_score(windows).times[2].tolist() == [[2, 4], [0, 1]]
  truth = moments.pad([[(0, 1)], [(0, 1), (5, 6)], [(2, 4)]])
  found = moments.best_iou(windows, truth)
  assert found.tolist() == [[-1, -1], [1, -1], [0, 1]]
  assert moments.recall(found, 1, 0.5) == pytest.approx(100 / 3)
  assert moments.recall(found, 5, 0.5) == pytest.approx(200 / 3)
  assert moments.recall(found, 1, 0.0) == pytest.approx(200 / 3)  # a missing one misses
  assert moments.mean_iou(found) == pytest.approx(100 / 3)


def test_an_iou_at_the_threshold_counts_unless_strict():
  found = best([(0, 5)], [(0, 10)])
  assert moments.recall(found, 1, 0.5) == 100
  assert moments.recall(found, 1, 0.5, strict=True) == 0
  precision = lambda strict: moments.average_precision(
    one((0, 5)), one((0, 10)), (0.5, 0.7), strict
  )
  assert precision(False).tolist() == [[1, 0]]
  assert precision(True).tolist() == [[0, 0]]


def precision(predicted, truth):
  return moments.average_precision(one(*predicted), one(*truth), (0.5,))[0, 0]


def test_average_precision_by_hand():
  truth = [(0, 10), (20, 30)]
  hit, other, miss = (0, 10, 0.9), (20, 30, 0.5), (50, 60, 0.7)
  assert precision([hit, other], truth) == 1
  assert precision([hit], truth) == 0.5
  assert precision([hit, miss, other], truth) == pytest.approx((1 + 2 / 3) / 2)
  assert precision([other, miss, hit], truth) == pytest.approx((1 + 2 / 3) / 2)
  # Precision is made monotone: 0, 1/2, 2/3.
  first = [(50, 60, 1.0), hit, other]
  assert precision(first, truth) == pytest.approx(2 / 3)
  # A true window is taken once, by the higher score.
  assert precision([hit, (0, 9, 0.8), other], truth) == pytest.approx((1 + 2 / 3) / 2)
  # The eleventh listed window is not read.
  assert precision([miss] * 10 + [hit], truth) == 0


def test_equal_scores_keep_the_order_of_the_list():
  hit, miss = (0, 10, 0.5), (50, 60, 0.5)
  assert precision([hit, miss], [(0, 10)]) == 1
  assert precision([miss, hit], [(0, 10)]) == 0.5


def test_queries_do_not_depend_on_each_other():
  generator = np.random.default_rng(0)
  start = generator.uniform(0, 50, (40, 6))
  lists = np.stack(
    [start, start + generator.uniform(1, 40, (40, 6)), generator.random((40, 6))], -1
  )
  counts = generator.integers(1, 7, 40)
  predicted = [windows[:n].tolist() for windows, n in zip(lists, counts, strict=True)]
  truth = [[w[:2] for w in windows[: 1 + n // 2]] for windows, n in zip(
    lists[::-1].tolist(), counts, strict=True
  )]  # fmt: skip
  whole = moments.average_precision(moments.pad(predicted), moments.pad(truth))
  for i in range(40):
    own = moments.average_precision(one(*predicted[i]), one(*truth[i]))
    np.testing.assert_allclose(own[0], whole[i])


def test_suppression_leaves_out_later_windows_that_overlap():
  kept = moments.suppress(one((0, 10), (1, 10), (20, 30), (0, 9.5), (0, 4)), 0.5)
  times = kept.times[0][kept.valid[0]]
  assert times.tolist() == [[0, 10], [20, 30], [0, 4]]
  assert moments.suppress(one((0, 10), (5, 10)), 0.5).valid.all()  # exactly 0.5


def test_clamped_windows_end_with_their_video():
  truth = moments.pad([[(2, 8), (9, 12)], [(1, 9)], [(3, 8)]])
  cut, count = moments.clamped(truth, np.array([6.0, 0.0, 8.0]))
  assert count == 1
  assert cut.times[0].tolist() == [[2, 6], [9, 12]]
  assert cut.times[1:, 0].tolist() == [[1, 9], [3, 8]]


def test_lengths_are_above_the_low_and_at_most_the_high():
  truth = one((0, 10), (0, 30), (0, 31))
  assert moments.of_length(truth, 0, 10).valid.tolist() == [[True, False, False]]
  assert moments.of_length(truth, 10, 30).valid.tolist() == [[False, True, False]]


def test_the_best_constant_window_is_found():
  duration = np.array([10.0, 20.0, 40.0])
  truth = moments.pad([[(2, 6)], [(4, 12)], [(30, 40)]])
  assert moments.best_constant(truth, duration, 0.9) == (0.2, 0.6)


def test_highlights_by_hand():
  scores = highlights.ratings([(1, 4, 0), (3, 2, 3)], 9.0)
  assert scores.tolist() == [[0, 0], [4, 0], [0, 0], [2, 3]]
  precision = lambda marks, values: highlights.average_precision(
    np.array(marks, bool), np.array(values, float)
  )
  assert precision([0, 0], [1, 2]) == 0
  assert precision([1, 1], [1, 2]) == 1
  assert precision([1, 0, 1], [3, 2, 1]) == pytest.approx((1 + 2 / 3) / 2)
  # Clips of equal score are one step: 1 of 2, then 2 of 4.
  assert precision([1, 0, 1, 0], [2, 2, 1, 1]) == pytest.approx(0.5)
  assert precision([1, 0, 1, 0], [5, 5, 5, 5]) == pytest.approx(0.5)
  found = highlights.summarize([np.array([0, 9.0, 1, 2, 8])], [scores])
  assert found["Fair/Hit@1"] == found["VeryGood/Hit@1"] == 100
  assert found["Fair/mAP"] == pytest.approx(100 * (1 + 1 / 2) / 2)
  assert found["Good/mAP"] == pytest.approx(100 * (1 + 1 / 2) / 2)
  assert found["VeryGood/mAP"] == pytest.approx(100 * (1 + 0) / 2)
  # Too few scores are filled with zeros, which rank above negative ones.
  found = highlights.summarize([np.array([-1.0, -2])], [scores])
  assert found["Fair/Hit@1"] == 0
  assert highlights.fitted(np.array([-1.0, -2]), 4).tolist() == [-1, -2, 0, 0]
  beyond = highlights.summarize([np.array([0, 0, 0, 0, 7.0])], [scores])
  assert beyond["Fair/Hit@1"] == 0


def rows(*names):
  return [json.loads(line) for line in downstream(*names).read_text().splitlines()]


def test_the_published_figures_of_qvhighlights_to_the_last_digit():
  """84 of moments and 6 of highlights, of the sample of Moment-DETR."""
  truth = rows("qvhighlights", "highlight_val_release.jsonl")
  by_id = {row["qid"]: row for row in rows("qvhighlights", "sample_val_preds.jsonl")}
  want = json.loads((ROOT / "tests/golden/qvhighlights.json").read_text())
  assert len(truth) == len(by_id) == 1550
  found = [by_id[row["qid"]] for row in truth]
  predicted = moments.pad([row["pred_relevant_windows"] for row in found])
  true = moments.pad([row["relevant_windows"] for row in truth])
  ranges = dict(full=(0, 150), short=(0, 10), middle=(10, 30), long=(30, 150))
  counts, compared = {}, 0
  for name, limits in ranges.items():
    own = moments.of_length(true, *limits) if name != "full" else true
    some = own.valid.any(axis=1)
    counts[name] = int(some.sum())
    own, guess = moments.rows(own, some), moments.rows(predicted, some)
    ap = 100 * moments.average_precision(guess, own)
    fit = moments.best_iou(guess, own)
    figures = dict(average=ap.mean())
    for i, t in enumerate(moments.MAP_THRESHOLDS):
      figures[str(t)] = ap[:, i].mean()
      assert round(moments.recall(fit, 1, t), 2) == want[name]["MR-R1"][str(t)]
      compared += 1
    for key, value in figures.items():
      assert round(value, 2) == want[name]["MR-mAP"][key]
      compared += 1
  assert compared == 84
  assert counts == dict(full=1550, short=429, middle=957, long=574)
  rated = [
    highlights.ratings(
      [(i, *s) for i, s in zip(t["relevant_clip_ids"], t["saliency_scores"], strict=1)],
      t["duration"],
    )
    for t in truth
  ]
  scores = [np.array(row["pred_saliency_scores"]) for row in found]
  for key, value in highlights.summarize(scores, rated).items():
    level, name = key.split("/")
    name = dict(zip(("mAP", "Hit@1"), ("HL-mAP", "HL-Hit1"), strict=True))[name]
    assert round(value, 2) == want[f"HL-min-{level}"][name]


def test_the_blind_rows_of_charades_sta():
  lines = downstream("charades_sta", "charades_sta_test.txt").read_text().splitlines()
  published = [[list(map(float, x.split("##")[0].split()[1:]))] for x in lines]
  cut = rows("charades_sta", "charades_test_release.jsonl")
  duration = np.array([row["duration"] for row in cut], np.float64)
  truth = moments.pad(published)

  def blind(part, strict=False):
    fit = moments.best_iou(moments.constant(part, duration), truth)
    found = [moments.recall(fit, 1, t, strict) for t in (0.3, 0.5, 0.7)]
    return [round(x, 2) for x in (*found, moments.mean_iou(fit))]

  assert blind((0, 1)) == [34.30, 0.43, 0.00, 26.99]
  assert blind((0, 1), strict=True)[1] == 0.38
  assert blind((0, 0.3)) == [40.30, 30.65, 15.16, 28.07]
  clamped, count = moments.clamped(truth, duration)
  assert count == 562
  assert clamped.times[:, 0].tolist() == [row["relevant_windows"][0] for row in cut]
