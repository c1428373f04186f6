"""Files in buckets of Google Cloud Storage, named gs://bucket/path."""

import base64
import contextlib
import functools
import hashlib
import os
import pathlib
import stat
import tempfile
from typing import Any

from vtr_jax.core import io, paths
from vtr_jax.core.config import require
from vtr_jax.core.errors import DataError, one_line

_DEADLINE = 30.0  # ours: seconds for which a request is tried again
_TIMEOUT = 15.0  # ours: seconds of one request
_LARGE = 60.0  # ours: seconds of a request that transfers much
_AGAIN = 3.0  # ours: instead of _DEADLINE, while a bucket is known to be out of reach


@functools.cache
def _client() -> Any:
  from google.cloud import storage  # pyright: ignore (optional)

  return storage.Client()


def options(large: bool = False, again: bool = False) -> dict[str, Any]:
  """Arguments of a request of Google's client: how long it may take, with retries.

  Args:
    large: whether it transfers much.
    again: whether the last request failed.
  """
  from google.cloud.storage.retry import DEFAULT_RETRY  # pyright: ignore

  retry = DEFAULT_RETRY.with_timeout(_AGAIN if again else _DEADLINE)
  return dict(timeout=_LARGE if large else _TIMEOUT, retry=retry)


def blob(url: str) -> Any:
  """The object of Google's client; makes no request."""
  bucket, _, name = url.removeprefix("gs://").partition("/")
  return _client().bucket(bucket).blob(name)


def files(url: str) -> dict[str, Any]:
  """Name -> object, of the files of a folder but not of its folders."""
  bucket, _, prefix = f"{url}/".removeprefix("gs://").partition("/")
  found = _client().list_blobs(bucket, prefix=prefix, delimiter="/", **options())
  return {b.name.rpartition("/")[2]: b for b in found if b.name != prefix}


def unusable(url: str, e: Exception) -> DataError:
  """The error of a request that failed, or was tried again for too long."""
  return DataError(
    f"{url}: cannot be used ({one_line(e)}); fix its name, the network or "
    "the permission (gcloud auth application-default login)"
  )


def scratch(url: str, owner: str = "") -> pathlib.Path:
  """A directory of this user for local copies of `url`; the same for each start.

  Raises:
    ConfigError: another user may have made it, or may write there.
  """
  root = pathlib.Path(tempfile.gettempdir(), f"vtr_jax-{os.getuid()}")
  with contextlib.suppress(FileExistsError):
    root.mkdir(mode=0o700)
  found = root.lstat()
  own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
  require(
    own and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH),
    f"{root}: a link, or of another user, or others may write there; remove it, or set "
    "TMPDIR to a directory of your own",
  )
  mark = hashlib.sha256(url.encode()).hexdigest()[:8]
  return root / "-".join(filter(None, (url.rpartition("/")[2], mark, owner)))


def copied(path: Any) -> pathlib.Path:
  """A local copy of a file in a bucket; a local path itself."""
  if not paths.is_bucket(path):
    return pathlib.Path(path)
  folder = scratch(os.fspath(path), "copy")
  folder.mkdir(parents=True, exist_ok=True)
  io.atomic_write(folder / path.name, path.read_bytes())
  return folder / path.name


def move(folder: Any, to: Any) -> None:
  """Renames a folder; in a bucket, by copies."""
  if not paths.is_bucket(folder):
    folder.rename(to)
    return
  _file_system().mv(str(folder), str(to), recursive=True)


def forget() -> None:
  """Makes epath list folders again: it does not see what others have written."""
  _file_system().invalidate_cache()


def _file_system() -> Any:
  """That of epath."""
  import fsspec

  return fsspec.filesystem("gcs", finalize_on_close=True)


def upload(folder: pathlib.Path, url: str, last: str) -> int:
  """Copies a finished folder to a bucket; files that are there already are skipped.

  Args:
    folder: local.
    url: gs://bucket/path of the copy.
    last: name of the file that is copied last; readers take a folder with it as whole.

  Returns:
    The number of files that were copied.

  Raises:
    DataError: the bucket cannot be written.
  """
  count = 0
  found = (path for path in folder.rglob("*") if path.is_file())
  try:
    for path in sorted(found, key=lambda path: (path.name == last, path)):
      there = blob(f"{url}/{path.relative_to(folder).as_posix()}")
      if there.exists(**options()):
        there.reload(**options())
        if there.crc32c == _crc32c(path):
          continue
      there.upload_from_filename(str(path), **options(large=True))
      count += 1
  except Exception as e:  # of any kind: the network, or Google's client
    raise unusable(url, e) from e
  return count


def _crc32c(path: pathlib.Path) -> str:
  """As Google's metadata have it."""
  import google_crc32c  # pyright: ignore

  checksum = google_crc32c.Checksum()
  with path.open("rb") as f:
    for _ in checksum.consume(f, 1 << 20):
      pass
  return base64.b64encode(checksum.digest()).decode()
