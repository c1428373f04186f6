"""Every importer on small files written by the tests: the items that lines become."""

import pickle
import tarfile
import zlib

import numpy as np
import pytest
from format_cases import WEBVID, put, read, tar

from vtr_jax.core.errors import ConfigError, DataError
from vtr_jax.data.notes import Note
from vtr_jax.prepare.formats import base
from vtr_jax.prepare.formats.base import Item, Media, Request


def row(name, split, path, *captions, label="", start=None, end=None):
  return (name, split, path, captions, label, start, end)


WEBVID_IDX = "videoid,name,page_idx,page_dir,duration,contentUrl\n"


def test_webvid_reads_both_orders_of_columns(tmp_path):
  put(
    tmp_path,
    {
      "metadata/results_2M_train.csv": WEBVID
      + '7,http://a,PT5S,000_050,"A ""red"" ball,\nrolling"\n8,,,051_100,\n',
      "metadata/results_2M_val.csv": WEBVID_IDX + "9,A cat,1,000_050,PT5S,http://b\n",
      "metadata/results_10M_train.csv": WEBVID + "10,http://a,PT5S,000_050,A dog\n",
      "videos/000_050/7.mp4": "",
    },
  )
  assert read("webvid", tmp_path) == [
    row("7", "train", "videos/000_050/7.mp4", 'A "red" ball,\nrolling'),
    row("8", "train", "videos/051_100/8.mp4"),
    row("9", "validation", "videos/000_050/9.mp4", "A cat"),
  ]
  big = row("10", "train", "videos/000_050/10.mp4", "A dog")
  assert read("webvid", tmp_path, variant="10M") == [big]


def test_cc3m_finds_images_by_the_crc_of_their_url(tmp_path):
  crc = {url: zlib.crc32(url.encode()) for url in ("http://a/1.jpg", "http://b/2.jpg")}
  put(
    tmp_path,
    {
      "Train_GCC-training.tsv": 'a "cat\thttp://a/1.jpg\na dog\thttp://b/2.jpg\n',
      "Validation_GCC-1.1.0-Validation.csv": "caption,thumbnailUrl\n"
      '"a cat, a dog",http://a/1.jpg\n',
      f"training/{crc['http://a/1.jpg']}": "",
      f"training/1_{crc['http://b/2.jpg']}": "",
    },
  )
  assert read("cc3m", tmp_path) == [
    row("train-0", "train", f"training/{crc['http://a/1.jpg']}", 'a "cat'),
    row("train-1", "train", f"training/1_{crc['http://b/2.jpg']}", "a dog"),
    row("validation-0", "validation", f"{crc['http://a/1.jpg']}", "a cat, a dog"),
  ]


def test_cc12m_has_the_url_first(tmp_path):
  put(tmp_path, {"cc12m.tsv": "http://a/1.jpg\ta cat\n"})
  crc = zlib.crc32(b"http://a/1.jpg")
  want = [row("train-0", "train", str(crc), "a cat")]
  assert read("cc3m", tmp_path, variant="cc12m") == want


def msrvtt(folder, chosen):
  captions = [("video1", "one"), ("video0", "b"), ("video0", "c"), ("video2", "two")]
  annotations = [{"image_id": v, "caption": c} for v, c in captions]
  return put(
    folder,
    {
      "annotation/MSR_VTT.json": {"annotations": annotations, "images": []},
      "high-quality/structured-symlinks/train_list_jsfusion.txt": "video1\nvideo2\n",
      "high-quality/structured-symlinks/val_list_jsfusion.txt": "video0\nvideo9\n",
      "high-quality/structured-symlinks/train_list_full.txt": "video0\n",
      "high-quality/structured-symlinks/val_list_full.txt": "video1\n",
      "high-quality/structured-symlinks/test_list_full.txt": "video2",
      "high-quality/structured-symlinks/jsfusion_val_caption_idx.pkl": chosen,
      "videos/all/video2.webm": "",
    },
  )


@pytest.mark.parametrize("number", [1, np.int64(1)])
def test_msrvtt_1ka_takes_the_caption_of_jsfusion(tmp_path, number):
  msrvtt(tmp_path, pickle.dumps({"video0": number}))
  with pytest.raises(DataError, match=r"\.pkl: is a pickle.*run code.*--allow_pickle"):
    read("msrvtt", tmp_path)
  assert read("msrvtt", tmp_path, allow_pickle=True) == [
    row("video1", "train", "videos/all/video1.mp4", "one"),
    row("video2", "train", "videos/all/video2.webm", "two"),
    row("video0", "test", "videos/all/video0.mp4", "c"),
    row("video9", "test", "videos/all/video9.mp4"),
  ]
  assert read("msrvtt", tmp_path, variant="full") == [
    row("video0", "train", "videos/all/video0.mp4", "b", "c"),
    row("video1", "validation", "videos/all/video1.mp4", "one"),
    row("video2", "test", "videos/all/video2.webm", "two"),
  ]


def test_msrvtt_rejects_a_chosen_caption_that_does_not_exist(tmp_path):
  msrvtt(tmp_path, pickle.dumps({"video0": 2}))
  with pytest.raises(DataError, match=r"val_list_jsfusion.txt:1: .*below 2.*got 2"):
    read("msrvtt", tmp_path, allow_pickle=True)


def test_msrvtt_reads_the_files_of_clip4clip(tmp_path):
  sentences = [{"video_id": "video3", "caption": c} for c in ("x", "y")]
  put(
    tmp_path,
    {
      "MSRVTT_train.9k.csv": "video_id\nvideo3\nvideo4\n",
      "MSRVTT_train.7k.csv": "video_id\nvideo4\n",
      "MSRVTT_JSFUSION_test.csv": "key,vid_key,video_id,sentence\n"
      'ret0,msr5,video5,"a, b"\n',
      "MSRVTT_data.json": {"sentences": sentences, "videos": []},
    },
  )
  test = row("video5", "test", "video5.mp4", "a, b")
  want = [row("video3", "train", "video3.mp4", "x", "y")]
  want += [row("video4", "train", "video4.mp4"), test]
  assert read("msrvtt_clip4clip", tmp_path) == want
  assert read("msrvtt_clip4clip", tmp_path, variant="7k") == want[1:]
  (tmp_path / "MSRVTT_data.json").unlink()
  assert read("msrvtt_clip4clip", tmp_path, split="test") == [test]


TOKENS = {"a_1_2": [["a", "cat"], ["one", "cat"]], "b_3_4": [["a", "dog"]]}


@pytest.mark.parametrize(
  ("file", "content"),
  [
    ("raw-captions.pkl", pickle.dumps(TOKENS, protocol=2)),
    ("raw-captions.json", TOKENS),
    ("captions_msvd.json", {"a_1_2": ["a cat", "one cat"], "b_3_4": ["a dog"]}),
    (
      "captions.jsonl",
      '{"id": "a_1_2", "captions": ["a cat", "one cat"]}\n'
      '{"id": "b_3_4", "captions": ["a dog"]}\n',
    ),
  ],
)
def test_msvd_reads_lists_and_captions(tmp_path, file, content):
  source = put(tmp_path / "source", {"YouTubeClips/b_3_4.avi": ""})
  lists = {"train_list.txt": "a_1_2\r\n\r\n", "test_list.txt": "b_3_4"}
  put(tmp_path / "lists", lists | {file: content})
  cat = row("a_1_2", "train", "a_1_2.mp4", "a cat", "one cat")
  dog = row("b_3_4", "test", "YouTubeClips/b_3_4.avi", "a dog")
  kwargs = dict(annotations=tmp_path / "lists", allow_pickle=True)
  assert read("msvd", source, **kwargs) == [cat, dog]
  assert read("msvd", source, variant="subset", **kwargs) == [dog]


def test_lsmdc_tables_join_the_sentences_of_a_clip(tmp_path):
  put(
    tmp_path,
    {
      "LSMDC16_annos_training.csv": 'm_00.01-00.02\t1\t2\t3\t4\tHe "goes.\n'
      "n_00.05-00.06\t1\t2\t3\t4\tShe stays.\nm_00.01-00.02\t1\t2\t3\t4\tHe stops.\n",
      "LSMDC16_challenge_1000_publictect.csv": "o_1.1\t1\t2\t3\t4\tThey sit.\n",
      "m/m_00.01-00.02.avi": "",
    },
  )
  assert read("lsmdc", tmp_path) == [
    row("m_00.01-00.02", "train", "m/m_00.01-00.02.avi", 'He "goes.', "He stops."),
    row("n_00.05-00.06", "train", "n_00.05-00.06.mp4", "She stays."),
    row("o_1.1", "test", "o_1.1.mp4", "They sit."),
  ]


def test_lsmdc_lists_of_frozen(tmp_path):
  put(
    tmp_path,
    {
      "structured-symlinks/train_list.txt": "m_1.5\n",
      "structured-symlinks/raw-captions.pkl": pickle.dumps({"m_1.5": [["he", "goes"]]}),
    },
  )
  want = [row("m_1.5", "train", "m_1.5.mp4", "he goes")]
  assert read("lsmdc", tmp_path, variant="frozen", allow_pickle=True) == want


DIDEMO = [("b.mov", "it turns."), ("a.mp4", "a boy"), ("b.mov", "then"), ("b.mp4", "x")]


@pytest.mark.parametrize(
  ("lists", "name", "paragraph"),
  [({}, "b.mov", "it turns. then x"), ({"val_list.txt": "b.mp4"}, "b.mp4", "x")],
)
def test_didemo_joins_descriptions(tmp_path, lists, name, paragraph):
  data = [{"video": v, "description": d, "times": [[0, 0]]} for v, d in DIDEMO]
  put(tmp_path, {"val_data.json": data, **lists})
  got = read("didemo", tmp_path)
  assert got[0] == row("b", "validation", name, paragraph, start=0.0, end=31.0)
  assert [r[0] for r in got[1:]] == ([] if lists else ["a"])


def test_activitynet_joins_sentences(tmp_path):
  video = dict(duration=9.5, timestamps=[[0, 4], [3, 9.5]])
  put(
    tmp_path,
    {
      "train.json": {"v_-x": video | {"sentences": ["A man sits.", " He stands."]}},
      "val_1.json": {"v_y": {"sentences": ["One."]}},
      "val_2.json": {"v_y": {"sentences": ["Two."]}},
      "files/-x.mkv": "",
      "files/v_y.mp4": "",
    },
  )
  assert read("activitynet", tmp_path) == [
    row("v_-x", "train", "files/-x.mkv", "A man sits. He stands."),
    row("v_y", "test", "files/v_y.mp4", "One."),
  ]
  two = [row("v_y", "test", "files/v_y.mp4", "Two.")]
  assert read("activitynet", tmp_path, variant="val_2", split="test") == two


def test_activitynet_sentences_are_moments(tmp_path, capsys):
  """One that ends before it starts is left out, as in 2D-TAN; blank ones too."""
  times = [[0, 4], [3, 2.5], [1, 2], [3, 99.5]]
  video = dict(timestamps=times, sentences=["A man sits.", "Back.", " ", " He stands."])
  put(tmp_path, {"train.json": {"v_x": video, "v_y": {"sentences": ["One."]}}})
  timed, plain = base.open("activitynet", Request(str(tmp_path)))
  assert timed.notes == (
    Note("moment", "v_x#0", "A man sits.", windows=((0.0, 4.0),)),
    Note("moment", "v_x#3", "He stands.", windows=((3.0, 99.5),)),
  )
  assert plain.notes == ()
  assert "train.json: moments left out: 2 (they end" in capsys.readouterr().err


@pytest.mark.parametrize("missing", [None, "", "\u200b"])
def test_a_missing_sentence_of_activitynet_is_no_moment(missing, tmp_path):
  """Found by mutation: the others come through, as captions and as moments."""
  video = dict(timestamps=[[0, 1], [1, 2]], sentences=[missing, "he sits"], duration=9)
  put(tmp_path, {"train.json": {"v_a": video}, "val_1.json": {}})
  (item,) = base.open("activitynet", Request(str(tmp_path)))
  assert item.captions == ("he sits",)
  assert [(note.id, note.text) for note in item.notes] == [("v_a#1", "he sits")]


QUESTIONS = [
  (2, 30, "What is chewing?", "animal"),
  (1, 31, "how many dogs run", "two"),
  (2, 32, "is it a nut", "yes"),
]


@pytest.mark.parametrize("name", ["train_qa.json", "train.csv"])
def test_msvd_qa_reads_the_questions_of_both_layouts(tmp_path, name):
  keys = ("video_id", "id", "question", "answer")
  content = [dict(zip(keys, row, strict=True)) for row in QUESTIONS]
  if name.endswith(".csv"):
    lines = [f"{v},480,360,{q},{a},{i}" for v, i, q, a in QUESTIONS]
    content = "\n".join(["video,width,height,question,answer,qid", *lines])
  source = put(tmp_path / "videos", {"vid2.avi": ""})
  mapping = {"youtube_mapping.txt": "a_1_2 vid1\n-b_3_4 vid2\n"}
  put(tmp_path / "qa", mapping | {name: content})
  b, a = base.open("msvd_qa", Request(source, str(tmp_path / "qa")))
  assert b[:4] == ("-b_3_4", "train", Media(f"{source}/vid2.avi"), ())
  assert a[:4] == ("a_1_2", "train", Media(f"{source}/a_1_2.mp4"), ())
  assert b.notes == (
    Note("question", "30", "What is chewing?", "animal", "what"),
    Note("question", "32", "is it a nut", "yes", "other"),
  )
  assert a.notes == (Note("question", "31", "how many dogs run", "two", "how"),)
  put(tmp_path / "qa", {"youtube_mapping.txt": "a_1_2 vid1\n"})
  with pytest.raises(DataError, match=r"expected a video of the mapping, got '2'"):
    base.open("msvd_qa", Request(source, str(tmp_path / "qa")))


def test_youcook2_is_one_item_a_segment(tmp_path):
  parts = [{"segment": [90, 102], "id": i, "sentence": f"step {i}"} for i in (0, 1)]
  video = dict(subset="validation", duration=200, annotations=parts)
  name = "youcookii_annotations_trainval.json"
  put(tmp_path, {name: {"database": {"GL": video}}})
  assert read("youcook2", tmp_path) == [
    row("GL_0", "validation", "GL.mp4", "step 0", start=90.0, end=102.0),
    row("GL_1", "validation", "GL.mp4", "step 1", start=90.0, end=102.0),
  ]


def test_flickr30k_ignores_the_path_among_the_captions(tmp_path):
  put(
    tmp_path,
    {
      "test.json": {"1.jpg": ["a dog", "a cat", "flickr30k-images/1.jpg"]},
      "train.txt": "2\n",
      "results_20130124.token": "2.jpg#0\tTwo men .\n2.jpg#1\tMen #1 .\n",
      "flickr30k-images/2.jpg": "",
    },
  )
  assert read("flickr30k", tmp_path) == [
    row("2", "train", "flickr30k-images/2.jpg", "Two men .", "Men #1 ."),
    row("1", "test", "1.jpg", "a dog", "a cat"),
  ]


@pytest.mark.parametrize(
  ("file", "text"),
  [
    ("Flickr8k.token.txt", "1.jpg#0\ta dog, wet\n1.jpg#1\ta cat\n2.jpg#0\ta man\n"),
    ("captions.csv", 'image,caption\n1.jpg,"a dog, wet"\n1.jpg,a cat\n2.jpg,a man\n'),
  ],
)
def test_flickr8k_reads_captions_and_split_lists(tmp_path, file, text):
  lists = {"Flickr_8k.trainImages.txt": "1.jpg\n", "Flickr_8k.devImages.txt": "2.jpg"}
  put(tmp_path, lists | {file: text, "Images/2.jpg": ""})
  one = row("1", "train", "1.jpg", "a dog, wet", "a cat")
  two = row("2", "validation", "Images/2.jpg", "a man")
  assert read("flickr8k", tmp_path) == [one, two]
  assert read("flickr8k", tmp_path, variant="subset") == [two]


def test_karpathy_splits_are_read(tmp_path):
  images = [
    dict(filepath="val2014", filename=f"{n}.jpg", split=s, sentences=[{"raw": n}])
    for n, s in (("a", "restval"), ("b", "val"), ("c", "test"))
  ]
  put(tmp_path / "json", {"dataset_coco.json": {"images": images}, "val2014/b.jpg": ""})
  assert read("coco_karpathy", tmp_path / "json") == [
    row("a", "train", "a.jpg", "a"),
    row("b", "validation", "val2014/b.jpg", "b"),
    row("c", "test", "c.jpg", "c"),
  ]
  lines = '{"image": "x/d.jpg", "caption": ["one", " two "]}\n'
  put(tmp_path / "lines", {"coco_karpathy_test.jsonl": lines})
  want = [row("d", "test", "d.jpg", "one", "two")]
  assert read("coco_karpathy", tmp_path / "lines") == want


def test_ucf101_labels_are_classes(tmp_path):
  put(
    tmp_path,
    {
      "classInd.txt": "1 Apply\n2 Bow\n",
      "trainlist02.txt": "Bow/v_Bow_g01_c01.avi 2\n",
      "testlist02.txt": "Apply/v_Apply_g01_c01.avi\n",
    },
  )
  assert read("ucf101", tmp_path, variant="2") == [
    row("v_Bow_g01_c01", "train", "Bow/v_Bow_g01_c01.avi", label="Bow"),
    row("v_Apply_g01_c01", "test", "Apply/v_Apply_g01_c01.avi", label="Apply"),
  ]
  put(tmp_path, {"trainlist02.txt": "Bow/v_Bow_g01_c01.avi 1\n"})
  with pytest.raises(DataError, match=r"trainlist02.txt:1: .*class number 2, got '1'"):
    read("ucf101", tmp_path, variant="2")


def test_hmdb51_skips_clips_marked_0(tmp_path):
  lines = "a b.avi 1 \nc.avi 0 \nd.avi 2 \n"
  put(tmp_path, {"ride_bike_test_split3.txt": lines, "ride_bike/d.mp4": ""})
  assert read("hmdb51", tmp_path, variant="3") == [
    row("a b", "train", "ride_bike/a b.avi", label="ride_bike"),
    row("d", "test", "ride_bike/d.mp4", label="ride_bike"),
  ]


def test_kinetics_uses_a_trimmed_clip_or_a_segment_of_the_video(tmp_path):
  head = "label,youtube_id,time_start,time_end,split,is_cc\n"
  rows = '"air drumming",-3B,59,69,val,0\nyoga,--x,3,13,train,0\nyoga,zzz,3,13,train,0'
  media = {"-3B_000059_000069.mp4": "", "full/--x.mkv": ""}
  put(tmp_path, {"k400.csv": head + rows} | media)
  assert read("kinetics", tmp_path) == [
    row(
      "-3B_000059_000069", "validation", "-3B_000059_000069.mp4", label="air drumming"
    ),
    row(
      "--x_000003_000013", "train", "full/--x.mkv", label="yoga", start=3.0, end=13.0
    ),
    row("zzz_000003_000013", "train", "zzz_000003_000013.mp4", label="yoga"),
  ]


def test_something_something_labels_are_templates(tmp_path):
  one = dict(id="7", label="moving a cup up", template="Moving [something] up")
  put(
    tmp_path,
    {
      "something-something-v2-train.json": [one | dict(placeholders=["a cup"])],
      "something-something-v2-test.json": [{"id": "8"}],
      "something-something-v2-labels.json": {"Moving something up": "0"},
    },
  )
  assert read("something_something", tmp_path) == [
    row("8", "test", "8.webm"),
    row("7", "train", "7.webm", "moving a cup up", label="Moving something up"),
  ]


def test_videomae_lists_and_label_maps_are_read(tmp_path):
  source = put(tmp_path / "source", {"a b/1.mp4": ""})
  lists = {
    "train.csv": f"{source}/a b/1.mp4 1\nc.mp4 0 -1\n",
    "val.csv": "d 2.mp4 1",
  }
  put(tmp_path / "lists", lists)
  want = [("a b/1.mp4", "train", "1"), ("c.mp4", "train", "0")]
  want += [("d 2.mp4", "validation", "1")]

  def got():
    rows = read("videomae", source, tmp_path / "lists")
    assert [r[2] for r in rows] == [w[0] for w in want]
    return [(r[0], r[1], r[4]) for r in rows]

  assert got() == want
  put(tmp_path / "lists", {"label_map_k2.txt": "air drumming\nyoga\n"})
  assert [label for *_, label in got()] == ["yoga", "air drumming", "yoga"]
  put(tmp_path / "lists", {"label_map_k2.txt": "yoga\n"})
  with pytest.raises(DataError, match=r"train.csv:1: .*below 1, got 1"):
    got()


def test_simvtp_and_umt_annotations_are_read(tmp_path):
  put(tmp_path, {"train.json": {"a/1.mp4": "one", "2.avi": ["x", "y"]}})
  assert read("simvtp", tmp_path) == [
    row("a/1.mp4", "train", "a/1.mp4", "one"),
    row("2.avi", "train", "2.avi", "x", "y"),
  ]
  entries = [
    {"video": "a/1.mp4", "caption": "one"},
    {"image": "i.jpg", "caption": ["x"]},
    {"video": "a/1.mp4", "caption": "two"},
  ]
  put(tmp_path, {"mine.json": entries, "mine_train.json": entries})
  assert read("umt", tmp_path, split="test", annotations=tmp_path / "mine.json") == [
    row("a/1.mp4", "test", "a/1.mp4", "one", "two"),
    row("i.jpg", "test", "i.jpg", "x"),
  ]
  with pytest.raises(DataError, match=r"no item of split 'test'; .* train"):
    read("umt", tmp_path, split="test", annotations=tmp_path / "mine_train.json")


def test_mcq_tables_are_read(tmp_path):
  head = "caption\tpath\tnoun\tverb\n"
  put(
    tmp_path,
    {
      "meta_data/webvid_training_success_full_noun_verb.tsv": head
      + "a man runs\t000_050/7\t['man']\t['runs']\n",
      "meta_data/cc3m_validation_success_full_noun_verb.tsv": head
      + "a cat\t123\t['cat']\t[]\n",
      "train/x": "",
      "validation/123": "",
    },
  )
  want = [row("000_050/7", "train", "train/000_050/7.mp4", "a man runs")]
  assert read("mcq", tmp_path) == want
  want = [row("123", "validation", "validation/123", "a cat")]
  assert read("mcq", tmp_path, variant="cc3m") == want


def test_a_plain_csv_is_read(tmp_path):
  put(
    tmp_path,
    {
      "my.csv": "\ufeffsplit,caption,path,start,end\n"
      'val,"one, ""two""\nthree",a.mp4,,\ntest,x,b.jpg,0.5,2\ntest,y,b.jpg,0.5,2\n'
      ",z,c.mp4,,\n"
    },
  )
  assert read("csv", tmp_path) == [
    row("a.mp4", "validation", "a.mp4", 'one, "two"\nthree'),
    row("b.jpg#0.5-2", "test", "b.jpg", "x", "y", start=0.5, end=2.0),
    row("c.mp4", "train", "c.mp4", "z"),
  ]


def test_equal_segments_of_a_csv_are_merged_however_times_are_written(tmp_path):
  rows = "a.mp4,x,0,1,train \na.mp4,y,0.0, 1.0,train\nb.mp4,z, ,,dev \n"
  put(tmp_path, {"my.csv": "path,caption,start,end,split\n" + rows})
  assert read("csv", tmp_path) == [
    row("a.mp4#0-1", "train", "a.mp4", "x", "y", start=0.0, end=1.0),
    row("b.mp4", "validation", "b.mp4", "z"),
  ]


def test_a_folder_with_sidecar_files_is_read(tmp_path):
  files = {"1.mp4": "", "1.txt": "one\n\ntwo\n", "note.md": "", "val/2.MP4": ""}
  files |= {"val/2.json": {"caption": "three"}, "x y/3.png": "", "x y/test.gif": ""}
  put(tmp_path, files)
  (tmp_path / "x y" / "loop").symlink_to(tmp_path)
  assert read("folder", tmp_path) == [
    row("1.mp4", "train", "1.mp4", "one", "two"),
    row("val/2.MP4", "validation", "val/2.MP4", "three"),
    row("x y/3.png", "train", "x y/3.png"),
    row("x y/test.gif", "train", "x y/test.gif"),
  ]


def test_a_folder_of_each_class_gives_its_label(tmp_path, capfd):
  names = "train/jump high/1.mp4", "train/run/deep/2.mp4", "val/run/3.png", "4.mp4"
  put(tmp_path, dict.fromkeys(names, ""))
  (tmp_path / "train" / "wave").mkdir()
  (tmp_path / "train" / "run" / "empty").mkdir()
  items = base.open("folder", Request(str(tmp_path)))
  assert [(i.id, i.split, i.label) for i in items] == [
    ("4.mp4", "train", ""),
    ("train/jump high/1.mp4", "train", "jump high"),
    ("train/run/deep/2.mp4", "train", "run"),
    ("val/run/3.png", "validation", "run"),
  ]
  told = f"{tmp_path}: labels without a video or image: wave\n"
  assert capfd.readouterr().err == told
  put(tmp_path, {"4.txt": "a caption"})
  assert {i.label for i in base.open("folder", Request(str(tmp_path)))} == {""}


def test_webdataset_reads_parts_of_the_tar(tmp_path):
  members = [
    ("sub", b"", tarfile.DIRTYPE),
    ("sub/0.mp4", b"MOVIE"),
    ("sub/0.txt", "ein Hügel\n".encode()),
    ("sub/0.thumb.jpg", b"x"),
    ("__meta__", b"x"),
    ("1.JPG", b"IMAGE"),
    ("1.json", b'{"caption": "a cat", "status": "ok"}'),
    ("1.cls", b"cat"),
    ("2.txt", b"no media"),
  ]
  path = tar(tmp_path / "my-val-00.tar", members)
  for source in (tmp_path, path, f"{tmp_path}/my-val-*.tar"):
    items = base.open("webdataset", Request(str(source)))
    assert [(i.id, i.split, i.captions, i.label) for i in items] == [
      ("my-val-00/sub/0", "validation", ("ein Hügel",), ""),
      ("my-val-00/1", "validation", ("a cat",), "cat"),
      ("my-val-00/2", "validation", ("no media",), ""),
    ]
  data = (tmp_path / "my-val-00.tar").read_bytes()
  parts = [data[m.offset : m.offset + m.size] for m in (i.media for i in items[:2])]
  assert parts == [b"MOVIE", b"IMAGE"]
  assert items[2].media == Media(f"{path}/2.mp4")


def test_open_selects_the_split_and_fills_the_variant(tmp_path):
  put(tmp_path, {"a.csv": "path,caption,split\n1.mp4,x,val\n2.mp4,y,test\n"})
  request = Request(str(tmp_path), split="test")
  want = Item("2.mp4", "test", Media(f"{tmp_path}/2.mp4"), ("y",))
  assert base.open("csv", request) == [want]
  with pytest.raises(DataError, match=r"no item of split 'train'; .* test, validation"):
    read("csv", tmp_path, split="train")
  with pytest.raises(ConfigError, match="did you mean 'jsfusion'"):
    read("msrvtt", tmp_path, variant="jsfusio")
  with pytest.raises(ConfigError, match="did you mean 'webvid'"):
    read("webvids", tmp_path)


def test_the_order_of_a_folder_depends_on_names_alone(tmp_path):
  for name in ("b", "a", "c"):
    put(tmp_path, {f"{name}/{name}.mp4": "", f"{name}.mp4": ""})
  want = ["a.mp4", "b.mp4", "c.mp4", "a/a.mp4", "b/b.mp4", "c/c.mp4"]
  assert [r[0] for r in read("folder", tmp_path)] == want


def test_files_of_one_name_in_different_folders_are_distinguished(tmp_path):
  names = ("train/1.mp4", "test/1.mp4", "c/2.mp4")
  files = {"train/1.mp4": "", "deep/c/2.webm": "", "d/2.mp4": ""}
  put(tmp_path, files | {"test.json": {name: "one" for name in names}})
  found = {r[0]: r[2] for r in read("simvtp", tmp_path)}
  assert found == dict(zip(names, (*names[:2], "deep/c/2.webm"), strict=True))


def test_a_path_that_names_its_folder_is_not_ambiguous(tmp_path):
  put(tmp_path, {"a/x.MP4": "", "b/x.mp4": "", "test.json": {"a/x": "one"}})
  assert read("simvtp", tmp_path)[0][2] == "a/x.MP4"
  put(tmp_path, {"a/x.avi": ""})
  with pytest.raises(DataError, match=r"'a/x' may be .*/a/x.MP4 or .*/a/x.avi"):
    read("simvtp", tmp_path)


def test_an_empty_caption_after_a_tab_is_accepted(tmp_path):
  put(
    tmp_path,
    {
      "cc12m.tsv": "http://a/1.jpg\ta cat\nhttp://b/2.jpg\t\r\n",
      "Validation_GCC.tsv": "\thttp://a/1.jpg\n",
      "LSMDC16_annos_val.csv": "a\t1\t2\t3\t4\tHe runs.\nb\t1\t2\t3\t4\t\n",
      "Flickr8k.token.txt": "1.jpg#0\ta dog\tand a cat\n1.jpg#1\t\n2.jpg#0\t\n",
      "Flickr_8k.devImages.txt": "1.jpg\n2.jpg \n",
    },
  )

  def got(*names, **kwargs):
    return {r[0]: r[3] for r in read(*names, tmp_path, **kwargs)}

  assert got("cc3m", variant="cc12m") == {"train-0": ("a cat",), "train-1": ()}
  assert got("cc3m") == {"validation-0": ()}
  assert got("lsmdc") == {"a": ("He runs.",), "b": ()}
  assert got("flickr8k") == {"1": ("a dog\tand a cat",), "2": ()}
