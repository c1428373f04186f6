"""Extra rows: dual softmax, querybank normalisation, re-ranking."""

import numpy as np
import pytest
from runtime_types import unchecked

from vtr_jax.core.errors import ConfigError, DataError
from vtr_jax.eval import metrics, rescore


def test_dual_softmax_is_the_formula():
  sim = np.random.default_rng(0).normal(size=(7, 5))
  weight = np.exp(sim / 0.5)
  expected = sim * weight / weight.sum(axis=0, keepdims=True)
  np.testing.assert_allclose(rescore.dual_softmax(sim, 0.5), expected, rtol=1e-12)


def test_dual_softmax_demotes_a_video_that_fits_every_text():
  sim = np.array([[0.8, 0.9, 0.1], [0.2, 0.95, 0.1], [0.1, 0.9, 0.7]])
  owner = np.arange(3)
  before = metrics.retrieval_metrics(sim, owner)["t2v/R@1"]
  after = metrics.retrieval_metrics(rescore.dual_softmax(sim, 0.05), owner)["t2v/R@1"]
  assert before == pytest.approx(100 / 3)
  assert after == 100


def test_dual_softmax_stays_finite_and_distinct():
  cosines = np.linspace(-1, 1, 50, dtype=np.float32)[:, None]
  out = rescore.dual_softmax(np.concatenate([cosines, -cosines], axis=1), 0.01)
  assert np.isfinite(out).all()
  assert (np.diff(out[cosines[:, 0] > 0, 0]) > 0).all()  # nothing underflowed to a tie
  with pytest.raises(ConfigError, match="temperature"):
    rescore.dual_softmax(np.eye(2), 0.0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("seed", range(10))
def test_rerank_matches_brute_force(seed, dtype):
  rng = np.random.default_rng(seed)
  texts, videos = 6, 12
  k = int(rng.integers(1, videos + 1))
  sim = (rng.integers(-3, 4, (texts, videos)) * 10.0 ** (seed % 4)).astype(dtype)
  candidates = rng.permuted(np.tile(np.arange(videos), (texts, 1)), axis=1)[:, :k]
  scores = rng.integers(-2, 3, (texts, k)) * 1e-6
  result = rescore.rerank(sim, candidates, scores)
  for i in range(texts):
    matching = dict(zip(candidates[i].tolist(), scores[i], strict=True))
    # What the new row must sort by: candidates first, then score, or the old score.
    keys = [(j in matching, matching.get(j, sim[i, j])) for j in range(videos)]
    for a in range(videos):
      for b in range(videos):
        assert (result[i, a] < result[i, b]) == (keys[a] < keys[b])
        assert (result[i, a] == result[i, b]) == (keys[a] == keys[b])


def test_rerank_changes_the_rank():
  sim = np.array([[0.9, 0.8, 0.1]], np.float32)
  new = rescore.rerank(sim, np.array([[0, 1]]), np.array([[-5.0, -4.0]]))
  assert metrics.text_to_video_ranks(new, np.array([1])) == [1]
  assert metrics.text_to_video_ranks(new, np.array([0])) == [2]
  assert metrics.text_to_video_ranks(new, np.array([2])) == [3]
  none = rescore.rerank(sim, np.zeros((1, 0), int), np.zeros((1, 0)))
  np.testing.assert_array_equal(none, sim)


@pytest.mark.parametrize(
  ("candidates", "scores", "message"),
  [
    ([[0, 1]], [[1.0]], "does not fit"),
    ([0], [1.0], "does not fit"),
    ([[0, 3]], [[1.0, 2.0]], "text 0 points to video 3"),
    ([[1, 1]], [[1.0, 2.0]], "text 0 lists a video twice"),
    ([[0, 1]], [[1.0, np.nan]], "text 0, candidate 1"),
  ],
)
def test_rerank_refuses(candidates, scores, message):
  with unchecked(), pytest.raises(DataError, match=message):
    rescore.rerank(np.zeros((1, 3)), np.array(candidates), np.array(scores))


def slow_querybank(sim, bank, beta):
  """Dynamic inverted softmax, one score at a time, as the paper writes it."""
  active = {int(np.argmax(row)) for row in bank}
  out = sim.astype(np.float64)
  for i, row in enumerate(sim):
    if int(np.argmax(row)) in active:
      for j in range(len(row)):
        out[i, j] = np.exp(beta * row[j]) / sum(np.exp(beta * b[j]) for b in bank)
  return out


@pytest.mark.parametrize("seed", range(10))
def test_querybank_ranks_as_the_formula(seed):
  rng = np.random.default_rng(seed)
  sim, bank = rng.uniform(-1, 1, (30, 12)), rng.uniform(-1, 1, (6, 12))
  ours, slow = rescore.querybank(sim, bank, 0.05), slow_querybank(sim, bank, 20)
  np.testing.assert_array_equal(np.argsort(ours, axis=1), np.argsort(slow, axis=1))
  active = set(bank.argmax(axis=1))
  kept = [i for i in range(30) if sim[i].argmax() not in active]
  assert 0 < len(kept) < 30  # both kinds of rows are seen
  np.testing.assert_array_equal(ours[kept], sim[kept])


def test_querybank_demotes_a_hub():
  # Video 1 is the best of every bank query, and of two test queries wrongly.
  sim = np.array([[0.80, 0.85, 0.1], [0.2, 0.95, 0.1], [0.1, 0.75, 0.7]], np.float32)
  bank = np.array([[0.3, 0.9, 0.2], [0.2, 0.9, 0.3]], np.float32)
  owner = np.arange(3)
  assert metrics.retrieval_metrics(sim, owner)["t2v/R@1"] == pytest.approx(100 / 3)
  new = rescore.querybank(sim, bank, 0.05)
  np.testing.assert_array_equal(metrics.text_to_video_ranks(new, owner), [1, 1, 1])


def test_querybank_survives_extreme_scores():
  sim = np.array([[1e4, 2e4], [2e4, 1e4]], np.float32)
  assert np.isfinite(rescore.querybank(sim, sim, 0.01)).all()


def test_querybank_refuses():
  with unchecked(), pytest.raises(DataError, match="does not fit sim"):
    rescore.querybank(np.zeros((2, 3)), np.zeros((5, 4)), 0.05)
  with unchecked(), pytest.raises(ConfigError, match="temperature"):
    rescore.querybank(np.zeros((2, 3)), np.zeros((5, 3)), 0.0)


def test_scores_that_are_not_finite_are_named():
  sim = np.zeros((4, 3))
  sim[2, 1] = np.nan
  with pytest.raises(DataError, match="text 2, video 1;"):
    rescore.dual_softmax(sim, 0.1)
  with pytest.raises(DataError, match="text 2, video 1;"):
    rescore.querybank(np.zeros((2, 3)), sim, 0.1)
