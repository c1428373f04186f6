"""Every importer on the real, public annotation files, where they are available.

VTR_SHARED_DIR names their directory; ../shared next to the repository is tried too.
Counts are those of the papers and of the reference loaders.
"""

import collections
import csv
import json
import os
import pathlib
import pickle

import pytest
from conftest import ROOT

from vtr_jax.core.errors import DataError
from vtr_jax.prepare.formats import base
from vtr_jax.prepare.formats.base import Request

SHARED = pathlib.Path(os.environ.get("VTR_SHARED_DIR", ROOT.parent / "shared"))
DATA = SHARED / "data"
REAL = DATA / "annotations"

pytestmark = pytest.mark.skipif(
  not REAL.is_dir(), reason=f"{REAL}: real annotation files are not here"
)


@pytest.fixture
def read(tmp_path):
  """Reads real annotations without the media that they name."""

  def call(name, annotations, source=tmp_path, **kwargs):
    return base.open(name, Request(str(source), str(REAL / annotations), **kwargs))

  return call


def splits(items):
  return dict(collections.Counter(item.split for item in items))


def captions(items):
  """Number of captions by split."""
  counts = collections.Counter()
  for item in items:
    counts[item.split] += len(item.captions)
  return dict(counts)


def get(items, name):
  (item,) = (item for item in items if item.id == name)
  return item


def test_the_real_webvid_has_its_counts(read, tmp_path):
  items = read("webvid", "webvid")
  assert splits(items) == {"validation": 9}
  item = get(items, "1020335461")
  assert item.captions == (
    "Moroccan flag waving in the wind in medieval town essaouira, morocco",
  )
  assert item.media.path == f"{tmp_path}/000851_000900/1020335461.mp4"


@pytest.mark.parametrize(("variant", "count"), [("9k", 9000), ("7k", 7010)])
def test_the_real_msrvtt_of_clip4clip_has_its_counts(read, tmp_path, variant, count):
  items = read("msrvtt_clip4clip", "msrvtt", split="test", variant=variant)
  assert (splits(items), captions(items)) == ({"test": 1000}, {"test": 1000})
  want = ("a person is connecting something to system",)
  assert get(items, "video9770").captions == want
  with pytest.raises(DataError, match=r"MSRVTT_data\.json"):  # it is not among them
    read("msrvtt_clip4clip", "msrvtt", split="train", variant=variant)
  name = f"MSRVTT_train.{variant}.csv"
  (tmp_path / name).symlink_to(REAL / "msrvtt" / name)
  empty = json.dumps({"sentences": []})
  (tmp_path / "MSRVTT_data.json").write_text(empty)
  items = read("msrvtt_clip4clip", tmp_path, split="train", variant=variant)
  assert splits(items) == {"train": count}


@pytest.fixture
def frozen_msrvtt(tmp_path):
  """Frozen's layout, of the real lists, test captions and 1k-A sentences."""
  lists = tmp_path / "high-quality" / "structured-symlinks"
  lists.parent.mkdir()
  lists.symlink_to(REAL / "ce_splits" / "msrvtt")
  videos = json.loads((REAL / "msrvtt" / "msrvtt_caption_test.json").read_text())
  texts = {video["video"][: -len(".mp4")]: video["caption"] for video in videos}
  rows = [{"image_id": v, "caption": c} for v in texts for c in texts[v]]
  (tmp_path / "MSR_VTT.json").write_text(json.dumps({"annotations": rows}))
  with open(REAL / "msrvtt" / "MSRVTT_JSFUSION_test.csv", newline="") as f:
    sentences = {row["video_id"]: row["sentence"] for row in csv.DictReader(f)}
  # Of 35 sentences the two sources write the marks differently.
  chosen = {v: texts[v].index(s) if s in texts[v] else 0 for v, s in sentences.items()}
  (tmp_path / "jsfusion_val_caption_idx.pkl").write_bytes(pickle.dumps(chosen))
  return tmp_path, sentences


@pytest.mark.nightly
def test_the_real_msrvtt_of_frozen_has_its_counts(read, frozen_msrvtt):
  where, sentences = frozen_msrvtt
  items = read("msrvtt", where, allow_pickle=True)
  assert splits(items) == {"train": 9000, "test": 1000}
  assert captions(items)["test"] == 1000
  test = [item for item in items if item.split == "test"]
  assert sum(item.captions == (sentences[item.id],) for item in test) == 965
  items = read("msrvtt", where, variant="miech")
  assert splits(items) == {"train": 6656, "test": 1000}
  items = read("msrvtt", where, variant="full")
  assert splits(items) == {"train": 6513, "validation": 497, "test": 2990}
  assert captions(items) == {"train": 0, "validation": 0, "test": 59800}


@pytest.mark.parametrize("lists", ["msvd", "ce_splits/msvd"])
def test_the_real_msvd_has_its_counts(read, tmp_path, lists):
  # The lists of collaborative-experts end without a line end.
  if lists != "msvd":
    (tmp_path / "captions_msvd.json").symlink_to(REAL / "msvd" / "captions_msvd.json")
  items = read("msvd", lists)
  assert splits(items) == {"train": 1200, "validation": 100, "test": 670}
  assert captions(items) == {"train": 48774, "validation": 4290, "test": 27763}


def test_the_real_msvd98_has_its_counts(read):
  items = read("msvd", "ce_splits/msvd", DATA / "msvd98", variant="subset")
  assert splits(items) == {"train": 57, "validation": 6, "test": 35}
  assert sum(captions(items).values()) == 3425
  assert all(os.path.getsize(item.media.path) for item in items)
  assert get(items, "04Gt01vatkk_248_265").captions[:2] == (
    "a woman cuts an oion",
    "a girl is cutting an onion",
  )


@pytest.mark.parametrize("listed", [True, False])
def test_the_real_didemo_has_its_counts(read, tmp_path, listed):
  for split in ("val", "test"):
    name = f"{split}_data.json"
    (tmp_path / name).symlink_to(REAL / "didemo" / name)
    if listed:
      name = f"{split}_list.txt"
      (tmp_path / name).symlink_to(REAL / "ce_splits" / "didemo" / name)
  items = read("didemo", tmp_path)
  assert splits(items) == captions(items) == {"validation": 1065, "test": 1004}
  assert {(item.start, item.end) for item in items} == {(0.0, 31.0)}
  # 29 and 33 videos stand under two endings; the lists choose one (CLIP4Clip).
  words = len(get(items, "55231259@N00_5628408159_7fcd3096c7").captions[0].split())
  assert words == (25 if listed else 40)


@pytest.mark.nightly
def test_the_real_activitynet_has_its_counts(read):
  items = read("activitynet", "activitynet")
  assert splits(items) == captions(items) == {"train": 10009, "test": 4917}
  assert get(items, "v_QOlSCBRmfWY").captions == (
    "A young woman is seen standing in a room and leads into her dancing. The girl "
    "dances around the room while the camera captures her movements. She continues "
    "dancing around the room and ends by laying on the floor.",
  )
  items = read("activitynet", "activitynet", variant="val_2", split="test")
  assert splits(items) == {"test": 4885}


@pytest.mark.nightly
@pytest.mark.parametrize(
  ("variant", "moments"),
  [("val_1", {"train": 37417, "test": 17505}), ("val_2", {"test": 17031})],
)
def test_the_real_activitynet_has_its_moments(read, variant, moments):
  """Of 37,421 sentences of train, four end before they start."""
  split = "test" if variant == "val_2" else ""
  items = read("activitynet", "activitynet", variant=variant, split=split)
  counts = collections.Counter(i.split for i in items for _ in i.notes)
  assert counts == moments


@pytest.fixture
def msvd_qa(tmp_path):
  """HQGA's questions and the mapping of MSVD's captions, in one directory."""
  files = DATA / "downstream" / "hqga_videoqa" / "dataset" / "msvd"
  if not files.is_dir():
    pytest.skip(f"{files}: real questions are not here")
  for path in (*files.glob("*.csv"), *(REAL / "msvd").glob("youtube*.txt")):
    (tmp_path / path.name).symlink_to(path)
  return tmp_path


def test_the_real_msvd_qa_has_its_counts(read, msvd_qa):
  items = read("msvd_qa", msvd_qa)
  assert splits(items) == {"train": 1161, "validation": 245, "test": 504}
  notes = [(i.split, i.id, note) for i in items for note in i.notes]
  counts = collections.Counter(split for split, *_ in notes)
  assert counts == {"train": 30933, "validation": 6415, "test": 13157}
  assert collections.Counter(n.type for s, _, n in notes if s == "test") == {
    **{"what": 8149, "who": 4552, "how": 370, "when": 58, "where": 28}
  }
  assert len({note.answer for _, _, note in notes}) == 2423
  texts = collections.Counter((v, n.text) for s, v, n in notes if s == "test")
  assert sum(count - 1 for count in texts.values()) == 520


@pytest.mark.nightly
def test_the_real_msvd_qa_divides_the_videos_otherwise_than_retrieval(read, msvd_qa):
  retrieval = {item.id: item.split for item in read("msvd", "msvd")}
  both = collections.Counter(
    (item.split, retrieval[item.id]) for item in read("msvd_qa", msvd_qa)
  )
  assert both == {
    ("train", "train"): 1161,
    ("validation", "validation"): 98,
    ("validation", "test"): 147,
    ("test", "test"): 504,
  }


def test_the_real_youcook2_has_its_counts(read):
  items = read("youcook2", "youcook2")
  assert splits(items) == {"train": 10337, "validation": 3492}
  assert len({item.media.path for item in items}) == 1790
  item = get(items, "GLd3aX16zBg_0")
  assert (item.start, item.end) == (90, 102)
  assert item.captions == ("spread margarine on two slices of white bread",)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_real_flickr30k_has_its_counts(read, split):
  items = read("flickr30k", "flickr30k", split=split)
  assert (len(items), captions(items)) == (1000, {split: 5000})


def test_flickr30k_train_requires_the_captions(read):
  with pytest.raises(DataError, match=r"holds no results_20130124\.token"):
    read("flickr30k", "flickr30k", split="train")


@pytest.mark.nightly
def test_the_real_karpathy_splits_have_their_counts(read):
  items = read("coco_karpathy", "coco")
  assert splits(items) == {"test": 5000}
  # Ten images have a sixth caption.
  assert collections.Counter(len(i.captions) for i in items) == {5: 4990, 6: 10}
  items = read("coco_karpathy", "flickr30k")
  assert splits(items) == captions(items) == {"test": 1000}


def test_the_real_flickr8k_has_its_counts(read):
  items = read("flickr8k", DATA / "flickr8k_224", DATA / "flickr8k_224")
  assert splits(items) == {"train": 6000, "validation": 1000, "test": 1000}
  assert {len(item.captions) for item in items} == {5}
  items = read(
    "flickr8k", DATA / "flickr8k_224", DATA / "flickr8k_224", variant="subset"
  )
  assert splits(items) == {"train": 2000, "validation": 1000, "test": 1000}
  core = (DATA / "flickr8k_224" / "core4000.txt").read_text().split()
  assert {os.path.basename(item.media.path) for item in items} == set(core)


UCF = {"1": (9537, 3783), "2": (9586, 3734), "3": (9624, 3696)}


@pytest.mark.parametrize("variant", UCF)
def test_the_real_ucf101_has_its_counts(read, variant):
  items = read("ucf101", "ucf101_splits", variant=variant)
  train, test = UCF[variant]
  assert splits(items) == {"train": train, "test": test}
  labels = (REAL / "label_maps" / "ucf101_label_map.txt").read_text().split()
  assert {item.label for item in items} == set(labels)


@pytest.mark.parametrize("variant", ["1", "2", "3"])
def test_the_real_hmdb51_has_its_counts(read, variant):
  items = read("hmdb51", "hmdb51_splits", variant=variant)
  assert splits(items) == {"train": 3570, "test": 1530}
  counts = collections.Counter((item.label, item.split) for item in items)
  labels = (REAL / "label_maps" / "hmdb51_label_map.txt").read_text().split()
  assert counts == {
    (label, split): n for label in labels for split, n in (("train", 70), ("test", 30))
  }


@pytest.mark.parametrize(
  ("name", "classes"),
  [
    ("kinetics_label_map_k400", 400),
    ("kinetics_label_map_k600", 600),
    ("kinetics_label_map_k700", 700),
    ("sthv2_label_map", 174),
    ("jester_label_map", 27),
  ],
)
def test_the_real_label_maps_are_read(read, tmp_path, name, classes):
  (tmp_path / f"{name}.txt").symlink_to(REAL / "label_maps" / f"{name}.txt")
  lines = "".join(f"{i}.mp4 {i}\n" for i in range(classes))
  (tmp_path / "train.csv").write_text(lines)
  items = read("videomae", tmp_path)
  assert len({item.label for item in items}) == classes
  (tmp_path / "train.csv").write_text(f"1.mp4 {classes}\n")
  with pytest.raises(DataError, match=f"train.csv:1: .*below {classes}"):
    read("videomae", tmp_path)


@pytest.mark.parametrize(
  ("file", "videos", "texts"),
  [
    ("msrvtt/msrvtt_caption_test.json", 2990, 59800),
    ("msvd/msvd_caption_test.json", 670, 27763),
  ],
)
def test_the_real_umt_annotations_are_read(read, file, videos, texts):
  items = read("umt", file, split="test")
  assert (splits(items), captions(items)) == ({"test": videos}, {"test": texts})


def test_the_real_webdataset_is_read():
  source = DATA / "cc12m_wds32"
  items = base.open("webdataset", Request(str(source)))
  assert splits(items) == captions(items) == {"train": 32}
  for item in items:
    with open(item.media.path, "rb") as f:
      f.seek(item.media.offset)
      data = f.read(item.media.size)
    assert (data[:3], data[-2:]) == (b"\xff\xd8\xff", b"\xff\xd9")  # a whole JPEG


def test_the_real_folder_is_read():
  items = base.open("folder", Request(str(DATA / "originals_sample")))
  assert len(items) == 18


@pytest.mark.parametrize(
  ("name", "file", "says"),
  [
    ("umt", "msvd/captions_msvd.json", "json: expected a list of objects"),
    ("videomae", "msvd/train_list.txt", r"txt:1: expected 'path label', got '-4wsuP"),
    ("webvid", "msvd/train_list.txt", "txt:1: expected columns videoid, name"),
    ("simvtp", "didemo/val_data.json", "json: expected an object;"),
    ("coco_karpathy", "flickr30k/test.json", "json: expected an object with images"),
    ("csv", "msrvtt/MSRVTT_train.9k.csv", "csv:1: expected columns path, caption"),
  ],
)
def test_a_real_file_of_another_format_is_rejected(read, name, file, says):
  with pytest.raises(DataError, match=says):
    read(name, file)
