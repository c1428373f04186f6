"""Rescoring: scores that use more than the two embeddings of a pair.

`dual_softmax` uses all test queries, `querybank` training captions, `matching` and
`rerank` a matching head; their metrics are reported separately from those of plain
cosines.
`sim` is as in metrics.py: texts by videos, higher is better.
"""

import numpy as np
from jaxtyping import Float, Int, Shaped

from vtr_jax.core.errors import ConfigError, DataError, NotFiniteError
from vtr_jax.eval import metrics

# How results state the scores of `matching`.
MATCHING = "cosine + temperature * log P(match)"


def dual_softmax(
  sim: Shaped[np.ndarray, "t v"], temperature: float
) -> Float[np.ndarray, "t v"]:
  """Text-to-video scores weighted by each video's softmax over the texts.

  `sim * softmax(sim / temperature)` over the texts, the inference trick of CAMoE (arXiv
  2109.04290). It uses all test queries at once, so report it separately. For
  video-to-text, pass the transposed matrix.

  Args:
    sim: finite scores.
    temperature: positive, in units of `sim`; 0.01 suits cosines.

  Returns:
    float64 scores: in float32, low ones would underflow to ties.

  Raises:
    ConfigError: `temperature` is not positive.
    DataError: a score is not finite.
  """
  _positive(temperature)
  sim = metrics.matrix(sim)
  weight = sim.astype(np.float64)
  weight -= weight.max(axis=0)
  weight /= temperature
  np.exp(weight, out=weight)
  weight /= weight.sum(axis=0)
  weight *= sim
  return weight


def querybank(
  sim: Shaped[np.ndarray, "t v"],
  bank: Shaped[np.ndarray, "q v"],
  temperature: float,
) -> Float[np.ndarray, "t v"]:
  """Text-to-video scores corrected for hubness by a query bank (QB-Norm).

  The dynamic inverted softmax of Bogolin et al., CVPR 2022 (arXiv 2112.12777). The
  active set is the videos that are the top result of some bank query. A text whose top
  video is active is scored, for every video j, by exp(sim_j / T) / sum over the bank of
  exp(bank_j / T); other texts keep their scores. Scores are comparable within a row
  only.

  Args:
    sim: finite scores of the test texts.
    bank: finite scores of the bank's texts with the same videos. The bank must come
      from the training split, or test data leaks into the scores.
    temperature: positive; the paper's code has 1 / 20.

  Returns:
    float64 scores; logarithms of the above in rows that are rescored.

  Raises:
    ConfigError: `temperature` is not positive.
    DataError: shapes do not fit, or a score is not finite.
  """
  _positive(temperature)
  sim, bank = metrics.matrix(sim), metrics.matrix(bank)
  if sim.shape[1] != bank.shape[1]:
    raise DataError(
      f"bank: shape {bank.shape} does not fit sim {sim.shape}; score the bank's texts "
      "with the test videos"
    )
  active = np.zeros(sim.shape[1], np.bool_)
  active[bank.argmax(axis=1)] = True
  scaled = bank.astype(np.float64)
  scaled /= temperature
  top = scaled.max(axis=0)
  scaled -= top
  hubness = top + np.log(np.exp(scaled, out=scaled).sum(axis=0))
  result = sim.astype(np.float64)
  rescored = active[sim.argmax(axis=1)]
  result[rescored] = result[rescored] / temperature - hubness
  return result


def matching(
  cosines: Float[np.ndarray, "*n"], log_odds: Float[np.ndarray, "*n"], weight: float
) -> Float[np.ndarray, "*n"]:
  """Scores of pairs: cosine + weight * log P(match), by the matching head; ours.

  With the temperature of the contrast as weight, the order is that of the product of
  two probabilities: softmax(cosine / temperature), and P(match) = sigmoid(log-odds). A
  head that was trained on random false pairs refuses what is clearly wrong, but its
  log-odds tell little among similar clips. They hardly count here once they are
  positive, whereas ranking by them alone (ALBEF, arXiv 2107.07651) or by their sum with
  the cosine (BLIP, arXiv 2201.12086) gives up the order of the contrast.

  Args:
    cosines: of the pairs.
    log_odds: of the matching head.
    weight: not negative; 0 leaves the cosines.
  """
  return cosines - np.float32(weight) * np.logaddexp(0, -log_odds)


def rerank(
  sim: Shaped[np.ndarray, "t v"],
  candidates: Int[np.ndarray, "t k"],
  scores: Shaped[np.ndarray, "t k"],
) -> Float[np.ndarray, "t v"]:
  """Ranks each text's candidates first, by their matching scores.

  All other videos follow in their original order. Ties stay ties, and no new ones
  arise. Scores of the result are comparable within a row only, so use it for
  `text_to_video_ranks`; for the other direction, pass the transposed matrix.

  Args:
    sim: finite scores of the dual encoder.
    candidates: distinct videos for each text, such as its top k.
    scores: matching score of each candidate, higher is better; any scale.

  Raises:
    DataError: shapes or indices do not fit, a text lists a video twice, or a score is
      not finite.
  """
  sim = metrics.matrix(sim)
  candidates, scores = np.asarray(candidates), np.asarray(scores)
  if candidates.shape != scores.shape or candidates.shape[:-1] != sim.shape[:1]:
    raise DataError(
      f"candidates: shape {candidates.shape} does not fit scores {scores.shape} and "
      f"sim {sim.shape}; both must be [texts, k]"
    )
  if not candidates.size:
    return sim.astype(np.result_type(sim, np.float32))
  metrics.check_indices(candidates, sim.shape[1], "candidates")
  duplicate = np.any(np.diff(np.sort(candidates, axis=1), axis=1) == 0, axis=1)
  if duplicate.any():
    raise DataError(
      f"candidates: text {duplicate.argmax()} lists a video twice; give distinct videos"
    )
  if not np.isfinite(scores).all():
    i, j = np.argwhere(~np.isfinite(scores))[0]
    raise NotFiniteError(
      f"scores: {scores[i, j]} for text {i}, candidate {j}; the matching head or its "
      "input is not finite: the weights have diverged or did not load"
    )
  result = sim.astype(np.result_type(sim, np.float32))
  top = result.max(axis=1, keepdims=True)
  # Steps above the row's top score, each too large to be lost to rounding.
  lifted = top + _dense_ranks(scores) * (1 + np.abs(top))
  np.put_along_axis(result, candidates, lifted, axis=1)
  return result


def _positive(temperature: float) -> None:
  if not 0 < temperature < np.inf:
    raise ConfigError(f"temperature: {temperature} must be positive and finite")


def _dense_ranks(scores: np.ndarray) -> np.ndarray:
  """Ranks of each row's values, 1 for the lowest; equal values share a rank."""
  order = np.argsort(scores, axis=1)
  ascending = np.take_along_axis(scores, order, axis=1)
  rises = np.ones(scores.shape, np.bool_)
  rises[:, 1:] = ascending[:, 1:] > ascending[:, :-1]
  ranks = np.empty(scores.shape, np.int64)
  np.put_along_axis(ranks, order, np.cumsum(rises, axis=1), axis=1)
  return ranks
