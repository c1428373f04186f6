"""Annotations and folders as people have them: other spellings, blanks, litter."""

import os
import unicodedata

import clips
import pytest
from format_cases import put, read, tar

from vtr_jax.core.errors import DataError
from vtr_jax.prepare.formats import base
from vtr_jax.prepare.formats.base import Item, Media, Request
from vtr_jax.prepare.options import Options, captions, unfit
from vtr_jax.prepare.work import result
from vtr_jax.search import files

NFC = "caf\u00e9"
NFD = unicodedata.normalize("NFD", NFC)


@pytest.mark.parametrize(
  ("written", "file"),
  [
    ("train\\c1.mp4", "train/c1.mp4"),
    ("train/c1.mp4 ", "train/c1.mp4"),
    (f"{NFC}.mp4", f"{NFD}.mp4"),
    (f"{NFD}/1.mp4", f"{NFC}/1.mp4"),
    ("00001.MTS", "00001.MTS"),
    ("[1] (a).mp4", "[1] (a).mp4"),
  ],
)
def test_a_path_finds_the_file_that_is_spelt_otherwise(written, file, tmp_path):
  put(tmp_path, {"my.csv": f'path,caption\n"{written}",one\n', file: ""})
  ((_, _, found, *_),) = read("csv", tmp_path)
  assert found == file


def test_another_spelling_leads_not_out_of_the_source(tmp_path):
  put(tmp_path, {"in/my.csv": "path,caption\n..\\secret.mp4,one\n", "secret.mp4": ""})
  with pytest.raises(DataError, match="leads out of"):
    read("csv", tmp_path / "in")


def test_times_may_have_hours_and_minutes(tmp_path):
  rows = "a.mp4,x,00:00:01.0,00:01:02.5\na.mp4,y,1:00:00,1:00:01\nb.mp4,z,1,2.5\n"
  put(tmp_path, {"my.csv": "path,caption,start,end\n" + rows})
  times = [(start, end) for *_, start, end in read("csv", tmp_path)]
  assert times == [(1.0, 62.5), (3600.0, 3601.0), (1.0, 2.5)]
  put(tmp_path, {"my.csv": "path,caption,start,end\na.mp4,x,1:2:3:4,5\n"})
  with pytest.raises(DataError, match=r"my\.csv:2: "):
    read("csv", tmp_path)


def test_a_missing_caption_is_one_refused_item(tmp_path):
  rows = '{"video": "1.mp4", "caption": "a"}, {"video": "2.mp4", "caption": null}, '
  rows += (
    '{"video": "3.mp4", "caption": NaN}, {"video": "4.mp4", "caption": ["b", null]}'
  )
  put(tmp_path, {"train.json": f"[{rows}]"})
  items = base.open("umt", Request(str(tmp_path)))
  assert [i.captions for i in items] == [("a",), (), (), ("b",)]
  reasons = [unfit(i, Options()) for i in items]
  assert [bool(r) for r in reasons] == [False, True, True, False]
  assert "no caption" in reasons[1]


@pytest.mark.parametrize("blank", ["\u200b", " \u200b\ufeff ", "\u2060", "\u00a0", ""])
def test_invisible_characters_are_no_caption(blank):
  item = Item("1", "train", Media("1.mp4"), (blank, f"a{blank}b"))
  assert captions(item) == (f"a{blank}b".strip(),)
  assert "no caption" in unfit(item._replace(captions=(blank,)), Options())


def test_members_of_a_tar_come_in_any_order_and_keys_may_hold_times(tmp_path):
  members = [
    ("./d/b.mp4", b"B"),
    ("./d/a.txt", b"cap a"),
    ("./d/a.mp4", b"A"),
    ("./d/b.txt", b"cap b"),
    ("x_0.0_10.0.mp4", b"X"),
    ("x_0.0_10.0.json", b'{"caption": "ten"}'),
    ("x_10.0_20.0.3GP", b"Y"),
    ("x_10.0_20.0.txt", b"twenty"),
  ]
  path = tar(tmp_path / "t.tar", members)
  items = base.open("webdataset", Request(path))
  data = (tmp_path / "t.tar").read_bytes()
  content = lambda m: data[m.offset : m.offset + m.size]
  assert [(i.id, content(i.media), i.captions) for i in items] == [
    ("t/./d/b", b"B", ("cap b",)),
    ("t/./d/a", b"A", ("cap a",)),
    ("t/x_0.0_10.0", b"X", ("ten",)),
    ("t/x_10.0_20.0", b"Y", ("twenty",)),
  ]


def test_a_caption_of_any_length_is_read(tmp_path):
  caption = "word " * 60_000
  put(tmp_path, {"a.mp4": "x", "all.csv": f'path,caption\na.mp4,"{caption}"\n'})
  (item,) = base.open("csv", Request(str(tmp_path)))
  assert item.captions[0].split() == caption.split()


def test_litter_is_passed_over_by_every_walk(tmp_path, capfd):
  litter = ("._a.mp4", ".hidden.mp4", "@eaDir/a.mp4", "__MACOSX/a.mp4", ".Trash/b.mp4")
  put(tmp_path, dict.fromkeys(litter, "x") | {"a.mp4": "x", "c/a.txt": "x"})
  put(tmp_path, {"Thumbs.db": "x", "c/#recycle/d.mp4": "x", "a.txt": "one"})
  assert [i[2] for i in read("folder", tmp_path)] == ["a.mp4"]
  told = f"{tmp_path}: 3 files are passed over: hidden or of the system 3\n"
  assert capfd.readouterr().err == told  # in folders that are left out, none is counted
  entries, left_out = files.walk(str(tmp_path))
  assert [e.path for e in entries] == ["a.mp4"]
  assert left_out == []
  assert capfd.readouterr().err == (
    f"{tmp_path}: 5 files are passed over: hidden or of the system 3, .txt 2\n"
  )


def test_files_of_known_kinds_that_are_not_read_are_listed_with_a_cure(tmp_path, capfd):
  put(tmp_path, dict.fromkeys(("a.mp4", "b.RMVB", "c.dng", "d", "e.srt"), "x"))
  entries, left_out = files.walk(str(tmp_path))
  assert [e.path for e in entries] == ["a.mp4"]
  assert sorted(left_out) == [
    ("b.RMVB", ".rmvb is not read; convert it to .mp4, as with ffmpeg"),
    ("c.dng", ".dng is not read; save it as .png or .jpg"),
  ]
  assert ": 2 files are passed over: .srt 1, no ending 1\n" in capfd.readouterr().err
  assert [i[2] for i in read("folder", tmp_path)] == ["a.mp4"]
  told = ": 4 files are passed over: .dng 1, .rmvb 1, .srt 1, no ending 1\n"
  assert told in capfd.readouterr().err


def test_a_file_whose_name_is_not_utf_8_is_an_item_like_others(tmp_path):
  data = clips.mp4(frames=2, height=32, width=32)
  put(tmp_path, {"a.mp4": data})
  try:
    (tmp_path / "b\udcff.mp4").write_bytes(data)
  except OSError:
    pytest.skip("this disk takes UTF-8 names only")
  items = base.open("folder", Request(str(tmp_path)))
  assert [item.id for item in items] == ["a.mp4", "b\\udcff.mp4"]
  options = Options(allow_no_captions=True, short_side=32)
  assert [result(item, options).frames for item in items] == [2, 2]


def test_a_pipe_is_refused_and_listed_without_waiting_for_it(tmp_path):
  put(tmp_path, {"a.mp4": "x"})
  os.mkfifo(tmp_path / "pipe.mp4")
  pipe = Item("1", "train", Media(str(tmp_path / "pipe.mp4")), ("a",))
  assert result(pipe, Options()).refused == "not a file"
  entries, left_out = files.walk(str(tmp_path))
  assert ([e.path for e in entries], left_out) == (
    ["a.mp4"],
    [("pipe.mp4", "not a file")],
  )


def test_each_kind_of_reason_has_its_cure_once():
  listed = [
    ("a.mp4", "damaged after 12 frames"),
    ("b.mp4", "not a video (Invalid data found when processing input)"),
    ("c.mp4", "damaged after 7 frames"),
    ("d.rm", ".rm is not read; convert it to .mp4, as with ffmpeg"),
    ("e.mp4", "Permission denied"),
    ("f.mp4", "empty file"),
    ("g.mp4", "no complete frame"),
    ("h.mp4", "Input/output error"),
  ]
  assert [line.partition(": ")[0] for line in files.cures(listed)] == [
    "2 x damaged after N frames",
    "1 x not a video",
    "1 x Permission denied",
    "1 x empty file",
    "1 x no complete frame",
    "1 x Input/output error",
  ]
  assert "download it again" in files.cures(listed)[0]
  assert files.cures([]) == []
