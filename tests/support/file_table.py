"""Writes docs/files.md: what every way of reading makes of every kind of file.

PYTHONPATH=. python tests/support/file_table.py
It needs the extra heif.
"""

import contextlib
import io
import pathlib

import av
import found
import movies
import numpy as np
from PIL import Image

from vtr_jax.core.errors import BadSample
from vtr_jax.data.video import decode, stream
from vtr_jax.data.video.container import choose_stream
from vtr_jax.data.video.image import HEAD, is_image
from vtr_jax.prepare import image, video
from vtr_jax.prepare.options import Options

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "files.md"
TITLE = """# Files that are read

One file of each kind, written by PyAV, Pillow or pillow-heif, and what each command
does with it: the number of frames that are read, or why it is rejected. Training reads
records, and `embed_video` and `search query` read files, by the same function. Text in
parentheses is a warning; of interlaced, HDR and animated files, training, search and
`predict` warn once. The page is written by
`PYTHONPATH=. python tests/support/file_table.py`; a test compares.

"""


def _files() -> dict[str, tuple[str, bytes]]:
  """Name -> (what is unusual, the file)."""
  files = {}
  for name in movies.KINDS:
    files[name] = (name.replace("_", " "), movies.movie(name))
  files |= {name: (text, make()) for name, (text, make) in found.VIDEOS.items()}
  whole = movies.movie("variable_rate")
  files["cut"] = ("cut short", whole[: len(whole) * 3 // 5])
  files["page"] = ("a web page", b"<!DOCTYPE html><html>404</html>")
  files["empty"] = ("empty", b"")
  one = "orientation_1"  # of the eight, which differ in nothing that is shown here
  pictures = {k: v for k, v in found.PICTURES.items() if k[:8] != one[:8] or k == one}
  pictures = (pictures | {"turned (8 orientations)": pictures.pop(one)}).items()
  files |= {name: (name.replace("_", " "), data) for name, (data, _) in pictures}
  with contextlib.suppress(ImportError):
    files |= {
      name: (name.replace("_", " "), found.heif(name)[0]) for name in found.HEIF
    }
  return files


def _kind(data: bytes) -> tuple[str, str]:
  """(container, codec); of a picture its format and mode."""
  if is_image(data[:HEAD]):
    with Image.open(io.BytesIO(data)) as opened:
      return str(opened.format), opened.mode
  try:
    with av.open(io.BytesIO(data)) as container:
      name = container.format.name.partition(",")[0]
      name = dict(mov="mp4", matroska="matroska, webm").get(name, name)
      return name, choose_stream(container).codec.name
  except (av.FFmpegError, BadSample):
    return "-", "-"


def _answer(read) -> str:
  try:
    return read()
  except BadSample as e:
    return str(e)


def _count(frames: int, warnings: tuple[str, ...] | list[str]) -> str:
  return "; ".join([str(frames), *(f"({text})" for text in warnings)])


def _decoded(data: bytes) -> str:
  damage: list[str] = []
  return _count(len(decode.decode(data, damage=damage)), damage)


def _searched(data: bytes) -> str:
  file = io.BytesIO(data)
  line = stream.timeline(file)
  (frames,) = stream.clips(file, line, [np.arange(len(line.times))], None)
  assert len(frames) == len(line.times)
  return _count(len(frames), ["damaged"] * line.damaged)


def _prepared(data: bytes, **options) -> str:
  encode = image.encode if is_image(data[:HEAD]) else video.encode
  made = encode(data, Options(**options))
  return _count(made.frames, made.warnings)


def rows() -> list[tuple[str, ...]]:
  """(what, container, codec, then an answer for each way in) of each kind."""
  return [
    (
      text,
      *_kind(data),
      _answer(lambda d=data: _decoded(d)),
      _answer(lambda d=data: _searched(d)),
      _answer(lambda d=data: _prepared(d)),
      _answer(lambda d=data: _prepared(d, copy=True)),
    )
    for text, data in _files().values()
  ]


def page() -> str:
  """The page."""
  ways = ("training, `embed_video`", "`search index`", "`prepare`", "`prepare --copy`")
  head = ("file", "container", "codec", *ways)
  lines = [head, ("---",) * len(head), *rows()]
  table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
  return f"{TITLE}{table}\n"


if __name__ == "__main__":
  PAGE.write_text(page())
