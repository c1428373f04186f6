"""vtr_jax: masked video-text pre-training and retrieval in JAX/Flax.

model = vtr_jax.load("runs/mine")
model.embed_video(["a.mp4", "b.mp4"])   # [2 e] float32, unit norm
model.embed_text(["a dog jumps"])       # [1 e]
model.search("index", "a dog jumps")    # clips, best first
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from vtr_jax.search.model import Model

__version__ = "0.2.0.dev0"
__all__ = ["load"]


def load(directory: str | os.PathLike) -> "Model":
  """The model of a run; see `search.model.load`. Imports JAX, which takes a second."""
  from vtr_jax.search import model

  return model.load(directory)
