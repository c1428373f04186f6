"""Atomic writes: the old file or the new one, and nothing left of a failed write."""

import json

import pytest

from vtr_jax.core import io


def test_atomic_write_replaces_the_file(tmp_path):
  path = tmp_path / "a.txt"
  io.atomic_write(path, "old")
  io.atomic_write(str(path), b"new")
  assert path.read_bytes() == b"new"
  assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_failed_write_leaves_the_old_file_and_no_temporary(tmp_path, monkeypatch):
  path = tmp_path / "a.txt"
  io.atomic_write(path, "old")

  def full(_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(io.os, "fsync", full)
  with pytest.raises(OSError, match="No space left"):
    io.atomic_write(path, "new")
  assert path.read_text() == "old"
  assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_json_that_cannot_be_serialised_leaves_the_old_file(tmp_path):
  path = tmp_path / "a.json"
  io.write_json(path, {"a": 1})
  with pytest.raises(TypeError):
    io.write_json(path, {"a": object()})
  assert json.loads(path.read_text()) == {"a": 1}
