"""The type of arrays on a device or on the host."""

import jax
import numpy as np

AnyArray = jax.Array | np.ndarray
