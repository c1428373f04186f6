"""`moving_shapes_long`: clips of moving_shapes joined to videos, with their moments.

    directory = long.build("data")
    moments = notes.read(directory, "test", "moment")

A video is six clips, each played at another speed. No coloured shape occurs in two of
them, so that every query has one answer. The queries are a caption of each clip, whose
moment is the clip, and each action of a clip of two actions, whose moment is half of
it. Everything is drawn by generators seeded from (seed, split, number of the video), so
a split's first n videos do not depend on its length.
"""

import concurrent.futures
import functools
import hashlib
import multiprocessing
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8

from vtr_jax.core import io, processes
from vtr_jax.core.config import choose
from vtr_jax.core.errors import DataError
from vtr_jax.core.progress import Bar
from vtr_jax.data import notes, sources
from vtr_jax.data.embedded.build import quiet
from vtr_jax.data.embedded.clips import FPS, encode
from vtr_jax.data.moving_shapes import captions, render, scene
from vtr_jax.data.notes import Note

NAME = "moving_shapes_long"
VERSION = "1.0.0"
CLIPS = 6  # of a video; ours
SPEEDS = (0.75, 1.0, 1.5, 2.0)  # duration of a clip over the original's; ours
# Videos by variant and split; ours: a head trains on them in a minute.
COUNTS = dict(
  full=dict(train=400, validation=50, test=200),
  tiny=dict(train=4, validation=2, test=2),
)
_LABEL = dict(label="")  # of every record


class Part(NamedTuple):
  """A clip of a video: what it shows, and its first and last frame + 1."""

  meaning: scene.Meaning
  start: int
  end: int
  captions: list[str]


class Video(NamedTuple):
  """A record, and the moments in it."""

  id: str
  video: bytes  # mp4, FPS frames a second
  captions: list[str]  # one for each clip, in order
  notes: list[Note]


class MovingShapesLong(tfds.core.GeneratorBasedBuilder):
  """Clips of moving_shapes, joined to videos; made by `build`."""

  VERSION = tfds.core.Version(VERSION)
  BUILDER_CONFIGS: ClassVar[list[tfds.core.BuilderConfig]] = [
    tfds.core.BuilderConfig(name=name) for name in COUNTS
  ]
  url_infos = None  # see build.py
  videos: dict[str, list[Video]]  # by split, set by `build`

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description="Clips of moving_shapes, joined to videos.",
      features=sources.features(),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    del dl_manager
    return {split: self._generate_examples(split) for split in self.videos}

  def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, video in enumerate(self.videos[split]):
      record = video._asdict()
      yield number, {key: record[key] for key in ("id", "video", "captions")} | _LABEL


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
  rng, name = _generator(split, number, 2, seed), _name(split, number)
  found, clips = [], parts(split, number, seed)

  def add(kind: str, text: str, start: int, end: int) -> None:
    window, duration = (start / FPS, end / FPS), clips[-1].end
    note = Note("moment", f"{name}#{len(found)}", text, type=kind, windows=(window,))
    found.append(note._replace(duration=duration / FPS))

  for part in clips:
    add("clip", part.captions[0], part.start, part.end)
    if part.meaning.kind == "steps" and len(part.meaning.actions) == 2:
      middle = (part.start + part.end) // 2
      edges = ((part.start, middle), (middle, part.end))
      for action, edge in zip(part.meaning.actions, edges, strict=True):
        meaning = scene.Meaning("steps", part.meaning.things, (action,))
        add("half", captions.captions(meaning, rng)[0], *edge)
  return found


def make(split: str, number: int) -> Video:
  """A record of a split."""
  texts = [part.captions[0] for part in parts(split, number)]
  video = encode(frames(split, number))
  return Video(_name(split, number), video, texts, moments(split, number))


def build(
  data_dir: str | os.PathLike,
  config: str = "full",
  *,
  workers: int | None = None,
  progress: bool = True,
) -> pathlib.Path:
  """Builds a variant of the data set, unless it exists, and returns its directory.

  Of two builds in one directory, the second waits for the first. A killed build is
  repeated. The bytes depend only on the versions of the libraries.

  Args:
    data_dir: directory of all data sets; the result is moving_shapes_long/<config>/
      <version> below it: ArrayRecord files, notes, checksum.json.
    config: full | tiny.
    workers: rendering processes; by default as many as there are cores.
    progress: whether to show a progress bar and a closing line on stderr.

  Raises:
    ConfigError: `config` is unknown.
    DataError: `data_dir` cannot be written, or a rendering process died.
  """
  choose(config, COUNTS, "config")
  root = pathlib.Path(data_dir) / NAME
  directory = root / config / VERSION
  if directory.exists():
    return directory
  try:
    root.mkdir(parents=True, exist_ok=True)
    with processes.locked(root / f".lock-{config}-{VERSION}", "build"):
      if not directory.exists():
        _build(directory, config, workers or processes.cores(), progress)
  except OSError as e:
    raise DataError(
      f"{data_dir}: cannot build {NAME} here ({e.strerror or e}); fix it or choose "
      "another data directory"
    ) from None
  return directory


def _build(directory: pathlib.Path, config: str, workers: int, progress: bool) -> None:
  """Writes everything next to the directory, and renames it."""
  staging = directory.parent.parent / f".parts-{config}-{VERSION}"
  shutil.rmtree(staging, ignore_errors=True)
  counts, videos = COUNTS[config], {}
  total, title = sum(counts.values()), f"{NAME}/{config}"
  with Bar(total=total, unit="video", desc=title, disable=not progress) as bar:
    for split, count in counts.items():
      videos[split] = []
      for video in _rendered(split, count, workers):
        videos[split].append(video)
        bar.update()
  builder = MovingShapesLong(
    config=config, data_dir=str(staging), file_format="array_record"
  )
  builder.videos = videos
  with quiet():
    builder.download_and_prepare(
      download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
  made = pathlib.Path(builder.data_dir)
  sums, texts = {}, {}
  for split, own in videos.items():
    sums[split] = hashlib.sha256(b"".join(v.video for v in own)).hexdigest()
    lines = [(v.id, i, map(notes.to_json, v.notes)) for i, v in enumerate(own)]
    texts[split] = "".join(notes.lines(n, i, split, each) for n, i, each in lines)
  io.write_json(made / "checksum.json", sums)
  splits = notes.save(made, NAME, texts)
  io.write_json(made / "manifest.json", dict(notes={NAME: dict(splits=splits)}))
  directory.parent.mkdir(parents=True, exist_ok=True)
  made.rename(directory)
  shutil.rmtree(staging)
  if progress:
    size = sum(f.stat().st_size for f in directory.iterdir()) / 1e6
    print(f"{directory}: {total} videos, {size:.0f} MB", file=sys.stderr)


def _rendered(split: str, count: int, workers: int) -> Iterator[Video]:
  """The videos of a split in order, rendered in processes."""
  each = functools.partial(make, split)
  workers = min(workers, count // 8)
  if workers <= 1:
    yield from map(each, range(count))
    return
  # Not forked: JAX's threads in the parent may hold locks.
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(
    workers, context, initializer=processes.end_with_parent
  ) as pool:
    try:
      with processes.hidden_main():
        videos = pool.map(each, range(count), chunksize=8)
      yield from videos
    except concurrent.futures.process.BrokenProcessPool:
      raise DataError(
        f"{NAME}: a rendering process died, perhaps out of memory; build again with "
        "workers=1"
      ) from None
    finally:
      pool.shutdown(cancel_futures=True)


def _name(split: str, number: int) -> str:
  return f"{split}-{number:05d}"


def _generator(split: str, number: int, use: int, seed: int) -> np.random.Generator:
  return np.random.default_rng([seed, scene.SPLITS.index(split), number, use])
