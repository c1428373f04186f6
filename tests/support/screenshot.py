"""Draws docs/search_page.png: the page with clips of the data set of a run.

PYTHONPATH=. python tests/support/screenshot.py runs/mac-demo docs/search_page.png
"""

import contextlib
import io
import pathlib
import sys
import tempfile
import threading
import time

import browser
from PIL import Image, ImageDraw

import vtr_jax
from vtr_jax.search import build
from vtr_jax.search.searcher import Searcher
from vtr_jax.search.server.serve import Server

_CLIPS = 600  # of the test split
_TILES = "#grid li:not(.skeleton)"


def main(run: str, out: str) -> None:
  with tempfile.TemporaryDirectory() as place:
    searcher, words = _searcher(run, pathlib.Path(place))
    with _served(searcher) as server, browser.started(1280, 860) as window:
      window.open(server.url)
      wide = _search(window, words, "light")
      browser.resize(window, 390, 844, phone=True)
      narrow = _search(window, words, "dark")
  canvas = Image.new("RGB", (1280 + 250, 920), "#c9c6dd")
  canvas.paste(wide, (30, 30), _rounded(wide, 14))
  canvas.paste(narrow, (1530 - 390 - 20, 56), _rounded(narrow, 34))
  canvas = canvas.resize((1224, 736), Image.Resampling.LANCZOS)
  palette = canvas.quantize(256)
  canvas.quantize(palette=palette).save(out, optimize=True)


def _searcher(run: str, place: pathlib.Path) -> tuple[Searcher, str]:
  """(searcher of an index of clips in folders, query)."""
  model = vtr_jax.load(run)
  source = model.config.data.open("test")
  records = [source[i] for i in range(min(_CLIPS, len(source)))]
  for record in records:
    path = place / "videos" / (record["label"] or "several") / f"{record['id']}.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(record["video"])
  build.build(place / "videos", place / "index", model, checkpoint=run, progress=True)
  return Searcher(model, [place / "index"]), records[9]["captions"][0]


@contextlib.contextmanager
def _served(searcher: Searcher):
  with Server(searcher, "127.0.0.1", 0) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def _search(window: browser.Browser, words: str, scheme: str) -> Image.Image:
  browser.scheme(window, scheme)
  window.wait("document.querySelector('#about').textContent.includes('clips')")
  window.run("document.querySelector('#words').value = arguments[0]", words)
  window.run("document.querySelector('#form').requestSubmit()")
  window.wait(f"document.querySelectorAll('{_TILES}').length >= 24")
  window.wait("[...document.querySelectorAll('.poster')].every((e) => e.complete)")
  window.point("#grid li:first-child .play")
  time.sleep(1.5)
  return Image.open(io.BytesIO(window.screenshot())).convert("RGB")


def _rounded(image: Image.Image, radius: int) -> Image.Image:
  mask = Image.new("L", image.size, 0)
  ImageDraw.Draw(mask).rounded_rectangle((0, 0, *image.size), radius, fill=255)
  return mask


if __name__ == "__main__":
  main(*sys.argv[1:])
