"""Tar files of WebDataset, as img2dataset and video2dataset write them.

Members that share their name up to the first dot that no digit follows are a sample, in
whatever order they come: one video or image, its caption in txt or in the json's
"caption", its class in cls. Nothing is unpacked: an item is a byte range of the tar.
The source is a tar, a directory of tars, or a pattern.
"""

import glob
import os
import re
import tarfile
from collections.abc import Iterator

from vtr_jax.core import io
from vtr_jax.core.errors import DataError, one_line
from vtr_jax.prepare.formats import media, parse
from vtr_jax.prepare.formats.base import Item, Media, Request

_TEXTS = ("txt", "json", "cls")
_MAX_TEXT = 1 << 20  # bytes of a caption or its metadata; ours


def read(request: Request) -> Iterator[Item]:
  """One item a sample, called <tar>/<key>."""
  parse.no_annotations(request, "webdataset")
  for path in _tars(request.source):
    split = parse.split_of(path) or request.split or "train"
    for key, members in _samples(path):
      yield _item(path, key, members, split)


def _tars(source: str) -> list[str]:
  if os.path.isdir(source):
    source = os.path.join(glob.escape(source), "**", "*.tar")
  paths = sorted(p for p in glob.glob(source, recursive=True) if os.path.isfile(p))
  if not paths:
    raise DataError(f"{source}: no tar; set --source to a tar or a directory of them")
  return paths


def _samples(path: str) -> Iterator[tuple[str, dict]]:
  """(key, {ending: place or content}) of each sample, in the order of first members."""
  samples: dict[str, dict] = {}
  for info, tar in _members(path):
    folder, name = os.path.split(info.name)
    stem, dot, ending = _parts(name)
    if not dot or name.startswith(("._", "__")):  # macOS' and WebDataset's own
      continue
    members = samples.setdefault(os.path.join(folder, stem), {})
    _once(ending in members, path, info.name)
    members[ending] = _content(path, tar, info, ending)
  yield from samples.items()


def _parts(name: str) -> tuple[str, str, str]:
  """(stem, dot, ending in lower case) of a member's name."""
  # Not the dot of a time, 10.0.
  match = re.search(r"\.(?!\d)|\.(?=3g[p2]$)", name, re.IGNORECASE)
  at = match.start() if match else len(name)
  return name[:at], name[at : at + 1], name[at + 1 :].lower()


def _once(again: bool, path: str, name: str) -> None:
  if again:
    raise DataError(f"{path}: {name!r} occurs twice; write the tar again without it")


def _members(path: str) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
  """Regular files of a tar; raises DataError for links and names outside the tar."""
  try:
    with tarfile.open(path, "r:") as tar:
      for info in tar:
        tar.members = []  # pyright: ignore  # else every header is kept
        _check(path, info)
        if info.isfile():
          yield info, tar
  except tarfile.TarError as e:
    raise _damaged(path, e) from e


def _damaged(path: str, error: tarfile.TarError) -> DataError:
  return DataError(
    f"{path}: not a tar, cut short, or compressed ({one_line(error)}); "
    "copy it again, or decompress it"
  )


def _check(path: str, info: tarfile.TarInfo) -> None:
  parts = info.name.split("/")
  wrong = info.issparse() or not (info.isfile() or info.isdir())
  if wrong or ".." in parts or info.name.startswith("/") or "\0" in info.name:
    cause = "is a link or not a regular file" if wrong else "leads out of the tar"
    raise DataError(f"{path}: member {info.name!r} {cause}; write the tar without it")


def _content(path: str, tar: tarfile.TarFile, info: tarfile.TarInfo, ending: str):
  """The text of a text member, the position of any other."""
  if ending not in _TEXTS:
    return Media(path, info.offset_data, info.size)
  where = f"{path}: {info.name!r}"
  parse.require(info.size <= _MAX_TEXT, where, f"at most {_MAX_TEXT} bytes of text")
  try:
    return tar.extractfile(info).read().decode().strip()  # pyright: ignore
  except tarfile.TarError as e:
    raise _damaged(path, e) from e
  except UnicodeDecodeError as e:
    raise DataError(f"{where}: not UTF-8 ({one_line(e)}); write it as UTF-8") from e


def _item(path: str, key: str, members: dict, split: str) -> Item:
  where = f"{path}: {key!r}"
  shard = os.path.basename(path).removesuffix(".tar")
  return Item(
    f"{shard}/{key}",
    split,
    _media(members, where) or Media(f"{path}/{key}{media.VIDEO[0]}"),
    _captions(members, where),
    members.get("cls", ""),
  )


def _media(members: dict, where: str) -> Media | None:
  """The sample's video; its image if it has none."""
  for endings in (media.VIDEO, media.IMAGE):
    matches = [m for e, m in members.items() if f".{e}" in endings]
    parse.require(len(matches) < 2, where, "one video or image, got more")
    if matches:
      return matches[0]
  return None


def _captions(members: dict, where: str) -> tuple[str, ...]:
  if "txt" in members:
    return parse.sentences(members["txt"], where)
  try:
    data = io.loads(members.get("json", "{}"))
  except ValueError as e:
    raise DataError(f"{where}: json is damaged ({one_line(e)}); fix it") from e
  return parse.caption_in(data, where)
