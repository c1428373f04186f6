"""Random batches of any objective."""

import numpy as np

from vtr_jax.core import batch


def fake(config, rows=0):
  """A random but valid training batch; keys of the objective's own rows are zeros."""
  rows, mask = rows or config.batch_size, config.make_objective().mask
  spec = config.make_objective().rows.spec(config.clip, config.text, mask, rows)
  given = batch.fake(config.clip, config.text, mask, rows)
  own = {k: np.zeros(s.shape, s.dtype) for k, s in spec.items() if k not in given}
  return {k: given[k] for k in spec if k in given} | own
