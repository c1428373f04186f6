"""Scores, indices and options that metrics, ranks and rescoring must reject."""

import numpy as np
import pytest
from runtime_types import unchecked

from vtr_jax.core.errors import ConfigError, DataError
from vtr_jax.eval import metrics, ranks, rescore


def retrieval(sim, owner):
  return lambda: metrics.retrieval_metrics(np.array(sim), np.array(owner))


def recognition(sim, label):
  return lambda: metrics.recognition(np.array(sim), np.array(label, int))


def tiled(text, video, owner, ties="average"):
  return lambda: ranks.ranks(
    np.array(text, float), np.array(video, float), np.array(owner, int), ties
  )


def rerank(candidates, scores):
  arrays = np.array(candidates), np.array(scores)
  return lambda: rescore.rerank(np.zeros((1, 3)), *arrays)


ONES = np.ones((2, 3))


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (retrieval(np.zeros((0, 3)), np.zeros(0, int)), "no pairs"),
    (retrieval(np.zeros((3, 0)), np.zeros(3, int)), "no pairs"),
    (retrieval(np.zeros(3), np.zeros(3, int)), "no pairs"),
    (retrieval(np.zeros((3, 2)), [0, 1]), "does not fit"),
    (retrieval(np.zeros((2, 2)), [0, 2]), "text 1 points to video 2"),
    (retrieval(np.zeros((2, 2)), [-1, 0]), "text 0 points to video -1"),
    (retrieval(np.zeros((2, 2)), [0.0, 1.0]), "give integers"),
    (lambda: metrics.summarize(np.zeros(0)), "empty"),
    (recognition(np.eye(3), [0, 1]), "label: does not fit"),
    (recognition(np.eye(3), [0, 1, 3]), "label: does not fit"),
    (recognition(np.eye(3), [0, 1, -1]), "label: does not fit"),
    (recognition(np.zeros((3, 0)), []), "no pairs"),
    (recognition(np.full((2, 2), np.nan), [0, 1]), "not finite"),
    (tiled(ONES, np.ones((2, 4)), [0, 1]), "cannot be compared"),
    (tiled(np.ones((0, 3)), ONES, []), "cannot be compared"),
    (tiled(ONES, ONES, [0]), "does not fit"),
    (tiled(ONES, ONES, [0, 2]), "text 1 points to video 2"),
    (tiled([[1.0], [np.nan]], np.ones((2, 1)), [0, 1]), "text 1 is not finite"),
    (tiled(np.ones((2, 1)), [[np.inf], [1.0]], [0, 1]), "video 0 is not finite"),
    (rerank([[0, 1]], [[1.0]]), "does not fit"),
    (rerank([0], [1.0]), "does not fit"),
    (rerank([[0, 3]], [[1.0, 2.0]]), "text 0 points to video 3"),
    (rerank([[1, 1]], [[1.0, 2.0]]), "text 0 lists a video twice"),
    (rerank([[0, 1]], [[1.0, np.nan]]), "text 0, candidate 1"),
    (
      lambda: rescore.querybank(np.zeros((2, 3)), np.zeros((5, 4)), 0.05),
      "does not fit sim",
    ),
  ],
)
def test_unfit_arrays_are_rejected(call, message):
  with unchecked(), pytest.raises(DataError, match=message):
    call()


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (
      lambda: metrics.text_to_video_ranks(np.eye(2), np.arange(2), "pesimistic"),  # pyright: ignore
      "did you mean 'pessimistic'",
    ),
    (tiled(np.eye(2), np.eye(2), [0, 1], "random"), "known: average"),
    (lambda: rescore.dual_softmax(np.eye(2), 0.0), "temperature"),
    (lambda: rescore.querybank(np.eye(2), np.eye(2), 0.0), "temperature"),
  ],
)
def test_invalid_options_are_rejected(call, message):
  with unchecked(), pytest.raises(ConfigError, match=message):
    call()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
  ("index", "named"),
  [
    ((2, slice(None)), r"text 2 \(all"),
    ((slice(None), 1), r"video 1 \(all"),
    ((2, 1), "text 2, video 1;"),
  ],
)
@pytest.mark.parametrize(
  "call",
  [
    lambda sim: metrics.text_to_video_ranks(sim, np.array([0, 1, 2, 0])),
    lambda sim: metrics.video_to_text_ranks(sim, np.array([0, 1, 2, 0])),
    lambda sim: rescore.dual_softmax(sim, 0.1),
    lambda sim: rescore.querybank(np.zeros((2, 3)), sim, 0.1),
  ],
  ids=["t2v", "v2t", "dual_softmax", "querybank"],
)
def test_scores_that_are_not_finite_are_named(call, index, named, value, monkeypatch):
  monkeypatch.setattr(metrics, "_CHUNK", 4)
  sim = np.zeros((4, 3))
  sim[index] = value
  with pytest.raises(DataError, match=named):
    call(sim)
