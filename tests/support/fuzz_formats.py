"""A small valid example of every annotation format, to be mutated."""

import io
import pickle
import tarfile

import numpy as np
from mutations import NESTED, Lines, written


def _tar(kind, **members):
  out = io.BytesIO()
  with tarfile.open(fileobj=out, mode="w", format=kind) as tar:
    for name, data in members.items():
      info = tarfile.TarInfo(name.replace("_", "."))
      info.size, info.pax_headers = len(data), dict(comment="ü")
      tar.addfile(info, io.BytesIO(data))
  return out.getvalue()


_MEMBERS = {
  "1_mp4": b"MOVIE",
  "1_txt": "a Hügel".encode(),
  "2_jpg": b"IMAGE",
  "2_json": b'{"caption": "a cat", "captions": ["a", "b"]}',
  "2_cls": b"cat",
  "long" * 40 + "_mp4": b"MOVIE",
}
_SENTENCES = [dict(video_id="video3", image_id="video3", caption=c) for c in ("x", "y")]
_TOKENS = {"a_1_2": [["a", "cat"], ["one", "cat"]], "b_3_4": [["a", "dog"]]}
_NUMBERS = {"video0": 1, "video3": np.int64(1), "more": np.arange(3)}
_PART = {"segment": [90, 102.5], "id": 1, "sentence": "step"}
_IMAGE = dict(filename="a.jpg", split="val", sentences=[{"raw": "a cat"}])
_UMT = [{"video": "a/1.mp4", "caption": "one"}, {"image": "i.jpg", "caption": ["x"]}]
_ACTION = "gif_name\tquestion\ta1\ta2\ta3\ta4\ta5\tanswer\tvid_id\tkey\n"
_COUNT = "gif_name\tquestion\tanswer\tvid_id\tkey\n"
_CHOICE = dict(video="x", question="what?", answer=0) | {
  f"option_{i}": word for i, word in enumerate("abcde")
}
_WEBVID = "videoid,contentUrl,duration,page_dir,name\n"

# (format, variant): its files; those with content are mutated.
EXAMPLES = {
  ("webvid", ""): {
    "results_2M_train.csv": _WEBVID + '7,http://a,PT5S,0_5,"A ""red"" ball,\nx"\n'
  },
  ("cc3m", ""): {
    "Train_GCC-training.tsv": 'a "cat\thttp://a/1.jpg\na dog\thttp://b/2.jpg\n',
    "Validation_GCC.csv": 'caption,thumbnailUrl\n"a cat, a dog",http://a/1.jpg\n',
  },
  ("cc3m", "cc12m"): {"cc12m.tsv": "http://a/1.jpg\ta cat\n"},
  ("msrvtt", ""): {
    "MSR_VTT.json": {"annotations": _SENTENCES, "images": []},
    "jsfusion_val_caption_idx.pkl": pickle.dumps(_NUMBERS, 4),
    "val_list_jsfusion.txt": "video3\nvideo9\n",
    "train_list_jsfusion.txt": "video1\r\nvideo2\r\n",
  },
  ("msrvtt_clip4clip", ""): {
    "MSRVTT_data.json": {"sentences": _SENTENCES, "videos": []},
    "MSRVTT_train.9k.csv": "video_id\nvideo3\nvideo4\n",
    "MSRVTT_JSFUSION_test.csv": "key,vid_key,video_id,sentence\nr,m,v5,'a, b'\n",
  },
  ("msvd", ""): {
    "captions.jsonl": Lines(
      [dict(id="a", captions=["a cat"]), dict(id="b", captions="x")]
    ),
    "train_list.txt": "a\n\nb\n",
  },
  ("msvd", "subset"): {"raw-captions.json": _TOKENS, "test_list.txt": "a_1_2\n"},
  ("msvd_qa", ""): {
    "train_qa.json": [dict(id=1, video_id=2, question="who is it?", answer="man")],
    "youtube_mapping.txt": "a_1_2 vid1\nb_3_4 vid2\n",
  },
  ("msvd_qa", "plain"): {
    "test.csv": "video,width,height,question,answer,qid\n1,4,3,what is it,cat,7\n",
    "youtube_mapping.txt": "a_1_2 vid1\n",
  },
  ("msrvtt_qa", "plain"): {
    "val.jsonl": Lines([dict(video_id="a", question="who is it", answer="man")]),
  },
  ("msrvtt_qa", ""): {
    "val_qa.json": [
      dict(id=1, video_id=6513, category_id=14, question="who is it?", answer="man")
    ],
  },
  ("activitynet_qa", ""): {
    "test_q.json": [dict(video_name="x", question="is it wet", question_id="v_x_1")],
    "test_a.json": [dict(answer="yes", type=3, question_id="v_x_1")],
  },
  ("tgif_qa", ""): {
    "Test_action_question.csv": f"{_ACTION}g1\twhat?\ta\tb\tc\td\te\t4\tACTION4\t26\n",
    "frameqa/test.csv": "video,question,answer,qid\n1,what is it,cat,FRAMEQA1\n",
  },
  ("tgif_qa", "count"): {
    "Train_count_question.csv": f"{_COUNT}g1\thow many?\t3\tCOUNT12\t7\n"
  },
  ("lsmdc_mc", ""): {
    "LSMDC16_multiple_choice_valid.csv": "c\t1\t2\t3\t4\ta\tb\tc\td\te\n",
    "LSMDC16_multiple_choice_test_randomized.csv": (
      "t\t1\t2\t3\t4\ta\tb\tc\td\te\t2\nt\t1\t2\t3\t4\ta\tb\tc\td\te\t5\n"
    ),
  },
  ("umt_qa", ""): {
    "anet_qa_val.json": [
      dict(video="v/x.mp4", question="is it wet", question_id="1", answer="yes")
    ],
    "anet_qa_answer_list.json": ["yes"],
  },
  ("violet_qa", ""): {
    "txt_msvd-qa.json": {
      "val": [dict(video="x", question="who is it?", answer=1)],
      "vocab": ["cat", "man"],
    },
    "txt_tgif-action.json": {"test": [_CHOICE]},
  },
  ("charades_sta", ""): {
    "charades_sta_test.txt": "3MSZA 24.3 30.4##a light.\n3MSZA 2 1##a door\n",
    "Charades_v1_test.csv": "id,subject,length\n3MSZA,x,30.96\n",
  },
  ("tacos", ""): {
    "val.json": {
      "s1.avi": dict(timestamps=[[0, 59]], sentences=["A"], fps=29.4, num_frames=99)
    }
  },
  ("moments", ""): {
    "highlight_val_release.jsonl": Lines(
      [
        dict(qid=1, query="a", duration=8, vid="x", relevant_windows=[[0, 2], [4, 8]])
        | dict(relevant_clip_ids=[0, 2], saliency_scores=[[1, 2, 4], [0, 3, 2]])
      ]
    )
  },
  ("lsmdc", ""): {
    "LSMDC16_annos_training.csv": "m_0.1-0.2\t1\t2\t3\t4\tHe goes.\nn\t1\t2\t3\t4\tx\n"
  },
  ("lsmdc", "frozen"): {
    "raw-captions.pkl": pickle.dumps(_TOKENS, 2),
    "train_list.txt": "a_1_2\n",
  },
  ("didemo", ""): {
    "val_data.json": [{"video": "b.mov", "description": "it"}],
    "val_list.txt": "b.mov\n",
  },
  ("activitynet", ""): {
    "train.json": {
      "v_x": dict(duration=9, timestamps=[[0, 4], [2, 9]], sentences=["A.", " B"])
    }
  },
  ("youcook2", ""): {
    "youcookii_annotations_trainval.json": {
      "database": {"GL": dict(subset="validation", duration=9, annotations=[_PART])}
    }
  },
  ("flickr30k", ""): {
    "test.json": {"1.jpg": ["a dog", "images/1.jpg"], "2.jpg": []},
    "results_20130124.token": "2.jpg#0\tTwo men .\n2.jpg#1\tMen #1 .\n",
    "train.txt": "2\n",
  },
  ("flickr8k", ""): {
    "Flickr8k.token.txt": "1.jpg#0\ta dog, wet\n1.jpg#1\ta cat\n2.jpg#0\ta man\n",
    "Flickr_8k.trainImages.txt": "1.jpg\n2.jpg\n",
  },
  ("flickr8k", "subset"): {
    "captions.csv": 'image,caption\n1.jpg,"a dog, wet"\n',
    "Flickr_8k.testImages.txt": "1.jpg\n",
  },
  ("coco_karpathy", ""): {
    "dataset_coco.json": {"images": [_IMAGE, _IMAGE | dict(filename="b.jpg")]},
    "karpathy_test.jsonl": Lines([{"image": "x/d.jpg", "caption": ["one", " two "]}]),
  },
  ("ucf101", ""): {
    "classInd.txt": "1 Apply\n2 Bow\n",
    "trainlist01.txt": "Bow/v_Bow_g01_c01.avi 2\n",
  },
  ("hmdb51", ""): {"ride_test_split1.txt": "a b.avi 1 \nc.avi 0 \nd.avi 2 \n"},
  ("kinetics", ""): {
    "k400.csv": "label,youtube_id,time_start,time_end,split\n"
    '"air drumming",a,59,69,val\nyoga,--x,3,13.5,train\n',
  },
  ("something_something", ""): {
    "something-something-v2-train.json": [
      dict(id="7", label="moving a cup up", template="Moving [something] up")
    ]
  },
  ("videomae", ""): {
    "train.csv": "a b/1.mp4 1\nc.mp4 0 -1\n",
    "label_map_k2.txt": "air drumming\nyoga\n",
  },
  ("videomae", "plain"): {"train.csv": "a b/1.mp4 1\nc.mp4 0 -1\n"},
  ("simvtp", ""): {"train.json": {"a/1.mp4": "one", "2.avi": ["x", "y"]}},
  ("umt", ""): {"train.json": _UMT},
  ("mcq", ""): {
    "webvid_training.tsv": "caption\tpath\tnoun\tverb\na man\t0_5/7\t['man']\t[]\n"
  },
  ("csv", ""): {
    "my.csv": "\ufeffsplit,caption,path,start,end\n"
    'val,"one, ""two""\nthree",a.mp4,,\ntest,x,b.jpg,0.5,2\ntest,y,b.jpg,0.5,2\n'
  },
  ("folder", ""): {
    "a.json": {"captions": ["one", "two"], "caption": "x"},
    "b.txt": "one\n\ntwo\n",
    "a.mp4": "",
    "b.mp4": "",
  },
  ("webdataset", ""): {
    "a-train.tar": _tar(tarfile.PAX_FORMAT, **_MEMBERS),
    "b-val.tar": _tar(tarfile.GNU_FORMAT, **_MEMBERS),
  },
}
# Pickles that ask for far more than they hold, and one that holds itself too deep.
PICKLES = (
  b"\x80\x02Nr\xff\xff\xff\x7f.",  # two thousand million places
  b"\x80\x05\x96\0\0\0\0\2\0\0\0.",  # 8 GiB
  b"\x80\x04\x95\0\0\0\0\0\0\0\x7f.",
  b"\x80\x04\x8d\0\0\0\0\4\0\0\0.",
  b"\x80\x02cnumpy\nndarray\n(J\0\0\0\x40\x85X\1\0\0\0OtR.",
  b"\x80\x02]" + b"]a" * 50_000 + b".",
  b"(" * 100_000 + b".",
)
_SEGMENT = {"segment": [0, 10**400], "id": 1, "sentence": "x"}
# Damaged files that were once accepted or crashed.
FOUND = {
  ("simvtp", ""): [
    {"train.json": b'{"\\ud800/a": "x"}'},
    {"train.json": b'{"a": ' + b"9" * 5000 + b"}"},
  ],
  ("youcook2", ""): [
    {
      "youcookii_annotations_trainval.json": written(
        {"database": {"GL": dict(subset="val", annotations=[_SEGMENT])}}
      )
    }
  ],
  ("msrvtt", ""): [{"jsfusion_val_caption_idx.pkl": data} for data in PICKLES],
  ("lsmdc", "frozen"): [{"raw-captions.pkl": pickle.dumps({"a_1_2": [["\ud800"]]})}],
  ("ucf101", ""): [{"trainlist01.txt": b"Bow/ 2\n"}],
  ("videomae", ""): [{"train.csv": b"a.mp4 " + b"9" * 5000}],
  ("webdataset", ""): [
    {"b-val.tar": _tar(tarfile.GNU_FORMAT, **members)}
    for members in (
      {"\udcff_mp4": b"x"},
      {"1_json": NESTED, "1_mp4": b"x"},
      {"1_json": b'"\\ud800"', "1_mp4": b"x"},
    )
  ],
}
