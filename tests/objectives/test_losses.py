"""Parts of losses against hand-computed values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtr_jax.objectives import losses


def test_a_masked_sum_ignores_invalid_rows_and_counts_the_others():
  values = jnp.array([[1.0, 2.0], [np.nan, 5.0], [3.0, 6.0]])
  term = losses.masked_sum(values, jnp.array([True, False, True]))
  assert (float(term.total), float(term.count), float(term.mean())) == (12, 4, 3)
  nothing = losses.masked_sum(values, jnp.zeros(3, bool))
  assert (float(nothing.count), float(nothing.mean())) == (0, 0)


def test_cross_entropy_is_stable():
  logits = jnp.array([[1e4, 0.0, 0.0], [0.0, 0.0, 0.0]])
  got = losses.cross_entropy(logits, jnp.array([0, 2]))
  np.testing.assert_allclose(got, [0.0, np.log(3)], atol=1e-6)


def test_the_gradient_of_cross_entropy_is_softmax_minus_the_label():
  """Also where a large logit leaves few digits of the sum's logarithm."""
  logits = jnp.array([[1e4, 1e4 - 1, 1e4 - 2], [0.5, -1.0, 2.0]])
  labels, weights = jnp.array([0, 2]), jnp.array([3.0, 0.25])
  loss = lambda x: (losses.cross_entropy(x, labels) * weights).sum()
  softmax = np.exp([[0, -1, -2], [0.5, -1, 2]])
  softmax /= softmax.sum(axis=1, keepdims=True)
  want = (softmax - np.eye(3)[labels]) * np.array([[3.0], [0.25]])
  np.testing.assert_allclose(jax.grad(loss)(logits), want, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_of_the_size_of_logits_only_they_are_kept_for_the_gradient(dtype):
  """And the gradient has their dtype."""
  logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 64)), dtype)
  ids = jnp.arange(10, dtype=jnp.int32).reshape(2, 5)
  nll, back = jax.vjp(lambda x: losses.cross_entropy(x, ids), logits)
  kept = [x.dtype for x in jax.tree.leaves(back) if x.size >= logits.size]
  assert (nll.dtype, kept) == (jnp.float32, [dtype])
  assert back(nll)[0].dtype == dtype


def test_values_at_masked_positions_come_first_and_in_order():
  masked = np.array([[0, 1, 0, 1, 0], [0, 0, 0, 0, 0], [1, 0, 0, 1, 1]], bool)
  values = np.arange(30.0, dtype=np.float32).reshape(3, 5, 2)
  first, is_masked = losses.at_masked(masked, 3, values, masked)
  np.testing.assert_array_equal(first[0, :2], values[0, [1, 3]])
  np.testing.assert_array_equal(first[2], values[2, [0, 3, 4]])
  np.testing.assert_array_equal(is_masked, [[1, 1, 0], [0, 0, 0], [1, 1, 1]])
  assert losses.at_masked(masked, 5, values)[0] is values  # nothing is gathered


def test_soft_cross_entropy_is_that_of_labels_for_one_hot_targets():
  logits = jnp.array([[1e4, 0.0, 0.0], [1.0, 2.0, -3.0]])
  labels = jnp.array([0, 2])
  one_hot = jnp.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
  got = losses.soft_cross_entropy(logits, one_hot)
  np.testing.assert_allclose(got, losses.cross_entropy(logits, labels), atol=1e-6)


def test_soft_cross_entropy_weighs_the_classes():
  logits = jnp.zeros((1, 4), jnp.bfloat16)
  got = losses.soft_cross_entropy(logits, jnp.array([[0.5, 0.25, 0.25, 0.0]]))
  np.testing.assert_allclose(got, [np.log(4)], rtol=1e-6)
  assert got.dtype == jnp.float32
