"""The nearest clips, compared with a sort of all scores."""

import numpy as np
import pytest

from vtr_jax.search import topk
from vtr_jax.search.topk import CHUNK


def sorted_all(rows, queries, k, allowed):
  scores = queries @ rows.astype(np.float32).T
  scores = np.where(allowed, scores, -np.inf)
  order = np.argsort(-scores, 1, kind="stable")[:, : min(k, np.count_nonzero(allowed))]
  return np.take_along_axis(scores, order, 1), order


@pytest.mark.parametrize("count", [1, 7, 2048, 2049, CHUNK, CHUNK + 1, 2 * CHUNK + 99])
@pytest.mark.parametrize("k", [1, 10, 700])
def test_the_top_k_equal_a_stable_sort(count, k):
  """With many ties, excluded rows, k above the number of rows, and chunk boundaries."""
  rng = np.random.default_rng(count)
  rows = rng.integers(-2, 3, (count, 6)).astype(np.float16)
  queries = rng.integers(-2, 3, (3, 6)).astype(np.float32)
  index = topk.Rows(rows)
  for allowed in (np.ones(count, bool), rng.random(count) < 0.6):
    scores, found = index.top(queries, k, allowed)
    right_scores, right = sorted_all(rows, queries, k, allowed)
    np.testing.assert_array_equal(found, right)
    np.testing.assert_array_equal(scores, right_scores)


def test_equal_rows_have_equal_scores_wherever_they_are():
  rng = np.random.default_rng(0)
  rows = rng.normal(size=(CHUNK + 5000, 33)).astype(np.float16)
  twins = [3, 2047, 2048, CHUNK - 1, CHUNK, CHUNK + 4999]
  rows[twins] = rows[3]
  for queries in (1, 3):
    query = np.repeat(rows[3:4].astype(np.float32), queries, 0)
    scores, found = topk.Rows(rows).top(query, len(twins))
    np.testing.assert_array_equal(found, [twins] * queries)
    assert (scores == scores[:, :1]).all()


def test_no_rows_give_no_hits():
  for rows in (np.zeros((0, 4), np.float16), np.ones((3, 4), np.float16)):
    scores, found = topk.Rows(rows).top(np.ones((2, 4)), 5, np.zeros(len(rows), bool))
    assert scores.shape == found.shape == (2, 0)


def test_the_top_k_of_several_indexes_equal_those_of_one():
  rng = np.random.default_rng(0)
  rows = rng.integers(-2, 3, (900, 6)).astype(np.float16)
  queries = rng.integers(-2, 3, (2, 6)).astype(np.float32)
  parts = [rows[:100], rows[100:100], rows[100:]]
  found = [topk.Rows(part).top(queries, 20) for part in parts]
  scores, numbers, places = topk.best(found, 20)
  right_scores, right = sorted_all(rows, queries, 20, np.ones(900, bool))
  np.testing.assert_array_equal(scores, right_scores)
  np.testing.assert_array_equal(np.array([0, 100, 100])[numbers] + places, right)


def test_a_mapped_file_is_not_copied(tmp_path):
  """Else ten million clips would not fit into memory."""
  path, shape = tmp_path / "vectors", (2 * CHUNK, 32)
  np.ones(shape, np.float16).tofile(path)
  mapped = np.memmap(path, np.float16, "r", 0, shape)
  places = [chunk.unsafe_buffer_pointer() for chunk in topk.Rows(mapped)._chunks]
  assert places == [mapped.ctypes.data, mapped.ctypes.data + mapped.nbytes // 2]
