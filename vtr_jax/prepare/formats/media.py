"""From names in annotations to media files, never outside the source directory."""

import collections
import functools
import os
import unicodedata
from collections.abc import Iterable, Iterator

from vtr_jax.core.errors import DataError
from vtr_jax.core.paths import near
from vtr_jax.core.shutdown import print_line
from vtr_jax.prepare.formats.base import Media

# The first is the assumed ending of a missing file.
VIDEO = (
  *(".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".3gp", ".3g2"),
  *(".flv", ".wmv", ".asf", ".ogv", ".ts", ".mts", ".m2ts", ".vob", ".gif"),
)
IMAGE = (
  *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff"),
  *(".avif", ".heic", ".heif", ".hif"),
)
# Known, but not read.
_OTHER_VIDEO = (
  *(".rm", ".rmvb", ".swf", ".mxf", ".y4m", ".yuv", ".dv", ".wtv", ".m3u8", ".mpd"),
)
_OTHER_IMAGE = (
  *(".svg", ".psd", ".xcf", ".eps", ".jxl", ".jp2", ".exr", ".hdr", ".ico", ".pnm"),
  *(".ppm", ".pgm", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"),
)
# What systems and shares leave in folders; hidden files and folders too.
_LITTER = (
  *("@eadir", "__macosx", "#recycle", "$recycle.bin", "system volume information"),
  *("lost+found", "thumbs.db", "desktop.ini"),
)


def is_litter(name: str) -> bool:
  """Whether a walk passes over a file or folder of this name."""
  return name.startswith(".") or name.lower() in _LITTER


def unread(name: str) -> str:
  """Why a file of a known kind is not read, with the cure; "" of other kinds."""
  ending = os.path.splitext(name)[1].lower()
  if ending in _OTHER_VIDEO:
    return f"{ending} is not read; convert it to .mp4, as with ffmpeg"
  if ending in _OTHER_IMAGE:
    return f"{ending} is not read; save it as .png or .jpg"
  return ""


def tell_passed_over(root: str, names: Iterable[str]) -> None:
  """Prints how many files a walk passes over, by their endings."""
  kinds = collections.Counter(
    "hidden or of the system"
    if is_litter(name)
    else os.path.splitext(name)[1].lower() or "no ending"
    for name in names
  )
  if kinds:
    order = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    listed = ", ".join(f"{kind} {count}" for kind, count in order[:8])
    more = f", and {len(kinds) - 8} more endings" if len(kinds) > 8 else ""
    count = "1 file is" if kinds.total() == 1 else f"{kinds.total()} files are"
    print_line(f"{root}: {count} passed over: {listed}{more}")


def inside(source: str, name: str, where: str) -> str:
  """Path of `name` in the directory `source`.

  Args:
    source: directory of the media.
    name: relative path, or an absolute one within `source`.
    where: file and line of the name, for the message.

  Raises:
    DataError: the path is outside `source`.
  """
  path = os.path.join(source, name)
  plain = name and "\0" not in name
  # Fast path: nearly all of millions of names are obviously inside.
  if plain and ".." not in name and not os.path.isabs(name):
    return path
  root = os.path.abspath(source)
  if not plain or os.path.commonpath([root, os.path.abspath(path)]) != root:
    raise DataError(
      f"{where}: path {name!r} leads out of --source={source}; correct one of them"
    )
  return path


def walk(
  source: str, endings: tuple[str, ...], used: tuple[str, ...] | None = None
) -> Iterator[str]:
  """Sorted paths of all files under `source` with one of `endings`.

  The others, but for those with endings `used`, are counted in a line on standard
  error, unless that is None.
  """
  if not os.path.isdir(source):
    cure = f"set --source to that of the media{near(source)}"
    what = "is a file" if os.path.isfile(source) else "no such directory"
    raise DataError(f"{source}: {what}; {cure}")
  seen, others = set(), []
  for folder, folders, names in os.walk(source, followlinks=True):
    real = os.path.realpath(folder)
    if real in seen:  # a link back to a folder above
      folders.clear()
      continue
    seen.add(real)
    folders[:] = sorted(name for name in folders if not is_litter(name))
    for name in sorted(names):
      if name.lower().endswith(endings) and not is_litter(name):
        yield os.path.join(folder, name)
      elif is_litter(name) or not name.lower().endswith(used or ()):
        others.append(name)
  if used is not None:
    tell_passed_over(source, others)


class Files:
  """Media files under a directory, found by path, or deeper in it."""

  def __init__(self, source: str, endings: tuple[str, ...] = VIDEO):
    self._source = source
    self._endings = endings
    self._listed: dict[str, dict[str, tuple[str, ...]]] = {}

  def find(self, name: str, where: str, *others: str) -> Media:
    """The file called `name` or one of `others`; a missing one if none exists.

    Args:
      name: path within the directory, with or without its ending. A file of this
        name with another ending is taken too; else one deeper in the directory,
        below the same folders if the name has some.
      where: file and line that name it.
      others: other names.

    Raises:
      DataError: the name is outside the directory, or two files match it.
    """
    path = inside(self._source, name, where)
    known = path.lower().endswith(self._endings)
    if known and os.path.isfile(path):
      return Media(path)
    spelt = list(_spellings(name))
    for other in spelt:
      inside(self._source, other, where)
    for look in (self._exactly, self._deeper):
      for other in (name, *others, *spelt):
        paths = look(*self._parts(other))
        if len(paths) > 1:
          raise DataError(
            f"{where}: {name!r} may be {paths[0]} or {paths[1]}; remove one, or "
            "set --source to the directory of one"
          )
        if paths:
          return Media(paths[0])
    return Media(path if known else path + self._endings[0])

  def _parts(self, name: str) -> tuple[str, str]:
    """Folder below the source, and file name without its ending."""
    if os.path.isabs(name):
      name = os.path.relpath(name, self._source)
    folder, stem = os.path.split(os.path.normpath(name))
    known = stem.lower().endswith(self._endings)
    return folder, os.path.splitext(stem)[0] if known else stem

  def _exactly(self, folder: str, stem: str) -> tuple[str, ...]:
    if folder not in self._listed:
      place = os.path.join(self._source, folder)
      names = next(os.walk(place), ("", [], []))[2]
      known = (
        n
        for n in sorted(names)
        if n.lower().endswith(self._endings) and not is_litter(n)
      )
      self._listed[folder] = _by_stem(os.path.join(place, n) for n in known)
    return self._listed[folder].get(stem, ())

  def _deeper(self, folder: str, stem: str) -> tuple[str, ...]:
    paths = self._walked.get(stem, ())
    if not folder:
      return paths
    # Files of the same name in other folders are other files: train/1, test/1.
    end = os.sep + folder
    return tuple(path for path in paths if os.path.dirname(path).endswith(end))

  @functools.cached_property
  def _walked(self) -> dict[str, tuple[str, ...]]:
    return _by_stem(walk(self._source, self._endings))


def _spellings(name: str) -> Iterator[str]:
  """Other spellings of a path: without blanks around it, with the other slash, and in
  the other of Unicode's two normal forms."""
  plain = name.strip().replace("\\", "/")
  for form in ("NFC", "NFD"):
    other = unicodedata.normalize(form, plain)
    if other not in ("", name):
      yield other


def _by_stem(paths: Iterable[str]) -> dict[str, tuple[str, ...]]:
  groups = {}
  for path in paths:
    stem = os.path.splitext(os.path.basename(path))[0]
    groups[stem] = (*groups.get(stem, ()), path)
  return groups


def below(source: str, folder: str) -> str:
  """`source`/`folder` where there is one, else `source`."""
  path = os.path.join(source, folder)
  return path if os.path.isdir(path) else source


def exists(media: Media) -> bool:
  """Whether the file exists."""
  return os.path.isfile(media.path)


def stem(name: str) -> str:
  """File name without folders and without the ending of a video or image."""
  name = os.path.basename(name)
  known = name.lower().endswith(VIDEO + IMAGE)
  return os.path.splitext(name)[0] if known else name
