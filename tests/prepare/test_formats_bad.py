"""Malformed annotation files: one line names the place, the mistake and the cure."""

import json
import pickle
import re
import tarfile

import numpy as np
import pytest
from conftest import ROOT
from format_cases import WEBVID, put, read, tar

from vtr_jax.core.errors import DataError
from vtr_jax.prepare.formats import base, media, parse, pickles
from vtr_jax.prepare.formats.base import Request


def error_line(name, source, **kwargs):
  """The one-line message with which a data set is rejected."""
  with pytest.raises(DataError) as caught:
    base.open(name, Request(str(source), **kwargs))
  line = str(caught.value)
  assert "\n" not in line
  return line


LIST = "train_list.txt"
BAD = {  # format: file, content, what the line says
  "webvid": ("results_2M_train.csv", WEBVID + "7,u,d,,x\n", ":2: expected a value in"),
  "cc3m": ("Train_GCC.tsv", "a cat\thttp://a\na dog\n", ":2: expected 2 fields, got 1"),
  "msrvtt": ("MSR_VTT.json", {"sentences": []}, "expected an object with annotations"),
  "msrvtt_clip4clip": ("MSRVTT_train.9k.csv", "video0\n", ":1: expected columns video"),
  "msvd": ("captions.jsonl", '{"id": "a", "captions": []}\nx\n', ":2: not JSON"),
  "msvd_qa": ("test.csv", "video,question,answer\n", ":1: expected columns video, qid"),
  "msrvtt_qa": ("val.jsonl", '{"video_id": 1}\n', ":1: expected an object with video_"),
  "activitynet_qa": ("test_q.json", [{"question": ""}], ": [0]: expected an object"),
  "tgif_qa": (
    "Test_count_question.csv",
    "gif_name\tquestion\n",
    ":1: expected columns",
  ),
  "lsmdc_mc": ("LSMDC16_multiple_choice_valid.csv", "a\t1\n", ":1: expected 10 fields"),
  "umt_qa": (
    "anet_qa_val.json",
    [{"video": ""}],
    ": [0]: expected an object with video",
  ),
  "violet_qa": ("txt_a.json", {"val": [{}]}, ": 'val'[0]: expected an object with vid"),
  "charades_sta": ("charades_sta_test.txt", "a 1##b\n", ":1: expected '<video> <start"),
  "tacos": ("val.json", {"a.avi": {}}, "'a.avi': expected an object with timestamps"),
  "moments": ("a_val_release.jsonl", '{"qid": 1}\n', ":1: expected an object with qid"),
  "lsmdc": ("LSMDC16_annos_val.csv", "a\t1\t2\t3\t4\n", ":1: expected six fields"),
  "didemo": ("val_data.json", [{"video": "a"}], ": [0]: expected an object with"),
  "activitynet": ("train.json", {"v_a": {}}, ": 'v_a': expected an object with senten"),
  "youcook2": ("youcookii_annotations_x.json", [], "expected an object with database"),
  "flickr30k": ("test.json", {"1.jpg": "a cat"}, "'1.jpg': expected a list of capti"),
  "flickr8k": ("Flickr8k.token.txt", "1.jpg\ta cat\n", ":1: expected <image>#<number>"),
  "coco_karpathy": ("dataset_coco.json", {"images": [{}]}, "images[0]: expected an"),
  "ucf101": ("classInd.txt", "Archery\n", "classInd.txt:1: expected a number and"),
  "hmdb51": ("run_test_split1.txt", "a.avi 1\nb.avi 3\n", ":2: expected <file> 0, 1"),
  "kinetics": (
    "train.csv",
    "label,youtube_id,time_start,time_end\nyoga,a,9,3\n",
    ":2: expected 0 <= start < end, got ('9', '3')",
  ),
  "something_something": ("something-something-v2-train.json", [{}], ": [0]: expected"),
  "videomae": ("train.csv", "a.mp4 1\nb.mp4\n", ":2: expected 'path label', got 'b.m"),
  "simvtp": ("train.json", {"a.mp4": 3}, "'a.mp4': expected a text or a list"),
  "umt": (
    "train.json",
    [{"caption": "x"}],
    ": [0]: expected a text for image or video",
  ),
  "mcq": ("webvid_training.tsv", "caption\tpath\n", ":1: expected four fields"),
  "csv": ("a.csv", "path,caption\na.mp4,x\nb.mp4\n", ":3: expected 2 fields as in li"),
  "folder": ("a.json", "[", "a.json:1: not JSON"),
  "webdataset": ("a.tar", b"x" * 2000, "a.tar: not a tar, cut short, or compressed"),
}


def test_every_format_is_tested_with_a_bad_file():
  assert sorted(BAD) == base.kinds()


def test_every_format_has_a_row_on_the_page_of_formats():
  page = (ROOT / "docs" / "formats.md").read_text()
  assert sorted(re.findall(r"^\| `(\w+)` \|", page, re.M)) == base.kinds()


@pytest.mark.parametrize("name", BAD)
def test_a_malformed_file_is_reported_with_line_and_cure(tmp_path, name):
  file, content, message = BAD[name]
  others = {
    "folder": {"a.mp4": ""},
    "msvd": {LIST: "a"},
    "activitynet_qa": {"test_a.json": []},
    "msrvtt_clip4clip": {"MSRVTT_data.json": {"sentences": []}},
  }.get(name, {})
  put(tmp_path, others | {file: content})
  line = error_line(name, tmp_path)
  assert str(tmp_path / file) in line
  assert message in line
  assert line.count(";") >= 1  # the cure


@pytest.mark.parametrize("name", BAD)
def test_an_empty_or_missing_directory_is_reported(tmp_path, name):
  assert str(tmp_path) in error_line(name, tmp_path)
  assert "missing" in error_line(name, tmp_path / "missing")


def test_a_missing_annotation_file_is_reported(tmp_path):
  line = error_line("csv", tmp_path, annotations=str(tmp_path / "none.csv"))
  assert (
    line == f"{tmp_path}/none.csv: no such file or directory; correct --annotations"
  )


@pytest.mark.parametrize("name", ["../up.mp4", "/etc/passwd", "a/../../b.mp4", "a\0"])
def test_a_path_outside_the_source_is_rejected(tmp_path, name):
  put(tmp_path / "in", {"train.json": {name: "x"}})
  line = error_line("simvtp", tmp_path / "in")
  assert "train.json" in line
  assert f"{name!r} leads out of --source" in line


def test_an_id_that_two_notes_of_a_kind_have_is_rejected(tmp_path):
  row = dict(id=5, video_id=1, question="who is it", answer="man")
  mapping = {"youtube_mapping.txt": "a vid1\nb vid2"}
  put(tmp_path, mapping | {"train_qa.json": [row, row | dict(video_id=2)]})
  line = error_line("msvd_qa", tmp_path)
  assert line.startswith(f"item 2 (train, {tmp_path}/b.mp4): note '5': occurs twice;")


def test_timestamps_that_do_not_fit_are_reported(tmp_path):
  video = dict(sentences=["A.", "B."], timestamps=[[0, 4]])
  put(tmp_path, {"train.json": {"v_a": video}})
  assert "'v_a': expected 2 timestamps, got 1" in error_line("activitynet", tmp_path)
  for window in ([1], [1, "x"], [-1, 2], [0, None]):
    put(tmp_path, {"train.json": {"v_a": video | dict(timestamps=[[0, 4], window])}})
    line = error_line("activitynet", tmp_path)
    assert "'v_a': timestamps[1]: expected 0 <= start < end" in line


def test_dot_dot_within_the_source_is_accepted(tmp_path):
  assert media.inside(str(tmp_path), "a/../b.mp4", "") == f"{tmp_path}/a/../b.mp4"
  assert media.inside(str(tmp_path), f"{tmp_path}/b.mp4", "") == f"{tmp_path}/b.mp4"
  with pytest.raises(DataError, match="leads out"):
    media.inside(str(tmp_path / "a"), f"{tmp_path}/ab/c.mp4", "")


def test_path_traversal_by_an_id_or_a_folder_is_rejected(tmp_path):
  put(tmp_path, {LIST: "../x\n", "captions.jsonl": '{"id": "../x", "captions": []}'})
  assert "train_list.txt:1: path '../x'" in error_line("msvd", tmp_path)
  put(tmp_path, {"results_2M_val.csv": WEBVID + "7,u,d,../..,x\n"})
  assert "results_2M_val.csv:2: path '../../7.mp4'" in error_line("webvid", tmp_path)


def test_a_duplicate_id_is_rejected_with_both_positions(tmp_path):
  rows = "7,u,d,p,x\n8,u,d,p,y\n7,u,d,q,z\n"
  put(tmp_path, {"results_2M_train.csv": WEBVID + rows})
  line = error_line("webvid", tmp_path)
  assert "id '7' occurs twice: item 1 (train, " in line
  assert "p/7.mp4), and item 3 (train, " in line
  put(tmp_path, {LIST: "a\nb\na\n", "captions.jsonl": ""})
  line = error_line("msvd", tmp_path)
  assert f"{LIST}:3: id 'a' is also at {tmp_path / LIST}:1" in line


def test_a_duplicate_key_in_json_is_rejected(tmp_path):
  put(tmp_path, {"train.json": '{"a.mp4": "x", "b.mp4": "y", "a.mp4": "z"}'})
  assert "key 'a.mp4' occurs twice" in error_line("simvtp", tmp_path)


@pytest.mark.parametrize(
  ("name", "file", "head"),
  [
    ("csv", "a.csv", b"path,caption\n"),
    ("videomae", "train.csv", b"a.mp4 1\n"),
    ("simvtp", "train.json", b"{\n"),
    ("folder", "a.txt", b"one\n"),
  ],
)
def test_text_that_is_not_utf8_is_reported_with_its_line(tmp_path, name, file, head):
  put(tmp_path, {"a.mp4": "", file: head + "a.mp4,Hügel\n".encode("latin-1")})
  assert f"{tmp_path / file}:2: not UTF-8 (byte 8 of" in error_line(name, tmp_path)


def test_an_unclosed_quote_is_reported_with_its_line(tmp_path):
  text = 'path,caption\na.mp4,"x\ny"\nb.mp4,"z\n' + "c.mp4,x\n" * 3
  put(tmp_path, {"a.csv": text})
  assert "a.csv:4: unexpected end of data; fix the quotes" in error_line(
    "csv", tmp_path
  )


def test_deeply_nested_json_is_rejected(tmp_path):
  put(tmp_path, {"train.json": "[" * 100_000})
  assert "nested too deeply" in error_line("simvtp", tmp_path)


class Evil:
  def __reduce__(self):
    return (eval, ("open('harm', 'w')",))


def test_a_pickle_cannot_run_code(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  put(tmp_path, {"a.pkl": pickle.dumps({"video0": Evil()})})
  with pytest.raises(DataError, match=r"a.pkl: .*builtins.eval, not plain data"):
    pickles.load("a.pkl", allowed=True)
  assert not (tmp_path / "harm").exists()
  put(tmp_path, {"a.pkl": b"junk"})
  with pytest.raises(DataError, match="not a pickle"):
    pickles.load("a.pkl", allowed=True)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_of_plain_data_is_read(tmp_path, protocol):
  data = {"a": [("x", 1.5, None), {2}], "b": np.arange(3), "c": np.float32(2)}
  path = tmp_path / "a.pkl"
  path.write_bytes(pickle.dumps(data, protocol=protocol))
  got = pickles.load(str(path), allowed=True)
  assert got["a"] == data["a"]
  assert got["b"].tolist() == [0, 1, 2]
  assert got["c"] == 2
  # Written by NumPy 1, and by Python 2.
  path.write_bytes(path.read_bytes().replace(b"numpy._core.", b"numpy.core."))
  if protocol == 2:  # without the lengths that protocol 4 has
    assert pickles.load(str(path), allowed=True)["b"].tolist() == [0, 1, 2]
  other = {k: np.arange(3).astype(k) for k in (">f4", ">i8", "<U2")}
  path.write_bytes(pickle.dumps(other, protocol=protocol))
  for kind, array in pickles.load(str(path), allowed=True).items():
    np.testing.assert_array_equal(array, other[kind])
  path.write_bytes(b"(dS'v'\n(lS'H\\xc3\\xbcgel'\nas.")
  assert pickles.load(str(path), allowed=True) == {"v": ["Hügel"]}


TARS = {
  "link": (
    [("a.mp4", b"", tarfile.SYMTYPE)],
    "'a.mp4' is a link or not a regular file",
  ),
  "hard link": (
    [("a.mp4", b"", tarfile.LNKTYPE)],
    "'a.mp4' is a link or not a regular file",
  ),
  "pipe": (
    [("a.mp4", b"", tarfile.FIFOTYPE)],
    "'a.mp4' is a link or not a regular file",
  ),
  "above": ([("../a.mp4", b"x")], "'../a.mp4' leads out of the tar"),
  "absolute": ([("/a.mp4", b"x")], "'/a.mp4' leads out of the tar"),
  "member twice": ([("a.mp4", b"x"), ("a.MP4", b"y")], "'a.MP4' occurs twice"),
  "two videos": ([("a.mp4", b"x"), ("a.webm", b"y")], "one video or image, got more"),
  "not UTF-8": ([("a.mp4", b"x"), ("a.txt", b"\xe9")], "'a.txt': not UTF-8"),
  "json": ([("a.mp4", b"x"), ("a.json", b"{")], "'a': json is damaged"),
  "long text": ([("a.txt", b"x" * (2 << 20))], "at most 1048576 bytes"),
}


@pytest.mark.parametrize("kind", TARS)
def test_tars_with_unsafe_or_ambiguous_members_are_rejected(tmp_path, kind):
  members, message = TARS[kind]
  path = tar(tmp_path / "a.tar", members)
  line = error_line("webdataset", tmp_path)
  assert path in line
  assert message in line


def test_a_truncated_or_compressed_tar_is_rejected(tmp_path):
  path = tmp_path / "a.tar"
  tar(path, [("a.mp4", b"x" * 5000)])
  whole = path.read_bytes()
  path.write_bytes(whole[:3000])
  assert "cut short" in error_line("webdataset", tmp_path)
  tar(path, [("a.txt", b"x" * 5000)])
  path.write_bytes(path.read_bytes()[:3000])
  assert "cut short" in error_line("webdataset", tmp_path)
  with tarfile.open(path, "w:gz") as out:
    out.addfile(tarfile.TarInfo("a.mp4"))
  assert "compressed" in error_line("webdataset", tmp_path)


def test_two_files_of_one_name_are_ambiguous_unless_the_folder_is_given(tmp_path):
  put(tmp_path, {"a/x.mp4": "", "b/x.avi": "", "test.json": {"x": "one"}})
  line = error_line("simvtp", tmp_path)
  assert f"'x' may be {tmp_path}/a/x.mp4 or {tmp_path}/b/x.avi; remove one" in line
  put(tmp_path, {"test.json": {"b/x.avi": "one"}})
  assert read("simvtp", tmp_path)[0][2] == "b/x.avi"


def test_splits_are_found_in_file_names():
  names = ("train_list", "results_2M_val", "dev", "Validation_GCC-1.1", "testlist01")
  want = ["train", "validation", "validation", "validation", ""]
  assert [parse.split_of(f"train/{n}.txt") for n in names] == want


def test_line_numbers_of_a_large_csv_are_correct(tmp_path):
  """Also after fields that contain line breaks."""
  rows = "".join(f'{i}.mp4,"one\n{i}"\n' for i in range(1000))
  put(tmp_path, {"a.csv": "path,caption\n" + rows + "x.mp4,y,z\n"})
  assert "a.csv:2002: expected 2 fields" in error_line("csv", tmp_path)


def test_a_syntax_error_in_json_is_reported_with_its_line(tmp_path):
  text = json.dumps({"a.mp4": "x", "b.mp4": "y"}, indent=1).replace('"y"', "y")
  put(tmp_path, {"train.json": text})
  assert "train.json:3: not JSON" in error_line("simvtp", tmp_path)


SSV2 = "something-something-v2-"
UNKNOWN = {  # format: files, what the line says of a class that is not known
  "ucf101": (
    {"classInd.txt": "1 Bow\n", "trainlist01.txt": "Bow/a.avi 1\nRow/b.avi 2\n"},
    "trainlist01.txt:2: expected <class of classInd.txt>/<file>;",
  ),
  "something_something": (
    {
      f"{SSV2}labels.json": {"Moving something up": "0"},
      f"{SSV2}train.json": [
        {"id": 1, "template": "Moving [something] up"},
        {"id": 2, "template": "Moving [something] down"},
      ],
    },
    "train.json: [1]: expected a template of *-labels.json, got 'Moving something do",
  ),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_class_is_reported_with_its_line(tmp_path, name):
  """HMDB51 and Kinetics name classes by files and columns: they have no such list."""
  files, message = UNKNOWN[name]
  put(tmp_path, files)
  assert message in error_line(name, tmp_path)
