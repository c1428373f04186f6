"""Indexes a folder of videos and images; embeds only new and changed files.

Threads decode clips, and the calling thread embeds them, in batches that may span
several files. A file is added to the index when all its clips are embedded.
"""

import dataclasses
import os
import time
from typing import NamedTuple

import numpy as np

from vtr_jax.core import paths, processes
from vtr_jax.core.errors import DataError
from vtr_jax.core.progress import Bar
from vtr_jax.inference import windows
from vtr_jax.inference.model import LoadedModel
from vtr_jax.search import files, store
from vtr_jax.search import writer as writer_lib
from vtr_jax.search.decoders import Decoders, Item

_COMMIT = 30.0  # ours: seconds between commits; SIGKILL loses the work since the last


class Report(NamedTuple):
  """Counts and times of one run.

  kept: unchanged files. embedded: new or changed files. moved: files whose content was
  indexed under another name or time. dropped: files that no longer exist. unreadable:
  (path, reason) of files that are missing or incomplete in the index, including those
  of earlier runs. clips: in the index. decoding: seconds of CPU time of all threads,
  including reading. embedding: seconds.
  """

  kept: int
  embedded: int
  moved: int
  dropped: int
  unreadable: list[tuple[str, str]]
  clips: int
  decoding: float
  embedding: float


def build(
  folder: str | os.PathLike,
  out: str | os.PathLike,
  model: LoadedModel,
  *,
  checkpoint: str | os.PathLike = "",
  options: windows.Options | None = None,
  threads: int = 0,
  progress: bool = False,
) -> Report:
  """Creates or updates the index of a folder and its subfolders.

  A file whose size and modification time are unchanged is not opened, as with make and
  rsync; known content under another name or time is not decoded. Unreadable files are
  listed in the report and in OUT/unreadable.jsonl.

  Args:
    folder: of videos and images; links are followed unless they lead out of it.
    out: directory of the index.
    model: embeds the clips.
    checkpoint: the model's run, which queries load.
    options: how videos are cut; None = windows of 10 s.
    threads: number of decoding threads; 0 = one per core.
    progress: whether to show a bar with the remaining time.

  Raises:
    DataError: no video or image in the folder; the index is being written by another
      process, is damaged, or has another model or other options.
  """
  root = os.path.abspath(folder)
  entries, left_out = files.walk(root)
  header = store.Header(
    model=model.id,
    checkpoint=str(paths.absolute(paths.anywhere(checkpoint))) if checkpoint else "",
    dim=model.dim,
    root=root,
    **dataclasses.asdict(options or windows.Options()),
  )
  with writer_lib.Writer(out, header) as writer:
    run = _Run(writer, model, options or windows.Options())
    return run(entries, left_out, threads or processes.cores(), progress)


@dataclasses.dataclass
class _Work:
  """The progress of a file."""

  vectors: list[np.ndarray] = dataclasses.field(default_factory=list)
  times: list[tuple[float, float]] = dataclasses.field(default_factory=list)
  clips: int = 0  # decoded so far
  counted: int = 0  # bytes added to the progress bar
  end: Item | None = None


class _Run:
  """One call of `build`."""

  def __init__(
    self, writer: writer_lib.Writer, model: LoadedModel, options: windows.Options
  ):
    self._writer, self._model, self._options = writer, model, options
    self._before = dict(writer.files)
    self._known = {f.digest: f for f in self._before.values()}
    self._owned: set[int] = set()  # first rows that belong to an existing file
    self._renamed: set[str] = set()  # paths whose rows belong to another file now
    self._embedded = self._moved = 0
    self._decoding = self._embedding = 0.0
    self._transient: list[tuple[str, str]] = []

  def __call__(
    self,
    entries: list[files.Entry],
    left_out: list[tuple[str, str]],
    threads: int,
    progress: bool,
  ) -> Report:
    writer = self._writer
    kept = {entry.path for entry in entries if self._unchanged(entry)}
    self._owned = {self._before[path].row for path in kept if self._before[path].clips}
    todo = [entry for entry in entries if entry.path not in kept]
    missing = self._before.keys() - {entry.path for entry in entries}
    # Files in a folder that cannot be read now are kept.
    unreadable_folders = tuple(f"{name}/" for name, _ in left_out)
    missing = {path for path in missing if not path.startswith(unreadable_folders)}
    sizes = {entry.size for entry in todo}
    for path in sorted(missing):
      # A new file of the same size may be this file, renamed.
      if self._before[path].size not in sizes:
        writer.drop(path)
    self._embed(todo, threads, progress)
    for path in sorted(missing & writer.files.keys()):
      writer.drop(path)
    writer.compact()
    unreadable = [(f.path, f.error) for f in writer.files.values() if f.error]
    unreadable = sorted(unreadable + self._transient + left_out)
    files.write_list(writer.directory / "unreadable.jsonl", unreadable)
    return Report(
      kept=len(kept),
      embedded=self._embedded,
      moved=self._moved,
      dropped=len(missing - self._renamed),
      unreadable=unreadable,
      clips=sum(f.clips for f in writer.files.values()),
      decoding=self._decoding,
      embedding=self._embedding,
    )

  def _unchanged(self, entry: files.Entry) -> bool:
    before = self._before.get(entry.path)
    return before is not None and before[:3] == entry

  def _embed(self, todo: list[files.Entry], threads: int, progress: bool) -> None:
    """Embeds new and changed files and adds them to the index."""
    works: dict[int, _Work] = {}
    batch: list[Item] = []
    size, committed = self._model.config.eval_batch_size, time.monotonic()
    bar = Bar(
      total=sum(entry.size for entry in todo),
      desc=f"indexing {len(todo)} files",
      unit="B",
      unit_scale=True,
      disable=not (progress and todo),
    )
    decoders = Decoders(
      self._writer.header.root, todo, self._known, self._options, self._model, threads
    )
    with bar, decoders as items:
      for item in items:
        self._decoding += item.seconds
        work = works.setdefault(item.number, _Work())
        if item.clip is None:
          work.end = item
        else:
          work.clips += 1
          batch.append(item)
          counted = int(todo[item.number].size * item.clip.fraction)
          bar.update(counted - work.counted)
          work.counted = counted
        if len(batch) >= size or (item.clip is None and not batch):
          self._flush(batch, works)
          self._settle(todo, works, bar)
        if time.monotonic() - committed > _COMMIT:
          self._writer.commit()
          committed = time.monotonic()
      self._flush(batch, works)
      self._settle(todo, works, bar)

  def _flush(self, batch: list[Item], works: dict[int, _Work]) -> None:
    """Embeds a batch."""
    if not batch:
      return
    start = time.monotonic()
    clips = [item.clip for item in batch if item.clip is not None]
    vectors = self._model.embed_clips(clip.frames for clip in clips)
    if not np.isfinite(vectors).all():
      raise DataError(
        f"{self._model.name}: its embeddings are not finite; give another --checkpoint"
      )
    for item, clip, vector in zip(batch, clips, vectors, strict=True):
      works[item.number].vectors.append(vector)
      works[item.number].times.append((clip.start, clip.end))
    batch.clear()
    self._embedding += time.monotonic() - start

  def _settle(self, todo: list[files.Entry], works: dict[int, _Work], bar: Bar) -> None:
    """Adds the files whose clips are all embedded."""
    for number, work in list(works.items()):
      if work.end is not None and work.clips == len(work.vectors):
        self._add(todo[number], work, work.end)
        bar.update(todo[number].size - work.counted)
        bar.set_postfix_str(f"{self._embedded + self._moved} done", refresh=False)
        del works[number]

  def _add(self, entry: files.Entry, work: _Work, end: Item) -> None:
    file = store.File(*entry, digest=end.digest, row=0, clips=0, error=end.error)
    if end.transient:
      self._transient.append((entry.path, end.error))
      if entry.path in self._writer.files:
        self._writer.drop(entry.path)
      return
    indexed = self._known.get(end.digest)
    if indexed is None:
      self._embedded += bool(work.vectors)
      vectors = np.stack(work.vectors) if work.vectors else np.zeros((0, 1))
      self._writer.add(file, vectors, np.reshape(work.times, (-1, 2)))
      return
    self._moved += 1
    file = file._replace(error=indexed.error)
    if indexed.row not in self._owned or not indexed.clips:
      self._owned.add(indexed.row)
      self._renamed.add(indexed.path)
      self._writer.note(file._replace(row=indexed.row, clips=indexed.clips))
    else:  # a copy: the first file keeps its rows
      self._writer.add(file, *self._writer.rows(indexed))
