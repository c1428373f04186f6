"""Other scores from the same embeddings: rows of their own beside the plain number.

Each uses more than the two embeddings of a pair: `dual_softmax` all queries of the
test, `querybank` captions of the training split, `rerank` a matching head.
`sim` is as in metrics.py: texts by videos, higher is better.
"""

import numpy as np
from jaxtyping import Float, Int, Shaped

from vtr_jax.core.errors import ConfigError, DataError, NotFiniteError
from vtr_jax.eval import metrics


def dual_softmax(
  sim: Shaped[np.ndarray, "t v"], temperature: float
) -> Float[np.ndarray, "t v"]:
  """Text-to-video scores weighed by how much each video prefers each text.

  `sim * softmax(sim / temperature)` over the texts, the inference trick of CAMoE (arXiv
  2109.04290). It needs all queries at once, so report it in a row of its own. For
  video-to-text, pass and return the transposed matrix.

  Args:
    sim: finite scores.
    temperature: positive, in units of `sim`; 0.01 suits cosines.

  Returns:
    float64, whose range keeps far-off texts from underflowing into ties.

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
  """Text-to-video scores with the pull of hubs taken out (QB-Norm).

  Bogolin et al., CVPR 2022 (arXiv 2112.12777), the dynamic inverted softmax: a video
  that is the best of some bank query is in the active set. A text whose best video is
  in the set gets, for every video j, exp(sim_j / T) / sum over the bank of
  exp(bank_j / T); other texts keep their scores. Values compare within a row only.

  Args:
    sim: finite scores of the test's texts.
    bank: finite scores of the bank's texts with the same videos. The bank must come
      from the training split: test queries in it would be told the answer.
    temperature: positive; the paper's code has 1 / 20.

  Returns:
    float64; logarithms in rows of the first kind, which keep their order.

  Raises:
    ConfigError: `temperature` is not positive.
    DataError: shapes do not fit, or a score is not finite.
  """
  _positive(temperature)
  sim, bank = metrics.matrix(sim), metrics.matrix(bank)
  if sim.shape[1] != bank.shape[1]:
    raise DataError(
      f"bank: shape {bank.shape} does not fit sim {sim.shape}; score the bank's texts "
      "with the videos of the test"
    )
  active = np.zeros(sim.shape[1], np.bool_)
  active[bank.argmax(axis=1)] = True
  scaled = bank.astype(np.float64)
  scaled /= temperature
  top = scaled.max(axis=0)
  scaled -= top
  pull = top + np.log(np.exp(scaled, out=scaled).sum(axis=0))
  result = sim.astype(np.float64)
  changed = active[sim.argmax(axis=1)]
  result[changed] = result[changed] / temperature - pull
  return result


def rerank(
  sim: Shaped[np.ndarray, "t v"],
  candidates: Int[np.ndarray, "t k"],
  scores: Shaped[np.ndarray, "t k"],
) -> Float[np.ndarray, "t v"]:
  """Puts each text's candidates first, in the order of their matching scores.

  All other videos stay behind them in their old order. Equal scores, and only those,
  stay equal. Values of the result compare within a row only, so use it for
  `text_to_video_ranks`; for the other direction, pass the transposed matrix.

  Args:
    sim: finite scores, from the two towers.
    candidates: distinct videos for each text, such as its top k.
    scores: matching score of each candidate, higher is better; any scale.

  Raises:
    DataError: shapes or indices do not fit, a video is twice among a text's
      candidates, or a score is not finite.
  """
  sim = metrics.matrix(sim)
  candidates, scores = np.asarray(candidates), np.asarray(scores)
  if candidates.shape != scores.shape or candidates.shape[:-1] != sim.shape[:1]:
    raise DataError(
      f"candidates: shape {candidates.shape} does not fit scores {scores.shape} and "
      f"sim {sim.shape}; give [texts, k] of both"
    )
  if not candidates.size:
    return sim.astype(np.result_type(sim, np.float32))
  metrics.check_indices(candidates, sim.shape[1], "candidates")
  twice = np.any(np.diff(np.sort(candidates, axis=1), axis=1) == 0, axis=1)
  if twice.any():
    raise DataError(
      f"candidates: text {twice.argmax()} lists a video twice; give distinct videos"
    )
  if not np.isfinite(scores).all():
    i, j = np.argwhere(~np.isfinite(scores))[0]
    raise NotFiniteError(
      f"scores: {scores[i, j]} for text {i}, candidate {j}; the matching head or its "
      "input is not finite: the weights have diverged or did not load"
    )
  result = sim.astype(np.result_type(sim, np.float32))
  top = result.max(axis=1, keepdims=True)
  # Steps above the row's best score, each too large to be rounded away.
  lifted = top + _places(scores) * (1 + np.abs(top))
  np.put_along_axis(result, candidates, lifted, axis=1)
  return result


def _positive(temperature: float) -> None:
  if not 0 < temperature < np.inf:
    raise ConfigError(f"temperature: {temperature} must be positive and finite")


def _places(scores: np.ndarray) -> np.ndarray:
  """Each row's values as 1, 2, 3 ... from the lowest; equal values share one number."""
  order = np.argsort(scores, axis=1)
  ascending = np.take_along_axis(scores, order, axis=1)
  rises = np.ones(scores.shape, np.bool_)
  rises[:, 1:] = ascending[:, 1:] > ascending[:, :-1]
  places = np.empty(scores.shape, np.int64)
  np.put_along_axis(places, order, np.cumsum(rises, axis=1), axis=1)
  return places
