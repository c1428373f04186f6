"""The backgrounds of `moving_scenes`: how dark a texture is at each pixel."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float32
from PIL import Image

_Plane = Float32[np.ndarray, "s s"]


def draw(name: str, size: int, rng: np.random.Generator) -> _Plane:
  """A texture at random scale, angle and phase: [0, 1], `size` x `size` pixels."""
  if name == "clouds":
    return _clouds(size, rng)
  if name == "rays":
    return _rays(size, rng)
  period, angle = rng.uniform(16, 30), rng.uniform(0, np.pi)
  line = np.arange(size, dtype=np.float32) / np.float32(period)
  cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
  u = cos * line[None, :] + sin * line[:, None] + np.float32(rng.random())
  v = cos * line[:, None] - sin * line[None, :] + np.float32(rng.random())
  # One pixel wide edges: distances are in periods.
  return np.clip(0.5 + np.float32(period) * _PATTERNS[name](u, v), 0, 1)


def _saw(x: np.ndarray) -> np.ndarray:
  """Distance to the nearest integer: 0 to 0.5."""
  return np.abs(x - np.round(x))


def _stripes(u: np.ndarray, v: np.ndarray) -> np.ndarray:
  del v
  return _saw(u) - np.float32(0.25)


def _checks(u: np.ndarray, v: np.ndarray) -> np.ndarray:
  a, b = _stripes(u, v), _stripes(v, u)
  return np.sign(a) * np.sign(b) * np.minimum(np.abs(a), np.abs(b))


def _dots(u: np.ndarray, v: np.ndarray) -> np.ndarray:
  return np.float32(0.3) - np.hypot(_saw(u), _saw(v))


def _waves(u: np.ndarray, v: np.ndarray) -> np.ndarray:
  return _stripes(u + np.float32(0.22) * np.sin(np.float32(0.7 * 2 * np.pi) * v), v)


def _zigzags(u: np.ndarray, v: np.ndarray) -> np.ndarray:
  return _stripes(u + _saw(v), v)


def _bricks(u: np.ndarray, v: np.ndarray) -> np.ndarray:
  row = np.round(v)  # a brick is two wide and one high; joints are at half integers
  along = 2 * (np.float32(0.5) - _saw(u / 2 + row / 2))
  return np.minimum(along, np.float32(0.5) - np.abs(v - row)) - np.float32(0.09)


_PATTERNS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = dict(
  stripes=_stripes,
  checks=_checks,
  dots=_dots,
  waves=_waves,
  bricks=_bricks,
  zigzags=_zigzags,
)


def _rays(size: int, rng: np.random.Generator) -> _Plane:
  """Rays from a point near the middle."""
  line = np.arange(size, dtype=np.float32)
  x, y = (line - np.float32(c) for c in size * rng.uniform(0.25, 0.75, 2))
  count = rng.integers(7, 13)
  turns = np.arctan2(y[:, None], x[None, :]) * np.float32(count / (2 * np.pi))
  arc = np.hypot(y[:, None], x[None, :]) * np.float32(2 * np.pi / count)  # a period
  edge = _stripes(turns + np.float32(rng.random()), turns)
  return np.clip(0.5 + arc * edge, 0, 1)


def _clouds(size: int, rng: np.random.Generator) -> _Plane:
  """Smooth noise of two scales."""
  plane = np.zeros((size, size), np.float32)
  for cells, weight in ((rng.integers(5, 8), 1.0), (rng.integers(11, 16), 0.5)):
    coarse = Image.fromarray(rng.random((cells, cells), np.float32))
    fine = coarse.resize((size, size), Image.Resampling.BICUBIC)
    plane += np.float32(weight) * np.asarray(fine)
  return np.clip((plane - np.float32(0.75)) * np.float32(1.4) + np.float32(0.5), 0, 1)
