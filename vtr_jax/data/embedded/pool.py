"""Renders embedded data sets in several processes, in parts that outlive a kill.

A part is a file with the records of `chunk` consecutive clips. It is written
atomically, so a build resumes with the parts that exist. Rendering processes import
neither JAX nor TFDS.
"""

import concurrent.futures
import concurrent.futures.process
import multiprocessing
import pathlib
import pickle
from collections.abc import Iterator
from typing import Any

from vtr_jax.core import io, processes
from vtr_jax.core.errors import DataError
from vtr_jax.core.progress import Bar
from vtr_jax.data.embedded.clips import Clip, World

Job = tuple[World, pathlib.Path, str, int, list[Any]]


def render(
  world: World,
  directory: pathlib.Path,
  counts: dict[str, int],
  chunk: int,
  workers: int | None,
  bar: Bar,
) -> None:
  """Renders the parts of all splits that are missing in `directory`.

  Args:
    world: the data set.
    directory: of the parts.
    counts: clips by split.
    chunk: clips per part.
    workers: processes; by default as many as there are cores.
    bar: counts clips.

  Raises:
    DataError: a rendering process died.
  """
  jobs: list[Job] = []
  for split, count in counts.items():
    drawn = world.draw(split, count)
    for start in range(0, count, chunk):
      path = _path(directory, split, start)
      jobs.append((world, path, split, start, drawn[start : start + chunk]))
  missing = [job for job in jobs if not job[1].exists()]
  # Excludes the clips of an earlier build from the estimate of the rate.
  bar.initial = bar.n = sum(counts.values()) - sum(len(job[4]) for job in missing)
  bar.refresh()
  workers = min(workers or processes.cores(), len(missing))
  if workers <= 1:
    for job in missing:
      bar.update(_render_part(*job))
  else:
    _render_parallel(missing, workers, bar)


def clips(
  world: World, directory: pathlib.Path | None, split: str, count: int, chunk: int
) -> Iterator[Clip]:
  """All clips of a split in order, from parts, or rendered when there are none."""
  drawn = world.draw(split, count)
  for start in range(0, count, chunk):
    if directory is None:
      part = drawn[start : start + chunk]
      yield from _make(world, split, start, part)
    else:
      part = pickle.loads(_path(directory, split, start).read_bytes())
      yield from (Clip(*clip) for clip in part)


def _render_parallel(jobs: list[Job], workers: int, bar: Bar) -> None:
  # Not forked: JAX's threads in the parent may hold locks.
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(
    workers, context, initializer=processes.end_with_parent
  ) as pool:
    try:
      with processes.hidden_main():
        futures = [pool.submit(_render_part, *job) for job in jobs]
      for future in concurrent.futures.as_completed(futures):
        bar.update(future.result())
    except concurrent.futures.process.BrokenProcessPool:
      raise DataError(
        f"{jobs[0][0].name}: a rendering process died, perhaps out of memory; build "
        "again with workers=1"
      ) from None
    finally:
      pool.shutdown(cancel_futures=True)


def _render_part(
  world: World, path: pathlib.Path, split: str, start: int, contents: list[Any]
) -> int:
  """Writes one part atomically; returns its number of clips."""
  made = _make(world, split, start, contents)
  io.atomic_write(path, pickle.dumps([tuple(clip) for clip in made]))
  return len(made)


def _make(world: World, split: str, start: int, contents: list[Any]) -> list[Clip]:
  return [world.make(split, i, content) for i, content in enumerate(contents, start)]


def _path(directory: pathlib.Path, split: str, start: int) -> pathlib.Path:
  return directory / f"{split}-{start:05d}.part"
