"""Headless Chromium through chromedriver's WebDriver, without a Python package."""

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

_FLAGS = (
  "--headless=new --no-sandbox --disable-gpu --no-first-run --mute-audio "
  "--disable-background-networking --disable-component-update --disable-sync "
  "--disable-dev-shm-usage --hide-scrollbars --force-color-profile=srgb"
)
KEYS = dict(
  Enter="\ue007", Escape="\ue00c", Left="\ue012", Up="\ue013", Right="\ue014",
  Down="\ue015", Tab="\ue004",
)  # fmt: skip


def missing() -> str:
  """The program that is not installed, "" if all are."""
  if not (shutil.which("chromium") or shutil.which("google-chrome")):
    return "neither chromium nor google-chrome is installed"
  return "" if shutil.which("chromedriver") else "chromedriver is not installed"


class Browser:
  """One window. Elements are named by CSS selectors."""

  def __init__(self, port: int, binary: str, profile: str):
    self._base, self._deadline = f"http://127.0.0.1:{port}", 30.0
    options = dict(binary=binary, args=[*_FLAGS.split(), f"--user-data-dir={profile}"])
    wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": dict(browser="ALL")}
    body = dict(capabilities=dict(alwaysMatch=wanted))
    session = self._call("POST", "/session", body)["sessionId"]
    self._base += f"/session/{session}"

  def open(self, url: str) -> None:
    self._call("POST", "/url", dict(url=url))

  def run(self, script: str, *args):
    """Runs the body of a JavaScript function; returns its value, promises awaited."""
    return self._call("POST", "/execute/sync", dict(script=script, args=list(args)))

  def wait(self, script: str, *args, seconds: float = 30.0):
    """Waits until an expression is true; returns its value."""
    end = time.monotonic() + seconds
    while not (found := self.run(f"return {script}", *args)):
      assert time.monotonic() < end, f"never: {script}"
      time.sleep(0.03)
    return found

  def press(self, *keys: str) -> None:
    """Sends keys of `KEYS`, or text, to the focused element."""
    text = "".join(KEYS.get(key, key) for key in keys)
    strokes = [dict(type=t, value=c) for c in text for t in ("keyDown", "keyUp")]
    self._act(dict(type="key", id="keys", actions=strokes))

  def point(self, selector: str, press: bool = False, kind: str = "mouse") -> None:
    """Moves a pointer to the middle of an element; clicks if `press`."""
    x, y = self.run(
      "const e = document.querySelector(arguments[0]);"
      "e.scrollIntoView({block: 'nearest'}); const r = e.getBoundingClientRect();"
      "return [Math.round(r.x + r.width / 2), Math.round(r.y + r.height / 2)]",
      selector,
    )
    steps: list[dict] = [dict(type="pointerMove", x=x, y=y)]
    if press:
      steps += [dict(type=f"pointer{way}", button=0) for way in ("Down", "Up")]
    named = dict(type="pointer", id=kind, parameters=dict(pointerType=kind))
    self._act(named | dict(actions=steps))

  def attach(self, selector: str, path: str) -> None:
    """Chooses a file in a file input."""
    using = dict(using="css selector", value=selector)
    (element,) = self._call("POST", "/element", using).values()
    self._call("POST", f"/element/{element}/value", dict(text=path))

  def devtools(self, command: str, **params):
    """Runs a command of the DevTools protocol."""
    body = dict(cmd=command, params=params)
    return self._call("POST", "/goog/cdp/execute", body)

  def screenshot(self) -> bytes:
    """A PNG of the visible part of the page."""
    return base64.b64decode(self._call("GET", "/screenshot"))

  def console(self) -> list[str]:
    """Errors and warnings since the last call."""
    lines = self._call("POST", "/se/log", dict(type="browser"))
    return [line["message"] for line in lines if line["level"] != "INFO"]

  def quit(self) -> None:
    self._call("DELETE", "")

  def _act(self, actions: dict) -> None:
    self._call("POST", "/actions", dict(actions=[actions]))

  def _call(self, method: str, path: str, body: dict | None = None):
    data = None if method != "POST" else json.dumps(body).encode()
    request = urllib.request.Request(self._base + path, data, method=method)
    request.add_header("Content-Type", "application/json")
    try:
      with urllib.request.urlopen(request, timeout=90) as answer:
        return json.load(answer)["value"]
    except urllib.error.HTTPError as e:
      told = json.load(e)["value"]
      raise AssertionError(f"{method} {path}: {told['message']}") from None


@contextlib.contextmanager
def started(width: int = 1280, height: int = 900):
  """A browser with a profile of its own; ends with the context."""
  with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
  binary = shutil.which("chromium") or shutil.which("google-chrome") or ""
  with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
    driver = subprocess.Popen(
      ["chromedriver", f"--port={port}"],
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )
    try:
      end = time.monotonic() + 30
      while True:
        try:
          socket.create_connection(("127.0.0.1", port)).close()
          break
        except ConnectionError:
          assert time.monotonic() < end, "chromedriver does not answer"
          time.sleep(0.05)
      browser = Browser(port, binary, profile)
      try:
        resize(browser, width, height)
        yield browser
      finally:
        browser.quit()
    finally:
      driver.terminate()
      driver.wait(30)


def resize(browser: Browser, width: int, height: int, phone: bool = False) -> None:
  """Sets the size of the page in CSS pixels; a `phone` has a touch screen."""
  browser.devtools(
    "Emulation.setDeviceMetricsOverride",
    width=width,
    height=height,
    deviceScaleFactor=1,
    mobile=phone,
  )
  browser.devtools("Emulation.setTouchEmulationEnabled", enabled=phone)


def scheme(browser: Browser, name: str) -> None:
  """Sets the preferred colour scheme: light | dark."""
  feature = dict(name="prefers-color-scheme", value=name)
  browser.devtools("Emulation.setEmulatedMedia", features=[feature])
