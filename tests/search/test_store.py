"""The index on disk: what is committed is there, and nothing else; damage is named."""

import json

import numpy as np
import pytest
from index_cases import HEADER, file

from vtr_jax.core.errors import DataError
from vtr_jax.search import store
from vtr_jax.search.store import Header
from vtr_jax.search.writer import Writer

RNG = np.random.default_rng(0)


def clips(count):
  return RNG.normal(size=(count, 4)).astype(np.float16), RNG.random((count, 2))


@pytest.fixture
def place(tmp_path):
  """Two files of three and two clips, and one that cannot be read."""
  with Writer(tmp_path / "index", HEADER) as writer:
    writer.add(file("a/ü\n\udc80.mp4"), *clips(3))
    writer.add(file("b.mp4"), *clips(2))
    writer.note(file("c.mp4", error="no video"))
  return tmp_path / "index"


def content(index):
  """path -> (file but its rows, vectors, times)."""
  return {
    path: (f[:4], index.vectors[rows].tolist(), index.times[rows].tolist(), f.error)
    for path, f in index.files.items()
    for rows in [slice(f.row, f.row + f.clips)]
  }


def test_what_was_added_is_there(tmp_path):
  added = {name: clips(count) for name, count in dict(a=3, b=0, c=1).items()}
  with Writer(tmp_path, HEADER) as writer:
    for name, (vectors, times) in added.items():
      writer.add(file(name), vectors, times)
  index = store.open(tmp_path)
  assert list(index.files) == list(added)
  for name, (vectors, times) in added.items():
    _, found, spans, _ = content(index)[name]
    assert found == vectors.tolist()
    assert spans == times.tolist()
  assert [index.owner(row).path for row in range(4)] == ["a", "a", "a", "c"]
  assert index.header == HEADER
  with pytest.raises(DataError, match="no clip has number 4"):
    index.owner(4)


def test_a_change_replaces_and_what_is_gone_is_not_found(place):
  with Writer(place, HEADER) as writer:
    writer.add(file("b.mp4", size=11), *clips(1))
    writer.drop("c.mp4")
  index = store.open(place)
  assert index.live.tolist() == [True] * 3 + [False] * 2 + [True]
  assert index.under("a/").tolist() == [True] * 3 + [False] * 3
  assert index.files.keys() == {"a/ü\n\udc80.mp4", "b.mp4"}
  with pytest.raises(DataError, match="no clip has number 3"):
    index.owner(3)


def test_nothing_shows_before_it_is_committed(place):
  before = store.open(place)
  with Writer(place, HEADER) as writer:
    writer.add(file("d.mp4"), *clips(2))
    writer.drop("b.mp4")
    assert content(store.open(place)) == content(before)
    writer.commit()
    assert store.open(place).files.keys() - before.files.keys() == {"d.mp4"}
  # An index that is open does not change.
  assert before.rows == 5
  assert "b.mp4" in before.files


def test_leavings_of_a_killed_writer_do_not_count(place):
  before = content(store.open(place))
  for path in place.glob("*-1.*"):
    with path.open("ab") as f:
      f.write(b"half of something")
  (place / "vectors-2.f16").write_bytes(b"of a rewriting")
  (place / ".manifest.json.0f.tmp").write_text("{")
  assert content(store.open(place)) == before
  with Writer(place, HEADER) as writer:
    writer.add(file("d.mp4"), *clips(2))
  index = store.open(place)
  assert content(index).keys() == {*before, "d.mp4"}
  assert (place / "vectors-1.f16").stat().st_size == 7 * 4 * 2
  assert not (place / "vectors-2.f16").exists()


def test_written_anew_when_most_rows_are_dead(place):
  old = store.open(place)
  with Writer(place, HEADER) as writer:
    writer.drop("a/ü\n\udc80.mp4")
    writer.compact()
  index = store.open(place)
  assert index.rows == 2
  expected = content(old)
  expected.pop("a/ü\n\udc80.mp4")
  assert content(index) == expected
  assert sorted(p.name for p in place.glob("*-*")) == [
    "files-2.jsonl",
    "times-2.f64",
    "vectors-2.f16",
  ]
  assert old.vectors.shape == (5, 4)  # who has it open keeps it
  assert np.isfinite(old.vectors).all()
  with Writer(place, HEADER) as writer:
    writer.drop("b.mp4")
    writer.compact()
  assert store.open(place).rows == 0


def test_an_add_that_fails_leaves_the_index_whole(place):
  before = content(store.open(place))
  with pytest.raises(ValueError), Writer(place, HEADER) as writer:
    writer.add(file("d.mp4"), np.ones((2, 4)), np.array([["no", "times"]]))
  assert content(store.open(place)) == before


def test_a_full_disk_is_one_line_and_costs_no_more_than_the_last_part(
  place, monkeypatch
):
  before = content(store.open(place))

  def full(_):
    raise OSError(28, "No space left on device")

  with monkeypatch.context() as patch:
    patch.setattr(store.os, "fsync", full)
    writer = Writer(place, HEADER)
    writer.add(file("d.mp4"), *clips(2))
    with pytest.raises(DataError, match="cannot be written \\(No space left on device"):
      writer.commit()
    writer.__exit__()
  assert content(store.open(place)) == before
  with Writer(place, HEADER) as writer:
    writer.add(file("e.mp4"), *clips(2))
  assert content(store.open(place)).keys() == {*before, "e.mp4"}


def test_one_writer_at_a_time(place):
  with (
    Writer(place, HEADER),
    pytest.raises(DataError, match="another process is writing to it"),
  ):
    Writer(place, HEADER)
  Writer(place, HEADER).__exit__()


@pytest.mark.parametrize(
  "name", ["manifest.json", "vectors-1.f16", "times-1.f64", "files-1.jsonl"]
)
@pytest.mark.parametrize("how", ["shorter", "empty", "flipped", "gone"])
def test_damage_is_one_line(place, name, how):
  path = place / name
  data = bytearray(path.read_bytes())
  if how == "gone":
    path.unlink()
  else:
    data[len(data) // 2] ^= 1
    cut = dict(shorter=data[:-3], empty=b"", flipped=data)[how]
    path.write_bytes(cut)
  missing = how == "gone"
  words = "not an index" if name == "manifest.json" else "is missing"
  with pytest.raises(DataError, match=words if missing else "damaged") as e:
    store.open(place)
  assert str(place) in str(e.value)
  assert "\n" not in str(e.value)
  if not missing:
    with pytest.raises(DataError, match="damaged"):
      Writer(place, HEADER)
    with pytest.raises(DataError, match="damaged"):  # and has let go of the lock
      Writer(place, HEADER)


@pytest.mark.parametrize(
  ("key", "value"),
  [("model", "other"), ("dim", 8), ("window", 5.0), ("overlap", 1.0), ("shots", True)],
)
def test_another_header_is_refused(place, key, value):
  header = Header(**HEADER.__dict__ | {key: value})
  with pytest.raises(DataError, match=f"made with another {key}"):
    Writer(place, header)


def test_another_folder_is_refused_unless_the_first_has_moved(tmp_path):
  for name in ("first", "second"):
    (tmp_path / name).mkdir()
  header, other = (
    Header(**HEADER.__dict__ | dict(root=str(tmp_path / name)))
    for name in ("first", "second")
  )
  place = tmp_path / "index"
  Writer(place, header).__exit__()
  with pytest.raises(DataError, match="made with another root"):
    Writer(place, other)
  (tmp_path / "first").rmdir()
  Writer(place, other).__exit__()
  assert store.open(place).header.root == other.root


def test_other_versions_and_other_things(place, tmp_path):
  path = place / "manifest.json"
  manifest = json.loads(path.read_text())
  manifest["format"] = 99
  path.write_text(json.dumps(manifest))
  with pytest.raises(DataError, match="of another version"):
    store.open(place)
  with pytest.raises(DataError, match="not an index; create one with"):
    store.open(tmp_path / "absent")
  (tmp_path / "notes.txt").write_text("mine")
  with pytest.raises(DataError, match="not an index; choose another --out"):
    Writer(tmp_path, HEADER)
  with pytest.raises(DataError, match="not an index; choose another --out"):
    Writer(tmp_path / "notes.txt", HEADER)


def test_files_of_the_user_stay_and_a_rewriting_that_is_stopped_changes_nothing(
  tmp_path, monkeypatch
):
  """Ctrl-C amid `compact`: the index is that of the last commit."""
  place = tmp_path / "index"
  with Writer(place, HEADER) as writer:
    for i in range(6):
      writer.add(file(f"{i}.mp4"), *clips(1))
  (place / "my-notes.txt").write_text("mine")

  def shrink():
    with Writer(place, HEADER) as writer:
      for i in range(4):
        writer.drop(f"{i}.mp4")
      taken = writer.rows

      def stopped(each):
        if each.path == "5.mp4":
          raise KeyboardInterrupt
        return taken(each)

      monkeypatch.setattr(writer, "rows", stopped)
      writer.compact()

  with pytest.raises(KeyboardInterrupt):
    shrink()
  assert set(store.open(place).files) == {"4.mp4", "5.mp4"}
  with Writer(place, HEADER) as writer:
    writer.compact()
  index = store.open(place)
  assert set(index.files) == {"4.mp4", "5.mp4"}
  assert index.rows == 2
  assert (place / "my-notes.txt").read_text() == "mine"
