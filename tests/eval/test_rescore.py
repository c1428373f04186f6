"""Rescoring: dual softmax, query bank normalisation and re-ranking."""

import numpy as np
import pytest

from vtr_jax.eval import metrics, rescore, scoring


def test_dual_softmax_is_the_formula():
  sim = np.random.default_rng(0).normal(size=(7, 5))
  weight = np.exp(sim / 0.5)
  expected = sim * weight / weight.sum(axis=0, keepdims=True)
  np.testing.assert_allclose(rescore.dual_softmax(sim, 0.5), expected, rtol=1e-12)


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
  scores, slow = rescore.querybank(sim, bank, 0.05), slow_querybank(sim, bank, 20)
  np.testing.assert_array_equal(np.argsort(scores, axis=1), np.argsort(slow, axis=1))
  active = set(bank.argmax(axis=1))
  kept = [i for i in range(30) if sim[i].argmax() not in active]
  assert 0 < len(kept) < 30  # both kinds of rows occur
  np.testing.assert_array_equal(scores[kept], sim[kept])


# Video 1 is a hub: the top result of every bank query, and of texts it does not fit.
HUB = np.array([[0.80, 0.85, 0.1], [0.2, 0.95, 0.1], [0.1, 0.75, 0.7]], np.float32)
BANK = np.array([[0.3, 0.9, 0.2], [0.2, 0.9, 0.3]], np.float32)


@pytest.mark.parametrize(
  "call",
  [
    lambda: rescore.dual_softmax(HUB, 0.05),
    lambda: rescore.querybank(HUB, BANK, 0.05),
  ],
  ids=["dual_softmax", "querybank"],
)
def test_rescoring_demotes_a_hub(call):
  owner = np.arange(3)
  plain = metrics.text_to_video_ranks(HUB, owner)
  np.testing.assert_array_equal(plain, [2, 1, 2])
  np.testing.assert_array_equal(metrics.text_to_video_ranks(call(), owner), [1, 1, 1])


def test_extreme_scores_neither_overflow_nor_underflow_to_ties():
  cosines = np.linspace(-1, 1, 50, dtype=np.float32)[:, None]
  scores = rescore.dual_softmax(np.concatenate([cosines, -cosines], axis=1), 0.01)
  assert np.isfinite(scores).all()
  assert (np.diff(scores[cosines[:, 0] > 0, 0]) > 0).all()
  sim = np.array([[1e4, 2e4], [2e4, 1e4]], np.float32)
  assert np.isfinite(rescore.querybank(sim, sim, 0.01)).all()


def test_matching_adds_the_logarithm_of_the_probability():
  """P(match) is 1/2, 3/4 and 1/4 for log-odds of 0, log 3 and -log 3."""
  cosines = np.array([0.5, 0.4, 0.6], np.float32)
  log_odds = np.log(np.array([1, 3, 1 / 3], np.float32))
  scores = rescore.matching(cosines, log_odds, 0.1)
  np.testing.assert_allclose(scores, [0.430685, 0.371232, 0.461371], atol=1e-6)
  np.testing.assert_array_equal(rescore.matching(cosines, log_odds, 0.0), cosines)


def test_matching_refuses_clips_but_does_not_reorder_those_that_it_accepts():
  """At a temperature of 0.05; by log-odds alone the first order is reversed."""
  cosines = np.array([0.62, 0.60, 0.58], np.float32)
  for log_odds, order in (
    ([1.5, 2.0, 2.5], [0, 1, 2]),
    ([-4.0, 2.0, 2.5], [1, 2, 0]),
    ([-1000.0, 1000.0, 999.0], [1, 2, 0]),  # neither overflows
  ):
    scores = rescore.matching(cosines, np.array(log_odds, np.float32), 0.05)
    assert np.isfinite(scores).all()
    np.testing.assert_array_equal(np.argsort(-scores), order)


def test_a_head_that_tells_nothing_leaves_the_order_of_the_cosines():
  cosines = np.random.default_rng(0).normal(size=100).astype(np.float32)
  scores = rescore.matching(cosines, np.full(100, -3.0, np.float32), 0.05)
  np.testing.assert_array_equal(np.argsort(scores), np.argsort(cosines))


def test_the_best_clips_of_each_text_are_matched_with_their_cosines():
  sim = np.array([[0.9, 0.8, 0.1], [0.2, 0.3, 0.4]], np.float32)
  asked = []

  def match(*pairs):
    asked.extend(np.asarray(x).tolist() for x in pairs)
    return np.array([1, 2, 4, 3], np.float32)

  texts, clips = np.array([4, 7]), np.array([10, 11, 12])
  scores = scoring.rerank(sim, texts, clips, 2, match)
  assert asked[:2] == [[4, 4, 7, 7], [10, 11, 12, 11]]
  np.testing.assert_allclose(asked[2], [0.9, 0.8, 0.4, 0.3], rtol=1e-6)
  np.testing.assert_array_equal(np.argsort(-scores), [[1, 0, 2], [2, 1, 0]])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("seed", range(10))
def test_rerank_matches_brute_force(seed, dtype):
  rng = np.random.default_rng(seed)
  texts, videos = 6, 12
  k = [0, 1, 2, 5, 11, 12][seed % 6]
  sim = (rng.integers(-3, 4, (texts, videos)) * 10.0 ** (seed % 4)).astype(dtype)
  candidates = rng.permuted(np.tile(np.arange(videos), (texts, 1)), axis=1)[:, :k]
  scores = rng.integers(-2, 3, (texts, k)) * 1e-6
  result = rescore.rerank(sim, candidates, scores)
  for i in range(texts):
    matching = dict(zip(candidates[i].tolist(), scores[i], strict=True))
    # The sort keys of the new row: candidates first, then the matching or old score.
    keys = [(j in matching, matching.get(j, sim[i, j])) for j in range(videos)]
    for a in range(videos):
      for b in range(videos):
        assert (result[i, a] < result[i, b]) == (keys[a] < keys[b])
        assert (result[i, a] == result[i, b]) == (keys[a] == keys[b])
