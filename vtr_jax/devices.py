"""Functions of (params, batch) on the devices, NumPy in and out."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vtr_jax import sharding
from vtr_jax.batch import HOST_KEYS


class OnDevices:
  """An objective's function over batches; every host gets every row."""

  def __init__(self, function: Any, mesh: Mesh):
    self._mesh, self._hosts = mesh, sharding.host_rows(mesh)
    self._jitted = jax.jit(function, out_shardings=sharding.replicated(mesh))

  def __call__(self, params: Any, batch: Mapping[str, np.ndarray]) -> Any:
    """One global batch; the result's arrays are NumPy."""
    on_device = {k: v for k, v in batch.items() if k not in HOST_KEYS}
    with sharding.scope(self._mesh):
      out = self._jitted(params, sharding.put_batch(on_device, self._mesh))
    return jax.tree.map(lambda x: self._hosts.in_order(np.asarray(x)), out)

  def rows(self, params: Any, batches: Iterable[Mapping], count: int) -> np.ndarray:
    """The first `count` rows over all batches; the last batch is padded."""
    return np.concatenate([self(params, batch) for batch in batches])[:count]
