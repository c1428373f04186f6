"""Parts of losses against hand-computed values."""

import jax.numpy as jnp
import numpy as np

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
