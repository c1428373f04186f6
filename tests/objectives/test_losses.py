"""Parts of losses against hand-computed values."""

import jax.numpy as jnp
import numpy as np

from vtr_jax.objectives import losses


def test_masked_mean_ignores_invalid_rows():
  values = jnp.array([[1.0, 2.0], [np.nan, 5.0], [3.0, 6.0]])
  rows = jnp.array([True, False, True])
  np.testing.assert_allclose(losses.masked_mean(values, rows), 3.0)
  assert losses.masked_mean(values, jnp.zeros(3, bool)) == 0


def test_cross_entropy_is_stable():
  logits = jnp.array([[1e4, 0.0, 0.0], [0.0, 0.0, 0.0]])
  got = losses.cross_entropy(logits, jnp.array([0, 2]))
  np.testing.assert_allclose(got, [0.0, np.log(3)], atol=1e-6)
