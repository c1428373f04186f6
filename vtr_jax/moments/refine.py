"""Cuts a clip that a search has found to the moment in it."""

import os
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vtr_jax.inference.model import LoadedModel
from vtr_jax.moments import features, zero_shot
from vtr_jax.moments.grid import Grid

# Ours: lengths of the windows, and the time between them, as parts of the clip; and how
# far the moment may reach beyond the clip, which was cut without knowing the query.
_LENGTHS = (0.125, 0.25, 0.375, 0.5)
_STEP = 0.0625
_MARGIN = 0.25
_SHORTEST = 1.0  # seconds; a shorter clip is its own moment


class Moment(NamedTuple):
  """A part of a file that fits the query best, and the curve around it.

  start, end: seconds. score: cosine of this part and the query, less the mean of all
  parts around. first, last: seconds where the curve begins and ends. curve: mean score
  of the windows around each of its equal steps.
  """

  start: float
  end: float
  score: float
  first: float
  last: float
  curve: tuple[float, ...]


def refine(
  path: str | os.PathLike,
  start: float,
  end: float,
  text: Float[np.ndarray, " e"],
  model: LoadedModel,
) -> Moment | None:
  """The moment of a clip, from `start` to `end` of a file; None if it is too short.

  Args:
    path: of the file.
    start: of the clip, seconds.
    end: of the clip; 0 for an image.
    text: embedding of the query.
    model: embeds the windows.

  Raises:
    BadSample: the clip cannot be decoded. OSError: the file cannot be read.
  """
  length = end - start
  if length < _SHORTEST:
    return None
  grid = Grid(tuple(length * part for part in _LENGTHS), length * _STEP)
  margin = _MARGIN * length
  found = features.of_file(path, grid, model, max(start - margin, 0.0), end + margin)
  score = zero_shot.scores(found.vectors, text[None])[0]
  first, last, best = zero_shot.ranked(found.times, score)[0]
  curve = zero_shot.curve(grid, found.times, score)
  span = float(found.times.min()), float(found.times.max())
  return Moment(first, last, best, *span, tuple(curve.tolist()))
