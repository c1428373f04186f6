"""A video of five minutes on the page: trained model, commands, Chromium.

Skipped without Chromium, as test_page.py is. The model is trained here, on the clips of
moving_shapes/tiny, until it has memorised them; half of the video's clips are among
these. With VTR_CHECKPOINT=runs/mac-demo, that run is asked, also for the other half.
"""

import itertools
import json
import os
import re
import subprocess
import sys
from typing import NamedTuple

import browser
import numpy as np
import pytest
import training
from conftest import ROOT, run_main
from test_page import LARGE, TILES, close_player, search

from configs import mac
from vtr_jax.data.embedded import clips, long
from vtr_jax.data.moving_shapes import render, scene

SECONDS = 300
SPLITS = ("train", "test")  # of the clips, by turns
CHECKPOINT = os.environ.get("VTR_CHECKPOINT", "")
ASKED = 15  # queries of each split
WINDOWS = ("--window=2", "--overlap=1")  # a clip takes 1.5 to 4 s
OPTIMISED = dict(XLA_FLAGS="")  # conftest's flags make a minute of training several
CURVE = "document.querySelector('#curve')"

pytestmark = [
  pytest.mark.nightly,
  pytest.mark.timeout(1200),
  pytest.mark.skipif(browser.missing() != "", reason=browser.missing()),
]


class Part(NamedTuple):
  """A clip of the video, from `start` to `end` in frames."""

  split: str
  index: int  # of the clip in its split
  meaning: scene.Meaning
  start: int
  end: int


def parts():
  """The clips of the video, in a random order, each at a speed of its own."""
  rng, start, found = np.random.default_rng(0), 0, []
  drawn = {split: scene.meanings(split, 96) for split in SPLITS}
  order = {split: rng.permutation(96).tolist() for split in SPLITS}
  for number in itertools.count():
    split = SPLITS[number % len(SPLITS)]
    index = order[split].pop()
    end = start + round(render.FRAMES * rng.choice(long.SPEEDS))
    if end > SECONDS * clips.FPS:
      return found
    found.append(Part(split, index, drawn[split][index], start, end))
    start = end


def frames(shown):
  """The frames of the video; the last one stays until its end."""
  frame = None
  for part in shown:
    made, _ = render.make_raw(part.split, part.index, part.meaning, 0)
    count = part.end - part.start
    at = (np.arange(count) + 0.5) * render.FRAMES / count
    for frame in made[at.astype(np.int64)].repeat(4, axis=1).repeat(4, axis=2):
      yield frame
  yield from itertools.repeat(frame, SECONDS * clips.FPS - shown[-1].end)


def queries(shown, split):
  """(caption, start, end in seconds) of clips whose things are in no other clip."""
  found = []
  for part in shown:
    others = (other.meaning.things for other in shown if other is not part)
    if part.split != split or any(set(part.meaning.things) <= set(o) for o in others):
      continue
    _, texts = render.make_raw(split, part.index, part.meaning, 0)
    found.append((texts[0], part.start / clips.FPS, part.end / clips.FPS))
  assert len(found) >= ASKED
  return found[:ASKED]


@pytest.fixture(scope="module")
def checkpoint(data_dir, tmp_path_factory):
  """A run that has memorised the clips of moving_shapes/tiny."""
  if CHECKPOINT:
    return os.path.join(ROOT, CHECKPOINT)
  config = mac.get_config("demo").to_dict()
  config |= dict(steps=120, batch_size=48, checkpoint_every=120, evals={})
  config["data"] |= dict(dir=str(data_dir), name="moving_shapes/tiny")
  place = tmp_path_factory.mktemp("run")
  process = training.start(json.loads(json.dumps(config)), place, **OPTIMISED)
  output, _ = process.communicate(timeout=900)
  assert process.returncode == 0, output
  return place


@pytest.fixture(scope="module")
def address(checkpoint, tmp_path_factory):
  """The page's, of an index of the video; both by the commands."""
  place = tmp_path_factory.mktemp("search")
  (place / "videos").mkdir()
  clips.write(str(place / "videos" / "five minutes.mp4"), frames(parts()))
  made = run_main(
    *("index", place / "videos", f"--checkpoint={checkpoint}"),
    *(f"--out={place / 'index'}", *WINDOWS),
    module="vtr_jax.search",
    **OPTIMISED,
  )
  assert made.returncode == 0, made.stderr
  command = [sys.executable, "-m", "vtr_jax.search", "serve", place / "index"]
  with subprocess.Popen(
    [*command, "--port=0"],
    cwd=ROOT,
    env=os.environ | OPTIMISED,
    stdout=subprocess.PIPE,
    text=True,
  ) as process:
    assert process.stdout is not None
    yield re.findall(r"http://\S+", process.stdout.readline())[0]
    process.terminate()


def ask(window, text):
  """Opens the first hit of a query; (second at which it plays, its moment)."""
  search(window, text)
  window.point("#grid li:first-child .play", press=True)
  window.wait(f"{CURVE}.checkVisibility()", seconds=120)  # 70 windows are embedded
  window.wait(f"{LARGE}.readyState > 2 && !{LARGE}.seeking && !{LARGE}.paused")
  second = window.run(f"return {LARGE}.currentTime")
  detail = window.run("return document.querySelector('#detail').textContent")
  edges = re.search(r"moment (\d+):([\d.]+)–(\d+):([\d.]+)", detail)
  assert edges
  minute, start, last, end = map(float, edges.groups())
  return second, (60 * minute + start, 60 * last + end)


def test_a_query_plays_its_moment_of_a_video_of_five_minutes(address, record_property):
  shown, landed = parts(), {}
  with browser.started() as window:
    window.open(address)
    window.wait(f"{TILES}.length > 0")
    window.console()
    for split in SPLITS if CHECKPOINT else ("train",):
      landed[split] = 0
      for text, start, end in queries(shown, split):
        second, moment = ask(window, text)
        assert window.run(f"return {LARGE}.duration") == pytest.approx(SECONDS)
        assert moment[0] - 0.1 <= second < moment[1] + 1
        landed[split] += start <= second < end
        # Without repeating the moment, it plays on.
        window.run("document.querySelector('#loop').click()")
        later = min(moment[1] + 0.5, SECONDS - 0.1)
        window.wait(f"{LARGE}.currentTime > arguments[0]", later)
        window.run("document.querySelector('#loop').click()")
        # The curve can be seen, and its highest part is not its lowest.
        points = window.run(
          f"return {CURVE}.querySelector('polyline').getAttribute('points')"
        ).split()
        heights = {float(point.split(",")[1]) for point in points}
        assert len(points) > 10
        assert min(heights) < max(heights)
        box = window.run(
          f"const r = {CURVE}.getBoundingClientRect(); return [r.width, r.height]"
        )
        assert box[0] > 300
        assert box[1] > 20
        close_player(window)
      found = f"{landed[split]} of {ASKED}"
      record_property(f"queries of clips of {split} that play their clip", found)
    # The file is read in parts.
    requests = window.run(
      "return performance.getEntriesByType('resource')"
      ".filter((e) => e.name.includes('/media/')).map((e) => e.responseStatus)"
    )
    assert 206 in requests
    assert window.console() == []
  assert landed["train"] >= 10, landed  # 0 or 1 by chance
