"""The page in headless Chromium, from typing to playing.

apt-get install chromium chromium-driver     then it runs; else it is skipped
"""

import time

import browser
import movies
import page
import pytest
from PIL import Image

NAMES = (
  "a/green bar.mp4",
  "a/red ball.mp4",
  "b/blue ball.mp4",
  "b/red bar.mp4",
  "old.avi",
  "gone.mp4",
  "still.png",
)
TILES = "document.querySelectorAll('#grid .play')"
FOCUS = "document.activeElement"
VIDEO = "document.querySelector('#grid video')"
LARGE = "document.querySelector('#player video')"

pytestmark = pytest.mark.skipif(browser.missing() != "", reason=browser.missing())


@pytest.fixture(scope="module")
def window():
  with browser.started() as running:
    yield running


@pytest.fixture
def server(tmp_path_factory):
  folder = tmp_path_factory.mktemp("videos")
  for i, name in enumerate(NAMES):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(page.video(i))
  (folder / "old.avi").write_bytes(movies.movie("avi_mpeg4", rate=5))
  Image.new("RGB", (64, 48), "teal").save(folder / "still.png")
  with page.served(page.searcher(folder, NAMES)) as running:
    (folder / "gone.mp4").unlink()
    yield running


@pytest.fixture
def opened_page(window, server):
  """The page, just opened, in desktop size; its console must be empty at the end."""
  browser.resize(window, 1280, 900)
  browser.scheme(window, "light")
  window.open("about:blank")
  window.open(server.url)
  window.wait(f"{TILES}.length > 0")
  window.console()
  yield window
  left = [line for line in window.console() if "404 (Not Found)" not in line]
  assert left == []


def search(window, words):
  window.run("const e = document.querySelector('#words'); e.focus(); e.select()")
  window.press(words, "Enter")
  wait_for_results(window)


def wait_for_results(window):
  """Waits until the page shows the results of the last search."""
  # Until the page has handled a new address.
  window.run("return new Promise((done) => setTimeout(done, 30))")
  window.wait(
    "!document.body.matches('.stale, .fresh') "
    "&& document.querySelector('#grid').getAttribute('aria-busy') === 'false'"
  )


def close_player(window):
  """Closes the player; the focus returns to the clip that it showed."""
  window.press("Escape")
  window.wait(f"!document.querySelector('#player').open && {FOCUS}.matches('.play')")


def labels(window):
  return window.run(f"return [...{TILES}].map((e) => e.ariaLabel)")


def error_text(window):
  return window.run(
    "const e = document.querySelector('#error'); return e.hidden ? '' : e.textContent"
  )


def test_a_text_query_shows_clips_in_order_of_score(opened_page, server):
  assert opened_page.run(f"return {FOCUS}.id") == "words"  # ready to type
  search(opened_page, "red ball")
  hits = server.library._searcher.query(text="red ball", top=24)
  when = lambda h: f"0:0{h.start:.0f}–0:0{h.end:.0f}" if h.end else "picture"
  wanted = [f"Play {h.name}, {when(h)}, score {h.score:.3f}" for h in hits]
  assert labels(opened_page) == wanted
  status = opened_page.run("return document.querySelector('#status').textContent")
  assert status.startswith("13 clips in ")
  # Posters are there, but for the file that is gone.
  opened_page.wait("[...document.querySelectorAll('.poster')].every((e) => e.complete)")
  seen = opened_page.run(
    "return [...document.querySelectorAll('.poster')].map((e) => e.naturalWidth > 0)"
  )
  assert seen == [h.name != "gone.mp4" for h in hits]


@pytest.mark.parametrize("how", ["hover", "focus"])
def test_a_tile_plays_its_segment(opened_page, how):
  search(opened_page, "red ball")
  tile = "#grid li:nth-child(2) .play"
  if how == "hover":
    opened_page.point(tile)
  else:
    opened_page.press("Down", "Right")
  opened_page.wait(f"{VIDEO} && {VIDEO}.readyState > 2")
  times = []
  for _ in range(60):
    times.append(opened_page.run(f"return {VIDEO}.currentTime"))
    if len(times) > 1 and times[-1] < times[-2]:
      break
  assert 4 <= times[0] < 6
  assert min(times) >= 4
  assert max(times) < 6.3
  assert opened_page.run(f"return {VIDEO}.muted")
  assert opened_page.run(f"return {VIDEO}.closest('li') === {TILES}[1].closest('li')")
  opened_page.wait(f"{VIDEO}.currentTime > 4.3 || arguments[0] < 4.3", times[-1])
  if how == "hover":
    opened_page.point("#words")
  else:
    opened_page.press("Escape")
  opened_page.wait(f"!{VIDEO}")


def test_a_tile_loops_its_segment(opened_page):
  search(opened_page, "red ball")
  opened_page.press("Down", "Right")
  opened_page.wait(f"{VIDEO} && {VIDEO}.currentTime > 5.2")
  opened_page.wait(f"{VIDEO}.currentTime < 4.8 && {VIDEO}.currentTime >= 4")


def test_the_player_plays_the_segment_and_moves_between_clips(opened_page):
  search(opened_page, "red ball")
  opened_page.point("#grid li:nth-child(2) .play", press=True)
  opened_page.wait(f"{LARGE} && {LARGE}.currentTime > 4.1 && !{LARGE}.paused")
  assert not opened_page.run(f"return {VIDEO}")
  assert (
    opened_page.run("return document.querySelector('#title').textContent") == NAMES[1]
  )
  detail = "document.querySelector('#detail').textContent"
  assert opened_page.run(f"return {detail}").startswith("0:04–0:06 · score 1.")
  opened_page.press("Left")
  opened_page.wait(f"{LARGE} && {LARGE}.currentTime < 4 && {LARGE}.currentTime > 0.1")
  assert opened_page.run(f"return {detail}").startswith("0:00–0:05")
  # Without repeating, the rest of the file is played too.
  opened_page.press("Right")
  opened_page.run("document.querySelector('#loop').click()")
  opened_page.wait(f"{LARGE}.currentTime > 6.5")
  close_player(opened_page)
  assert not opened_page.run(f"return {LARGE}")
  assert opened_page.run(f"return {FOCUS} === {TILES}[1]")


def test_the_keyboard_moves_between_tiles_and_searches(opened_page):
  search(opened_page, "ball")
  opened_page.press("Down")
  assert opened_page.run(f"return {FOCUS} === {TILES}[0]")
  opened_page.press("Right", "Right", "Left")
  assert opened_page.run(f"return {FOCUS} === {TILES}[1]")
  opened_page.press("Down")
  row = opened_page.run(
    "const top = (e) => e.closest('li').offsetTop;"
    f"return [...{TILES}].filter((e) => top(e) === top({TILES}[0])).length"
  )
  assert row > 1
  assert opened_page.run(f"return {FOCUS} === {TILES}[arguments[0]]", 1 + row)
  outline = opened_page.run(f"return getComputedStyle({FOCUS}).outlineStyle")
  assert outline == "solid"
  opened_page.press("Up", "Up")
  assert opened_page.run(f"return {FOCUS}.id") == "words"
  opened_page.press("Escape")
  opened_page.press("/")
  opened_page.press("red", "Enter")  # what was there is selected
  wait_for_results(opened_page)
  assert "q=red" in opened_page.run("return location.hash")
  opened_page.press("Down", "Enter")
  opened_page.wait("document.querySelector('#player').open")
  close_player(opened_page)
  opened_page.press("s")
  opened_page.wait("location.hash.startsWith('#like=0%2C2%2C')")


def test_similar_clips_are_shown_and_history_goes_back(opened_page, server):
  search(opened_page, "red ball")
  opened_page.point("#grid li:nth-child(3) .similar", press=True)
  opened_page.wait("location.hash.startsWith('#like=')")
  wait_for_results(opened_page)
  alike = server.library._searcher.query(like=(0, 4), top=24)
  assert [label.split(",")[0] for label in labels(opened_page)] == [
    f"Play {h.name}" for h in alike
  ]
  chip = opened_page.run("return document.querySelector('#chip').textContent")
  assert chip.startswith("like blue ball.mp4")
  opened_page.run("history.back()")
  opened_page.wait("document.querySelector('#words').value === 'red ball'")
  wait_for_results(opened_page)
  assert labels(opened_page)[0].startswith("Play a/red ball.mp4")


def test_the_address_restores_query_and_filters(opened_page, server):
  search(opened_page, "bar")
  opened_page.run(
    "const e = document.querySelector('#folder'); e.value = 'b/';"
    "e.dispatchEvent(new Event('change'))"
  )
  opened_page.wait(f"{TILES}.length === 4")
  opened_page.run(
    "const e = document.querySelector('#least'); e.value = '0.5';"
    "e.dispatchEvent(new Event('input'))"
  )
  opened_page.wait(f"{TILES}.length === 2")
  opened_page.run("document.querySelector('#rerank').click()")
  opened_page.wait("location.hash.includes('rerank')")
  wait_for_results(opened_page)
  assert server.library._searcher.asked[-1]["rerank"] == 24
  address, seen = opened_page.run("return location.href"), labels(opened_page)
  opened_page.open("about:blank")
  opened_page.open(address)
  opened_page.wait(f"{TILES}.length === 2")
  wait_for_results(opened_page)
  assert labels(opened_page) == seen
  assert opened_page.run("return document.querySelector('#rerank').checked")
  opened_page.run(
    "const e = document.querySelector('#least'); e.value = '9';"
    "e.dispatchEvent(new Event('input'))"
  )
  none = opened_page.run("return document.querySelector('#grid').textContent")
  assert none.startswith("No clip scores 9 or more; the best has ")


def test_an_image_is_uploaded_dropped_or_pasted_as_a_query(
  opened_page, server, tmp_path
):
  picture = tmp_path / "photo.png"
  Image.new("RGB", (3000, 2000), "red").save(picture)
  opened_page.attach("#file", str(picture))
  opened_page.wait("location.hash === '#picture='")
  wait_for_results(opened_page)
  assert len(labels(opened_page)) == 13
  sent = server.library._searcher.asked[-1]["image"]
  assert sent.startswith(b"\xff\xd8")  # reduced before it was sent
  # Dropped or pasted, it is the same.
  for event in ("drop", "paste"):
    count = len(server.library._searcher.asked)
    opened_page.run(
      """
      const [kind] = arguments, data = new DataTransfer();
      const canvas = document.createElement("canvas");
      return new Promise((done) => canvas.toBlob((blob) => {
        data.items.add(new File([blob], "a.png", { type: "image/png" }));
        const how = { bubbles: true, dataTransfer: data, clipboardData: data };
        const Kind = kind === "drop" ? DragEvent : ClipboardEvent;
        document.body.dispatchEvent(new Kind(kind, how));
        done();
      }));
      """,
      event,
    )
    end = time.monotonic() + 20
    while len(server.library._searcher.asked) == count:
      assert time.monotonic() < end, event
      time.sleep(0.02)
    wait_for_results(opened_page)
    assert server.library._searcher.asked[-1]["image"]


def test_the_player_cuts_a_clip_to_its_moment_and_draws_the_curve(opened_page):
  search(opened_page, "cut red ball")
  opened_page.point("#grid li:nth-child(1) .play", press=True)
  opened_page.wait("document.querySelector('#curve').checkVisibility()")
  box = opened_page.run(
    "const r = document.querySelector('#curve').getBoundingClientRect();"
    "return [r.width, r.height]"
  )
  assert box[0] > 300
  assert box[1] > 20
  # The clip is from 0 to 5 s, its moment from 0.5 to 1.
  assert opened_page.run(
    "const r = document.querySelector('#curve rect');"
    "return [r.getAttribute('x'), r.getAttribute('width')]"
  ) == ["10", "10"]
  points = opened_page.run(
    "return document.querySelector('#curve polyline').getAttribute('points')"
  ).split()
  assert len(points) == 10
  assert min(points, key=lambda p: float(p.split(",")[1])) == points[1]
  detail = opened_page.run("return document.querySelector('#detail').textContent")
  assert "moment 0:00.5–0:01.0" in detail
  times = set()
  for _ in range(15):
    times.add(opened_page.run(f"return {LARGE}.currentTime"))
    time.sleep(0.1)
  assert max(times) - min(times) < 0.75  # it repeats the moment, not the clip
  assert 0.4 < min(times) < max(times) < 1.2
  close_player(opened_page)
  search(opened_page, "red ball")  # has no moment: the whole clip is played
  opened_page.point("#grid li:nth-child(1) .play", press=True)
  opened_page.wait(f"{LARGE} && {LARGE}.readyState > 2")
  assert not opened_page.run(
    "return document.querySelector('#curve').checkVisibility()"
  )
  close_player(opened_page)


def test_files_that_a_browser_cannot_play_are_converted_or_reported(opened_page):
  """An AVI is converted, an image is shown, a missing file is reported."""
  search(opened_page, "old")
  opened_page.point("#grid li:nth-child(2) .play", press=True)
  opened_page.wait(
    f"{LARGE} && {LARGE}.readyState > 2 && {LARGE}.src.includes('/preview/')"
  )
  stage = "document.querySelector('.stage')"
  assert "this is a copy" in opened_page.run(f"return {stage}.textContent")
  assert 1.9 < opened_page.run(f"return {LARGE}.duration") < 2.1
  close_player(opened_page)
  search(opened_page, "still")
  opened_page.point("#grid li:nth-child(1) .play", press=True)
  opened_page.wait(f"{stage}.querySelector('img')?.naturalWidth === 64")
  close_player(opened_page)
  search(opened_page, "gone")
  opened_page.point("#grid li:nth-child(1) .play", press=True)
  opened_page.wait(f"{stage}.textContent.startsWith('This file is gone')")


def test_errors_are_shown_on_the_page(opened_page, server):
  opened_page.press("Enter")
  assert error_text(opened_page).startswith("Say what you look for")
  opened_page.press("refuse", "Enter")
  said = "document.querySelector('#error').textContent"
  opened_page.wait(f"{said} === 'text 0: is refused; ask otherwise'")
  opened_page.run("location.hash = '#like=0,0,000000000000'")
  opened_page.wait(f"{said}.includes('index has changed')")
  assert "search again" in error_text(opened_page)
  opened_page.run("location.hash = '#picture='")
  opened_page.wait(f"{said}.includes('drop it again')")
  search(opened_page, "red")
  assert error_text(opened_page) == ""
  opened_page.console()  # rejected requests are logged there too
  opened_page.devtools("Network.enable")
  opened_page.devtools("Network.setBlockedURLs", urls=["*/api/search"])
  opened_page.run("location.hash = '#q=blue'")
  opened_page.wait(f"{said}.includes('not answer')")
  opened_page.devtools("Network.setBlockedURLs", urls=[])
  opened_page.console()


def test_queries_are_escaped(opened_page):
  words = "<img src=x onerror=document.title='bad'>"
  search(opened_page, words)
  assert opened_page.run("return document.querySelector('#words').value") == words
  assert opened_page.run("return document.title") != "bad"
  assert opened_page.run("return document.querySelectorAll('img[src=x]').length") == 0


def test_the_page_fits_a_phone_and_works_by_touch(opened_page):
  browser.resize(opened_page, 390, 844, phone=True)
  for act in (lambda: None, lambda: search(opened_page, "red ball")):
    act()
    wide = opened_page.run("return document.documentElement.scrollWidth")
    assert wide == opened_page.run("return innerWidth") == 390
  tops = opened_page.run(f"return [...{TILES}].map((e) => e.getBoundingClientRect().y)")
  assert tops[0] == tops[1] < tops[2]
  # The first tap plays in place, the second opens.
  tile = "#grid li:nth-child(2) .play"
  opened_page.point(tile, press=True, kind="touch")
  opened_page.wait(f"{VIDEO} && {VIDEO}.currentTime >= 4")
  assert not opened_page.run("return document.querySelector('#player').open")
  opened_page.point(tile, press=True, kind="touch")
  opened_page.wait("document.querySelector('#player').open")
  assert opened_page.run("return document.documentElement.scrollWidth") == 390
  box = opened_page.run(
    "const r = document.querySelector('#player').getBoundingClientRect();"
    "return [r.left, r.right, r.top, r.bottom]"
  )
  assert box[0] >= 0
  assert box[1] <= 390
  assert box[2] >= 0
  assert box[3] <= 844


def test_dark_mode_follows_the_browser_s_preference(opened_page):
  colours = {}
  for name in ("light", "dark"):
    browser.scheme(opened_page, name)
    colours[name] = opened_page.run(
      "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
    )
  bright = {
    name: [sum(map(int, c.strip("rgb()").split(","))) for c in pair]
    for name, pair in colours.items()
  }
  assert bright["light"][0] > 600 > 200 > bright["light"][1]
  assert bright["dark"][1] > 600 > 200 > bright["dark"][0]


def test_every_control_has_an_accessible_name(opened_page):
  """Buttons, inputs and links."""
  search(opened_page, "red")
  nameless = opened_page.run("""
    const named = (e) => e.ariaLabel || e.textContent.trim() || e.labels?.length;
    const all = [...document.querySelectorAll("button, input, select, a")];
    return all.filter((e) => !named(e)).map((e) => e.outerHTML);
  """)
  assert nameless == []


def test_the_page_works_with_a_token(window, server):
  with page.served(server.library._searcher, "0.0.0.0") as other:
    window.open(f"http://127.0.0.1:{other.port}/?token={other.access.token}")
    window.wait(f"{TILES}.length > 0")
    assert window.run("return location.search + document.cookie") == ""
    search(window, "red ball")
    window.press("Down", "Right")
    window.wait(f"{VIDEO} && {VIDEO}.currentTime > 4")
