"""Search: from a folder to an index and to hits, with damage and interruptions."""

import json
import os
import re
import shutil
import subprocess
import sys
import types

import clips
import damage
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from training import trained_smoke

import vtr_jax
from configs import simvtp
from vtr_jax.core.errors import BadSample, ConfigError, DataError
from vtr_jax.data.video import decode
from vtr_jax.inference import windows
from vtr_jax.search import files, store, writer
from vtr_jax.search.build import build
from vtr_jax.search.searcher import Hit, Searcher

NAMES = (
  "plain.mp4",
  "sub folder/ünï 動画.MP4",
  "sub folder/deeper/-dash 'quotes\" #50%.mp4",
  "a.mp4/new\nline.mp4",
  os.fsdecode(b"no \xff text.mp4"),
  "  spaces .mp4",
)


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
  """(model, its directory, ten videos)."""
  place = trained_smoke(simvtp, data_dir, tmp_path_factory.mktemp("run"))
  model = vtr_jax.load(place)
  source = model.config.data.open("test")
  return model, place, [source[i]["video"] for i in range(10)]


@pytest.fixture
def folder(run, tmp_path):
  """Videos with odd names in folders, an image, a broken file, and other things."""
  root = tmp_path / "clips"
  for name, data in zip(NAMES, run[2], strict=False):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(data)
  picture = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
  Image.fromarray(picture).save(root / "picture.png")
  (root / "broken.mp4").write_bytes(b"no video")
  (root / "captions.txt").write_text("not to be indexed")
  return root


@pytest.fixture
def embedded_clips(run, monkeypatch):
  """A function: how many clips were embedded since its last call."""
  model, seen = run[0], []
  embed = model.embed_clips

  def counting(clips):
    clips = list(clips)
    seen.append(len(clips))
    return embed(clips)

  monkeypatch.setattr(model, "embed_clips", counting)
  return lambda: (sum(seen), seen.clear())[0]


def content(place):
  """path -> (times, vectors) of the files that have clips."""
  index = store.open(place)
  return {
    path: (index.times[rows].tolist(), np.array(index.vectors[rows], np.float32))
    for path, f in index.files.items()
    if f.clips
    for rows in [slice(f.row, f.row + f.clips)]
  }


def assert_same(left, right):
  assert left.keys() == right.keys()
  for path, (times, vectors) in left.items():
    assert times == right[path][0]
    np.testing.assert_allclose(vectors, right[path][1], atol=2e-3)


# --- Indexing ---------------------------------------------------------------------


def test_indexed_vectors_equal_embed_video(run, folder, tmp_path):
  model = run[0]
  report = build(folder, tmp_path / "index", model)
  assert report.embedded == report.clips == 7
  assert [name for name, _ in report.unreadable] == ["broken.mp4"]
  found = content(tmp_path / "index")
  assert found.keys() == {*NAMES, "picture.png"}
  for name, (times, vectors) in found.items():
    (whole,) = model.embed_video([folder / name])
    np.testing.assert_allclose(vectors, whole[None], atol=1e-3)
    assert times == [[0.0, 0.0] if name == "picture.png" else [0.0, 2.0]]
  listed = (tmp_path / "index" / "unreadable.jsonl").read_text().splitlines()
  assert [json.loads(line)["path"] for line in listed] == ["broken.mp4"]


def test_only_new_and_changed_files_are_embedded(run, folder, tmp_path, embedded_clips):
  model, _, videos = run
  place = tmp_path / "index"
  build(folder, place, model)
  assert embedded_clips() == 7

  report = build(folder, place, model)
  assert (report.kept, report.embedded, embedded_clips()) == (8, 0, 0)
  (folder / "new").mkdir()
  (folder / "new" / "a.mp4").write_bytes(videos[6])  # added
  (folder / NAMES[0]).unlink()  # gone
  (folder / NAMES[1]).write_bytes(videos[7])  # changed
  (folder / NAMES[2]).rename(folder / "renamed.mp4")
  shutil.copyfile(folder / NAMES[3], folder / "copied.mp4")
  os.utime(folder / NAMES[4], ns=(1, 1))  # touched
  report = build(folder, place, model)
  assert (report.kept, report.embedded, report.moved) == (4, 2, 3)
  assert report.dropped == 1
  assert embedded_clips() == 2
  build(folder, tmp_path / "reference", model)
  assert_same(content(place), content(tmp_path / "reference"))
  index = store.open(place)
  assert index.live.sum() == report.clips == 8
  owners = [index.owner(int(row)).path for row in np.flatnonzero(index.live)]
  assert sorted(owners) == sorted(content(place))


def test_a_copied_and_a_touched_file_are_both_kept(run, folder, tmp_path):
  model, place = run[0], tmp_path / "index"
  build(folder, place, model)
  shutil.copyfile(folder / "plain.mp4", folder / "a copy.mp4")
  os.utime(folder / "plain.mp4", ns=(1, 1))
  assert build(folder, place, model).moved == 2
  index = store.open(place)
  rows = {index.files[name].row for name in ("plain.mp4", "a copy.mp4")}
  assert len(rows) == 2


def test_unreadable_files_are_not_read_again_until_they_change(
  run, folder, tmp_path, monkeypatch
):
  model, place = run[0], tmp_path / "index"
  build(folder, place, model)
  with monkeypatch.context() as patch:
    patch.setattr(windows, "clips", lambda *_: pytest.fail("was read"))
    assert len(build(folder, place, model).unreadable) == 1
  (folder / "broken.mp4").write_bytes(run[2][8])
  report = build(folder, place, model)
  assert (report.embedded, report.unreadable) == (1, [])
  assert "broken.mp4" in content(place)


def test_files_with_transient_errors_are_tried_again(
  run, folder, tmp_path, monkeypatch
):
  model, place = run[0], tmp_path / "index"

  def refused(path):
    raise PermissionError(13, "Permission denied", path)

  with monkeypatch.context() as patch:
    patch.setattr(files, "digest", refused)
    report = build(folder, place, model)
  assert len(report.unreadable) == 8
  assert report.unreadable[0][1] == "Permission denied"
  assert build(folder, place, model).embedded == 7


def test_a_picture_is_tried_again_once_its_package_is_there(
  run, folder, tmp_path, monkeypatch
):
  model, place = run[0], tmp_path / "index"
  (folder / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
  monkeypatch.setitem(sys.modules, "pillow_heif", None)
  reason = lambda: dict(build(folder, place, model).unreadable)["photo.heic"]
  assert "pip install pillow-heif" in reason()
  there = types.SimpleNamespace(
    options=types.SimpleNamespace(), register_heif_opener=lambda: None
  )
  monkeypatch.setitem(sys.modules, "pillow_heif", there)
  assert "not an image" in reason()


def test_damaged_files_are_listed_and_indexed_in_part(run, tmp_path):
  """Every one is listed; what has good frames is indexed up to the damage."""
  root = tmp_path / "damaged"
  root.mkdir()
  kinds = damage.damaged()
  for name, data in kinds.items():
    (root / f"{name}.mp4").write_bytes(data)
  report = build(root, tmp_path / "index", run[0])
  assert [name for name, _ in report.unreadable] == sorted(f"{k}.mp4" for k in kinds)
  assert all(reason and "\n" not in reason for _, reason in report.unreadable)
  indexed = content(tmp_path / "index").keys()
  assert {"pieces_cut.mp4", "flipped.mp4"} <= indexed
  reasons = dict(report.unreadable)
  assert all(re.fullmatch(r"damaged after \d+ frames", reasons[k]) for k in indexed)


@pytest.mark.parametrize("window", [100.0, 0.5])
def test_a_video_that_ends_too_early_is_indexed_and_listed(window, run, tmp_path):
  """As one clip and as several, all of which are whole; a whole one is not listed."""
  root = tmp_path / "clips"
  root.mkdir()
  whole = damage.textured(movflags="frag_keyframe")
  (root / "whole.mp4").write_bytes(whole)
  (root / "cut.mp4").write_bytes(whole[: len(whole) * 8 // 10])
  report = build(root, tmp_path / "index", run[0], options=windows.Options(window))
  ((name, reason),) = report.unreadable
  assert name == "cut.mp4"
  good = len(decode.decode((root / "cut.mp4").read_bytes()))
  found = re.fullmatch(r"damaged after (\d+) frames", reason)
  assert found
  assert 12 < int(found[1]) <= good < 24
  assert content(tmp_path / "index").keys() == {"cut.mp4", "whole.mp4"}


def test_links_out_of_the_folder_are_listed_as_unreadable(run, folder, tmp_path):
  (tmp_path / "secret.mp4").write_bytes(run[2][9])
  (folder / "out.mp4").symlink_to(tmp_path / "secret.mp4")
  (folder / "up").symlink_to(tmp_path)  # and would go round in circles
  (folder / "in.mp4").symlink_to(folder / "plain.mp4")
  (folder / "gone.mp4").symlink_to(folder / "absent.mp4")
  report = build(folder, tmp_path / "index", run[0])
  assert {name for name, _ in report.unreadable} == {
    "broken.mp4",
    "gone.mp4",
    "out.mp4",
  }
  assert content(tmp_path / "index").keys() == {*NAMES, "picture.png", "in.mp4"}


def test_links_of_a_hub_s_cache_are_followed(tmp_path):
  """Files of a snapshot are links to the blobs of its repository."""
  blobs = tmp_path / "datasets--owner--name" / "blobs"
  kept = tmp_path / "datasets--owner--name" / "snapshots" / "abc" / "videos"
  blobs.mkdir(parents=True)
  kept.mkdir(parents=True)
  for name in ("a", "b"):
    (blobs / name).write_bytes(name.encode())
    (kept / f"{name}.mp4").symlink_to(blobs / name)
  (tmp_path / "secret").touch()
  (kept / "c.mp4").symlink_to(tmp_path / "secret")
  entries, left_out = files.walk(str(kept))
  assert [entry.path for entry in entries] == ["a.mp4", "b.mp4"]
  ((name, reason),) = left_out
  assert name == "c.mp4"
  assert reason == f"a link to {tmp_path}/secret, out of the folder; index that one"


def test_folders_without_videos_are_rejected(run, folder, tmp_path):
  (tmp_path / "empty").mkdir()
  (tmp_path / "empty" / "a.txt").write_text("")
  with pytest.raises(DataError, match=r"no video or image among its files \(1 other"):
    build(tmp_path / "empty", tmp_path / "index", run[0])
  with pytest.raises(DataError, match="no such folder"):
    build(tmp_path / "absent", tmp_path / "index", run[0])
  assert not (tmp_path / "index").exists()
  # A disk that is not there does not empty an index.
  build(folder, tmp_path / "index", run[0])
  shutil.rmtree(folder)
  folder.mkdir()
  with pytest.raises(DataError, match="no video or image"):
    build(folder, tmp_path / "index", run[0])
  assert len(content(tmp_path / "index")) == 7


def test_a_killed_indexing_resumes_to_the_same_index(
  run, folder, tmp_path, embedded_clips
):
  """SIGKILL during the third batch, while files are written."""
  model, place, _ = run
  reference, index = tmp_path / "reference", tmp_path / "index"
  build(folder, reference, model)
  embedded_clips()
  code = f"""
import os, signal, sys
import vtr_jax
from vtr_jax.search import build, writer
model = vtr_jax.load({place!r})
model.config.__dict__["eval_batch_size"] = 2
build._COMMIT = 0
embed, batches = model.embed_clips, []
def embed_clips(clips):
  batches.append(1)
  if len(batches) == 3:
    for out in open_files: out.write(b"half"); out.flush()
    os.kill(os.getpid(), signal.SIGKILL)
  return embed(clips)
model.embed_clips = embed_clips
open_files, begin = [], writer.Writer._new_generation
def fresh(self):
  begin(self)
  open_files.extend(self._out.values())
writer.Writer._new_generation = fresh
build.build({str(folder)!r}, {str(index)!r}, model, threads=1)
"""
  killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True)
  assert killed.returncode == -9, killed.stderr.decode()
  before = content(index)
  assert 0 < len(before) < 7
  report = build(folder, index, model)
  assert report.clips == 7
  assert embedded_clips() == 7 - len(before)
  assert_same(content(index), content(reference))


def test_a_second_indexing_process_is_rejected(run, folder, tmp_path):
  model = run[0]
  build(folder, tmp_path / "index", model)
  header = store.open(tmp_path / "index").header
  with (
    writer.Writer(tmp_path / "index", header),
    pytest.raises(DataError, match="another process is writing"),
  ):
    build(folder, tmp_path / "index", model)


# --- Windows and shots ------------------------------------------------------------


@pytest.mark.parametrize(
  ("end", "overlap", "parts"),
  [
    (0.4, 0, [(0, 0.4)]),
    (14.9, 0, [(0, 14.9)]),
    (15, 0, [(0, 10), (10, 15)]),
    (24.9, 0, [(0, 10), (10, 24.9)]),
    (30, 0, [(0, 10), (10, 20), (20, 30)]),
    (16, 5, [(0, 10), (5, 16)]),
    (30, 5, [(0, 10), (5, 15), (10, 20), (15, 25), (20, 30)]),
  ],
)
def test_videos_are_divided_into_windows(end, overlap, parts):
  assert windows.cut(0, end, windows.Options(10, overlap)) == parts


def test_windows_without_a_frame_are_skipped():
  """A timestamp that jumps by years does not make billions of clips."""
  options = windows.Options(10.0, 0.0)
  times = np.array([0.0, 1.0, 1e8])
  found = windows.shown(0.0, 1e8 + 1, options, times)
  assert found == [(0.0, 10.0), (1e8, 1e8 + 1)]
  even = np.arange(0, 47, 0.5)
  assert windows.shown(0.0, 47.0, options, even) == windows.cut(0.0, 47.0, options)


@pytest.mark.parametrize(
  ("window", "overlap", "key"), [(0, 0, "window"), (10, 10, "overlap"), (5, -1, "over")]
)
def test_invalid_windows_are_rejected(window, overlap, key):
  with pytest.raises(ConfigError, match=key):
    windows.Options(window, overlap)


def seconds_seen(frames):
  """When the frames of a clip of `clips.mp4` are shown, by their brightness."""
  level = frames[:, :, -4:].mean((1, 2, 3))
  levels = [clips.level(i) + 10 for i in range(24)]  # the tint is up to 20
  return [int(np.abs(np.array(levels) - x).argmin()) / 8 for x in level]


def test_each_window_has_the_frames_of_its_segment(run, tmp_path):
  """Also if a single window is read."""
  model, path = run[0], tmp_path / "long.mp4"
  path.write_bytes(clips.mp4(frames=24, fps=8))  # 3 s
  found = list(windows.clips(path, windows.Options(1.0, 0.5), model))
  parts = [(c.start, c.end) for c in found]
  assert parts == [(0, 1), (0.5, 1.5), (1, 2), (1.5, 2.5), (2, 3)]
  for clip in found:
    seen = seconds_seen(clip.frames)
    assert clip.start - 0.2 <= min(seen) <= max(seen) <= clip.end + 0.1
    assert max(seen) - min(seen) > (clip.end - clip.start) / 2
    one = windows.clip(path, clip.start, clip.end, model)
    np.testing.assert_array_equal(one.frames, clip.frames)
  with pytest.raises(BadSample, match=r"has 3\.00 s, none at 7 s"):
    windows.clip(path, 7.0, 8.0, model)


def test_windows_before_damaged_data_are_indexed(run, tmp_path):
  root, data = tmp_path / "clips", bytearray(clips.mp4(frames=240, fps=8))
  root.mkdir()
  data[len(data) * 6 // 10 : len(data) * 6 // 10 + 200] = b"\xff" * 200
  (root / "torn.mp4").write_bytes(data)
  report = build(root, tmp_path / "index", run[0], options=windows.Options(2.0))
  assert 2 < report.clips < 15
  ((name, reason),) = report.unreadable
  assert name == "torn.mp4"
  assert "damaged after" in reason


def test_shots_begin_at_cuts(run, tmp_path):
  """Not at fast motion, nor at a flash."""
  landscape = damage.noise(64, 400, seed=1) // 3 + 60
  other = damage.noise(64, 80, seed=2) // 3 + 160
  frames = [landscape[:, 4 * i : 4 * i + 80] for i in range(50)]
  frames[20] = np.full_like(frames[0], 255)
  frames += [other] * 50 + [landscape[:, :80]] * 50
  shown = [(40 * i, np.ascontiguousarray(f)) for i, f in enumerate(frames)]
  path = tmp_path / "shots.mp4"
  path.write_bytes(damage.written(shown))
  found = list(windows.clips(path, windows.Options(10, 0, True), run[0]))
  np.testing.assert_allclose(
    [(c.start, c.end) for c in found], [(0, 2), (2, 4), (4, 6)], atol=1e-6
  )
  assert abs(found[0].frames.mean() - found[1].frames.mean()) > 50


# --- Queries ----------------------------------------------------------------------


@pytest.fixture
def searcher(run, folder, tmp_path):
  build(folder, tmp_path / "index", run[0], checkpoint=run[1])
  return Searcher.open(tmp_path / "index")


def test_a_text_query_returns_the_highest_cosines(run, folder, searcher):
  model = run[0]
  hits = searcher.query(text="a red ball moves up", top=3)
  paths = [str(folder / name) for name in (*NAMES, "picture.png")]
  cosines = model.similarity(["a red ball moves up"], paths)[0]
  best = np.argsort(-cosines)[:3]
  assert [hit.path for hit in hits] == [paths[i] for i in best]
  np.testing.assert_allclose([hit.score for hit in hits], cosines[best], atol=1e-3)
  assert hits[0].name == os.path.relpath(hits[0].path, folder)
  assert len(searcher.query(text="a ball", top=99)) == 7


def test_an_image_or_clip_of_the_index_finds_itself(folder, searcher):
  for name in NAMES[:3]:
    (hit,) = searcher.query(clip=(folder / name, 0.0, 2.0), top=1)
    assert (hit.name, hit.start, hit.end) == (name, 0.0, 2.0)
    assert hit.score == pytest.approx(1, abs=2e-3)
    again = searcher.query(like=(hit.index, hit.row), top=1)[0]
    assert again[1:] == hit[1:]
  picture = folder / "picture.png"
  for image in (picture, str(picture), picture.read_bytes()):
    assert searcher.query(image=image)[0].name == "picture.png"


def test_a_long_query_is_truncated(run, searcher):
  length = run[0].config.text.max_length
  start = "red ball " * length
  assert searcher.query(text=start) == searcher.query(text=start + "up " * 10_000)


def test_queries_of_a_folder_and_of_several_indexes(run, folder, tmp_path, searcher):
  hits = searcher.query(text="a ball", folder="sub folder/")
  assert sorted(hit.name for hit in hits) == sorted(NAMES[1:3])
  assert searcher.query(text="a ball", folder="absent") == []
  other = tmp_path / "more"
  other.mkdir()
  for i in (7, 8):
    (other / f"{i}.mp4").write_bytes(run[2][i])
  build(other, tmp_path / "second", run[0])
  both = Searcher(run[0], [tmp_path / "index", tmp_path / "second"])
  hits = both.query(text="a ball", top=20)
  assert [hit.score for hit in hits] == sorted((h.score for h in hits), reverse=True)
  assert {hit.path for hit in hits if hit.index == 1} == {
    str(other / f"{i}.mp4") for i in (7, 8)
  }
  assert len(hits) == 9
  (hit,) = both.query(clip=(other / "8.mp4", 0.0, 2.0), top=1)
  assert (hit.index, hit.name) == (1, "8.mp4")


def test_rerank_adds_the_matching_head_to_the_cosines(run, folder, searcher):
  model, text = run[0], "a red ball moves up"
  (folder / NAMES[0]).unlink()  # left out
  hits = searcher.query(text=text, top=4, rerank=7)
  rest = [hit for hit in searcher.query(text=text) if hit.name != NAMES[0]]
  log_odds = model.match_logits([text] * 6, [model.clip(hit.path) for hit in rest])
  scores = [hit.score for hit in rest] + 0.05 * np.log(1 / (1 + np.exp(-log_odds)))
  order = np.argsort(-scores)[:4]
  assert [hit.name for hit in hits] == [rest[i].name for i in order]
  np.testing.assert_allclose([h.score for h in hits], scores[order], atol=1e-4)


def test_an_empty_index_returns_no_hits(run, tmp_path):
  root = tmp_path / "clips"
  root.mkdir()
  (root / "a.mp4").write_bytes(run[2][0])
  build(root, tmp_path / "index", run[0])
  (root / "a.mp4").write_bytes(b"no video")
  assert build(root, tmp_path / "index", run[0]).clips == 0
  assert Searcher(run[0], [tmp_path / "index"]).query(text="a ball") == []


def test_invalid_queries_are_rejected(run, folder, searcher):
  for asked, words in (
    (dict(), "query: empty"),
    (dict(text="  \n"), "query: empty"),
    (dict(text="a ball", like=(0, 0)), "query: give one of"),
    (dict(text="a ball", top=0), "top: 0"),
    (dict(text="a ball", rerank=-1), "rerank: -1"),
    (dict(image=folder / "picture.png", rerank=5), "rerank: needs a text query"),
    (dict(like=(3, 0)), "like: there is no index 3"),
  ):
    with pytest.raises(ConfigError, match=words):
      searcher.query(**asked)
  for asked, words in (
    (dict(image=folder / "broken.mp4"), r"broken\.mp4: not a video"),
    (dict(clip=(folder / "absent.mp4", 0, 1)), r"absent\.mp4: No such file"),
    (dict(clip=(folder / "plain.mp4", 9, 10)), r"plain\.mp4: has 2\.00 s, none at 9 s"),
    (dict(like=(0, 99)), "no clip has number 99"),
  ):
    with pytest.raises(DataError, match=words):
      searcher.query(**asked)


def test_an_index_of_another_model_is_rejected(run, tmp_path):
  header = store.Header("other@7-ab", "", run[0].dim, "/", 10.0, 0.0, False)
  writer.Writer(tmp_path / "index", header).__exit__()
  with pytest.raises(DataError, match="made with the model other@7-ab, not with"):
    Searcher(run[0], [tmp_path / "index"])


# --- Commands ---------------------------------------------------------------------


def command(*arguments):
  return subprocess.run(
    [sys.executable, "-m", "vtr_jax.search", *map(str, arguments)],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )


def test_index_and_query_commands(run, folder, tmp_path):
  index = tmp_path / "index"
  made = command("index", folder, f"--checkpoint={run[1]}", f"--out={index}")
  assert made.returncode == 0, made.stderr
  assert "7 clips; files: 7 embedded" in made.stdout
  assert "broken.mp4: not a video" in made.stderr
  asked = command("query", index, f"--clip={folder / NAMES[2]}@0", "--json", "--top=2")
  assert asked.returncode == 0, asked.stderr
  hits = [Hit(**hit) for hit in json.loads(asked.stdout)]
  assert [len(hits), hits[0].name] == [2, NAMES[2]]
  asked = command("query", index, "a red", "ball")
  assert asked.returncode == 0, asked.stderr
  lines = asked.stdout.splitlines()  # a name of two lines is none of two hits
  assert len(lines) == 7
  assert sum("no \\udcff text.mp4" in line for line in lines) == 1


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    (["query", "INDEX", " "], "query: empty"),
    (["query", "INDEX", "--clip=film.mp4"], "--clip: 'film.mp4'; give FILE@SECOND"),
  ],
)
def test_invalid_commands_are_rejected_with_one_line(
  run, folder, tmp_path, arguments, words
):
  build(folder, tmp_path / "index", run[0], checkpoint=run[1])
  failed = command(*(tmp_path / "index" if a == "INDEX" else a for a in arguments))
  assert failed.returncode == 2
  assert words in failed.stderr
  assert len(failed.stderr.splitlines()) == 1
