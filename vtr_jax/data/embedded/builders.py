"""The embedded data sets, as TFDS builders: their contents, sizes and notes."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from vtr_jax.data import notes, sources
from vtr_jax.data.embedded import long, pool
from vtr_jax.data.embedded.clips import Clip, World, stories
from vtr_jax.data.moving_scenes import render as scenes
from vtr_jax.data.moving_shapes import questions
from vtr_jax.data.moving_shapes import render as shapes


@dataclasses.dataclass(eq=False)
class Variant(tfds.core.BuilderConfig):
  """Number of clips of a variant, and per part."""

  counts: dict[str, int] = dataclasses.field(default_factory=dict)
  chunk: int = 250


_SHORT = dict(
  full=Variant(
    name="full",
    description="For training: 8,000 clips, and 2,500 to evaluate on.",
    counts=dict(train=8000, validation=500, test=1000, novel=1000),
  ),
  tiny=Variant(
    name="tiny",
    description="For tests: 96 clips, and 64 to evaluate on.",
    counts=dict(train=96, validation=16, test=32, novel=16),
    chunk=16,
  ),
)
_LONG = {
  config: Variant(
    name=config,
    description=f"{sum(counts.values())} videos.",
    counts=counts,
    chunk=max(counts["train"] // 16, 1),
  )
  for config, counts in long.COUNTS.items()
}


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Prefer `build.build`, which renders in parallel and adds the tokenizer."""

  BUILDER_CONFIGS: ClassVar[list[Variant]] = list(_SHORT.values())
  # Nothing is downloaded; to look up URLs, TFDS needs a package that it does not depend
  # on (importlib_resources).
  url_infos = None
  WORLD: ClassVar[World]
  # sets of notes, see data/notes.py: (split, count) to those of each clip
  NOTES: ClassVar[dict[str, Callable[[str, int], list[list[notes.Note]]]]] = {}
  parts: pathlib.Path | None = None  # where `build` has put the rendered parts

  def clips(self, split: str) -> Iterator[Clip]:
    """The clips of a split, from `parts` if there are any."""
    config = self.builder_config
    assert isinstance(config, Variant)
    count = config.counts[split]
    return pool.clips(self.WORLD, self.parts, split, count, config.chunk)

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=self.__doc__,
      features=sources.features(),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    del dl_manager
    assert isinstance(self.builder_config, Variant)
    return {name: self._generate_examples(name) for name in self.builder_config.counts}

  def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    yield from ((i, clip._asdict()) for i, clip in enumerate(self.clips(split)))


class MovingShapes(Builder):
  """Short clips of coloured shapes that move, change and cross."""

  VERSION = tfds.core.Version("1.0.0")
  WORLD = stories("moving_shapes", 0, shapes.make_raw)
  NOTES: ClassVar = dict(questions=questions.of_split)


class MovingScenes(Builder):
  """Coloured shapes that move, change and cross before moving backgrounds."""

  VERSION = tfds.core.Version("1.0.0")
  WORLD = stories("moving_scenes", scenes.SEED, scenes.make_raw)


class MovingShapesLong(Builder):
  """Clips of moving_shapes, joined to videos, with their moments."""

  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS: ClassVar[list[Variant]] = list(_LONG.values())
  WORLD = long.WORLD
  NOTES: ClassVar = {long.NAME: long.of_split}


BUILDERS = {b.WORLD.name: b for b in (MovingShapes, MovingScenes, MovingShapesLong)}


def variants(name: str) -> dict[str, Variant]:
  """The variants of a data set by name."""
  return {str(variant.name): variant for variant in BUILDERS[name].BUILDER_CONFIGS}
