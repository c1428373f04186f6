"""A folder of videos and images to an index: only what is new or changed is embedded.

Threads decode, and the caller's embeds what they bring, in whole batches over the
bounds of files. A file becomes a part of the index when all its clips are embedded.
"""

import dataclasses
import os
import queue
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from vtr_jax.core import processes
from vtr_jax.core.errors import BadSample, DataError, one_line
from vtr_jax.core.progress import Bar
from vtr_jax.inference.model import LoadedModel
from vtr_jax.search import files, store, windows
from vtr_jax.search import writer as writer_lib

_COMMIT = 30.0  # ours: seconds of work that SIGKILL may cost; more if a file takes more


class Report(NamedTuple):
  """What one run did.

  kept: files that are as before. embedded: new or changed ones. moved: their content
  was there under another name or time. dropped: gone, not moved. unreadable: (path,
  reason) of files that are not in the index or not all of them, those of earlier runs
  among them. clips: in the index. decoding: seconds of CPU time of all threads,
  reading included. embedding: seconds.
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
  checkpoint: str = "",
  options: windows.Options | None = None,
  threads: int = 0,
  progress: bool = False,
) -> Report:
  """Makes the index of a folder and the folders in it, or brings it up to date.

  A file of the same size and time as before is not opened, as with make and rsync; one
  of the same content under another name or time is not decoded. What cannot be read is
  in the report and in OUT/unreadable.jsonl.

  Args:
    folder: of videos and images; links are followed that stay in it.
    out: directory of the index.
    model: that embeds.
    checkpoint: where it is from, for those who query.
    options: how videos are cut; None = windows of 10 s.
    threads: that decode; 0 = one per core.
    progress: whether to show a bar with the time that is left.

  Raises:
    DataError: no video or image in the folder; another process writes the index, it is
      damaged, or was made otherwise.
  """
  root = os.path.abspath(folder)
  found, left_out = files.walk(root)
  header = store.Header(
    model=model.id,
    checkpoint=os.path.abspath(checkpoint) if checkpoint else "",
    dim=model.dim,
    root=root,
    **dataclasses.asdict(options or windows.Options()),
  )
  with writer_lib.Writer(out, header) as writer:
    run = _Run(writer, model, options or windows.Options())
    return run(found, left_out, threads or processes.cores(), progress)


class _Item(NamedTuple):
  """What a thread brings: a clip, or the end of a file.

  number: of the file. error: why there are no more. passing: another time there may be.
  seconds: of CPU time.
  """

  number: int
  seconds: float
  clip: windows.Clip | None = None
  digest: str = ""
  error: str = ""
  passing: bool = False


@dataclasses.dataclass
class _Work:
  """How far a file has come."""

  vectors: list[np.ndarray] = dataclasses.field(default_factory=list)
  times: list[tuple[float, float]] = dataclasses.field(default_factory=list)
  clips: int = 0  # that were decoded
  told: int = 0  # bytes that the bar has counted
  end: _Item | None = None


class _Run:
  """One call of `build`."""

  def __init__(
    self, writer: writer_lib.Writer, model: LoadedModel, options: windows.Options
  ):
    self._writer, self._model, self._options = writer, model, options
    self._before = dict(writer.files)
    self._known = {f.digest: f for f in self._before.values()}
    self._owned: set[int] = set()  # first rows that a file has for certain
    self._renamed: set[str] = set()  # paths whose rows another has now
    self._embedded = self._moved = 0
    self._decoding = self._embedding = 0.0
    self._passing: list[tuple[str, str]] = []

  def __call__(
    self,
    found: list[files.Found],
    left_out: list[tuple[str, str]],
    threads: int,
    progress: bool,
  ) -> Report:
    writer = self._writer
    same = {each.path for each in found if self._same(each)}
    self._owned = {self._before[path].row for path in same if self._before[path].clips}
    todo = [each for each in found if each.path not in same]
    gone = self._before.keys() - {each.path for each in found}
    # What lies in a folder that cannot be read today is not gone.
    closed = tuple(f"{name}/" for name, _ in left_out)
    gone = {path for path in gone if not path.startswith(closed)}
    sizes = {each.size for each in todo}
    for path in sorted(gone):
      # What has the size of a new one may be the same under another name.
      if self._before[path].size not in sizes:
        writer.drop(path)
    self._embed(todo, threads, progress)
    for path in sorted(gone & writer.files.keys()):
      writer.drop(path)
    writer.compact()
    unreadable = [(f.path, f.error) for f in writer.files.values() if f.error]
    unreadable = sorted(unreadable + self._passing + left_out)
    files.write_list(writer.place / "unreadable.jsonl", unreadable)
    return Report(
      kept=len(same),
      embedded=self._embedded,
      moved=self._moved,
      dropped=len(gone - self._renamed),
      unreadable=unreadable,
      clips=sum(f.clips for f in writer.files.values()),
      decoding=self._decoding,
      embedding=self._embedding,
    )

  def _same(self, found: files.Found) -> bool:
    before = self._before.get(found.path)
    return before is not None and before[:3] == found

  def _embed(self, todo: list[files.Found], threads: int, progress: bool) -> None:
    """Brings new and changed files into the index."""
    works: dict[int, _Work] = {}
    batch: list[_Item] = []
    size, committed = self._model.config.eval_batch_size, time.monotonic()
    bar = Bar(
      total=sum(each.size for each in todo),
      desc=f"indexing {len(todo)} files",
      unit="B",
      unit_scale=True,
      disable=not (progress and todo),
    )
    with bar, _Decoders(self, todo, threads) as items:
      for item in items:
        self._decoding += item.seconds
        work = works.setdefault(item.number, _Work())
        if item.clip is None:
          work.end = item
        else:
          work.clips += 1
          batch.append(item)
          told = int(todo[item.number].size * item.clip.share)
          bar.update(told - work.told)
          work.told = told
        if len(batch) >= size or (item.clip is None and not batch):
          self._flush(batch, works)
          self._settle(todo, works, bar)
        if time.monotonic() - committed > _COMMIT:
          self._writer.commit()
          committed = time.monotonic()
      self._flush(batch, works)
      self._settle(todo, works, bar)

  def _flush(self, batch: list[_Item], works: dict[int, _Work]) -> None:
    """Embeds a batch."""
    if not batch:
      return
    began = time.monotonic()
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
    self._embedding += time.monotonic() - began

  def _settle(self, todo: list[files.Found], works: dict[int, _Work], bar: Bar) -> None:
    """Adds the files of which all is embedded."""
    for number, work in list(works.items()):
      if work.end is not None and work.clips == len(work.vectors):
        self._add(todo[number], work, work.end)
        bar.update(todo[number].size - work.told)
        bar.set_postfix_str(f"{self._embedded + self._moved} done", refresh=False)
        del works[number]

  def _add(self, found: files.Found, work: _Work, end: _Item) -> None:
    file = store.File(*found, digest=end.digest, row=0, clips=0, error=end.error)
    if end.passing:
      self._passing.append((found.path, end.error))
      if found.path in self._writer.files:
        self._writer.drop(found.path)
      return
    known = self._known.get(end.digest)
    if known is None:
      self._embedded += bool(work.vectors)
      vectors = np.stack(work.vectors) if work.vectors else np.zeros((0, 1))
      self._writer.add(file, vectors, np.reshape(work.times, (-1, 2)))
      return
    self._moved += 1
    file = file._replace(error=known.error)
    if known.row not in self._owned or not known.clips:
      self._owned.add(known.row)
      self._renamed.add(known.path)
      self._writer.note(file._replace(row=known.row, clips=known.clips))
    else:  # a copy: the first keeps its rows
      self._writer.add(file, *self._writer.rows(known))

  def decode(self, number: int, found: files.Found) -> Iterator[_Item]:
    """The clips of a file, unless its content is known, and its end; in any thread."""
    path = os.path.join(self._writer.header.root, *found.path.split("/"))
    began, digest, error, passing = time.thread_time(), "", "", False

    def spent() -> float:
      nonlocal began
      before, began = began, time.thread_time()
      return began - before

    try:
      digest = files.digest(path)
      if digest not in self._known:
        for clip in windows.clips(path, self._options, self._model):
          yield _Item(number, spent(), clip)
    except BadSample as e:
      error = str(e)
    except OSError as e:
      error, passing = e.strerror or one_line(e), True
    except Exception as e:  # one odd file among many must not end the run
      error = f"{type(e).__name__}: {one_line(e)}"
    yield _Item(number, spent(), None, digest, error, passing)


class _Decoders:
  """Threads that decode files; iterates over what they bring, as it comes."""

  def __init__(self, run: _Run, todo: list[files.Found], threads: int):
    self._run, self._jobs = run, iter(enumerate(todo))
    self._todo, self._lock = len(todo), threading.Lock()
    # As much as fills a batch while another is embedded.
    self._items = queue.Queue(2 * run._model.config.eval_batch_size)
    self._stop = threading.Event()
    self._threads = [
      threading.Thread(target=self._work, daemon=True) for _ in range(threads)
    ]

  def __enter__(self) -> Iterator[_Item]:
    for thread in self._threads:
      thread.start()
    return self._all()

  def __exit__(self, *error) -> None:
    self._stop.set()
    for thread in self._threads:
      thread.join()

  def _all(self) -> Iterator[_Item]:
    left = self._todo
    while left:
      item = self._items.get()
      left -= item.clip is None
      yield item

  def _work(self) -> None:
    while not self._stop.is_set():
      with self._lock:
        job = next(self._jobs, None)
      if job is None:
        return
      for item in self._run.decode(*job):
        while not self._stop.is_set():
          try:
            self._items.put(item, timeout=0.1)
            break
          except queue.Full:
            continue
        if self._stop.is_set():
          return
