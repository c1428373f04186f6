"""Searches a folder of videos and images by text, by an image, or by another clip.

  python -m vtr_jax.search index FOLDER --checkpoint=runs/mine --out=INDEX
  python -m vtr_jax.search query INDEX "a dog jumps over a fence"
  python -m vtr_jax.search query INDEX,OTHER --image=photo.jpg --top=20 --json
  python -m vtr_jax.search query INDEX --clip=film.mp4@12.5
  python -m vtr_jax.search query INDEX "a dog jumps over a fence" --refine
  python -m vtr_jax.search serve INDEX

The same `index` command again updates an index. See docs/search.md.
"""

import dataclasses
import json
import sys
import time

from absl import flags

from vtr_jax.core import cli, paths
from vtr_jax.core.config import choose, require
from vtr_jax.core.errors import ConfigError, printable

_CHECKPOINT = flags.DEFINE_string(
  "checkpoint", "", "Directory of a run; query and serve: that of the index if empty."
)
_OUT = flags.DEFINE_string("out", "", "index: directory of the index.")
_WINDOW = flags.DEFINE_float("window", 10.0, "index: seconds of a clip.")
_OVERLAP = flags.DEFINE_float("overlap", 0.0, "index: seconds of overlap of two clips.")
_SHOTS = flags.DEFINE_bool("shots", False, "index: cut at shot changes.")
_THREADS = flags.DEFINE_integer("threads", 0, "index: decoders; 0 = one per core.")
_IMAGE = flags.DEFINE_string("image", "", "query: an image instead of text.")
_CLIP = flags.DEFINE_string("clip", "", "query: FILE@SECOND, a clip instead of text.")
_TOP = flags.DEFINE_integer("top", 10, "query: number of hits.")
_RERANK = flags.DEFINE_integer(
  "rerank", 0, "query: number of hits that the matching head ranks again; 0 = none."
)
_REFINE = flags.DEFINE_bool(
  "refine", False, "query: cut each hit to the moment that fits the text best."
)
_FOLDER = flags.DEFINE_string("folder", "", "query: prefix of the paths of files.")
_JSON = flags.DEFINE_bool("json", False, "query: print JSON.")
_HOST = flags.DEFINE_string("host", "127.0.0.1", "serve: address to listen on.")
_PORT = flags.DEFINE_integer("port", 8000, "serve: 0 = a free one.")
_TOKEN = flags.DEFINE_string("token", "", "serve: secret that the page requires.")


def index(folder: str = "", *more: str) -> None:
  """Creates an index, or updates it."""
  from vtr_jax.inference import windows
  from vtr_jax.inference.load import load  # starts JAX: after the flags
  from vtr_jax.search import build, files

  require(bool(folder) and not more, "index: give one FOLDER")
  folder = paths.local(folder, "FOLDER")
  require(bool(_OUT.value), "--out: missing; name the directory of the index")
  require(bool(_CHECKPOINT.value), "--checkpoint: missing; name the directory of a run")
  require(_THREADS.value >= 0, f"--threads: {_THREADS.value}; must be 0 or more")
  options = windows.Options(_WINDOW.value, _OVERLAP.value, _SHOTS.value)
  start = time.monotonic()
  report = build.build(
    folder,
    _OUT.value,
    load(_CHECKPOINT.value),
    checkpoint=_CHECKPOINT.value,
    options=options,
    threads=_THREADS.value,
    progress=True,
  )
  for line in files.told(report.unreadable):
    print(line, file=sys.stderr)
  listed = f"; see {_OUT.value}/unreadable.jsonl" if report.unreadable else ""
  print(
    f"{_OUT.value}: {report.clips} clips; files: {report.embedded} embedded, "
    f"{report.kept} as before, {report.moved} moved, {report.dropped} dropped, "
    f"{len(report.unreadable)} unreadable{listed} ({time.monotonic() - start:.1f} s)"
  )


def query(indexes: str = "", *words: str) -> None:
  """Prints the best hits."""
  from vtr_jax.search.query import Query
  from vtr_jax.search.searcher import Searcher

  query = Query(
    text=" ".join(words),
    image=_IMAGE.value or None,
    clip=_clip() if _CLIP.value else None,
    top=_TOP.value,
    rerank=_RERANK.value,
    folder=_FOLDER.value,
  )
  require(bool(query.text.strip()) or not _REFINE.value, "--refine: needs a text query")
  searcher = Searcher.open(*_indexes(indexes), checkpoint=_CHECKPOINT.value)
  if query.clip is not None:
    path, start, _ = query.clip
    window = searcher.indexes[0].header.window
    query = dataclasses.replace(query, clip=(path, start, start + window))
  hits = searcher.query(query)
  moments = [searcher.moment(query.text, h) if _REFINE.value else None for h in hits]
  found = zip(hits, moments, strict=True)
  if _JSON.value:
    rows = [h._asdict() | (dict(moment=m._asdict()) if m else {}) for h, m in found]
    print(json.dumps(rows, indent=2))
    return
  for hit, moment in found:
    start, end = (moment.start, moment.end) if moment else (hit.start, hit.end)
    part = f" {start:.2f}-{end:.2f} s" if end else ""
    print(f"{hit.score:7.4f}  {printable(hit.path)}{part}")
  if not hits:
    print("no hits: the index is empty, or --folder names no file of it")


def serve(indexes: str = "", *more: str) -> None:
  """Serves the page."""
  from vtr_jax.search.server import serve as server

  require(not more, "serve: give one INDEX, or several with commas")
  server.main(
    _indexes(indexes), _CHECKPOINT.value, _HOST.value, _PORT.value, _TOKEN.value
  )


_COMMANDS = dict(index=index, query=query, serve=serve)


def _indexes(names: str) -> list[str]:
  indexes = [name for name in paths.local(names, "INDEX").split(",") if name]
  require(bool(indexes), "INDEX: missing; name the directory of an index")
  return indexes


def _clip() -> tuple[str, float, float]:
  """FILE@SECOND as path, start, and the start again as a provisional end."""
  path, at, second = _CLIP.value.rpartition("@")
  try:
    start = float(second)
  except ValueError:
    at = ""
  if not at:
    raise ConfigError(f"--clip: {_CLIP.value!r}; give FILE@SECOND, as film.mp4@12.5")
  return path, start, start


def main(name: str = "", *words: str) -> None:
  choose(name, _COMMANDS, "command")
  _COMMANDS[name](*words)


if __name__ == "__main__":
  cli.run(main, arguments=True, here=frozenset({"out"}))
