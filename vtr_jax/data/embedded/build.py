"""Synthetic data sets, rendered from a seed and built once.

    directory = embedded.build("data", "moving_shapes/full")
    source = tfds.builder_from_directory(directory).as_data_source("train")

The build renders in several processes, in parts that outlive a killed build. Records,
tokenizer, checksums and questions appear under their final name in one step, when all
are written. A data set that was built before it had questions gets them as they are.
"""

import contextlib
import hashlib
import io
import json
import os
import pathlib
import re
import shutil
import sys
import time
from collections.abc import Iterator

import tensorflow_datasets as tfds

from vtr_jax.core import io as io_lib
from vtr_jax.core import paths, processes
from vtr_jax.core.config import choose
from vtr_jax.core.errors import DataError
from vtr_jax.core.progress import Bar
from vtr_jax.data import notes, sources
from vtr_jax.data.embedded import clips, pool
from vtr_jax.data.embedded.builders import BUILDERS, Builder, Variant, variants
from vtr_jax.data.embedded.clips import Clip
from vtr_jax.data.tokenizers.train import train

TOKENIZER = "tokenizer.model"
CHECKSUM = "checksum.json"


def is_embedded(name: str) -> bool:
  """Whether a data set, "moving_shapes/tiny" say, is one that `build` makes."""
  return name.split("/")[0] in BUILDERS


def find(data_dir: str, name: str) -> str:
  """The directory of a prepared data set; an embedded one is built if it is missing.

  Raises:
    DataError: it does not exist, and cannot be built: it is not embedded, or `data_dir`
      is in a bucket; or as `build`, as is ConfigError.
  """
  if not is_embedded(name):
    return sources.find(data_dir, name)
  if not paths.is_bucket(data_dir):
    return str(build(data_dir, name))
  try:
    return sources.find(data_dir, name)
  except DataError as e:
    raise DataError(
      f"{e}; it is made in local directories: train there once, and copy it"
    ) from None


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
    name: moving_shapes | moving_scenes | moving_shapes_long, followed by /full (as
      without) or /tiny.
    workers: rendering processes; by default as many as there are cores.
    progress: whether to show a progress bar and a closing line on stderr.

  Raises:
    ConfigError: `name` is unknown.
    DataError: `data_dir` cannot be written or holds an incomplete data set, or a
      rendering process died.
  """
  name, config = [*name.split("/"), "full"][:2]
  choose(name, BUILDERS, "data set")
  choose(config, variants(name), "variant")
  variant = variants(name)[config]
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
        _build(directory, parts, kind, variant, workers, progress)
      elif not _has_notes(directory, kind):
        add_notes(directory, kind, variant.counts)
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
  kind: type[Builder],
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
  unit = kind.WORLD.unit
  with Bar(total=total, unit=unit, desc=name, disable=not progress) as bar:
    pool.render(kind.WORLD, parts, config.counts, config.chunk, workers, bar)
    bar.set_postfix_str("writing")
    staged = _write(parts, kind, config)
  directory.parent.mkdir(parents=True, exist_ok=True)
  staged.rename(directory)
  if progress:
    size = sum(f.stat().st_size for f in directory.iterdir()) / 1e6
    seconds = time.time() - started
    print(
      f"{directory}: {total} {unit}s, {size:.0f} MB, built in {seconds:.0f} s",
      file=sys.stderr,
    )


def _write(parts: pathlib.Path, kind: type[Builder], config: Variant) -> pathlib.Path:
  """Writes ArrayRecord files, tokenizer and checksums; returns their directory."""
  staging = parts / "staging"
  shutil.rmtree(staging, ignore_errors=True)
  builder = kind(config=config, data_dir=str(staging), file_format="array_record")
  builder.parts = parts
  with _quiet():
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
  directory: pathlib.Path, kind: type[Builder], counts: dict[str, int]
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
        lines.append(notes.lines(clips.name(split, index), index, split, values))
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


def _has_notes(directory: pathlib.Path, kind: type[Builder]) -> bool:
  return set(kind.NOTES) <= set(notes.listed(directory))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Silences the progress bars and messages of TFDS."""
  tfds.disable_progress_bar()
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    tfds.enable_progress_bar()
