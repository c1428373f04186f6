"""Synthetic data sets, rendered from a seed and built once.

    directory = embedded.build("data", "moving_shapes/full")
    source = tfds.builder_from_directory(directory).as_data_source("train")

The build renders in several processes, in parts that outlive a killed build. Records,
tokenizer, checksums and questions appear under their final name in one step, when all
are written. A data set that was built before it had questions gets them as they are.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import pathlib
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from vtr_jax.core import io as io_lib
from vtr_jax.core import processes
from vtr_jax.core.config import choose
from vtr_jax.core.errors import DataError
from vtr_jax.core.progress import Bar
from vtr_jax.data import notes, sources
from vtr_jax.data.embedded import pool
from vtr_jax.data.embedded.clips import Clip, World
from vtr_jax.data.moving_scenes import render as scenes
from vtr_jax.data.moving_shapes import questions, scene
from vtr_jax.data.moving_shapes import render as shapes
from vtr_jax.data.tokenizers.train import train

TOKENIZER = "tokenizer.model"
CHECKSUM = "checksum.json"


@dataclasses.dataclass(eq=False)
class Variant(tfds.core.BuilderConfig):
  """Number of clips of a variant, and per part."""

  counts: dict[str, int] = dataclasses.field(default_factory=dict)
  chunk: int = 250


CONFIGS = dict(
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


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Prefer `build`, which renders in parallel and adds the tokenizer."""

  BUILDER_CONFIGS: ClassVar[list[Variant]] = list(CONFIGS.values())
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
    return {name: self._generate_examples(name) for name in scene.SPLITS}

  def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    yield from ((i, clip._asdict()) for i, clip in enumerate(self.clips(split)))


class MovingShapes(_Builder):
  """Short clips of coloured shapes that move, change and cross."""

  VERSION = tfds.core.Version("1.0.0")
  WORLD = World("moving_shapes", 0, shapes.make_raw)
  NOTES: ClassVar = dict(questions=questions.of_split)


class MovingScenes(_Builder):
  """Coloured shapes that move, change and cross before moving backgrounds."""

  VERSION = tfds.core.Version("1.0.0")
  WORLD = World("moving_scenes", 1, scenes.make_raw)


BUILDERS = {b.WORLD.name: b for b in (MovingShapes, MovingScenes)}


def is_embedded(name: str) -> bool:
  """Whether a data set, "moving_shapes/tiny" say, is one that `build` makes."""
  return name.split("/")[0] in BUILDERS


def build(
  data_dir: str | os.PathLike,
  name: str,
  *,
  workers: int | None = None,
  progress: bool = True,
) -> pathlib.Path:
  """Builds a data set, unless it exists, and returns its directory.

  A killed build is resumed. Of two builds in one directory, the second waits for the
  first. The bytes depend only on the versions of the libraries.

  Args:
    data_dir: directory of all data sets; the result is <name>/<version> below it:
      ArrayRecord files, tokenizer.model, checksum.json, and notes.
    name: moving_shapes | moving_scenes, followed by /full (as without) or /tiny.
    workers: rendering processes; by default as many as there are cores.
    progress: whether to show a progress bar and a closing line on stderr.

  Raises:
    ConfigError: `name` is unknown.
    DataError: `data_dir` cannot be written or holds an incomplete data set, or a
      rendering process died.
  """
  name, config = [*name.split("/"), "full"][:2]
  choose(name, BUILDERS, "data set")
  choose(config, CONFIGS, "variant")
  root = pathlib.Path(data_dir) / name
  version = str(BUILDERS[name].VERSION)
  directory = root / config / version
  parts = root / f".parts-{config}-{version}"
  kind, complete = BUILDERS[name], _is_complete(directory)
  if complete and not parts.exists() and _has_notes(directory, kind):
    return directory
  try:
    root.mkdir(parents=True, exist_ok=True)
    with processes.locked(root / f".lock-{config}-{version}", "build"):
      if not _is_complete(directory):
        _build(directory, parts, kind, CONFIGS[config], workers, progress)
      elif not _has_notes(directory, kind):
        add_notes(directory, kind, CONFIGS[config].counts)
      shutil.rmtree(parts, ignore_errors=True)
  except OSError as e:
    if complete and not parts.exists():  # of a reader without the right to write
      return directory
    reason = e.strerror or e
    raise DataError(
      f"{data_dir}: cannot build {name} here ({reason}); "
      "fix it or choose another data directory"
    ) from None
  return directory


def _build(
  directory: pathlib.Path,
  parts: pathlib.Path,
  kind: type[_Builder],
  config: Variant,
  workers: int | None,
  progress: bool,
) -> None:
  """Renders the missing parts, then writes the data set and renames it."""
  if directory.exists():
    raise DataError(f"{directory}: an incomplete data set; delete it and build again")
  started = time.time()
  parts.mkdir(exist_ok=True)
  total = sum(config.counts.values())
  name = f"{kind.WORLD.name}/{config.name}"
  with Bar(total=total, unit="clip", desc=name, disable=not progress) as bar:
    pool.render(kind.WORLD, parts, config.counts, config.chunk, workers, bar)
    bar.set_postfix_str("writing")
    staged = _write(parts, kind, config)
  directory.parent.mkdir(parents=True, exist_ok=True)
  staged.rename(directory)
  if progress:
    size = sum(f.stat().st_size for f in directory.iterdir()) / 1e6
    seconds = time.time() - started
    print(
      f"{directory}: {total} clips, {size:.0f} MB, built in {seconds:.0f} s",
      file=sys.stderr,
    )


def _write(parts: pathlib.Path, kind: type[_Builder], config: Variant) -> pathlib.Path:
  """Writes ArrayRecord files, tokenizer and checksums; returns their directory."""
  staging = parts / "staging"
  shutil.rmtree(staging, ignore_errors=True)
  builder = kind(config=config, data_dir=str(staging), file_format="array_record")
  builder.parts = parts
  with quiet():
    builder.download_and_prepare(
      download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
  directory = pathlib.Path(builder.data_dir)
  texts = [text for clip in builder.clips("train") for text in clip.captions]
  (directory / TOKENIZER).write_bytes(train_tokenizer(texts))
  sums = {split: _checksum(builder.clips(split)) for split in config.counts}
  (directory / CHECKSUM).write_text(json.dumps(sums, indent=2) + "\n")
  add_notes(directory, kind, config.counts)
  return directory


def add_notes(
  directory: pathlib.Path, kind: type[_Builder], counts: dict[str, int]
) -> None:
  """Writes the sets of notes, and their entries in manifest.json.

  Args:
    directory: of the records, which stay as they are.
    kind: of data set.
    counts: clips by split.

  Raises:
    OSError: a file cannot be written.
  """
  path = directory / "manifest.json"
  for name, of_split in kind.NOTES.items():
    texts = {}
    for split, count in counts.items():
      lines = []
      for index, found in enumerate(of_split(split, count)):
        values = map(notes.to_json, found)
        lines.append(notes.lines(f"{split}-{index:05d}", index, split, values))
      texts[split] = "".join(lines)
    splits = notes.save(directory, name, texts)
    manifest = io_lib.mapping(path.read_bytes()) if path.exists() else {}
    sets = manifest.get("notes", {})
    sets[name] = dict(origin=dict(format=kind.WORLD.name), splits=splits)
    io_lib.write_json(path, manifest | dict(notes=sets))


def train_tokenizer(captions: list[str]) -> bytes:
  """A sentencepiece model in which every word of `captions` is one piece.

  Words that do not occur in `captions` are split into letters, so that English never
  becomes <unk>.
  """
  # Otherwise training splits half of so few words in two, and the visible half of a
  # masked word would give the other half away.
  words = sorted({w for text in captions for w in re.findall(r"[a-z]+", text)})
  letters = "▁abcdefghijklmnopqrstuvwxyz,."
  size = 4 + len(words) + len(letters)
  return train(captions, size, letters, 1.0, [f"▁{word}" for word in words])


def _checksum(clips: Iterator[Clip]) -> dict[str, str]:
  """SHA-256 of a split's records, and of its captions alone."""
  records, captions = hashlib.sha256(), hashlib.sha256()
  for clip in clips:
    texts = json.dumps(clip.captions).encode()
    captions.update(texts)
    records.update(json.dumps([clip.id, clip.label]).encode() + clip.video + texts)
  return dict(records=records.hexdigest(), captions=captions.hexdigest())


def _is_complete(directory: pathlib.Path) -> bool:
  files = ("dataset_info.json", TOKENIZER, CHECKSUM)
  return all((directory / file).exists() for file in files)


def _has_notes(directory: pathlib.Path, kind: type[_Builder]) -> bool:
  return set(kind.NOTES) <= set(notes.listed(directory))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Silences the progress bars and messages of TFDS."""
  tfds.disable_progress_bar()
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    tfds.enable_progress_bar()
