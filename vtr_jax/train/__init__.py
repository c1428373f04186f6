"""Training: loop, state, step. The entry point is `train_and_evaluate`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from vtr_jax.train.loop import train_and_evaluate

__all__ = ["train_and_evaluate"]


def __getattr__(name: str) -> Any:
  # Imported lazily: `vtr_jax.train.config` alone does not need the loop.
  if name not in __all__:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  from vtr_jax.train.loop import train_and_evaluate

  return train_and_evaluate
