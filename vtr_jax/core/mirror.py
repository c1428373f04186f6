"""A directory in a bucket: its small files are local, and copied to the bucket.

Google Cloud Storage cannot append to a file or lock one, and renames by copying. So a
run writes its small files to a local scratch directory; a thread uploads those that
have changed. Orbax writes checkpoints to the bucket itself. Instead of a lock there is
an object that is created if it does not exist, and renewed: a lease.
"""

import contextlib
import functools
import json
import os
import pathlib
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from vtr_jax.core import buckets, io, paths
from vtr_jax.core.errors import CheckpointError, DataError, one_line
from vtr_jax.core.shutdown import warn

_RENEW = 20.0  # ours: seconds between renewals of the lease; saves may be far apart
_EXPIRY = 90.0  # ours: seconds without a renewal after which a lease is void
_LEASE, _STATE = "lock", ".mirror.json"
_CHECKPOINTS = "checkpoints"
COMMIT = "commit_success.txt"  # Orbax's: written last


class Mirror:
  """The files of a directory; if it is in a bucket, local copies that are pushed there.

  For a local directory, `local` is that directory, and the methods do nothing.
  """

  def __init__(
    self, directory: str | os.PathLike, process: int = 0, fresh: bool = False
  ):
    """Makes no request yet.

    Args:
      directory: local, or gs://bucket/path.
      process: index of this process in its run; each has its own copies.
      fresh: upload only what is written from now on; the copies are removed by
        `finish`. Otherwise they are those of earlier starts.
    """
    self.name = os.fspath(directory)
    self.remote = paths.is_bucket(directory)
    self.lock = threading.Lock()  # of the local files while they are copied
    self.local = pathlib.Path(directory)
    self._id, self._lease = uuid.uuid4().hex, 0  # generation of the object; 0 = none
    self._fresh = fresh and self.remote
    if self.remote:
      self.name = self.name.rstrip("/")
      owner = self._id if fresh else str(process or "")
      self.local = buckets.scratch(self.name, owner)
    self._wake, self._stopped = threading.Event(), False
    self._thread: threading.Thread | None = None
    self._renewed = 0.0  # when the lease was written
    self._taken, self._problem = False, ""
    self._due = False  # whether an upload was asked for and has not succeeded
    # name -> [size, time of change, generation] of what is equal in the bucket
    self._equal: dict[str, list[int]] = {}

  @property
  def checkpoints(self) -> Any:
    """The folder "checkpoints", a pathlib.Path or an epath.Path."""
    return paths.anywhere(self.name) / _CHECKPOINTS

  @contextlib.contextmanager
  def held(self, timeout: float) -> Iterator[None]:
    """Holds the lease, so that no other run writes here.

    A lease that is not renewed for 90 s is void, as is at once that of a process of
    this machine that has ended.

    Args:
      timeout: seconds to wait for another run to end.

    Raises:
      DataError: another run holds it, or the bucket cannot be used.
    """
    if not self.remote:
      yield
      return
    self._acquire(timeout)
    try:
      yield
    finally:
      self._stop()
      if self._lease:
        with contextlib.suppress(Exception):  # it expires
          lease = buckets.blob(f"{self.name}/{_LEASE}")
          lease.delete(if_generation_match=self._lease, timeout=5)
      self._lease = 0

  def pull(self) -> None:
    """Copies the bucket's files, without folders, here; unless changed only here.

    Raises:
      DataError: the bucket cannot be read.
    """
    if not self.remote:
      return
    self.local.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError, ValueError):
      self._equal = io.mapping((self.local / _STATE).read_bytes())
    try:
      found = buckets.files(self.name)
      found.pop(_LEASE, None)
      for name, blob in found.items():
        path = self.local / name
        if self._equal.get(name, [0])[-1] != blob.generation or not path.exists():
          io.atomic_write(path, blob.download_as_bytes(**buckets.options()))
          os.utime(path, (blob.updated.timestamp(),) * 2)
          self._equal[name] = [*_stamp(path), blob.generation]
    except Exception as e:  # of any kind: the network, or Google's client
      raise buckets.unusable(self.name, e) from e
    # What was deleted in the bucket is not restored from here.
    for name in list(self._equal):
      if not found or ("/" not in name and name not in found):
        (self.local / name).unlink(missing_ok=True)
        del self._equal[name]
    if not found:
      shutil.rmtree(self.local / _CHECKPOINTS, ignore_errors=True)
    io.write_json(self.local / _STATE, self._equal)

  def push(self) -> None:
    """Uploads, in the background, the files that have changed."""
    if self.remote:
      self._start()
      self._wake.set()

  def reachable(self) -> bool:
    """Whether the bucket can be written; warns when that changes.

    Raises:
      DataError: another run has taken over.
    """
    return not self.remote or self._try(upload=False)

  def sync(self) -> bool:
    """Uploads the files that have changed; returns whether all are in the bucket.

    Raises:
      DataError: another run has taken over.
    """
    return not self.remote or self._try(upload=True)

  def finish(self) -> None:
    """Uploads the files that have changed, for the last time.

    Raises:
      CheckpointError: some are not in the bucket; names the local directory.
      DataError: another run has taken over.
    """
    self._stop()
    if not self.sync():
      raise CheckpointError(
        f"{self.name}: cannot be written ({self._problem}); everything is in "
        f"{self.local}: run the same command again on this machine, or copy it"
      )
    if self._fresh:
      shutil.rmtree(self.local, ignore_errors=True)

  def _start(self) -> None:
    if self._thread is None:
      self._stopped = False
      self._thread = threading.Thread(target=self._work, daemon=True)
      self._thread.start()

  def _work(self) -> None:
    while True:
      wanted = self._wake.wait(_RENEW)
      self._wake.clear()
      if self._stopped:
        return
      with contextlib.suppress(DataError):  # raised in the main thread, by `reachable`
        self._try(upload=wanted)

  def _stop(self) -> None:
    self._stopped = True
    if self._thread is not None:
      self._wake.set()
      self._thread.join()
      self._thread = None

  def _try(self, upload: bool) -> bool:
    with self.lock:
      self._due = self._due or upload
      try:
        self._renew()
        if self._problem and not self._lease:  # nothing was requested so far
          lease = buckets.blob(f"{self.name}/{_LEASE}")
          lease.exists(**buckets.options(again=True))
        if self._due:
          self._upload()
        self._due, problem = False, ""
      except DataError:
        raise
      except Exception as e:  # of any kind: the network, or Google's client
        problem = one_line(e)
      before, self._problem = self._problem, problem
    if problem and not before:
      warn(f"{self.name}: not written ({problem}); the run continues in {self.local}")
    elif before and not problem:
      warn(f"{self.name}: can be written again")
    return not problem

  def _upload(self) -> None:
    """Copies changed files; a checkpoint that was saved here is then removed."""
    changed = False
    for path in sorted(self.local.rglob("*"), key=_order):
      name = path.relative_to(self.local).as_posix()
      if path.name.startswith(".") or name == _LEASE or "checkpoint-tmp" in name:
        continue
      with contextlib.suppress(FileNotFoundError, IsADirectoryError):
        stamp = _stamp(path)
        if self._equal.get(name, [])[:2] != stamp:
          if self._lease and time.monotonic() - self._renewed > _RENEW:
            self._renew()  # a checkpoint may take longer than the lease is valid
          blob = buckets.blob(f"{self.name}/{name}")
          blob.upload_from_filename(str(path), **buckets.options(large=True))
          self._equal[name], changed = [*stamp, blob.generation or 0], True
    if (self.local / _CHECKPOINTS).exists():
      shutil.rmtree(self.local / _CHECKPOINTS, ignore_errors=True)
      buckets.forget()  # the folder may have been listed before
    if changed:
      kept = self._equal.items()
      self._equal = {k: v for k, v in kept if not k.startswith(f"{_CHECKPOINTS}/")}
      io.write_json(self.local / _STATE, self._equal)

  def _acquire(self, timeout: float) -> None:
    from google.api_core.exceptions import NotFound, PreconditionFailed  # pyright: ignore

    seen, since, start = 0, 0.0, time.monotonic()
    while True:
      expected = 0  # the object must not exist
      try:
        lease = buckets.blob(f"{self.name}/{_LEASE}")
        with contextlib.suppress(NotFound):
          lease.reload(**buckets.options())
          if lease.generation != seen:
            seen, since = lease.generation, time.monotonic()
          owner = _owner(lease)
          if self._is_void(owner) or time.monotonic() - since > _EXPIRY:
            expected = seen
        self._write_lease(expected)
        break
      except PreconditionFailed:
        pass
      except Exception as e:  # of any kind: the network, or Google's client
        raise buckets.unusable(self.name, e) from e
      waited = time.monotonic() - start
      if waited > timeout:
        raise DataError(
          f"{self.name}: another run writes there; wait for it to end, or use another"
        )
      if waited < 1.0:
        warn(f"{self.name}: waiting for another run to end")
      time.sleep(1.0)
    self._start()

  def _write_lease(self, expected: int) -> None:
    """Writes the lease if its generation is `expected`; 0 = it must not exist."""
    lease = buckets.blob(f"{self.name}/{_LEASE}")
    text = json.dumps(dict(machine=_machine(), pid=os.getpid(), id=self._id))
    options = buckets.options(again=bool(self._problem))
    lease.upload_from_string(text, if_generation_match=expected, **options)
    self._lease, self._renewed = lease.generation, time.monotonic()

  def _renew(self) -> None:
    if self._lease and not self._taken:
      from google.api_core.exceptions import NotFound, PreconditionFailed  # pyright: ignore

      try:
        self._write_lease(self._lease)
      except (NotFound, PreconditionFailed):
        lease = buckets.blob(f"{self.name}/{_LEASE}")
        try:
          lease.reload(**buckets.options())
          # An attempt may have succeeded whose answer was lost.
          self._taken = _owner(lease).get("id") != self._id
          self._lease = 0 if self._taken else lease.generation
        except NotFound:  # somebody has deleted it
          self._write_lease(0)
    if self._taken:
      raise DataError(f"{self.name}: another run has taken over; this one ends")

  def _is_void(self, owner: dict[str, Any]) -> bool:
    """Whether a lease is ours, or that of a process of this machine that has ended."""
    if owner.get("id") == self._id:  # the answer to an attempt was lost
      return True
    ended = not pathlib.Path(f"/proc/{owner.get('pid')}").exists()
    return owner.get("machine") == _machine() and ended


def _owner(lease: Any) -> dict[str, Any]:
  """Who holds a lease: machine, pid, id; empty if that is not known."""
  try:
    return io.mapping(lease.download_as_bytes(**buckets.options()))
  except ValueError:
    return {}


@functools.cache
def _machine() -> str:
  """Identifies the machine since it was started, and the processes that it shows."""
  try:
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"
  except OSError:
    return uuid.uuid4().hex


def _stamp(path: pathlib.Path) -> list[int]:
  stat = path.stat()
  return [stat.st_size, stat.st_mtime_ns]


def _order(path: pathlib.Path) -> tuple[bool, int, pathlib.Path]:
  """Files that complete a checkpoint come last, and the outermost at the very end."""
  return path.name == COMMIT, -len(path.parts), path
