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
