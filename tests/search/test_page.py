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
def visit(window, server):
  """The page, just opened, on a screen; nothing may have gone wrong when it is left."""
  browser.resize(window, 1280, 900)
  browser.scheme(window, "light")
  window.open("about:blank")
  window.open(server.url)
  window.wait(f"{TILES}.length > 0")
  window.console()
  yield window
  left = [line for line in window.console() if "404 (Not Found)" not in line]
  assert left == []


def ask(window, words):
  window.run("const e = document.querySelector('#words'); e.focus(); e.select()")
  window.press(words, "Enter")
  settle(window)


def settle(window):
  """Waits until what was asked for is there."""
  # Until the page has heard of a new address.
  window.run("return new Promise((done) => setTimeout(done, 30))")
  window.wait(
    "!document.body.matches('.stale, .fresh') "
    "&& document.querySelector('#grid').getAttribute('aria-busy') === 'false'"
  )


def close(window):
  """Leaves the player; the clip that it showed has the focus then."""
  window.press("Escape")
  window.wait(f"!document.querySelector('#player').open && {FOCUS}.matches('.play')")


def labels(window):
  return window.run(f"return [...{TILES}].map((e) => e.ariaLabel)")


def complaint(window):
  return window.run(
    "const e = document.querySelector('#error'); return e.hidden ? '' : e.textContent"
  )


def test_words_to_clips_in_order(visit, server):
  assert visit.run(f"return {FOCUS}.id") == "words"  # ready to type
  ask(visit, "red ball")
  hits = server.library._searcher.query(text="red ball")
  when = lambda h: f"0:0{h.start:.0f}–0:0{h.end:.0f}" if h.end else "picture"
  wanted = [f"Play {h.name}, {when(h)}, score {h.score:.3f}" for h in hits]
  assert labels(visit) == wanted
  status = visit.run("return document.querySelector('#status').textContent")
  assert status.startswith("13 clips in ")
  # Posters are there, but for the file that is gone.
  visit.wait("[...document.querySelectorAll('.poster')].every((e) => e.complete)")
  seen = visit.run(
    "return [...document.querySelectorAll('.poster')].map((e) => e.naturalWidth > 0)"
  )
  assert seen == [h.name != "gone.mp4" for h in hits]


@pytest.mark.parametrize("how", ["hover", "focus"])
def test_a_tile_plays_its_moment(visit, how):
  ask(visit, "red ball")
  tile = "#grid li:nth-child(2) .play"
  if how == "hover":
    visit.point(tile)
  else:
    visit.press("Down", "Right")
  visit.wait(f"{VIDEO} && {VIDEO}.readyState > 2")
  times = []
  for _ in range(60):
    times.append(visit.run(f"return {VIDEO}.currentTime"))
    if len(times) > 1 and times[-1] < times[-2]:
      break
  assert 4 <= times[0] < 6
  assert min(times) >= 4
  assert max(times) < 6.3
  assert visit.run(f"return {VIDEO}.muted")
  assert visit.run(f"return {VIDEO}.closest('li') === {TILES}[1].closest('li')")
  visit.wait(f"{VIDEO}.currentTime > 4.3 || arguments[0] < 4.3", times[-1])
  if how == "hover":
    visit.point("#words")
  else:
    visit.press("Escape")
  visit.wait(f"!{VIDEO}")


def test_at_the_end_it_begins_again(visit):
  ask(visit, "red ball")
  visit.press("Down", "Right")
  visit.wait(f"{VIDEO} && {VIDEO}.currentTime > 5.2")
  visit.wait(f"{VIDEO}.currentTime < 4.8 && {VIDEO}.currentTime >= 4")


def test_the_player(visit):
  ask(visit, "red ball")
  visit.point("#grid li:nth-child(2) .play", press=True)
  visit.wait(f"{LARGE} && {LARGE}.currentTime > 4.1 && !{LARGE}.paused")
  assert not visit.run(f"return {VIDEO}")
  assert visit.run("return document.querySelector('#title').textContent") == NAMES[1]
  detail = "document.querySelector('#detail').textContent"
  assert visit.run(f"return {detail}").startswith("0:04–0:06 · score 1.")
  visit.press("Left")
  visit.wait(f"{LARGE} && {LARGE}.currentTime < 4 && {LARGE}.currentTime > 0.1")
  assert visit.run(f"return {detail}").startswith("0:00–0:05")
  # Without repeating, the rest of the file is played too.
  visit.press("Right")
  visit.run("document.querySelector('#loop').click()")
  visit.wait(f"{LARGE}.currentTime > 6.5")
  close(visit)
  assert not visit.run(f"return {LARGE}")
  assert visit.run(f"return {FOCUS} === {TILES}[1]")


def test_keys(visit):
  ask(visit, "ball")
  visit.press("Down")
  assert visit.run(f"return {FOCUS} === {TILES}[0]")
  visit.press("Right", "Right", "Left")
  assert visit.run(f"return {FOCUS} === {TILES}[1]")
  visit.press("Down")
  row = visit.run(
    "const top = (e) => e.closest('li').offsetTop;"
    f"return [...{TILES}].filter((e) => top(e) === top({TILES}[0])).length"
  )
  assert row > 1
  assert visit.run(f"return {FOCUS} === {TILES}[arguments[0]]", 1 + row)
  outline = visit.run(f"return getComputedStyle({FOCUS}).outlineStyle")
  assert outline == "solid"
  visit.press("Up", "Up")
  assert visit.run(f"return {FOCUS}.id") == "words"
  visit.press("Escape")
  visit.press("/")
  visit.press("red", "Enter")  # what was there is selected
  settle(visit)
  assert "q=red" in visit.run("return location.hash")
  visit.press("Down", "Enter")
  visit.wait("document.querySelector('#player').open")
  close(visit)
  visit.press("s")
  visit.wait("location.hash.startsWith('#like=0%2C2%2C')")


def test_similar_clips_and_back(visit, server):
  ask(visit, "red ball")
  visit.point("#grid li:nth-child(3) .similar", press=True)
  visit.wait("location.hash.startsWith('#like=')")
  settle(visit)
  alike = server.library._searcher.query(like=(0, 4))
  assert [label.split(",")[0] for label in labels(visit)] == [
    f"Play {h.name}" for h in alike
  ]
  chip = visit.run("return document.querySelector('#chip').textContent")
  assert chip.startswith("like blue ball.mp4")
  visit.run("history.back()")
  visit.wait("document.querySelector('#words').value === 'red ball'")
  settle(visit)
  assert labels(visit)[0].startswith("Play a/red ball.mp4")


def test_an_address_can_be_shared(visit, server):
  ask(visit, "bar")
  visit.run(
    "const e = document.querySelector('#folder'); e.value = 'b/';"
    "e.dispatchEvent(new Event('change'))"
  )
  visit.wait(f"{TILES}.length === 4")
  visit.run(
    "const e = document.querySelector('#least'); e.value = '0.5';"
    "e.dispatchEvent(new Event('input'))"
  )
  visit.wait(f"{TILES}.length === 2")
  visit.run("document.querySelector('#rerank').click()")
  visit.wait("location.hash.includes('rerank')")
  settle(visit)
  assert server.library._searcher.asked[-1]["rerank"] == 24
  address, seen = visit.run("return location.href"), labels(visit)
  visit.open("about:blank")
  visit.open(address)
  visit.wait(f"{TILES}.length === 2")
  settle(visit)
  assert labels(visit) == seen
  assert visit.run("return document.querySelector('#rerank').checked")
  visit.run(
    "const e = document.querySelector('#least'); e.value = '9';"
    "e.dispatchEvent(new Event('input'))"
  )
  none = visit.run("return document.querySelector('#grid').textContent")
  assert none.startswith("No clip scores 9 or more; the best has ")


def test_a_picture_is_searched_for(visit, server, tmp_path):
  picture = tmp_path / "photo.png"
  Image.new("RGB", (3000, 2000), "red").save(picture)
  visit.attach("#file", str(picture))
  visit.wait("location.hash === '#picture='")
  settle(visit)
  assert len(labels(visit)) == 13
  sent = server.library._searcher.asked[-1]["image"]
  assert sent.startswith(b"\xff\xd8")  # made smaller before it was sent
  # Dropped or pasted, it is the same.
  for event in ("drop", "paste"):
    count = len(server.library._searcher.asked)
    visit.run(
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
    settle(visit)
    assert server.library._searcher.asked[-1]["image"]


def test_what_a_browser_cannot_play(visit):
  """An AVI is made again, a picture is shown, a file that is gone is told."""
  ask(visit, "old")
  visit.point("#grid li:nth-child(2) .play", press=True)
  visit.wait(f"{LARGE} && {LARGE}.readyState > 2 && {LARGE}.src.includes('/preview/')")
  stage = "document.querySelector('.stage')"
  assert "this is a copy" in visit.run(f"return {stage}.textContent")
  assert 1.9 < visit.run(f"return {LARGE}.duration") < 2.1
  close(visit)
  ask(visit, "still")
  visit.point("#grid li:nth-child(1) .play", press=True)
  visit.wait(f"{stage}.querySelector('img')?.naturalWidth === 64")
  close(visit)
  ask(visit, "gone")
  visit.point("#grid li:nth-child(1) .play", press=True)
  visit.wait(f"{stage}.textContent.startsWith('This file is gone')")


def test_what_goes_wrong_is_said(visit, server):
  visit.press("Enter")
  assert complaint(visit).startswith("Say what you look for")
  visit.press("refuse", "Enter")
  said = "document.querySelector('#error').textContent"
  visit.wait(f"{said} === 'text 0: is refused; ask otherwise'")
  visit.run("location.hash = '#like=0,0,000000000000'")
  visit.wait(f"{said}.includes('another one')")
  assert "search again" in complaint(visit)
  visit.run("location.hash = '#picture='")
  visit.wait(f"{said}.includes('drop it again')")
  ask(visit, "red")
  assert complaint(visit) == ""
  visit.console()  # refusals are told there too
  visit.devtools("Network.enable")
  visit.devtools("Network.setBlockedURLs", urls=["*/api/search"])
  visit.run("location.hash = '#q=blue'")
  visit.wait(f"{said}.includes('not answer')")
  visit.devtools("Network.setBlockedURLs", urls=[])
  visit.console()


def test_no_markup_from_names_or_words(visit):
  words = "<img src=x onerror=document.title='bad'>"
  ask(visit, words)
  assert visit.run("return document.querySelector('#words').value") == words
  assert visit.run("return document.title") != "bad"
  assert visit.run("return document.querySelectorAll('img[src=x]').length") == 0


def test_on_a_phone(visit):
  browser.resize(visit, 390, 844, phone=True)
  for act in (lambda: None, lambda: ask(visit, "red ball")):
    act()
    wide = visit.run("return document.documentElement.scrollWidth")
    assert wide == visit.run("return innerWidth") == 390
  tops = visit.run(f"return [...{TILES}].map((e) => e.getBoundingClientRect().y)")
  assert tops[0] == tops[1] < tops[2]
  # The first tap plays in place, the second opens.
  tile = "#grid li:nth-child(2) .play"
  visit.point(tile, press=True, kind="touch")
  visit.wait(f"{VIDEO} && {VIDEO}.currentTime >= 4")
  assert not visit.run("return document.querySelector('#player').open")
  visit.point(tile, press=True, kind="touch")
  visit.wait("document.querySelector('#player').open")
  assert visit.run("return document.documentElement.scrollWidth") == 390
  box = visit.run(
    "const r = document.querySelector('#player').getBoundingClientRect();"
    "return [r.left, r.right, r.top, r.bottom]"
  )
  assert box[0] >= 0
  assert box[1] <= 390
  assert box[2] >= 0
  assert box[3] <= 844


def test_dark_mode(visit):
  colours = {}
  for name in ("light", "dark"):
    browser.scheme(visit, name)
    colours[name] = visit.run(
      "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
    )
  bright = {
    name: [sum(map(int, c.strip("rgb()").split(","))) for c in pair]
    for name, pair in colours.items()
  }
  assert bright["light"][0] > 600 > 200 > bright["light"][1]
  assert bright["dark"][1] > 600 > 200 > bright["dark"][0]


def test_everything_has_a_name(visit):
  """Of what can be pressed or typed into."""
  ask(visit, "red")
  nameless = visit.run("""
    const named = (e) => e.ariaLabel || e.textContent.trim() || e.labels?.length;
    const all = [...document.querySelectorAll("button, input, select, a")];
    return all.filter((e) => !named(e)).map((e) => e.outerHTML);
  """)
  assert nameless == []


def test_with_a_token(window, server):
  with page.served(server.library._searcher, "0.0.0.0") as other:
    window.open(f"http://127.0.0.1:{other.port}/?token={other.access.token}")
    window.wait(f"{TILES}.length > 0")
    assert window.run("return location.search + document.cookie") == ""
    ask(window, "red ball")
    window.press("Down", "Right")
    window.wait(f"{VIDEO} && {VIDEO}.currentTime > 4")
