import time
import tracemalloc

import numpy as np
import pytest
from golden_cases import golden
from runtime_types import unchecked

from vtr_jax.core.errors import ConfigError, DataError
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
def test_frozen_golden(case):
  sim, owner, theirs = golden_case(case)
  ranks = dict(
    t2v=metrics.text_to_video_ranks(sim, owner, "optimistic"),
    v2t=metrics.video_to_text_ranks(sim, owner),
  )
  for way, values in ranks.items():
    ours = metrics.summarize(values)
    expected = {name.replace("@", ""): value for name, value in ours.items()}
    assert expected == pytest.approx({k: theirs[way][k] for k in expected}, abs=1e-9)


def slow_rank(scores, best, ties):
  """Mean, first or last place of `best` in the descending list of `scores`, from 1."""
  places = [i + 1 for i, s in enumerate(sorted(scores, reverse=True)) if s == best]
  return dict(average=np.mean, optimistic=min, pessimistic=max)[ties](places)


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


def test_names_and_percent():
  sim = np.eye(4)
  sim[0] = [0.1, 0.9, 0.8, 0.7]  # text 0 finds its video last
  out = metrics.retrieval_metrics(sim, np.arange(4))
  names = ["R@1", "R@5", "R@10", "MedR", "MeanR"]
  assert list(out) == [f"{way}/{n}" for way in ("t2v", "v2t") for n in names]
  assert out["t2v/R@1"] == 75
  assert out["t2v/R@5"] == 100
  assert out["t2v/MedR"] == 1
  assert out["t2v/MeanR"] == 1.75
  assert all(type(v) is float for v in out.values())


def test_collapsed_model_scores_as_chance():
  sim, owner = np.full((100, 100), 0.3, np.float32), np.arange(100)
  out = metrics.retrieval_metrics(sim, owner)
  for way in ("t2v", "v2t"):
    assert out[f"{way}/MedR"] == out[f"{way}/MeanR"] == 50.5
    assert out[f"{way}/R@1"] == out[f"{way}/R@10"] == 0
  assert metrics.retrieval_metrics(sim, owner, "optimistic")["t2v/R@1"] == 100
  assert metrics.retrieval_metrics(sim, owner, "pessimistic")["t2v/MedR"] == 100


def test_duplicate_videos_share_their_place():
  sim = np.array([[0.9, 0.9, 0.1], [0.9, 0.9, 0.1], [0.2, 0.2, 0.8]])
  ranks = metrics.text_to_video_ranks(sim, np.arange(3))
  np.testing.assert_array_equal(ranks, [1.5, 1.5, 1])
  assert metrics.summarize(ranks)["R@1"] == pytest.approx(100 / 3)
  last = metrics.text_to_video_ranks(sim, np.arange(3), "pessimistic")
  np.testing.assert_array_equal(last, [2, 2, 1])


def test_one_item():
  out = metrics.retrieval_metrics(np.array([[-0.2]]), np.array([0]))
  assert set(out.values()) == {100.0, 1.0}


def test_extreme_finite_scores_keep_their_order():
  sim = np.array([[3e38, -3e38], [-3e38, 3e38]], np.float32)
  assert metrics.retrieval_metrics(sim, np.arange(2))["t2v/R@1"] == 100


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
  ("index", "named"),
  [
    ((2, slice(None)), r"text 2 \(all"),
    ((slice(None), 1), r"video 1 \(all"),
    ((2, 1), "text 2, video 1;"),
  ],
)
def test_not_finite_is_named(value, index, named, monkeypatch):
  monkeypatch.setattr(metrics, "_CHUNK", 4)
  sim = np.zeros((4, 3))
  sim[index] = value
  for call in (metrics.text_to_video_ranks, metrics.video_to_text_ranks):
    with pytest.raises(DataError, match=named):
      call(sim, np.array([0, 1, 2, 0]))


@pytest.mark.parametrize(
  ("sim", "owner", "message"),
  [
    (np.zeros((0, 3)), np.zeros(0, int), "no pairs"),
    (np.zeros((3, 0)), np.zeros(3, int), "no pairs"),
    (np.zeros(3), np.zeros(3, int), "no pairs"),
    (np.zeros((3, 2)), np.array([0, 1]), "does not fit"),
    (np.zeros((2, 2)), np.array([0, 2]), "text 1 points to video 2"),
    (np.zeros((2, 2)), np.array([-1, 0]), "text 0 points to video -1"),
    (np.zeros((2, 2)), np.array([0.0, 1.0]), "give integers"),
  ],
)
def test_unfit_input_is_refused(sim, owner, message):
  with unchecked(), pytest.raises(DataError, match=message):
    metrics.retrieval_metrics(sim, owner)


def test_unknown_ties_and_no_ranks_are_refused():
  with unchecked(), pytest.raises(ConfigError, match="did you mean 'pessimistic'"):
    metrics.text_to_video_ranks(np.eye(2), np.arange(2), "pesimistic")  # pyright: ignore
  with pytest.raises(DataError, match="empty"):
    metrics.summarize(np.zeros(0))


# Three classes (rows) and five videos; the right class of each is marked.
RECOGNITION = np.array(
  [
    [0.9, 0.5, 0.2, 0.3, 0.1],  # of videos 0 and 1
    [0.1, 0.5, 0.8, 0.3, 0.7],  # of video 2
    [0.0, 0.5, 0.3, 0.3, 0.2],  # of videos 3 and 4
  ],
  np.float32,
)


def test_recognition_by_hand():
  numbers, confusion = metrics.recognition(RECOGNITION, np.array([0, 0, 1, 2, 2]))
  third = 1 / 3
  np.testing.assert_allclose(
    confusion, [[1 + third, third, third], [0, 1, 0], [third, 1 + third, third]]
  )
  assert numbers == pytest.approx(
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
  numbers, confusion = metrics.recognition(sim, label)
  chance, five = 100 / classes, min(100, 500 / classes)
  assert numbers == pytest.approx(dict(top1=chance, top5=five, mean_class_top1=chance))
  np.testing.assert_allclose(confusion.sum(axis=1), np.arange(1, classes + 1))


def test_top5_counts_five_places_and_shares_the_last():
  sim = np.array(
    [[9, 8, 7, 6, 5, 4, 3], [9, 8, 7, 6, 4, 4, 3], [9, 8, 7, 6, 5, 4, 3]]
  ).T
  label = np.array([4, 5, 5])  # fifth of seven; one of two fifths; sixth
  numbers, _ = metrics.recognition(sim, label)
  assert numbers["top5"] == pytest.approx(100 * (1 + 0.5 + 0) / 3)
  assert numbers["top1"] == 0


def test_mean_class_leaves_out_classes_without_a_video():
  numbers, _ = metrics.recognition(np.eye(3)[:, [0, 0, 0, 1]], np.array([0, 0, 0, 2]))
  assert numbers["top1"] == 75
  assert numbers["mean_class_top1"] == 50


@pytest.mark.parametrize(
  ("sim", "label", "message"),
  [
    (np.eye(3), [0, 1], "label: does not fit"),
    (np.eye(3), [0, 1, 3], "label: does not fit"),
    (np.eye(3), [0, 1, -1], "label: does not fit"),
    (np.zeros((3, 0)), [], "no pairs"),
    (np.full((2, 2), np.nan), [0, 1], "not finite"),
  ],
)
def test_recognition_refuses(sim, label, message):
  with unchecked(), pytest.raises(DataError, match=message):
    metrics.recognition(sim, np.array(label, int))


def test_large_matrix_is_quick_and_lean():
  sim = np.random.default_rng(0).random((3000, 3000), np.float32)
  tracemalloc.start()
  start = time.process_time()
  metrics.retrieval_metrics(sim, np.arange(3000))
  seconds, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert seconds < 5  # about 0.1 s; sorting in Python would take minutes
  assert peak < sim.nbytes / 2
