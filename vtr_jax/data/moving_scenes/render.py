"""Renders `moving_scenes`: a story in front of its setting.

Time is symmetric, as in `moving_shapes`: played backwards, a clip is a valid clip of
the backward meaning in the same setting.
"""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int16, UInt8
from PIL import Image

from vtr_jax.data.moving_scenes import captions, textures
from vtr_jax.data.moving_scenes import setting as settings
from vtr_jax.data.moving_shapes import render as shapes
from vtr_jax.data.moving_shapes import scene

SEED = 1  # of all that is drawn; moving_shapes has 0, and so other stories
FRAMES, SIZE = shapes.FRAMES, 128
_SHAKE = 3  # pixels; the story keeps this far from the edges
_DRIFT = 5  # pixels of the background from its place in the middle of the clip
_BORDER = _SHAKE + _DRIFT + 1
_SCALE = (SIZE - 2 * _SHAKE) / shapes.SIZE
_RADIUS = (12.0, 18.0)  # pixels, of things at rest
_GRAINS, _GRAIN = 4, 4.0  # frames of noise in the bank; its standard deviation


class Paths(NamedTuple):
  """What changes in the setting with time."""

  shake: Float32[np.ndarray, "t 2"]  # of all, pixels down and right
  drift: Float32[np.ndarray, "t 2"]  # of the background
  light: Float32[np.ndarray, "t 3"]  # gain in the middle; slope down and right


def make_raw(
  split: str, index: int, meaning: scene.Meaning, seed: int
) -> tuple[UInt8[np.ndarray, "t h w 3"], list[str]]:
  """Frames and captions; determined by the arguments."""
  key = [seed, scene.SPLITS.index(split), index]
  words, pixels, around = (np.random.default_rng([*key, i]) for i in range(3))
  setting = settings.draw(meaning, around)
  texts = captions.captions(meaning, setting, words)
  return render(meaning, setting, pixels), texts


def render(
  meaning: scene.Meaning, setting: settings.Setting, rng: np.random.Generator
) -> UInt8[np.ndarray, "t h w 3"]:
  """Frames of one clip; `rng` draws what no caption mentions."""
  return _with_grain(compose(meaning, draw_parts(meaning, setting, rng)), rng)


class Parts(NamedTuple):
  """What a clip is composed of."""

  tints: list[tuple[int, ...]]  # of the things of the story
  tracks: list[shapes.Track]  # of these, without shake
  paths: Paths
  ground: Float32[np.ndarray, "s s 3"]  # texture and things at rest, with a border


def draw_parts(
  meaning: scene.Meaning, setting: settings.Setting, rng: np.random.Generator
) -> Parts:
  """Draws all of a clip but its grain."""
  tints = [shapes.tint(thing, rng) for thing in meaning.things]
  tracks = [_scaled(track) for track in shapes.tracks(meaning, rng)]
  paths = draw_paths(setting, rng)
  return Parts(tints, tracks, paths, _ground(setting, tracks, paths, rng))


def compose(meaning: scene.Meaning, parts: Parts) -> Float32[np.ndarray, "t h w 3"]:
  """Frames before noise, not clipped; reversed tracks and paths give them reversed."""
  line = np.linspace(-0.5, 0.5, SIZE, dtype=np.float32)
  paths = parts.paths
  frames = np.empty((FRAMES, SIZE, SIZE, 3), np.float32)
  for t in range(FRAMES):
    down, right = paths.shake[t]
    image = Image.fromarray(_shifted(parts.ground, paths.shake[t] + paths.drift[t]))
    for thing, tint, track in zip(
      meaning.things, parts.tints, parts.tracks, strict=True
    ):
      moved = track._replace(x=track.x + right, y=track.y + down)
      shapes.paint(image, thing.shape, tint, moved, t)
    gain, slope_down, slope_right = paths.light[t]
    light = gain + slope_down * line[:, None] + slope_right * line[None, :]
    np.multiply(np.asarray(image), light[:, :, None], out=frames[t])
  return frames


def draw_paths(setting: settings.Setting, rng: np.random.Generator) -> Paths:
  """Shake, drift and light, drawn so that their reversal is as likely."""
  time = np.linspace(-0.5, 0.5, FRAMES)
  reach = rng.uniform(1.8, _SHAKE) if setting.camera == "shaky" else rng.uniform(0, 0.4)
  angle = rng.uniform(0, 2 * np.pi)
  way = rng.uniform(0.4, 1) * 2 * _DRIFT * np.array([np.sin(angle), np.cos(angle)])
  gain = dict(dim=(0.55, 0.68), bright=(1.05, 1.2), uneven=(0.85, 0.95))[setting.light]
  slope = (0.5, 0.7) if setting.light == "uneven" else (0.0, 0.2)
  level = rng.uniform(*gain) + rng.uniform(-0.06, 0.06) * time
  side = rng.uniform(0, 2 * np.pi) + rng.uniform(-0.8, 0.8) * time
  slopes = rng.uniform(*slope) * np.stack([np.sin(side), np.cos(side)], axis=1)
  return Paths(
    (reach * _sway(rng)).astype(np.float32),
    (time[:, None] * way).astype(np.float32),
    np.concatenate([level[:, None], slopes], axis=1).astype(np.float32),
  )


def _sway(rng: np.random.Generator) -> np.ndarray:
  """A smooth path [t 2] within [-1, 1]: two waves along each axis."""
  turns = np.linspace(0, 2 * np.pi, FRAMES)[:, None, None]
  rates, phases = rng.uniform(1.5, 4, (2, 2)), rng.uniform(0, 2 * np.pi, (2, 2))
  waves = np.sin(rates * turns + phases).sum(axis=2)
  return waves / np.abs(waves).max()


def _scaled(track: shapes.Track) -> shapes.Track:
  """A track of `moving_shapes` in a larger frame."""
  return track._replace(
    x=_SHAKE + _SCALE * track.x,
    y=_SHAKE + _SCALE * track.y,
    radius=_SCALE * track.radius,
  )


def _ground(
  setting: settings.Setting,
  tracks: list[shapes.Track],
  paths: Paths,
  rng: np.random.Generator,
) -> Float32[np.ndarray, "s s 3"]:
  """The texture in two muted colours, with the things that rest on it."""
  size = SIZE + 2 * _BORDER
  plane = textures.draw(setting.texture, size, rng)[:, :, None]
  middle, contrast = rng.uniform(105, 150), rng.choice([-1, 1]) * rng.uniform(22, 36)
  dark, light = (middle + sign * contrast + rng.normal(0, 8, 3) for sign in (-1, 1))
  colours = dark.astype(np.float32), (light - dark).astype(np.float32)
  pixels = np.clip(colours[0] + colours[1] * plane, 0, 255)
  image = Image.fromarray(pixels.astype(np.uint8))
  for thing, rest in zip(
    setting.things, _resting(len(setting.things), tracks, paths, rng), strict=True
  ):
    shapes.paint(image, thing.shape, shapes.tint(thing, rng), rest, 0)
  return np.asarray(image).astype(np.float32)


def _resting(
  count: int,
  tracks: list[shapes.Track],
  paths: Paths,
  rng: np.random.Generator,
  tries: int = 48,
) -> list[shapes.Track]:
  """Places on the background that the story leaves free, if there are any."""
  taken = [(track.x, track.y, track.radius) for track in tracks]
  placed = []
  for _ in range(count):
    radius = rng.uniform(*_RADIUS)
    room = radius + _DRIFT + _SHAKE
    x, y = rng.uniform(room, SIZE - room, (2, tries, 1))
    # In the frame of the story, which does not drift.
    seen_x, seen_y = x + paths.drift[:, 1], y + paths.drift[:, 0]
    gaps = [np.hypot(seen_x - a, seen_y - b) - radius - r for a, b, r in taken]
    free = np.minimum(np.min(gaps, axis=0), 0).sum(axis=1)
    best = np.argmax(free)  # the first that is never covered, or the least covered
    taken.append((seen_x[best], seen_y[best], np.full(FRAMES, radius)))
    ones = np.ones(1)
    placed.append(
      shapes.Track(
        x[best] + _BORDER,
        y[best] + _BORDER,
        radius * ones,
        rng.uniform(-0.4, 0.4) * ones,
        ones > 0,
      )
    )
  return placed


def _shifted(
  ground: Float32[np.ndarray, "s s 3"], offset: Float32[np.ndarray, " 2"]
) -> UInt8[np.ndarray, "h w 3"]:
  """The part of `ground` that is seen if it moves by `offset` pixels (down, right)."""
  start = _BORDER - offset
  whole = np.floor(start).astype(int)
  down, right = start - whole
  top, left = whole
  rows = ground[top : top + SIZE + 1, left : left + SIZE + 1]
  rows = rows[:-1] + down * (rows[1:] - rows[:-1])
  return (rows[:, :-1] + right * (rows[:, 1:] - rows[:, :-1])).astype(np.uint8)


@functools.cache
def _grains() -> Int16[np.ndarray, "n s s"]:
  rng = np.random.default_rng(0)
  noise = rng.normal(0, _GRAIN, (_GRAINS, 2 * SIZE, 2 * SIZE))
  return np.round(noise).astype(np.int16)


def _with_grain(
  frames: Float32[np.ndarray, "t h w 3"], rng: np.random.Generator
) -> UInt8[np.ndarray, "t h w 3"]:
  """Adds film grain, a window of the bank for each frame."""
  noisy = np.empty(frames.shape, np.uint8)
  starts = rng.integers(0, SIZE + 1, (FRAMES, 2))
  for t, (frame, (top, left)) in enumerate(zip(frames, starts, strict=True)):
    grain = _grains()[t % _GRAINS, top : top + SIZE, left : left + SIZE, None]
    noisy[t] = np.clip(frame + grain, 0, 255)
  return noisy
