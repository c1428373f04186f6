"""The embedded long videos: what they show, their moments, and their build."""

import numpy as np
import pytest

from vtr_jax.core.errors import ConfigError, DataError
from vtr_jax.data import notes, sources
from vtr_jax.data.embedded import build as embedded
from vtr_jax.data.embedded import long
from vtr_jax.data.embedded.clips import FPS
from vtr_jax.data.moving_shapes import scene
from vtr_jax.eval import protocols

TEST = [long.parts("test", i) for i in range(long.COUNTS["full"]["test"])]
MOMENTS = [long.moments("test", i) for i in range(len(TEST))]


def test_no_thing_occurs_in_two_clips_of_a_video():
  for parts in TEST:
    things = [thing for part in parts for thing in part.meaning.things]
    assert len(parts) == long.CLIPS
    assert len(set(things)) == len(things)
    assert not any(scene.is_novel(part.meaning) for part in parts)


def test_clips_follow_each_other_at_four_speeds():
  lengths = set()
  for parts in TEST:
    assert parts[0].start == 0
    assert [p.end for p in parts[:-1]] == [p.start for p in parts[1:]]
    lengths |= {part.end - part.start for part in parts}
  assert lengths == {18, 24, 36, 48}
  seconds = [parts[-1].end / FPS for parts in TEST]
  assert (min(seconds), max(seconds)) == (10, 22)


def test_queries_are_captions_of_clips_and_actions_of_halves():
  asked = [note for notes in MOMENTS for note in notes]
  assert len(asked) == protocols.TABLE[long.NAME].queries
  assert sum(note.type == "half" for note in asked) == 646
  assert not any(notes.problem(note) for note in asked)
  for parts, own in zip(TEST, MOMENTS, strict=True):
    clips = [note for note in own if note.type == "clip"]
    windows = [(p.start / FPS, p.end / FPS) for p in parts]
    assert [note.windows[0] for note in clips] == windows
    assert [note.text for note in clips] == [part.captions[0] for part in parts]
    halves = [note.windows[0] for note in own if note.type == "half"]
    two = [
      window
      for window, part in zip(windows, parts, strict=True)
      if part.meaning.kind == "steps" and len(part.meaning.actions) == 2
    ]
    for first, second, whole in zip(halves[::2], halves[1::2], two, strict=True):
      assert (first[0], second[1]) == whole
      assert first[1] == second[0] == sum(whole) / 2


def test_a_video_does_not_depend_on_others_and_differs_from_them():
  again = long.make("train", 3)
  assert again == long.make("train", 3)
  assert len({long.make(split, 3).video for split in ("train", "test")}) == 2
  assert long.moments("test", 7) == MOMENTS[7]


def test_a_clip_of_half_the_speed_shows_every_frame_twice():
  slow = [(i, p) for i in range(9) for p in TEST[i] if p.end - p.start == 48]
  number, part = slow[0]
  shown = long.frames("test", number)
  assert len(shown) == TEST[number][-1].end
  clip = shown[part.start : part.end]
  np.testing.assert_array_equal(clip[::2], clip[1::2])
  assert len(np.unique(clip, axis=0)) > 12


def test_the_build_has_records_and_their_moments(tmp_path, capsys):
  directory = embedded.build(tmp_path, f"{long.NAME}/tiny")
  assert "8 videos" in capsys.readouterr().err
  for split, count in long.COUNTS["tiny"].items():
    records, asked = sources.open_split(directory, split), notes.read(directory, split)
    assert len(records) == len(asked) == count
    for i in range(count):
      made = long.make(split, i)
      assert records[i] == dict(
        id=made.id, video=made.video, captions=made.captions, label=""
      )
      assert asked[i] == tuple(long.moments(split, i))
  assert embedded.build(tmp_path, f"{long.NAME}/tiny") == directory
  assert [path.name for path in tmp_path.glob("*/.parts*")] == []


def test_an_unknown_variant_is_named(tmp_path):
  with pytest.raises(ConfigError, match="tiny"):
    embedded.build(tmp_path, f"{long.NAME}/tinny")


def test_nothing_is_built_in_a_bucket(tmp_path, monkeypatch):
  """A folder named gs: would be lost with the machine."""

  def missing(directory, name):
    raise DataError(f"{directory}/{name}: there is no such data set")

  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(embedded.sources, "find", missing)
  with pytest.raises(DataError, match=r"gs://b/data.*made in local directories"):
    embedded.find("gs://b/data", f"{long.NAME}/tiny")
  assert not any(tmp_path.iterdir())
