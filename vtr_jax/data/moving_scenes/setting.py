"""What surrounds the story of a clip of `moving_scenes`, and does not depend on it.

The story is a `Meaning` of `moving_shapes`. A `Setting` holds what else a caption may
mention. It is the same when the clip is played backwards.
"""

from typing import NamedTuple

import numpy as np

from vtr_jax.data.moving_shapes import scene

TEXTURES = (
  "stripes",
  "checks",
  "dots",
  "waves",
  "bricks",
  "clouds",
  "zigzags",
  "rays",
)
LIGHTS = ("dim", "bright", "uneven")
CAMERAS = ("steady", "shaky")


class Setting(NamedTuple):
  """texture, light, camera: of `TEXTURES`, `LIGHTS`, `CAMERAS`.

  things: one to three that rest on the background; none is one of the story's things or
  of the combinations that only the split `novel` shows.
  """

  texture: str
  light: str
  camera: str
  things: tuple[scene.Thing, ...]


def draw(meaning: scene.Meaning, rng: np.random.Generator) -> Setting:
  """A setting for a story."""
  pick = lambda options: options[rng.integers(len(options))]
  things: dict[scene.Thing, None] = {}
  count = rng.integers(1, 4)
  while len(things) < count:
    thing = scene.Thing(pick(tuple(scene.COLOURS)), pick(scene.SHAPES))
    if thing not in meaning.things and thing not in scene.NOVEL_THINGS:
      things.setdefault(thing)
  return Setting(pick(TEXTURES), pick(LIGHTS), pick(CAMERAS), tuple(things))
