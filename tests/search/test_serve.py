"""The page's server over HTTP: what it serves, to whom, and what it rejects."""

import base64
import concurrent.futures
import email.utils
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import types

import av
import clips
import movies
import numpy as np
import page
import pytest
from conftest import ROOT
from PIL import Image
from training import trained_smoke

import vtr_jax
from configs import mac
from vtr_jax.core.errors import BadSample, ConfigError
from vtr_jax.data.video import packets
from vtr_jax.search import build
from vtr_jax.search.server import access, delivery, handler, media, serve

NAMES = ("a/red ball.mp4", "a/odd näme #1.mp4", "b/blue.avi", "b/still.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  place = tmp_path_factory.mktemp("videos")
  for i, name in enumerate(NAMES):
    (place / name).parent.mkdir(exist_ok=True)
    (place / name).write_bytes(page.video(i))
  (place / NAMES[2]).write_bytes(movies.movie("avi_mpeg4", rate=5))
  Image.new("RGB", (64, 48), "teal").save(place / NAMES[3])
  (place.parent / "secret.mp4").write_bytes(b"secret")
  return place


@pytest.fixture(scope="module")
def server(folder):
  with page.served(page.searcher(folder, NAMES)) as running:
    yield running


def fetch(server, path, method="GET", body=None, **headers):
  """(status, headers, body) of one request."""
  line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
  named = {k.replace("_", "-"): v for k, v in headers.items()}
  line.request(method, path, body, named)
  answer = line.getresponse()
  data = answer.read()
  line.close()
  return answer.status, answer.headers, data


def search(server, body, **headers):
  data = body if isinstance(body, bytes) else json.dumps(body).encode()
  kind = {"Content_Type": "application/json"} | headers
  status, _, answer = fetch(server, "/api/search", "POST", data, **kind)
  return status, json.loads(answer) if status == 200 else answer.decode()


def raw(server, data, seconds=20):
  """The response to a request of raw bytes."""
  with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as line:
    line.sendall(data)
    line.shutdown(socket.SHUT_WR)
    return b"".join(iter(lambda: line.recv(65536), b""))


def test_the_page_needs_no_other_host(server):
  for path in ("/", "/app.js", "/style.css", "/icon.svg"):
    status, headers, data = fetch(server, path)
    assert status == 200
    text = data.decode().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|//[a-z]+\.|@import|\bon\w+=\"|style=\"", text), path
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "script-src 'self';" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    again = fetch(server, path, If_None_Match=headers["ETag"])
    assert (again[0], again[2]) == (304, b"")


def test_clips_are_searched_by_text_clip_and_image(server, folder):
  status, found = search(server, dict(text="red ball", top=3))
  assert status == 200
  assert [hit["row"] for hit in found["hits"]] == [0, 1, 2]
  first = found["hits"][0]
  assert (first["name"], first["start"], first["end"]) == (NAMES[0], 0, 5)
  assert str(folder) not in json.dumps(found)
  status, found = search(server, dict(like=[0, 3], clip="", folder="a/"))
  assert [hit["row"] for hit in found["hits"]] == [3, 2, 1, 0]
  png = io.BytesIO()
  Image.new("RGB", (8, 8)).save(png, "PNG")
  status, found = search(server, dict(image=base64.b64encode(png.getvalue()).decode()))
  assert (status, len(found["hits"])) == (200, 7)
  assert server.library._searcher.asked[-1]["image"] == png.getvalue()
  search(server, dict(text="red", rerank=9))
  assert server.library._searcher.asked[-1]["rerank"] == 9


def test_a_clip_is_cut_to_its_moment(server):
  status, _, body = fetch(server, "/moment/0/1?text=cut%20it")
  assert (status, json.loads(body)["curve"][1]) == (200, 0.25)
  assert (json.loads(body)["start"], json.loads(body)["end"]) == (4.2, 4.4)
  # Rows: two clips of each of three videos, then an image.
  assert fetch(server, "/moment/0/6?text=cut")[::2] == (200, b"{}")
  assert fetch(server, "/moment/0/1?text=%20")[0] == 400
  assert fetch(server, "/moment/0/1")[0] == 400
  assert fetch(server, "/moment/0/99?text=cut")[0] == 404
  assert fetch(server, "/moment/0/1?text=cut", "POST", b"")[0] == 405


def test_the_moment_of_a_missing_file_names_no_path(tmp_path):
  folder = tmp_path / "videos"
  folder.mkdir()
  (folder / "a.mp4").write_bytes(page.video(0))
  with page.served(page.searcher(folder, ["a.mp4"])) as running:
    (folder / "a.mp4").unlink()
    status, _, body = fetch(running, "/moment/0/0?text=cut")
  assert (status, body) == (404, b"a.mp4: cannot be read\n")


def test_info_describes_the_index(server):
  status, _, data = fetch(server, "/api/info")
  info = json.loads(data)
  assert (status, info["clips"], info["videos"], info["rerank"]) == (200, 7, 4, True)
  assert info["folders"] == ["a/", "b/"]
  assert info["sample"]


@pytest.mark.parametrize(
  ("body", "status", "words"),
  [
    (b"{", 400, "not JSON"),
    (b"\xff", 400, "not JSON"),
    (b"[" * 100_000, 400, "not JSON"),
    (b"[]", 400, "not a JSON object"),
    (dict(), 400, "empty query"),
    (dict(text="  "), 400, "empty query"),
    (dict(text=7), 400, "text: must be str"),
    (dict(text="a", top=True), 400, "top: must be int"),
    (dict(text="a", top=10**9), 400, "top: must be 1 to 500"),
    (dict(text="a", rerank=-1), 400, "rerank: must be 0 to 500"),
    (dict(text="a", path="/etc"), 400, "unknown key 'path'"),
    (dict(text="word " * 10_000), 400, "text too long"),
    (dict(image="%%"), 400, "image: not base64"),
    (dict(image="aGVsbG8="), 400, "this image cannot be read"),
    (dict(like=[0]), 400, "like: must be [index, row]"),
    (dict(like=[0, -1]), 400, "like: must be [index, row]"),
    (dict(like=[0, 99]), 404, "no such clip"),
    (dict(like=[7, 0]), 404, "no such clip"),
    (dict(like=[0, 0], clip="another"), 410, "the index has changed"),
    (dict(text="refuse"), 400, "text 0: is refused; ask otherwise"),
    (b" " * (handler._MAX_BODY + 1), 413, "too large: 16 MiB at most"),
  ],
)
def test_an_invalid_search_is_rejected_with_one_line(server, body, status, words):
  got, line = search(server, body)
  assert got == status
  assert line.startswith(words)
  assert line.count("\n") == 1


def test_internal_errors_are_logged_not_shown(server, monkeypatch):
  lines = []
  monkeypatch.setattr(handler.logging, "error", lambda t, *a: lines.append(t % a))
  status, line = search(server, dict(text="break"))
  assert (status, line) == (500, "internal error; see the server's log\n")
  assert re.fullmatch(
    r"'/api/search': RuntimeError: secret words \(\S+page\.py:\d+\)", *lines
  )
  assert search(server, dict(text="red"))[0] == 200


def test_invalid_methods_types_and_requests_are_rejected(server):
  status, headers, _ = fetch(server, "/api/search")
  assert (status, headers["Allow"]) == (405, "POST")
  status, headers, _ = fetch(server, "/", "DELETE")
  assert (status, headers["Allow"]) == (405, "GET, HEAD")
  assert fetch(server, "/media/0/0", "PUT", b"x")[0] == 400
  assert search(server, b"{}", Content_Type="text/plain")[0] == 415
  assert raw(server, b"BREW / HTTP/1.1\r\nHost: localhost\r\n\r\n").startswith(
    b"HTTP/1.1 501"
  )
  post = b"POST /api/search HTTP/1.1\r\nHost: localhost\r\n"
  kind = b"Content-Type: application/json\r\n"
  chunked = raw(server, post + kind + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
  assert chunked.startswith(b"HTTP/1.1 411")
  # A body must not be taken for a second request.
  hidden = b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nGET /x HT"
  assert raw(server, hidden).count(b"HTTP/1.1") == 1
  for bad in (
    b"\r\n\r\n",
    b"GET\r\n\r\n",
    b"\x16\x03\x01\r\n\r\n",
    b"GET / HTTP/9\r\n",
  ):
    assert b"Traceback" not in raw(server, bad)
  assert b" 414 " in raw(server, b"GET /" + b"a" * 70_000)
  assert b" 431 " in raw(server, b"GET / HTTP/1.1\r\nA: " + b"a" * 70_000 + b"\r\n\r\n")
  assert fetch(server, "/api/info", "HEAD")[2] == b""


def test_media_are_served_in_full_and_by_range(server, folder):
  data = (folder / NAMES[0]).read_bytes()
  size = len(data)
  status, headers, got = fetch(server, "/media/0/0")
  assert (status, got, headers["Content-Type"]) == (200, data, "video/mp4")
  assert headers["Accept-Ranges"] == "bytes"
  tag, date = headers["ETag"], headers["Last-Modified"]
  for asked, start, end in (
    ("bytes=0-", 0, size),
    ("bytes=0-0", 0, 1),
    ("bytes=7-99", 7, 100),
    (f"bytes={size - 1}-", size - 1, size),
    (f"bytes=9-{10 * size}", 9, size),
    ("bytes=-5", size - 5, size),
    (f"bytes=-{10 * size}", 0, size),
  ):
    status, headers, got = fetch(server, "/media/0/0", Range=asked)
    assert (status, got) == (206, data[start:end]), asked
    assert headers["Content-Range"] == f"bytes {start}-{end - 1}/{size}"
    assert headers["Content-Length"] == str(end - start)
  for asked in (f"bytes={size}-", "bytes=-0", f"bytes={10**17}-{10**17}"):
    status, headers, got = fetch(server, "/media/0/0", Range=asked)
    assert (status, headers["Content-Range"], got) == (416, f"bytes */{size}", b"")
  for asked in ("bytes=0-1,5-6", "bytes=5-4", "bytes=-", "lines=1-2", "bytes=a-b"):
    assert fetch(server, "/media/0/0", Range=asked)[::2] == (200, data), asked
  # A part of a file that has changed since is of no use.
  part = dict(Range="bytes=0-3")
  assert fetch(server, "/media/0/0", If_Range=tag, **part)[0] == 206
  assert fetch(server, "/media/0/0", If_Range=date, **part)[0] == 206
  assert fetch(server, "/media/0/0", If_Range='"x"', **part)[0] == 200
  assert fetch(server, "/media/0/0", If_None_Match=f'"x", {tag}')[0] == 304
  assert fetch(server, "/media/0/0", If_Modified_Since=date)[0] == 304
  old = email.utils.formatdate(0, usegmt=True)
  assert fetch(server, "/media/0/0", If_Modified_Since=old)[0] == 200
  assert fetch(server, "/media/0/0", If_Modified_Since="yesterday")[0] == 200
  status, headers, got = fetch(server, "/media/0/0", "HEAD", Range="bytes=0-3")
  assert (status, headers["Content-Length"], got) == (200, str(size), b"")


def test_a_range_of_an_empty_file_is_not_satisfiable():
  assert delivery.file_response({"Range": "bytes=0-"}, 0, '"t"', 0).status == 416
  assert delivery.file_response({}, 0, '"t"', 0).status == 200


def test_connections_are_kept_alive(server):
  line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
  for path in ("/api/info", "/media/0/0", "/poster/0/0"):
    line.request("GET", path)
    answer = line.getresponse()
    assert answer.status == 200
    answer.read()
    assert line.sock is not None, path
  line.close()


def test_posters_show_the_middle_of_the_clip(server):
  seen = []
  for row in range(7):
    status, headers, data = fetch(server, f"/poster/0/{row}")
    assert (status, headers["Content-Type"]) == (200, "image/jpeg")
    seen.append(np.asarray(Image.open(io.BytesIO(data))))
  # Brightness tells the frame: 2.5 s and 5 s at 8 frames a second.
  right = [float(image[:, -30:].mean()) for image in seen[:2]]
  tint = np.random.default_rng(0).integers(0, 20, 3).mean()
  wanted = [clips.level(20) + tint, clips.level(40) + tint]
  np.testing.assert_allclose(right, wanted, atol=5)
  assert seen[6].shape[:2] == (48, 64)


def test_previews_have_the_frames_of_the_clip(server):
  status, headers, data = fetch(server, "/preview/0/5", Range="bytes=0-")
  assert (status, headers["Content-Type"]) == (206, "video/mp4")
  with av.open(io.BytesIO(data)) as container:
    assert container.streams.video[0].codec_context.name == "h264"
    frames = sum(1 for _ in container.decode(video=0))
  assert frames == 2 * 5  # of an AVI, from second 4 to 6


def test_posters_and_previews_have_a_deadline(tmp_path, monkeypatch):
  (tmp_path / "a.mp4").write_bytes(clips.mp4(48))
  monkeypatch.setattr(media, "_SECONDS", 0.0)
  monkeypatch.setattr(packets, "_CALLS", 1)
  with (tmp_path / "a.mp4").open("rb") as file:
    for make in (
      lambda: media.poster(file, 1.0),
      lambda: media.preview(file, 1, 3),
    ):
      with pytest.raises(BadSample, match="took more than 0 s"):
        make()


def test_only_indexed_files_are_served(server, folder):
  for path in (
    "/media/0/../../secret.mp4",
    "/media/0/%2e%2e%2fsecret.mp4",
    "/../secret.mp4",
    "/%2e%2e/secret.mp4",
    "/media/0/0/../../../secret.mp4",
    f"/media/0/{folder.parent}/secret.mp4",
    "/media/0/0%00",
    "/media/0/-1",
    "/media/0/1e1",
    "/media/0/%D9%A3",
    "/media/0/99",
    "/media/9/0",
    "/media/0/999999999999",
    "/page/app.js",
    "/serve.py",
    "//etc/passwd",
    "/app.js/..",
  ):
    status, _, data = fetch(server, path)
    assert status == 404, path
    assert b"secret" not in data.replace(b"secret.mp4", b"")


def test_links_out_of_the_folder_are_not_followed(tmp_path):
  inside = tmp_path / "videos"
  (inside / "sub").mkdir(parents=True)
  (tmp_path / "videos2").mkdir()
  (tmp_path / "videos2" / "other.mp4").write_bytes(b"secret")
  (inside / "out.mp4").symlink_to(tmp_path / "videos2" / "other.mp4")
  (inside / "dir").symlink_to(tmp_path / "videos2")
  (inside / "sub" / "real.mp4").write_bytes(b"mine")
  (inside / "in.mp4").symlink_to(inside / "sub" / "real.mp4")
  os.mkfifo(inside / "pipe.mp4")
  (inside / "folder.mp4").mkdir()
  names = ("out.mp4", "dir/other.mp4", "in.mp4", "pipe.mp4", "folder.mp4", "gone.mp4")
  with page.served(page.searcher(inside, names)) as server:
    for i, (status, words) in enumerate(
      [
        (403, b"out.mp4: lies outside"),
        (403, b"dir/other.mp4: lies outside"),
        (200, b"mine"),
        (404, b"pipe.mp4: no longer a file"),
        (404, b"folder.mp4: no longer a file"),
        (404, b"gone.mp4: removed since it was indexed"),
      ]
    ):
      got, _, data = fetch(server, f"/media/0/{2 * i}")
      assert (got, data[: len(words)]) == (status, words)
    # What is not a valid video has no picture, and says so.
    status, _, data = fetch(server, "/poster/0/4")
    assert (status, data[:7]) == (404, b"in.mp4:")


def test_a_clip_id_of_another_clip_is_rejected(server):
  _, found = search(server, dict(text="red"))
  hit = found["hits"][0]
  for what in ("media", "poster", "preview"):
    path = f"/{what}/0/{hit['row']}?clip="
    assert fetch(server, path + hit["clip"])[0] == 200
    assert fetch(server, path + "0" * 12)[0] == 410


def test_a_changed_index_is_reloaded(tmp_path):
  folder = tmp_path / "videos"
  names = ["a.mp4", "b.mp4", "new/c.mp4"]
  (folder / "new").mkdir(parents=True)
  for i, name in enumerate(names):
    (folder / name).write_bytes(page.video(i))
  with page.served(page.searcher(folder, names[:2])) as server:
    _, found = search(server, dict(text="b.mp4"))
    b = found["hits"][0]
    page.index(folder, names[1:], tmp_path / "videos-index")
    _, found = search(server, dict(text="c"))
    assert {hit["name"] for hit in found["hits"]} == set(names[1:])
    assert json.loads(fetch(server, "/api/info")[2])["folders"] == ["new/"]
    assert fetch(server, f"/media/0/{b['row']}?clip={b['clip']}")[0] == 200
    status, _, line = fetch(server, "/media/0/0")
    assert (status, line) == (404, b"no such clip any more; search again\n")
    assert search(server, dict(like=[0, 0], clip=""))[0] == 404
    # If an index becomes damaged, its last good state is searched.
    (tmp_path / "videos-index" / "manifest.json").write_text("{")
    assert search(server, dict(text="c"))[0] == 200
    (tmp_path / "videos-index" / "manifest.json").unlink()
    assert search(server, dict(text="c"))[0] == 200


def test_requests_of_other_sites_to_a_local_server_are_rejected(server):
  good = ("localhost", "localhost:8000", "127.0.0.1:80", "[::1]:1", "LOCALHOST")
  for host in good:
    assert fetch(server, "/api/info", Host=host)[0] == 200, host
  for host in ("evil.example", "evil.example:8000", "localhost.evil", "", "[::2]"):
    status, _, line = fetch(server, "/api/info", Host=host)
    assert (status, line[:35]) == (403, b"this page is for its own machine; s"), host
  assert raw(server, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 403")
  for site in ("cross-site", "same-site"):
    assert fetch(server, "/api/info", Sec_Fetch_Site=site)[0] == 403
    assert fetch(server, "/poster/0/0", Sec_Fetch_Site=site)[0] == 403
    assert fetch(server, "/", Sec_Fetch_Site=site)[0] == 200  # a link to the page
  assert fetch(server, "/api/info", Sec_Fetch_Site="same-origin")[0] == 200


def test_a_server_on_a_public_address_requires_a_token(folder):
  with page.served(page.searcher(folder, NAMES), "0.0.0.0") as server:
    token = server.access.token
    assert len(token) >= 32
    assert server.url.endswith(f":{server.port}/?token={token}")
    for path in ("/", "/app.js", "/api/info", "/media/0/0", "/poster/0/0"):
      status, headers, line = fetch(server, path)
      assert (status, line[:20]) == (401, b"open the address wit"), path
    assert search(server, dict(text="red"))[0] == 401
    assert fetch(server, f"/?token={token[:-1]}")[0] == 401
    assert fetch(server, "/?token=%C3%A4")[0] == 401
    # The first visit leaves a cookie, and an address without the token.
    status, headers, _ = fetch(server, f"/?token={token}")
    assert (status, headers["Location"]) == (303, "/")
    cookie = headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    mine = dict(Cookie="other=1; " + cookie.split(";")[0], Host="any.example")
    for path in ("/", "/app.js", "/api/info", "/media/0/0", "/poster/0/0"):
      assert fetch(server, path, **mine)[0] == 200, path
    assert search(server, dict(text="red"), **mine)[0] == 200
    assert fetch(server, "/", Cookie=f"vtr_search_{server.port}=x")[0] == 401


def test_local_hosts_need_no_token():
  for host in ("localhost", "127.0.0.1", "127.1.2.3", "::1"):
    assert access.is_local(host)
    assert not access.Access(host).token
  for host in ("0.0.0.0", "::", "", "192.168.1.2", "example.org"):
    assert not access.is_local(host)
    assert access.Access(host).token
  assert access.Access("localhost", "t" * 16).token == "t" * 16
  for token in ("short", "with space and more", "a&b=c" * 9, "ä" * 20, "x" * 17 + "\n"):
    with pytest.raises(ConfigError, match="--token: must be 16 to 256"):
      access.Access("localhost", token)


def test_an_address_that_cannot_be_bound_is_reported(server):
  with pytest.raises(ConfigError, match=f"--port={server.port}: Address already in"):
    serve.Server(server.library._searcher, "127.0.0.1", server.port)
  with pytest.raises(ConfigError, match=r"--port=70000: .*give another one"):
    serve.Server(server.library._searcher, "127.0.0.1", 70_000)
  with pytest.raises(ConfigError, match=r"--host=no\.such\.invalid"):
    serve.Server(server.library._searcher, "no.such.invalid", 0)


def test_concurrent_requests_are_answered(server, folder):
  data = (folder / NAMES[1]).read_bytes()

  def work(i):
    kind = i % 4
    if kind == 0:
      return search(server, dict(text="red"))[1]["hits"][0]["row"] == 0
    if kind == 1:
      return fetch(server, "/media/0/2", Range=f"bytes={i}-")[2] == data[i:]
    if kind == 2:
      return fetch(server, f"/poster/0/{i % 7}")[0] == 200
    return fetch(server, "/api/info")[0] == 200

  with concurrent.futures.ThreadPoolExecutor(16) as pool:
    assert all(pool.map(work, range(160)))


def test_slow_clients_are_disconnected(folder, monkeypatch):
  monkeypatch.setattr(handler, "_REQUEST_TIMEOUT", 0.6)
  with page.served(page.searcher(folder, NAMES)) as server:
    line = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    ended = False
    for letter in b"GET / HTTP/1.1\r\nHost: localhost\r\nSlow: yes yes yes yes yes":
      try:  # never silent for long, never done
        line.sendall(bytes([letter]))
        line.settimeout(0.1)
        ended = line.recv(1) == b""
      except TimeoutError:
        continue
      except ConnectionError:
        ended = True
      if ended:
        break
    line.close()
    assert ended
    assert fetch(server, "/api/info")[0] == 200


def test_too_many_clients_are_turned_away(folder, monkeypatch):
  monkeypatch.setattr(serve, "_MAX_CLIENTS", 3)
  with page.served(page.searcher(folder, NAMES)) as server:
    where = ("127.0.0.1", server.port)
    lines = [socket.create_connection(where, timeout=20) for _ in range(3)]
    time.sleep(0.2)
    with pytest.raises((ConnectionError, http.client.HTTPException)):
      fetch(server, "/api/info")
    for line in lines:
      line.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
      try:
        assert fetch(server, "/api/info")[0] == 200
        return
      except (ConnectionError, http.client.HTTPException):
        time.sleep(0.05)
    pytest.fail("clients that left still take room")


def test_a_client_that_disconnects_is_not_an_error(server, monkeypatch, capfd):
  for _ in range(5):
    with socket.create_connection(("127.0.0.1", server.port)) as line:
      line.sendall(b"GET /media/0/0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
      line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
  time.sleep(0.2)
  assert fetch(server, "/api/info")[0] == 200
  assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGINT])
def test_the_serve_command_answers_until_it_is_interrupted(command_index, signal_):
  """With a real index and model."""
  index, records = command_index
  command = [sys.executable, "-m", "vtr_jax.search", "serve", str(index), "--port=0"]
  # A job in the background ignores Ctrl-C, and so would what it starts.
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  run = subprocess.Popen(
    command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )
  signal.signal(signal.SIGINT, before)
  try:
    assert run.stdout
    line = run.stdout.readline()
    found_url = re.fullmatch(
      r"6 clips of 6 files: http://127\.0\.0\.1:(\d+)/  \(Ctrl-C ends\)\n", line
    )
    assert found_url, line + run.communicate()[1]
    server = types.SimpleNamespace(port=int(found_url[1]))
    status, found = search(server, dict(text=records[0]["captions"][0], top=3))
    assert (status, len(found["hits"])) == (200, 3)
    hit = found["hits"][0]
    media = fetch(server, f"/media/{hit['index']}/{hit['row']}?clip={hit['clip']}")
    assert media[2] == records[int(hit["name"][-5])]["video"]
    _, found = search(server, dict(like=[0, hit["row"]], clip=hit["clip"]))
    assert found["hits"][0]["clip"] == hit["clip"]
    poster = fetch(server, f"/poster/0/{hit['row']}")[2]
    image = base64.b64encode(poster).decode()
    assert search(server, dict(image=image))[0] == 200
    assert search(server, dict(text="a red bar", rerank=3))[1].startswith("rerank: ")
    for bad in ("aGVsbG8=", ""):
      assert search(server, dict(image=bad))[0] == 400
    run.send_signal(signal_)
    _, errors = run.communicate(timeout=30)
    assert run.returncode == 0, errors
    assert "Traceback" not in errors
  finally:
    run.kill()
    run.communicate()


@pytest.fixture(scope="module")
def command_index(data_dir, tmp_path_factory):
  """(directory of an index, records of the files in it)."""
  place = tmp_path_factory.mktemp("command")
  trained_smoke(mac, data_dir, place / "run")
  model = vtr_jax.load(place / "run")
  source = model.config.data.open("test")
  records = [source[i] for i in range(6)]
  (place / "videos").mkdir()
  for i, record in enumerate(records):
    (place / "videos" / f"clip {i}.mp4").write_bytes(record["video"])
  build.build(place / "videos", place / "index", model, checkpoint=place / "run")
  return place / "index", records
