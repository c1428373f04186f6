"""Metrics of a similarity matrix: against Frozen's code, brute force and by hand."""

import time
import tracemalloc

import numpy as np
import pytest
from golden_cases import golden

from vtr_jax.eval import metrics

GOLDEN_CASES = ["square", "multi", "ties", "multi_missing"]


def golden_case(case):
  """sim [t v], owner [t] and the reference's results; missing captions are dropped."""
  arrays, info = golden("frozen_metrics")
  sim = arrays["sim/" + case.removesuffix("_missing")]
  owner = np.repeat(np.arange(sim.shape[1]), len(sim) // sim.shape[1])
  if f"mask/{case}" in arrays:
    present = arrays[f"mask/{case}"].reshape(-1) > 0
    sim, owner = sim[present], owner[present]
  return sim, owner, info["results"][case]


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_metrics_equal_those_of_frozen(case):
  sim, owner, reference = golden_case(case)
  ranks = dict(
    t2v=metrics.text_to_video_ranks(sim, owner, "optimistic"),
    v2t=metrics.video_to_text_ranks(sim, owner),
  )
  for way, values in ranks.items():
    summary = metrics.summarize(values)
    summary = {name.replace("@", ""): value for name, value in summary.items()}
    assert summary == pytest.approx({k: reference[way][k] for k in summary}, abs=1e-9)


def slow_rank(scores, best, ties):
  """Mean, first or last position of `best` in the sorted `scores`, from 1."""
  positions = [i + 1 for i, s in enumerate(sorted(scores, reverse=True)) if s == best]
  return dict(average=np.mean, optimistic=min, pessimistic=max)[ties](positions)


@pytest.mark.parametrize("ties", metrics.TIES)
@pytest.mark.parametrize("seed", range(40))
def test_ranks_match_brute_force(seed, ties, monkeypatch):
  rng = np.random.default_rng(seed)
  monkeypatch.setattr(metrics, "_CHUNK", int(rng.integers(1, 60)))
  texts, videos = rng.integers(1, 14, 2)
  dtype = [np.float32, np.float64, np.int64, np.float16][seed % 4]
  sim = rng.integers(-2, 3, (texts, videos)).astype(dtype)  # many ties
  owner = rng.integers(0, videos, texts)  # unequal, unsorted, some videos without
  t2v = [slow_rank(row, row[j], ties) for row, j in zip(sim, owner, strict=True)]
  v2t = [
    min(slow_rank(sim[:, j], best, ties) for best in sim[owner == j, j])
    for j in range(videos)
    if (owner == j).any()
  ]
  np.testing.assert_array_equal(metrics.text_to_video_ranks(sim, owner, ties), t2v)
  np.testing.assert_array_equal(metrics.video_to_text_ranks(sim, owner, ties), v2t)


COLLAPSED = np.full((100, 100), 0.3, np.float32)
LAST = np.eye(4)
LAST[0] = [0.1, 0.9, 0.8, 0.7]  # text 0 ranks its video last
DUPLICATES = np.array([[0.9, 0.9, 0.1], [0.9, 0.9, 0.1], [0.2, 0.2, 0.8]])
EXTREME = np.array([[3e38, -3e38], [-3e38, 3e38]], np.float32)


@pytest.mark.parametrize(
  ("sim", "ties", "expected"),
  [
    (LAST, "average", {"R@1": 75, "R@5": 100, "R@10": 100, "MedR": 1, "MeanR": 1.75}),
    (COLLAPSED, "average", {"R@1": 0, "R@10": 0, "MedR": 50.5, "MeanR": 50.5}),
    (COLLAPSED, "optimistic", {"R@1": 100, "MedR": 1}),
    (COLLAPSED, "pessimistic", {"R@1": 0, "MedR": 100}),
    (DUPLICATES, "average", {"R@1": 100 / 3, "MedR": 1.5, "MeanR": 4 / 3}),
    (DUPLICATES, "pessimistic", {"R@1": 100 / 3, "MedR": 2, "MeanR": 5 / 3}),
    (np.array([[-0.2]]), "average", {"R@1": 100, "R@10": 100, "MedR": 1, "MeanR": 1}),
    (EXTREME, "average", {"R@1": 100}),
  ],
  ids=lambda x: str(x.shape) if isinstance(x, np.ndarray) else None,
)
def test_retrieval_metrics_by_hand(sim, ties, expected):
  """A collapsed model is at chance, unless ties are optimistic."""
  results = metrics.retrieval_metrics(sim, np.arange(len(sim)), ties)
  names = ["R@1", "R@5", "R@10", "MedR", "MeanR"]
  assert list(results) == [f"{way}/{n}" for way in ("t2v", "v2t") for n in names]
  assert {n: results[f"t2v/{n}"] for n in expected} == pytest.approx(expected)
  assert all(type(v) is float for v in results.values())
  if sim is COLLAPSED and ties == "average":
    assert results["v2t/MedR"] == 50.5
    assert results["v2t/R@10"] == 0


# Three classes (rows) and five videos.
RECOGNITION = np.array(
  [
    [0.9, 0.5, 0.2, 0.3, 0.1],  # class of videos 0 and 1
    [0.1, 0.5, 0.8, 0.3, 0.7],  # class of video 2
    [0.0, 0.5, 0.3, 0.3, 0.2],  # class of videos 3 and 4
  ],
  np.float32,
)


def test_recognition_by_hand():
  results, confusion = metrics.recognition(RECOGNITION, np.array([0, 0, 1, 2, 2]))
  third = 1 / 3
  np.testing.assert_allclose(
    confusion, [[1 + third, third, third], [0, 1, 0], [third, 1 + third, third]]
  )
  assert results == pytest.approx(
    dict(
      top1=100 * (1 + third + 1 + third + 0) / 5,
      top5=100,
      mean_class_top1=100 * ((1 + third) / 2 + 1 + third / 2) / 3,
    )
  )


@pytest.mark.parametrize("classes", [2, 5, 18])
def test_recognition_by_a_collapsed_model_is_chance(classes):
  label = np.arange(classes).repeat(np.arange(1, classes + 1))
  sim = np.full((classes, len(label)), 0.3, np.float32)
  results, confusion = metrics.recognition(sim, label)
  chance, five = 100 / classes, min(100, 500 / classes)
  assert results == pytest.approx(dict(top1=chance, top5=five, mean_class_top1=chance))
  np.testing.assert_allclose(confusion.sum(axis=1), np.arange(1, classes + 1))


def test_top5_counts_ties_at_the_fifth_rank_fractionally():
  sim = np.array(
    [[9, 8, 7, 6, 5, 4, 3], [9, 8, 7, 6, 4, 4, 3], [9, 8, 7, 6, 5, 4, 3]]
  ).T
  label = np.array([4, 5, 5])  # fifth of seven; one of two fifths; sixth
  results, _ = metrics.recognition(sim, label)
  assert results["top5"] == pytest.approx(100 * (1 + 0.5 + 0) / 3)
  assert results["top1"] == 0


def test_mean_class_top1_excludes_classes_without_a_video():
  results, _ = metrics.recognition(np.eye(3)[:, [0, 0, 0, 1]], np.array([0, 0, 0, 2]))
  assert results["top1"] == 75
  assert results["mean_class_top1"] == 50


def test_a_large_matrix_takes_little_time_and_memory():
  sim = np.random.default_rng(0).random((3000, 3000), np.float32)
  tracemalloc.start()
  start = time.process_time()
  metrics.retrieval_metrics(sim, np.arange(3000))
  seconds, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert seconds < 5  # about 0.1 s; sorting in Python would take minutes
  assert peak < sim.nbytes / 2
