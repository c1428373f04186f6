"""Muon: orthogonalised momentum for the kernels of hidden layers.

Keller Jordan et al., 2024, kellerjordan.github.io/posts/muon: the update of a matrix
is its momentum with all singular values near 1, so that rare directions are learned as
fast as common ones. Scaled to the RMS of Adam's updates (arXiv 2502.16982, section
2.2), so that both share one learning rate and one weight decay.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan's: maximum slope at 0
_ROUNDS = 5  # Jordan
_RMS = 0.2  # of Adam's updates, arXiv 2502.16982


def scale_by_muon(
  momentum: float = 0.95, dtype: str = "float32", products: str = "bfloat16"
) -> optax.GradientTransformation:
  """For trees of matrices, or of stacks of them: `[..., in, out]`.

  Args:
    momentum: decay of the gradients' EMA (Jordan: 0.95); used as Nesterov's.
    dtype: in which the EMA is stored.
    products: dtype of the iterations' products (Jordan: bfloat16).
  """

  def init(params: Any) -> Any:
    return jax.tree.map(lambda p: jnp.zeros_like(p, dtype=dtype), params)

  def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    del params
    average = lambda m, g: momentum * m.astype(g.dtype) + (1 - momentum) * g
    ema = jax.tree.map(average, state, updates)
    nesterov = jax.tree.map(average, ema, updates)
    stored = jax.tree.map(lambda m: m.astype(dtype), ema)
    return jax.tree.map(lambda x: _scaled(x, products), nesterov), stored

  return optax.GradientTransformation(init, update)


def _scaled(x: Float[Array, "*s i o"], products: str) -> Float[Array, "*s i o"]:
  return _RMS * max(x.shape[-2:]) ** 0.5 * orthogonal(x, products)


def orthogonal(
  x: Float[Array, "*s i o"], products: str = "bfloat16"
) -> Float[Array, "*s i o"]:
  """Newton-Schulz steps to U V', where x = U S V'; singular values end in [0.7, 1.2].

  `products` is the dtype of the steps.
  """
  wide = x.shape[-2] <= x.shape[-1]
  y = x if wide else x.mT  # for the smaller Gram matrix
  y /= jnp.linalg.norm(y, axis=(-2, -1), keepdims=True) + 1e-7
  y = y.astype(products)
  a, b, c = _COEFFICIENTS
  for _ in range(_ROUNDS):
    gram = y @ y.mT
    y = a * y + (b * gram + c * gram @ gram) @ y
  return (y if wide else y.mT).astype(x.dtype)
