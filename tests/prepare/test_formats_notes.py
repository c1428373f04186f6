"""Annotations of questions and moments: the notes of each layout, and real counts."""

import collections
import json

import pytest
from format_cases import put
from shared import DOWNSTREAM, downstream

from vtr_jax.core.errors import DataError
from vtr_jax.data.notes import Note
from vtr_jax.eval import protocols
from vtr_jax.prepare import truth as truths
from vtr_jax.prepare.formats import base
from vtr_jax.prepare.formats.base import Request


def items(tmp_path, name, files, **kwargs):
  place = put(tmp_path, files)
  return base.open(name, Request(place, **kwargs))


def question(name, text, answer, **fields):
  return Note("question", name, text, answer, **fields)


def moment(name, text, *windows, **fields):
  return Note("moment", name, text, windows=windows, **fields)


ROW = dict(question="Who is it?", answer="man")


@pytest.mark.parametrize(
  ("file", "content", "name"),
  [
    ("val_qa.json", [ROW | dict(video_id=6513, id=5, category_id=14)], "5"),
    ("val.csv", "video,question,answer,qid,type\n6513,Who is it?,man,5,14\n", "5"),
    (
      "val.jsonl",
      '{"question": "Who is it?", "answer": "man", "video_id": "video6513"}',
      "validation-0",
    ),
  ],
)
def test_msrvtt_qa_reads_three_layouts(tmp_path, file, content, name):
  (item,) = items(tmp_path, "msrvtt_qa", {file: content})
  assert (item.id, item.split, item.captions) == ("video6513", "validation", ())
  assert item.media.path == f"{tmp_path}/video6513.mp4"
  assert item.notes == (question(name, "Who is it?", "man", type="who"),)


def test_msvd_qa_without_a_mapping_calls_videos_by_their_numbers(tmp_path):
  content = {"test_qa.json": [ROW | dict(video_id=1451, id=5)]}
  (item,) = items(tmp_path, "msvd_qa", content)
  assert item.id == "vid1451"


def test_msvd_qa_of_alpro_has_the_clips_names(tmp_path):
  line = '{"question": "Who is it?", "answer": "man", "video_id": "a_1_2"}'
  mapping = {"youtube_mapping.txt": "a_1_2 vid7\n"}
  (item,) = items(tmp_path, "msvd_qa", mapping | {"test.jsonl": line})
  assert (item.id, item.notes[0].id) == ("a_1_2", "test-0")


def test_activitynet_qa_joins_questions_and_answers(tmp_path):
  asked = [
    dict(video_name="x", question="is it wet", question_id="v_x_1"),
    dict(video_name="x", question="where is it", question_id="v_x_2"),
  ]
  told = [
    dict(answer="pool", type=6, question_id="v_x_2"),
    dict(answer="yes", type=3, question_id="v_x_1"),
  ]
  files = {"val_q.json": asked, "val_a.json": told}
  (item,) = items(tmp_path, "activitynet_qa", files)
  assert (item.id, item.split) == ("v_x", "validation")
  assert item.media.path == f"{tmp_path}/x.mp4"
  assert item.notes == (
    question("v_x_1", "is it wet", "yes", type="yes/no"),
    question("v_x_2", "where is it", "pool", type="location"),
  )
  for answers, says in [
    (told[:1], r"val_q\.json: \[0\]: expected an answer to 'v_x_1', the file has none"),
    ([*told, told[0]], r"val_a\.json: \[2\]: expected one answer to 'v_x_2'"),
    ([*told, told[0] | dict(question_id="y")], r"\[2\]: expected a question 'y' of"),
    ([told[0] | dict(type=9)], r"\[0\]: expected a type of 0 to 8, got 9"),
    ([told[0], told[1] | dict(answer=" ")], r"\[1\]: expected an answer of the quest"),
  ]:
    with pytest.raises(DataError, match=says):
      items(tmp_path, "activitynet_qa", {"val_a.json": answers})


ACTION = "gif_name\tquestion\ta1\ta2\ta3\ta4\ta5\tanswer\tvid_id\tkey\n"
FRAME = "gif_name\tquestion\tanswer\ttype\tvid_id\tkey\tdescription\n"
COUNT = "gif_name\tquestion\tanswer\tvid_id\tkey\n"
TGIF = {
  "Test_action_question.csv": ACTION + "g\tWhat ?\ta\tb\tc\td\te\t4\tACTION4\t26\n",
  "Train_frameqa_question.csv": FRAME + "h\tWho ?\ttwo\t1\tFRAMEQA3\t7\ta man\n",
  "Test_count_question.csv": COUNT + "g\tHow many ?\t0\tCOUNT12\t7\n",
}


def test_tgif_qa_reads_all_tasks_of_a_gif(tmp_path):
  g, h = items(tmp_path, "tgif_qa", TGIF)
  assert (g.id, g.split, h.id, h.split) == ("g", "test", "h", "train")
  assert g.notes == (
    question("ACTION4", "What ?", "e", type="action", options=tuple("abcde")),
    question("COUNT12", "How many ?", "0", type="count"),
  )
  assert h.notes == (question("FRAMEQA3", "Who ?", "two", type="number"),)
  (only,) = base.open("tgif_qa", Request(str(tmp_path), variant="count"))
  assert [note.id for note in only.notes] == ["COUNT12"]


def test_tgif_qa_of_hqga(tmp_path):
  head = "video,width,height,question"
  files = {
    "transition/test.csv": f"{head},a0,a1,a2,a3,a4,answer,qid\n"
    "23,160,400,what now,a,b,c,d,e,1,TRANS23\n",
    "frameqa/test.csv": f"{head},answer,qid\n23,1,2,what is it,cat,FRAMEQA1\n",
  }
  (item,) = items(tmp_path, "tgif_qa", files)
  assert item.id == "23"
  assert [(note.id, note.answer, note.type) for note in item.notes] == [
    ("TRANS23", "b", "transition"),
    ("FRAMEQA1", "cat", "frame"),
  ]


@pytest.mark.parametrize(
  ("line", "says"),
  [
    ("g\tWhat ?\ta\tb\tc\td\te\t5\tACTION4\t26\n", ":2: expected an answer of 0 to 4"),
    ("g\tWhat ?\ta\tb\tc\td\te\t4\tACTION4\n", ":2: expected 10 fields as in line 1"),
    ("g\t \ta\tb\tc\td\te\t4\tACTION4\t26\n", ":2: expected an id and a text of the"),
  ],
)
def test_a_line_of_tgif_qa_that_does_not_fit(tmp_path, line, says):
  with pytest.raises(DataError, match=says):
    items(tmp_path, "tgif_qa", {"Test_action_question.csv": ACTION + line})


def test_a_gif_in_two_splits_is_two_items(tmp_path):
  files = TGIF | {"Train_action_question.csv": TGIF["Test_action_question.csv"]}
  files["Train_action_question.csv"] = files["Train_action_question.csv"].replace(
    "ACTION4", "ACTION5"
  )
  found = items(tmp_path, "tgif_qa", files)
  assert sorted((item.id, item.split) for item in found) == [
    ("g#test", "test"),
    ("g#train", "train"),
    ("h", "train"),
  ]


def test_lsmdc_mc_has_five_sentences_a_clip(tmp_path):
  valid = "c\t1\t2\t3\t4\ta\tb\tc\td\te\n"
  test = "t\t1\t2\t3\t4\ta\tb\tc\td\te\t2\nt\t1\t2\t3\t4\ta\tb\tc\td\tf\t5\n"
  files = {
    "LSMDC16_multiple_choice_valid.csv": valid,
    "LSMDC16_multiple_choice_test_randomized.csv": test,
  }
  c, t = items(tmp_path, "lsmdc_mc", files)
  assert (c.split, c.notes[0].answer, c.notes[0].options) == (
    *("validation", "a"),
    tuple("abcde"),
  )
  assert [(note.id, note.answer) for note in t.notes] == [("t", "b"), ("t#1", "f")]


def test_umt_qa_reads_one_data_set_of_a_directory(tmp_path):
  row = dict(video="v/x.mp4", question="is it wet", question_id=1, answer="yes")
  files = {
    "anet_qa_val.json": [row, row | dict(question_id="2", answer_type="3")],
    "anet_qa_answer_list.json": ["yes"],
    "msvd_qa_test.json": [row],
  }
  (item,) = items(tmp_path, "umt_qa", files, variant="anet")
  assert (item.id, item.split) == ("x", "validation")
  assert item.media.path == f"{tmp_path}/v/x.mp4"
  assert [(note.id, note.type) for note in item.notes] == [("1", "other"), ("2", "3")]
  with pytest.raises(DataError, match="id 'x' occurs twice"):
    base.open("umt_qa", Request(str(tmp_path)))


def test_violet_qa_has_numbers_of_answers_and_of_options(tmp_path):
  choice = dict(video="y", question="what?", answer=4)
  choice |= {f"option_{i}": word for i, word in enumerate("abcde")}
  files = {
    "txt_a.json": {
      "val": [dict(video="x", question="who is it?", answer=1)],
      "vocab": ["cat", "man"],
    },
    "txt_b.json": {"test": [choice]},
  }
  x, y = items(tmp_path, "violet_qa", files)
  assert x.notes == (question("validation-0", "who is it?", "man", type="who"),)
  assert y.notes == (question("test-0", "what?", "e", options=tuple("abcde")),)
  files["txt_a.json"]["val"][0]["answer"] = 2
  with pytest.raises(DataError, match=r"'val'\[0\]: expected an answer of 0 to 1, got"):
    items(tmp_path, "violet_qa", files)


def test_charades_sta_takes_durations_from_charades(tmp_path, capsys):
  lines = "3MSZA 24.3 30.4##a light.\n3MSZA 2 1##a door\n3MSZA 0 40##all\n"
  lengths = "id,subject,length\n3MSZA,x,30.96\n"
  (item,) = items(tmp_path, "charades_sta", {"charades_sta_test.txt": lines})
  assert item.notes == (
    moment("3MSZA#0", "a light.", (24.3, 30.4)),
    moment("3MSZA#2", "all", (0, 40)),
  )
  said = capsys.readouterr().err
  assert "charades_sta_test.txt: moments left out: 1 (" in said
  assert f"the first is {tmp_path}/charades_sta_test.txt:2\n" in said
  (item,) = items(tmp_path, "charades_sta", {"Charades_v1_test.csv": lengths})
  assert [note.duration for note in item.notes] == [30.96, 30.96]


def test_times_of_tacos_are_frames(tmp_path):
  video = dict(timestamps=[[0, 60], [30, 30]], sentences=["A", "B"])
  video |= dict(fps=30.0, num_frames=90)
  (item,) = items(tmp_path, "tacos", {"val.json": {"s1.avi": video}})
  assert (item.id, item.split) == ("s1", "validation")
  assert item.notes == (moment("s1#0", "A", (0, 2), duration=3.0),)


def test_moments_have_the_ratings_of_clips(tmp_path):
  row = dict(qid=1, query="a", duration=8, vid="x", relevant_windows=[[0, 2], [4, 8]])
  rated = row | dict(relevant_clip_ids=[0, 2], saliency_scores=[[1, 2, 4], [0, 3, 2]])
  text = "\n".join(map(json.dumps, (rated, row | dict(qid=2))))
  (item,) = items(tmp_path, "moments", {"highlight_val_release.jsonl": text})
  first = moment(
    *("1", "a", (0, 2), (4, 8)), duration=8.0, saliency=((0, 1, 2, 4), (2, 0, 3, 2))
  )
  assert item.notes == (first, first._replace(id="2", saliency=()))
  text = text.replace("[0, 3, 2]", "[0, 3]")
  with pytest.raises(DataError, match=r"jsonl:1: expected a clip's number and the"):
    items(tmp_path, "moments", {"highlight_val_release.jsonl": text})


def counted(name, place, tmp_path, **kwargs):
  found = base.open(name, Request(str(tmp_path), str(downstream(place)), **kwargs))
  notes = collections.Counter(item.split for item in found for _ in item.notes)
  return dict(notes), dict(collections.Counter(item.split for item in found)), found


def test_the_real_questions_have_their_counts(tmp_path):
  notes, videos, _ = counted("msrvtt_qa", "hqga_videoqa/dataset/msrvtt", tmp_path)
  assert (notes, videos) == ({"validation": 12_278}, {"validation": 497})
  _, _, found = counted("tgif_qa", "hqga_videoqa/dataset/tgifqa", tmp_path)
  types = collections.Counter(note.type for item in found for note in item.notes)
  assert types == dict(action=2274, transition=6232, frame=13_691)
  notes, _, found = counted("tgif_qa", "tgif_qa", tmp_path, variant="action")
  assert notes == dict(test=2274)
  hqga = base.open(
    "tgif_qa",
    Request(str(tmp_path), f"{DOWNSTREAM}/hqga_videoqa/dataset/tgifqa", "action"),
  )
  # The same questions, of which HQGA has taken some marks off.
  answers = lambda items: {
    n.id: n.options.index(n.answer) for i in items for n in i.notes
  }
  assert answers(found) == answers(hqga)


@pytest.mark.parametrize("task", ["msvd-qa", "tgif-action"])
def test_the_real_samples_of_violet_have_their_counts(tmp_path, task):
  notes, _, _ = counted("violet_qa", f"violet_samples/txt_{task}.json", tmp_path)
  assert notes == dict(train=200, validation=50, test=50)


def test_the_real_moments_have_their_counts(tmp_path):
  notes, videos, found = counted("moments", "qvhighlights", tmp_path)
  assert (notes, videos) == ({"validation": 1550}, {"validation": 1519})
  assert sum(len(note.windows) for item in found for note in item.notes) == 2803
  notes, videos, _ = counted("charades_sta", "charades_sta", tmp_path)
  assert notes == dict(train=12_408, test=3720)
  assert videos == dict(train=5338, test=1334)
  notes, videos, _ = counted("moments", "charades_sta", tmp_path)
  assert (notes, videos) == ({"test": 3720}, {"test": 1334})


@pytest.mark.parametrize(
  ("protocol", "place"),
  [
    ("tgif_frame", "hqga_videoqa/dataset/tgifqa"),
    ("tgif_action", "tgif_qa"),
    ("tgif_transition", "hqga_videoqa/dataset/tgifqa"),
    ("charades_sta", "charades_sta"),
    ("qvhighlights", "qvhighlights"),
    pytest.param(*("msvd_qa", "hqga_videoqa/dataset/msvd"), marks=pytest.mark.nightly),
  ],
)
def test_protocols_have_the_counts_of_the_real_files(protocol, place):
  chosen = protocols.get(protocol)
  truth = truths.read(chosen, annotations=str(downstream(place)))
  clips = len(set(truth.records))
  assert protocols.differences(chosen, clips, len(truth.notes)) == []
