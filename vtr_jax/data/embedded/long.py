"""`moving_shapes_long`: clips of moving_shapes joined to videos, with their moments.

    directory = embedded.build("data", "moving_shapes_long")
    moments = notes.read(directory, "test", "moment")

A video is six clips, each played at another speed. No coloured shape occurs in two of
them, so that every query has one answer. The queries are a caption of each clip, whose
moment is the clip, and each action of a clip of two actions, whose moment is half of
it. Everything is drawn by generators seeded from (seed, split, number of the video), so
a split's first n videos do not depend on its length.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from vtr_jax.data.embedded import clips
from vtr_jax.data.embedded.clips import FPS, Clip, World
from vtr_jax.data.moving_shapes import captions, render, scene
from vtr_jax.data.notes import Note

NAME = "moving_shapes_long"
CLIPS = 6  # of a video; ours
SPEEDS = (0.75, 1.0, 1.5, 2.0)  # duration of a clip over the original's; ours
# Videos by variant and split; ours: a head trains on them in a minute.
COUNTS = dict(
  full=dict(train=400, validation=50, test=200),
  tiny=dict(train=4, validation=2, test=2),
)


class Part(NamedTuple):
  """A clip of a video: what it shows, and its first and last frame + 1."""

  meaning: scene.Meaning
  start: int
  end: int
  captions: list[str]


def parts(split: str, number: int, seed: int = 0) -> list[Part]:
  """The clips of a video, without their frames."""
  rng = _generator(split, number, 0, seed)
  found, seen, start = [], set(), 0
  drawn = scene.draw(rng, novel=False)
  while len(found) < CLIPS:
    meaning = next(drawn)
    if seen & set(meaning.things):
      continue
    seen |= set(meaning.things)
    end = start + round(render.FRAMES * SPEEDS[rng.integers(len(SPEEDS))])
    found.append(Part(meaning, start, end, captions.captions(meaning, rng)))
    start = end
  return found


def frames(split: str, number: int, seed: int = 0) -> UInt8[np.ndarray, "t h w 3"]:
  """The frames of a video, FPS a second."""
  rng, shown = _generator(split, number, 1, seed), []
  for part in parts(split, number, seed):
    count = part.end - part.start
    at = (np.arange(count) + 0.5) * render.FRAMES / count
    shown.append(render.render(part.meaning, rng)[at.astype(np.int64)])
  return np.concatenate(shown)


def moments(split: str, number: int, seed: int = 0) -> list[Note]:
  """The queries of a video; of type clip, or half: one action of a clip of two."""
  rng, name = _generator(split, number, 2, seed), clips.name(split, number)
  found, shown = [], parts(split, number, seed)

  def add(kind: str, text: str, start: int, end: int) -> None:
    window, duration = (start / FPS, end / FPS), shown[-1].end
    note = Note("moment", f"{name}#{len(found)}", text, type=kind, windows=(window,))
    found.append(note._replace(duration=duration / FPS))

  for part in shown:
    add("clip", part.captions[0], part.start, part.end)
    if part.meaning.kind == "steps" and len(part.meaning.actions) == 2:
      middle = (part.start + part.end) // 2
      edges = ((part.start, middle), (middle, part.end))
      for action, edge in zip(part.meaning.actions, edges, strict=True):
        meaning = scene.Meaning("steps", part.meaning.things, (action,))
        add("half", captions.captions(meaning, rng)[0], *edge)
  return found


def of_split(split: str, count: int) -> list[list[Note]]:
  """The queries of the first `count` videos of a split."""
  return [moments(split, number) for number in range(count)]


def make(split: str, number: int) -> Clip:
  """A record of a split."""
  texts = [part.captions[0] for part in parts(split, number)]
  video = clips.encode(frames(split, number))
  return Clip(clips.name(split, number), video, texts, "")


def _numbers(split: str, count: int) -> list[int]:
  """A video is drawn from its number alone."""
  del split
  return list(range(count))


def _make(split: str, index: int, number: int) -> Clip:
  del index
  return make(split, number)


WORLD = World(NAME, _numbers, _make, "video")


def _generator(split: str, number: int, use: int, seed: int) -> np.random.Generator:
  return np.random.default_rng([seed, scene.SPLITS.index(split), number, use])
