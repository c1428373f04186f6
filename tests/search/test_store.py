"""The index on disk: exactly what is committed; damage is reported."""

import json

import numpy as np
import pytest
from index_cases import HEADER, file
from runtime_types import unchecked

from vtr_jax.core.errors import DataError
from vtr_jax.search import store
from vtr_jax.search.store import Header
from vtr_jax.search.writer import Writer

RNG = np.random.default_rng(0)


def clips(count):
  return RNG.normal(size=(count, 4)).astype(np.float16), RNG.random((count, 2))


@pytest.fixture
def index_dir(tmp_path):
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


def test_added_clips_are_stored(tmp_path):
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


def test_changed_files_are_replaced_and_dropped_ones_removed(index_dir):
  with Writer(index_dir, HEADER) as writer:
    writer.add(file("b.mp4", size=11), *clips(1))
    writer.drop("c.mp4")
  index = store.open(index_dir)
  assert index.live.tolist() == [True] * 3 + [False] * 2 + [True]
  assert index.under("a/").tolist() == [True] * 3 + [False] * 3
  assert index.files.keys() == {"a/ü\n\udc80.mp4", "b.mp4"}
  with pytest.raises(DataError, match="no clip has number 3"):
    index.owner(3)


def test_changes_are_visible_only_after_commit(index_dir):
  before = store.open(index_dir)
  with Writer(index_dir, HEADER) as writer:
    writer.add(file("d.mp4"), *clips(2))
    writer.drop("b.mp4")
    assert content(store.open(index_dir)) == content(before)
    writer.commit()
    assert store.open(index_dir).files.keys() - before.files.keys() == {"d.mp4"}
  # An index that is open does not change.
  assert before.rows == 5
  assert "b.mp4" in before.files


def test_leftovers_of_a_killed_writer_are_ignored(index_dir):
  before = content(store.open(index_dir))
  for path in index_dir.glob("*-1.*"):
    with path.open("ab") as f:
      f.write(b"half of something")
  (index_dir / "vectors-2.f16").write_bytes(b"of a rewriting")
  (index_dir / ".manifest.json.0f.tmp").write_text("{")
  assert content(store.open(index_dir)) == before
  with Writer(index_dir, HEADER) as writer:
    writer.add(file("d.mp4"), *clips(2))
  index = store.open(index_dir)
  assert content(index).keys() == {*before, "d.mp4"}
  assert (index_dir / "vectors-1.f16").stat().st_size == 7 * 4 * 2
  assert not (index_dir / "vectors-2.f16").exists()
  assert not (index_dir / ".manifest.json.0f.tmp").exists()


def test_compact_rewrites_the_index_without_dropped_rows(index_dir):
  old = store.open(index_dir)
  with Writer(index_dir, HEADER) as writer:
    writer.drop("a/ü\n\udc80.mp4")
    writer.compact()
  index = store.open(index_dir)
  assert index.rows == 2
  expected = content(old)
  expected.pop("a/ü\n\udc80.mp4")
  assert content(index) == expected
  assert sorted(p.name for p in index_dir.glob("*-*")) == [
    "files-2.jsonl",
    "times-2.f64",
    "vectors-2.f16",
  ]
  assert old.vectors.shape == (5, 4)  # an index that is open keeps its files
  assert np.isfinite(old.vectors).all()
  with Writer(index_dir, HEADER) as writer:
    writer.drop("b.mp4")
    writer.compact()
  assert store.open(index_dir).rows == 0


def test_an_add_that_fails_leaves_the_index_unchanged(index_dir):
  before = content(store.open(index_dir))
  with (
    unchecked(),
    pytest.raises(ValueError),
    Writer(index_dir, HEADER) as writer,
  ):
    writer.add(file("d.mp4"), np.ones((2, 4)), np.array([["no", "times"]]))
  assert content(store.open(index_dir)) == before


def test_a_full_disk_is_one_line_and_loses_only_uncommitted_clips(
  index_dir, monkeypatch
):
  before = content(store.open(index_dir))

  def full(_):
    raise OSError(28, "No space left on device")

  with monkeypatch.context() as patch:
    patch.setattr(store.os, "fsync", full)
    writer = Writer(index_dir, HEADER)
    writer.add(file("d.mp4"), *clips(2))
    with pytest.raises(DataError, match="cannot be written \\(No space left on device"):
      writer.commit()
    writer.__exit__()
  assert content(store.open(index_dir)) == before
  with Writer(index_dir, HEADER) as writer:
    writer.add(file("e.mp4"), *clips(2))
  assert content(store.open(index_dir)).keys() == {*before, "e.mp4"}


def test_a_second_writer_is_rejected(index_dir):
  with (
    Writer(index_dir, HEADER),
    pytest.raises(DataError, match="another process is writing to it"),
  ):
    Writer(index_dir, HEADER)
  Writer(index_dir, HEADER).__exit__()


@pytest.mark.parametrize(
  "name", ["manifest.json", "vectors-1.f16", "times-1.f64", "files-1.jsonl"]
)
@pytest.mark.parametrize("how", ["shorter", "empty", "flipped", "gone"])
def test_a_damaged_index_is_reported_with_one_line(index_dir, name, how):
  path = index_dir / name
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
    store.open(index_dir)
  assert str(index_dir) in str(e.value)
  assert "\n" not in str(e.value)
  if not missing:
    with pytest.raises(DataError, match="damaged"):
      Writer(index_dir, HEADER)
    with pytest.raises(DataError, match="damaged"):  # and has let go of the lock
      Writer(index_dir, HEADER)


@pytest.mark.parametrize(
  ("key", "value"),
  [("model", "other"), ("dim", 8), ("window", 5.0), ("overlap", 1.0), ("shots", True)],
)
def test_a_writer_with_other_options_is_rejected(index_dir, key, value):
  header = Header(**HEADER.__dict__ | {key: value})
  with pytest.raises(DataError, match=f"made with another {key}"):
    Writer(index_dir, header)


def test_another_folder_is_rejected_unless_the_first_is_gone(tmp_path):
  for name in ("first", "second"):
    (tmp_path / name).mkdir()
  header, other = (
    Header(**HEADER.__dict__ | dict(root=str(tmp_path / name)))
    for name in ("first", "second")
  )
  index_dir = tmp_path / "index"
  Writer(index_dir, header).__exit__()
  with pytest.raises(DataError, match="made with another root"):
    Writer(index_dir, other)
  (tmp_path / "first").rmdir()
  Writer(index_dir, other).__exit__()
  assert store.open(index_dir).header.root == other.root


def test_other_versions_and_other_directories_are_rejected(index_dir, tmp_path):
  path = index_dir / "manifest.json"
  manifest = json.loads(path.read_text())
  manifest["format"] = 99
  path.write_text(json.dumps(manifest))
  with pytest.raises(DataError, match="of another version"):
    store.open(index_dir)
  with pytest.raises(DataError, match="not an index; create one with"):
    store.open(tmp_path / "absent")
  (tmp_path / "notes.txt").write_text("mine")
  with pytest.raises(DataError, match="not an index; choose another --out"):
    Writer(tmp_path, HEADER)
  with pytest.raises(DataError, match="not an index; choose another --out"):
    Writer(tmp_path / "notes.txt", HEADER)


def test_an_interrupted_compact_leaves_the_index_and_other_files_unchanged(
  tmp_path, monkeypatch
):
  """Ctrl-C during `compact`: the index is that of the last commit."""
  index_dir = tmp_path / "index"
  with Writer(index_dir, HEADER) as writer:
    for i in range(6):
      writer.add(file(f"{i}.mp4"), *clips(1))
  (index_dir / "my-notes.txt").write_text("mine")

  def shrink():
    with Writer(index_dir, HEADER) as writer:
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
  assert set(store.open(index_dir).files) == {"4.mp4", "5.mp4"}
  with Writer(index_dir, HEADER) as writer:
    writer.compact()
  index = store.open(index_dir)
  assert set(index.files) == {"4.mp4", "5.mp4"}
  assert index.rows == 2
  assert (index_dir / "my-notes.txt").read_text() == "mine"
