"""Lists the videos and images of a folder, and computes digests of their content."""

import collections
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from vtr_jax.core import io
from vtr_jax.core.errors import BadSample, DataError, one_line, printable
from vtr_jax.core.paths import near
from vtr_jax.prepare.formats import media

ENDINGS = media.VIDEO + media.IMAGE
_PIECE = 2**20  # bytes read at once
_CONVERT = "convert it, as with ffmpeg -i FILE -c:v libx264 NEW.mp4"
# (part of a reason, what helps); the first that fits. Others say it themselves.
_CURES = (
  ("damaged after", "copy or download it again; what is good before that is used"),
  ("empty file", "copy or download it again"),
  ("no video stream", "it has only sound, a cover or text: leave it out"),
  ("not a video", f"copy it again, or if players open it, {_CONVERT}"),
  ("not an image", "copy it again, or save it as PNG or JPEG"),
  ("unknown codec", _CONVERT),
  ("can be decoded", f"copy it again, or {_CONVERT}"),
  ("no complete frame", "copy or download it again"),
  ("pixels", "make it smaller"),
  ("take fewer", "cut it into parts"),
  ("more than", "cut it into parts, or make it smaller"),
  ("Permission denied", "allow this user to read it, as with chmod"),
  ("does not exist", "copy the file that the link leads to, or remove the link"),
  ("No such file", "correct its name"),
  ("not a file", "it is a pipe or a device: save what comes from it to a file"),
)


class Entry(NamedTuple):
  """A video or image of a folder, by its ending; see store.File."""

  path: str  # below the folder, with /
  size: int
  mtime_ns: int


def walk(root: str) -> tuple[list[Entry], list[tuple[str, str]]]:
  """Files in `root` and its subfolders, sorted; (path, reason) of those left out.

  Links are followed where they stay in the folder, or in the hub's cache that it is a
  part of. Files of other kinds are counted in
  a line on standard error; those of known kinds that are not read are left out.

  Raises:
    DataError: there is no such folder, or no video or image in it.
  """
  if not os.path.isdir(root):
    cure = f"give the one that holds the videos{near(root)}"
    if os.path.isfile(root):
      raise DataError(f"{root}: is a file; {cure}")
    raise DataError(f"{root}: no such folder; {cure}")
  top, entries, left_out = boundary(root), [], []
  paths, others, unreadable = _paths(root)
  left_out += [(os.path.relpath(e.filename, root), e.strerror) for e in unreadable]
  for path in paths:
    name = os.path.relpath(path, root).replace(os.sep, "/")
    if not name.lower().endswith(ENDINGS):
      if reason := media.unread(name):
        left_out.append((name, reason))
      else:
        others.append(os.path.basename(name))
      continue
    real = os.path.realpath(path)
    if not os.path.exists(path):
      left_out.append((name, "a link to a file that does not exist"))
      continue
    if os.path.commonpath([top, real]) != top:
      left_out.append((name, f"a link to {real}, out of the folder; index that one"))
      continue
    try:
      stat = os.stat(path)
    except OSError as e:
      left_out.append((name, e.strerror or "cannot be read"))
      continue
    if os.path.isfile(path):
      entries.append(Entry(name, stat.st_size, stat.st_mtime_ns))
    else:
      left_out.append((name, "not a file"))  # a pipe, say, which would block
  if not entries:
    raise DataError(
      f"{root}: no video or image among its files ({len(others)} others, "
      f"{len(left_out)} that cannot be read); known endings: {' '.join(ENDINGS)}"
    )
  media.tell_passed_over(root, others)
  return sorted(entries), left_out


def boundary(root: str) -> str:
  """The folder that links may not leave: `root`, or the cached repository around it.

  A hub's cache has the files of OWNER--NAME/snapshots/COMMIT in OWNER--NAME/blobs.
  """
  top = pathlib.Path(os.path.realpath(root))
  for parent in top.parents:
    if parent.name == "snapshots" and (parent.parent / "blobs").is_dir():
      return str(parent.parent)
  return str(top)


def _paths(root: str) -> tuple[list[str], list[str], list[OSError]]:
  """(files, names of hidden ones and such, folders that cannot be read).

  A folder that is reached again through a link is skipped.
  """
  seen, paths, litter, unreadable = set(), [], [], []
  top = boundary(root)
  for folder, folders, names in os.walk(
    root, onerror=unreadable.append, followlinks=True
  ):
    real = os.path.realpath(folder)
    if real in seen or os.path.commonpath([top, real]) != top:
      folders.clear()
      continue
    seen.add(real)
    folders[:] = sorted(name for name in folders if not media.is_litter(name))
    paths += [os.path.join(folder, n) for n in names if not media.is_litter(n)]
    litter += [name for name in names if media.is_litter(name)]
  return paths, litter, unreadable


def digest(path: str) -> str:
  """32 hex digits of a file's content.

  Raises:
    OSError: it cannot be read.
  """
  content = hashlib.blake2b(digest_size=16)
  with open(path, "rb") as f:
    while piece := f.read(_PIECE):
      content.update(piece)
  return content.hexdigest()


def reason(error: Exception) -> str:
  """Why a file cannot be read, as one line."""
  if isinstance(error, BadSample):
    return str(error)
  if isinstance(error, OSError):
    return error.strerror or one_line(error)
  return f"{type(error).__name__}: {one_line(error)}"


def told(listed: Sequence[tuple[str, str]]) -> list[str]:
  """A line for each (path, reason) of files that cannot be read, then the cures."""
  return [f"{printable(name)}: {why}" for name, why in listed] + cures(listed)


def cures(listed: Iterable[tuple[str, str]]) -> list[str]:
  """A line for each kind of reason: how many files have it, and the cure.

  Args:
    listed: (path, reason) of files.
  """
  plain = lambda why: re.sub(r"\d+", "N", why.partition(" (")[0])
  kinds = collections.Counter((plain(why), _cure(why)) for _, why in listed)
  return [f"{count} x {why}: {cure}" for (why, cure), count in kinds.items() if cure]


def _cure(why: str) -> str:
  """What helps; "" where the reason says it, after a semicolon."""
  known = (cure for part, cure in _CURES if part in why)
  return next(known, "" if ";" in why else "check the disk, or copy the file again")


def write_list(path: pathlib.Path, listed: list[tuple[str, str]]) -> None:
  """Replaces the list of (path, reason) by JSON lines, one per unreadable file."""
  lines = [json.dumps(dict(path=name, reason=reason)) for name, reason in listed]
  io.atomic_write(path, "".join(line + "\n" for line in lines))
