"""Decodes files into clips, in threads."""

import os
import queue
import threading
import time
from collections.abc import Container, Iterator
from typing import NamedTuple

from vtr_jax.core.errors import MissingPackage
from vtr_jax.inference import windows
from vtr_jax.inference.model import LoadedModel
from vtr_jax.search import files


class Item(NamedTuple):
  """Output of a decoding thread: a clip, or the end of a file.

  number: index of the file. seconds: CPU time. digest: of the content, at the end.
  error: why decoding ended early. transient: the error may not occur again.
  """

  number: int
  seconds: float
  clip: windows.Clip | None = None
  digest: str = ""
  error: str = ""
  transient: bool = False


class Decoders:
  """Threads that decode files; a context that iterates over items as they arrive."""

  def __init__(
    self,
    root: str,
    todo: list[files.Entry],
    known: Container[str],
    options: windows.Options,
    model: LoadedModel,
    threads: int,
  ):
    """Prepares the threads; entering the context starts them.

    Args:
      root: the folder of the files.
      todo: the files.
      known: digests of content that is not decoded again.
      options: how videos are cut.
      model: defines the size of clips.
      threads: their number.
    """
    self._root, self._known, self._options, self._model = root, known, options, model
    self._jobs, self._left = iter(enumerate(todo)), len(todo)
    self._lock, self._stop = threading.Lock(), threading.Event()
    # Holds the next batch while one is embedded.
    self._items = queue.Queue(2 * model.config.eval_batch_size)
    self._threads = [
      threading.Thread(target=self._work, daemon=True) for _ in range(threads)
    ]

  def __enter__(self) -> Iterator[Item]:
    for thread in self._threads:
      thread.start()
    return self._all()

  def __exit__(self, *error) -> None:
    self._stop.set()
    for thread in self._threads:
      thread.join()

  def _all(self) -> Iterator[Item]:
    while self._left:
      item = self._items.get()
      self._left -= item.clip is None
      yield item

  def _work(self) -> None:
    while not self._stop.is_set():
      with self._lock:
        job = next(self._jobs, None)
      if job is None:
        return
      for item in self._decode(*job):
        while not self._stop.is_set():
          try:
            self._items.put(item, timeout=0.1)
            break
          except queue.Full:
            continue
        if self._stop.is_set():
          return

  def _decode(self, number: int, entry: files.Entry) -> Iterator[Item]:
    """The clips of a file, unless its content is known, and its end; thread-safe."""
    path = os.path.join(self._root, *entry.path.split("/"))
    last, digest, error, transient = time.thread_time(), "", "", False

    def elapsed() -> float:
      nonlocal last
      previous, last = last, time.thread_time()
      return last - previous

    try:
      digest = files.digest(path)
      if digest not in self._known:
        for clip in windows.clips(path, self._options, self._model):
          yield Item(number, elapsed(), clip)
    except Exception as e:  # one unusual file among many must not end the run
      error, transient = files.reason(e), isinstance(e, OSError | MissingPackage)
    yield Item(number, elapsed(), None, digest, error, transient)
