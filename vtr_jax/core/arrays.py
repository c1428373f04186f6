"""Arrays of either kind, for functions that take what is still on the host too."""

import jax
import numpy as np

AnyArray = jax.Array | np.ndarray
