"""Renders `moving_shapes`: from meanings to frames.

Time is symmetric: played backwards, a clip is a valid clip of the backward meaning, so
that a model without temporal order cannot distinguish the two.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from vtr_jax.data.moving_shapes import captions, scene

FRAMES, SIZE = 24, 96
_EXTENT = 1.25  # the longest shape reaches this many radii from its centre
_MASK, _MASK_RADIUS = 80, 30  # pixels of the stencil that is scaled and turned


class Track(NamedTuple):
  """One thing over time; every field is [t]."""

  x: np.ndarray  # centre, pixels
  y: np.ndarray
  radius: np.ndarray  # pixels
  angle: np.ndarray  # radians
  visible: np.ndarray  # bool


def make_raw(
  split: str, index: int, meaning: scene.Meaning, seed: int
) -> tuple[np.ndarray, list[str]]:
  """Frames uint8 [t h w 3] and captions; determined by the arguments."""
  key = [seed, scene.SPLITS.index(split), index]
  texts = captions.captions(meaning, np.random.default_rng([*key, 0]))
  return render(meaning, np.random.default_rng([*key, 1])), texts


def render(meaning: scene.Meaning, rng: np.random.Generator) -> np.ndarray:
  """Frames uint8 [t h w 3] of one clip; `rng` draws what no caption mentions."""
  ground = _background(rng)
  tints = [tint(thing, rng) for thing in meaning.things]
  placed = tracks(meaning, rng)
  frames = np.empty((FRAMES, SIZE, SIZE, 3), np.uint8)
  for t in range(FRAMES):
    image = ground.copy()
    for thing, colour, track in zip(meaning.things, tints, placed, strict=True):
      paint(image, thing.shape, colour, track, t)
    frames[t] = np.asarray(image)
  return frames


def tint(thing: scene.Thing, rng: np.random.Generator) -> tuple[int, ...]:
  """A shade of the thing's colour, RGB."""
  shade = np.clip(scene.COLOURS[thing.colour] + rng.normal(0, 5, 3), 0, 255)
  return tuple(int(c) for c in shade)


def _background(rng: np.random.Generator) -> Image.Image:
  """A grey, slightly tinted plane with a slope."""
  base = rng.uniform(110, 150) + rng.normal(0, 5, 3)
  slope = rng.uniform(-30, 30, 2)
  line = np.linspace(-0.5, 0.5, SIZE)
  plane = slope[0] * line[:, None] + slope[1] * line[None, :]
  pixels = np.clip(plane[..., None] + base, 0, 255).astype(np.uint8)
  return Image.fromarray(pixels)


def tracks(meaning: scene.Meaning, rng: np.random.Generator) -> list[Track]:
  """The trajectory of each thing, in a frame of SIZE x SIZE pixels."""
  kind, things, actions = meaning
  if kind == "cross":
    return _crossing(rng)
  half = FRAMES // 2
  full, first, second = (0, FRAMES), (0, half), (half, FRAMES)
  if kind == "steps":
    windows = [full] if len(actions) == 1 else [first, second]
    plans = [list(zip(actions, windows, strict=True))]
  else:
    windows = [first, second] if kind == "turns" else [full, full]
    actions = actions * 2 if kind == "same" else actions
    plans = [[step] for step in zip(actions, windows, strict=True)]
  return _place([_track(plan, rng, alone=len(things) == 1) for plan in plans], rng)


def _track(
  steps: list[tuple[str, tuple[int, int]]], rng: np.random.Generator, alone: bool
) -> Track:
  """One thing that starts at (0, 0) and takes its steps (action, (start, end))."""
  fixed = rng.uniform(16.5, 19) if alone else rng.uniform(13.5, 15.5)
  small = rng.uniform(11.5, 12.5) if alone else rng.uniform(10.5, 11.5)
  large = rng.uniform(21.5, 22.5) if alone else rng.uniform(18.5, 19.5)
  reach = rng.uniform(38, 46) if alone and len(steps) == 1 else rng.uniform(32, 38)
  spin = rng.choice([-1, 1]) * rng.uniform(0.2, 0.26)  # radians per frame
  late = rng.uniform(0.45, 0.55)
  angle = np.full(FRAMES, rng.uniform(-0.2, 0.2))
  x, y, growth = np.zeros((3, FRAMES))
  visible = np.ones(FRAMES, bool)
  resized = [action for action, _ in steps if action in ("grow", "shrink")]
  for action, (start, end) in steps:
    done = np.clip((np.arange(FRAMES) + 0.5 - start) / (end - start), 0, 1)
    if action in ("left", "right"):
      x += done * (reach if action == "right" else -reach)
    elif action in ("up", "down"):
      y += done * (reach if action == "down" else -reach)
    elif action in ("grow", "shrink"):
      growth += done if action == "grow" else -done
    elif action == "turn":
      angle += spin * (end - start) * done
    elif action == "blink":
      # Dark for 3 or 4 frames at a time: seen in 8 frames at whatever phase.
      phases = 7 if end - start == FRAMES else 5
      visible &= (np.floor(done * phases) % 2 == 0) | (done == 1)
    else:
      visible &= done >= late if action == "appear" else done < 1 - late
  if resized:
    growth += resized[0] == "shrink"
    radius = small * (large / small) ** growth
  else:
    radius = np.full(FRAMES, fixed)
  return Track(x, y, radius, angle, visible)


def _place(tracks: list[Track], rng: np.random.Generator, tries: int = 64) -> list:
  """Shifts the tracks into the frame, and two of them away from each other."""
  shifts = []
  for track in tracks:
    room = _EXTENT * track.radius
    ways = [(np.max(room - v), np.min(SIZE - room - v)) for v in track[:2]]
    shifts.append([rng.uniform(*way, (tries, 1)) for way in ways])
  best = 0
  if len(tracks) == 2:
    (ax, ay), (bx, by) = shifts
    a, b = tracks
    distance = np.hypot(a.x + ax - b.x - bx, a.y + ay - b.y - by)
    gap = (distance - a.radius - b.radius).min(axis=1)
    best = np.argmax(np.minimum(gap, 3))  # the first wide gap, or the widest
  return [
    track._replace(x=track.x + x[best], y=track.y + y[best])
    for track, (x, y) in zip(tracks, shifts, strict=True)
  ]


def _crossing(rng: np.random.Generator) -> list[Track]:
  """Two things that swap places, horizontally or vertically."""
  done = (np.arange(FRAMES) + 0.5) / FRAMES
  radius = rng.uniform(13, 15, 2)
  near, far = rng.uniform(16, 24), rng.uniform(72, 80)
  aside = SIZE / 2 + rng.uniform(-8, 8)
  lanes = [aside - radius[0] - 2, aside + radius[1] + 2]
  along = near + (far - near) * done
  tracks = []
  upright = rng.integers(2)
  signs = rng.permutation(2)
  for i in range(2):
    way = along if signs[i] else SIZE - along
    lane = np.full(FRAMES, lanes[i])
    x, y = (lane, way) if upright else (way, lane)
    still = np.full(FRAMES, rng.uniform(-0.2, 0.2))
    tracks.append(Track(x, y, np.full(FRAMES, radius[i]), still, np.ones(FRAMES, bool)))
  return tracks


def paint(
  image: Image.Image, shape: str, colour: tuple[int, ...], track: Track, t: int
) -> None:
  """Paints one thing at time `t`, if it is visible, in place, with soft edges."""
  if not track.visible[t]:
    return
  x, y, radius, angle = (float(v[t]) for v in track[:4])
  reach = math.ceil(_EXTENT * radius) + 2
  left, top = math.floor(x) - reach, math.floor(y) - reach
  # From a pixel of the patch to the stencil: shift, rotate, scale, shift.
  scale = _MASK_RADIUS / radius
  cos, sin = scale * math.cos(angle), scale * math.sin(angle)
  dx, dy = x - left, y - top
  centre = _MASK / 2
  matrix = (cos, sin, centre - cos * dx - sin * dy)
  matrix += (-sin, cos, centre + sin * dx - cos * dy)
  mask = _stencil(shape).transform(
    (2 * reach + 1, 2 * reach + 1),
    Image.Transform.AFFINE,
    matrix,
    Image.Resampling.BILINEAR,
  )
  image.paste(colour, (left, top), mask)


@functools.cache
def _stencil(shape: str) -> Image.Image:
  """The shape in white on black, L [_MASK, _MASK], drawn large and reduced."""
  fine = 8
  image = Image.new("L", (_MASK * fine, _MASK * fine))
  draw = ImageDraw.Draw(image)

  def spot(points):
    return [tuple((_MASK / 2 + _MASK_RADIUS * v) * fine for v in p) for p in points]

  def polar(radii, turn=-math.pi / 2):
    steps = [turn + 2 * math.pi * i / len(radii) for i in range(len(radii))]
    return [
      (r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, steps, strict=True)
    ]

  if shape in ("circle", "ring", "moon"):
    draw.ellipse(spot([(-1, -1), (1, 1)]), fill=255)
    if shape == "ring":
      draw.ellipse(spot([(-0.55, -0.55), (0.55, 0.55)]), fill=0)
    elif shape == "moon":
      draw.ellipse(spot([(-0.35, -0.95), (1.35, 0.95)]), fill=0)
  else:
    outlines = dict(
      square=[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
      triangle=polar([1.2] * 3),
      star=polar([1.25, 0.5] * 5),
      bar=[(-1.2, -0.38), (1.2, -0.38), (1.2, 0.38), (-1.2, 0.38)],
      heart=_heart(),
    )
    draw.polygon(spot(outlines[shape]), fill=255)
  return image.reduce(fine)


def _heart() -> list[tuple[float, float]]:
  """The well-known heart curve, about one radius wide and high."""
  points = []
  for i in range(64):
    a = 2 * math.pi * i / 64
    high = (
      13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)
    )
    points.append((1.1 * math.sin(a) ** 3, -(high + 2.5) / 14.5))
  return points
