"""Protocols: the table, changes of fields, queries, and clips per video."""

import dataclasses

import clips
import numpy as np
import pytest
from conftest import ROOT

from vtr_jax.core.errors import ConfigError, DataError
from vtr_jax.data import sources, views
from vtr_jax.data.video import decode
from vtr_jax.eval import protocols, query_texts

NAMES = {
  "msrvtt_1ka", "msrvtt_full", "msvd", "lsmdc", "didemo", "activitynet",
  "flickr30k_1k", "coco_5k", "flickr8k_1k", "hmdb51", "ucf101", "kinetics400", "custom",
}  # fmt: skip
TEXTS = ["a cat", "a dog ", " it barks", "it runs", "a bird"]
OWNER = np.array([0, 1, 1, 1, 3])


def test_the_table_has_all_benchmarks():
  assert set(protocols.TABLE) >= NAMES


@pytest.mark.parametrize("name", protocols.TABLE)
def test_the_page_of_protocols_has_their_counts(name):
  page = (ROOT / "docs" / "evaluation.md").read_text().splitlines()
  (row,) = (x for x in page if x[0:3] == "| `" and f"`{name}`" in x.split("|")[1])
  protocol = protocols.TABLE[name]
  cells = [cell.strip() for cell in row.split("|")]
  assert protocol.split in cells[2]
  for count, cell in ((protocol.clips, cells[3]), (protocol.queries, cells[4])):
    assert not count or f"{count:,}" in cell


def test_changes_replace_only_the_named_fields():
  plain = protocols.get("msvd")
  changed = protocols.get("msvd", protocols.parse(["captions=first", "windows=3"]))
  assert changed == dataclasses.replace(plain, captions="first", windows=3)
  assert protocols.get("custom", {"prompts": ["{}"]}).prompts == ("{}",)


@pytest.mark.parametrize(
  ("name", "changes", "message"),
  [
    ("msvdd", [], "did you mean 'msvd'"),
    ("msvd", ["caption=first"], "did you mean 'captions'"),
    ("msvd", ["captions=fist"], "did you mean 'first'"),
    ("msvd", ["windows=0"], "windows: 0 is below 1"),
    ("msvd", ["windows=two"], "expected int"),
    ("msvd", ["frames=-1"], "frames: -1 is negative"),
    ("msvd", ["ties=averge"], r"protocol msvd\.ties: .*; did you mean 'average'"),
    ("msvd", ["ties=3"], "ties: 3 is unknown"),
    ("msvd", ["ties"], "not field=value"),
    ("hmdb51", ["prompts=()"], "prompts: none"),
    ("hmdb51", ["prompts=('a person',)"], 'needs one "{}"'),
    ("hmdb51", ["classes={'a': ()}"], r"classes\.a: \(\); give phrases that are not"),
    ("hmdb51", ["classes={'a': (' ',)}"], r"classes\.a: .*; give phrases"),
  ],
)
def test_invalid_changes_are_rejected(name, changes, message):
  with pytest.raises(ConfigError, match=message):
    protocols.get(name, protocols.parse(changes))


@pytest.mark.parametrize(
  ("rule", "texts", "owner"),
  [
    ("all", TEXTS, [0, 1, 1, 1, 3]),
    ("first", ["a cat", "a dog ", "a bird"], [0, 1, 3]),
    ("joined", ["a cat", "a dog it barks it runs", "a bird"], [0, 1, 3]),
  ],
)
def test_queries_by_each_rule(rule, texts, owner):
  found = query_texts.select(TEXTS, OWNER, rule)
  assert found[0] == texts
  np.testing.assert_array_equal(found[1], owner)


def test_joined_captions_keep_their_order():
  order = [3, 0, 4, 2, 1]  # captions of one clip need not be neighbours
  texts, owner = query_texts.select([TEXTS[i] for i in order], OWNER[order], "joined")
  assert texts == ["a cat", "it runs it barks a dog", "a bird"]
  np.testing.assert_array_equal(owner, [0, 1, 3])


def test_counts_that_differ_from_the_protocol_are_listed():
  msvd = protocols.get("msvd")
  assert protocols.differences(msvd, 670, 27_763) == []
  assert protocols.differences(msvd, 34, 1400) == [
    "34 clips, not 670",
    "1,400 queries, not 27,763",
  ]
  assert protocols.differences(protocols.get("custom"), 3, 4) == []


@pytest.mark.parametrize(
  ("label", "phrase"),
  [
    ("ApplyEyeMakeup", "apply eye makeup"),
    ("brush_hair", "brush hair"),
    ("riding a bike", "riding a bike"),
    ("TaiChi", "tai chi"),
    ("YoYo", "yo yo"),
    ("CPRTraining", "cpr training"),
  ],
)
def test_labels_become_phrases(label, phrase):
  assert query_texts.label_phrase(label) == phrase


# Frames by hand: 12 frames, 2 segments of 6, each cut into 3 parts of 2 frames, whose
# first is the lower middle.
def test_frames_of_windows_of_segments():
  seen = views.Views(2, "segments", 1, windows=3)
  assert [seen.indices(v)(12).tolist() for v in range(3)] == [[0, 6], [2, 8], [4, 10]]


def test_frames_of_contiguous_windows_are_those_of_videomae():
  """30 frames at stride 4 are 8; windows of 4 may start at 0 to 4."""
  seen = views.Views(4, "contiguous", 4, windows=3)
  first = [seen.indices(v)(30).tolist() for v in range(3)]
  assert first == [[0, 4, 8, 12], [8, 12, 16, 20], [16, 20, 24, 28]]
  assert seen.indices(2)(5).tolist() == [0, 4, 4, 4]  # the last frame is repeated


@pytest.mark.parametrize("sampling", decode.SAMPLINGS)
@pytest.mark.parametrize("count", [1, 3, 24, 100])
def test_one_window_is_the_clip_of_plain_evaluation(sampling, count):
  seen = views.Views(4, sampling, 3)
  usual = decode.frame_indices(count, 4, sampling, 3, None)
  np.testing.assert_array_equal(seen.indices(0)(count), usual)


@pytest.mark.parametrize(("height", "width"), [(100, 200), (200, 100)])
def test_three_crops_lie_along_the_long_side(height, width):
  seen = views.Views(4, "segments", 1, windows=2, crops=3)
  cuts = [seen.cut(v, 50)(height, width) for v in range(6)]
  places = [(c.top, c.left) for c in cuts]
  along = [(0, 0), (0, 25), (0, 50)]
  if height > width:
    along = [(left, top) for top, left in along]
  assert places == along * 2
  assert {(c.height, c.width) for c in cuts} == {(height // 2, width // 2)}
  assert len(seen) == 6


@pytest.mark.parametrize(("height", "width"), [(64, 32), (36, 50)])
def test_a_window_is_decoded_once_for_all_its_crops(
  tmp_path, monkeypatch, height, width
):
  rows = [clips.record(f"c{i}", clips.mp4(12, height, width, seed=i)) for i in range(2)]
  directory = clips.prepare(tmp_path, dict(test=rows))
  seen = views.Views(4, "segments", 1, windows=2, crops=3)
  source, data = sources.open_split(directory, "test"), clips.config(tmp_path)
  real, calls = decode.decode, []

  def counted(*args):
    calls.append(args)
    return real(*args)

  monkeypatch.setattr(decode, "decode", counted)
  example = views.ViewExample(source, data, clips.CLIP, seen)
  got = [example(i) for i in range(12)]
  assert len(calls) == 4
  for i, row in enumerate(got):
    record, view = divmod(i, 6)
    cut = seen.cut(view, clips.CLIP.image_size)
    one = real(source[record]["video"], seen.indices(view), cut)
    np.testing.assert_array_equal(row["video"], one)
    assert row["record"] == record
  np.testing.assert_array_equal(
    example(7)["video"], got[7]["video"]
  )  # order does not matter


def test_batches_hold_every_view_of_every_video(tmp_path):
  rows = [clips.record(f"c{i}", clips.mp4(12, 32, 64, seed=i)) for i in range(3)]
  rows.append(clips.record("broken", b"no video"))
  directory = clips.prepare(tmp_path, dict(test=rows[:3], bad=rows[2:]))
  seen = views.Views(4, "segments", 1, windows=2, crops=2)
  source, data = sources.open_split(directory, "test"), clips.config(tmp_path)
  got = list(views.batches(source, data, clips.CLIP, seen, 8))
  record = np.concatenate([b["record"] for b in got])
  np.testing.assert_array_equal(record, [0] * 4 + [1] * 4 + [2] * 4 + [-1] * 4)
  shown = got[0]["video"]
  assert shown.shape == (8, 4, 32, 32, 3)
  brightness = shown.mean(axis=(2, 3, 4))
  assert (brightness[2] > brightness[0]).all()  # a later window of a brightening clip
  assert (brightness[1] > brightness[0] + 5).all()  # the right half is the brighter
  with pytest.raises(DataError, match=r"record 1 of 'bad' .* \(broken: not a video"):
    list(views.batches(sources.open_split(directory, "bad"), data, clips.CLIP, seen, 8))
