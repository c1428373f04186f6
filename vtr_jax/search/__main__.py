"""Searches a folder of videos and images by words, by an image, or by another clip.

  python -m vtr_jax.search index FOLDER --checkpoint=runs/mine --out=INDEX
  python -m vtr_jax.search query INDEX "a dog jumps over a fence"
  python -m vtr_jax.search query INDEX,OTHER --image=photo.jpg --top=20 --json
  python -m vtr_jax.search query INDEX --clip=film.mp4@12.5
  python -m vtr_jax.search serve INDEX

The same `index` again brings an index up to date. docs/search.md tells the rest.
"""

import json
import sys
import time

from absl import flags

from vtr_jax.core import cli
from vtr_jax.core.config import choose, require
from vtr_jax.core.errors import ConfigError, printable

_CHECKPOINT = flags.DEFINE_string(
  "checkpoint", "", "Directory of a run; query and serve: that of the index if empty."
)
_OUT = flags.DEFINE_string("out", "", "index: directory of the index.")
_WINDOW = flags.DEFINE_float("window", 10.0, "index: seconds of a clip.")
_OVERLAP = flags.DEFINE_float("overlap", 0.0, "index: seconds that two clips share.")
_SHOTS = flags.DEFINE_bool("shots", False, "index: cut where the picture changes.")
_THREADS = flags.DEFINE_integer("threads", 0, "index: that decode; 0 = one per core.")
_IMAGE = flags.DEFINE_string("image", "", "query: an image instead of words.")
_CLIP = flags.DEFINE_string("clip", "", "query: FILE@SECOND, a clip instead of words.")
_TOP = flags.DEFINE_integer("top", 10, "query: how many clips.")
_RERANK = flags.DEFINE_integer(
  "rerank", 0, "query: so many are ranked again by the matching head; 0 = none."
)
_FOLDER = flags.DEFINE_string("folder", "", "query: how the paths of files begin.")
_JSON = flags.DEFINE_bool("json", False, "query: print JSON.")
_HOST = flags.DEFINE_string("host", "127.0.0.1", "serve: address that is listened to.")
_PORT = flags.DEFINE_integer("port", 8000, "serve: 0 = one that is free.")
_TOKEN = flags.DEFINE_string("token", "", "serve: what the page asks for.")


def index(folder: str = "", *more: str) -> None:
  """Makes an index, or brings it up to date."""
  from vtr_jax.inference.model import load  # starts JAX: after the flags
  from vtr_jax.search import build, windows

  require(bool(folder) and not more, "index: give one FOLDER")
  require(bool(_OUT.value), "--out: missing; name the directory of the index")
  require(bool(_CHECKPOINT.value), "--checkpoint: missing; name the directory of a run")
  require(_THREADS.value >= 0, f"--threads: {_THREADS.value}; must be 0 or more")
  options = windows.Options(_WINDOW.value, _OVERLAP.value, _SHOTS.value)
  began = time.monotonic()
  report = build.build(
    folder,
    _OUT.value,
    load(_CHECKPOINT.value),
    checkpoint=_CHECKPOINT.value,
    options=options,
    threads=_THREADS.value,
    progress=True,
  )
  for name, reason in report.unreadable:
    print(f"{printable(name)}: {reason}", file=sys.stderr)
  listed = f"; see {_OUT.value}/unreadable.jsonl" if report.unreadable else ""
  print(
    f"{_OUT.value}: {report.clips} clips; files: {report.embedded} embedded, "
    f"{report.kept} as before, {report.moved} moved, {report.dropped} dropped, "
    f"{len(report.unreadable)} unreadable{listed} ({time.monotonic() - began:.1f} s)"
  )


def query(places: str = "", *words: str) -> None:
  """Prints the clips that fit best."""
  from vtr_jax.search.searcher import Searcher

  text = " ".join(words)
  given = [bool(text.strip()), bool(_IMAGE.value), bool(_CLIP.value)]
  require(any(given), "query: empty; give words, --image or --clip")
  require(sum(given) == 1, "query: give one of words, --image and --clip")
  searcher = Searcher.open(*_places(places), checkpoint=_CHECKPOINT.value)
  window = searcher.indexes[0].header.window
  hits = searcher.query(
    text=text,
    image=_IMAGE.value or None,
    clip=_clip(window) if _CLIP.value else None,
    top=_TOP.value,
    rerank=_RERANK.value,
    folder=_FOLDER.value,
  )
  if _JSON.value:
    print(json.dumps([hit._asdict() for hit in hits], indent=2))
    return
  for hit in hits:
    part = f" {hit.start:.2f}-{hit.end:.2f} s" if hit.end else ""
    print(f"{hit.score:7.4f}  {printable(hit.path)}{part}")
  if not hits:
    print("no clip fits: the index is empty, or --folder names no file of it")


def serve(places: str = "", *more: str) -> None:
  """The page."""
  from vtr_jax.search.server import serve as server

  require(not more, "serve: give one INDEX, or several with commas")
  server.main(
    _places(places), _CHECKPOINT.value, _HOST.value, _PORT.value, _TOKEN.value
  )


_COMMANDS = dict(index=index, query=query, serve=serve)


def _places(names: str) -> list[str]:
  places = [name for name in names.split(",") if name]
  require(bool(places), "INDEX: missing; name the directory of an index")
  return places


def _clip(window: float) -> tuple[str, float, float]:
  """FILE@SECOND as path, start and end."""
  path, at, second = _CLIP.value.rpartition("@")
  try:
    start = float(second)
  except ValueError:
    at = ""
  if not at:
    raise ConfigError(f"--clip: {_CLIP.value!r}; give FILE@SECOND, as film.mp4@12.5")
  return path, start, start + window


def main(name: str = "", *words: str) -> None:
  choose(name, _COMMANDS, "command")
  _COMMANDS[name](*words)


if __name__ == "__main__":
  cli.run(main, arguments=True)
