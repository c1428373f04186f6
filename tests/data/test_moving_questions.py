"""Questions of moving_shapes: their answers, balance, words, and files."""

import collections
import hashlib
import re
import shutil

import numpy as np
import pytest

from vtr_jax.core.errors import DataError
from vtr_jax.data import notes
from vtr_jax.data.embedded import build, builders
from vtr_jax.data.moving_shapes import captions, questions, scene
from vtr_jax.data.moving_shapes.scene import Meaning, Thing
from vtr_jax.eval import answers
from vtr_jax.prepare import check

HEART, BAR = Thing("green", "heart"), Thing("red", "bar")
# Of a clip: questions with their answers, and questions that it cannot be asked.
CASES = {
  Meaning("steps", (HEART,), ("left",)): (
    {
      "what does the green heart do": "moves left",
      "does the green heart move left": "yes",
      "does the green heart move right": "no",
      "what colour is the heart": "green",
      "what shape is green": "heart",
      "how many are there": "one",
      "how many move left": "one",
    },
    ["what does the green heart do first", "does the green heart grow"],
  ),
  Meaning("steps", (HEART,), ("grow", "blink")): (
    {
      "what does the green heart do first": "grows",
      "what does the green heart do last": "blinks",
      "what does the green heart do after growing": "blinks",
      "what does the green heart do before blinking": "grows",
      "does the green heart grow before blinking": "yes",
      "does the green heart blink before growing": "no",
    },
    ["what does the green heart do"],
  ),
  Meaning("turns", (HEART, BAR), ("up", "appear")): (
    {
      "what colour goes first": "green",
      "what colour goes last": "red",
      "what does the red bar do after the green heart moves up": "appears",
      "what does the green heart do before the red bar appears": "moves up",
      "does the red bar appear before the green heart moves up": "no",
      "what shape moves up": "heart",
      "how many are there": "two",
      "how many appear": "one",
    },
    ["what does the green heart do first"],
  ),
  Meaning("while", (HEART, BAR), ("turn", "blink")): (
    {
      "what does the red bar do while the green heart turns": "blinks",
      "what colour turns": "green",
      "does the green heart blink": "no",
    },
    ["what colour goes first"],
  ),
  Meaning("same", (HEART, BAR), ("shrink",)): (
    {
      "what do the green heart and the red bar do": "shrinks",
      "how many shrink": "two",
      "do the green heart and the red bar swap places": "no",
    },
    ["what colour shrinks"],
  ),
  Meaning("cross", (HEART, BAR), ()): (
    {
      "what do the red bar and the green heart do": "swap places",
      "what shape is crossing the red bar": "heart",
      "do the green heart and the red bar swap places": "yes",
      "do the green heart and the red bar move left": "no",
    },
    ["how many swap places"],
  ),
}


@pytest.fixture(scope="module")
def training():
  """The first 2,000 clips' questions; a split's do not depend on its length."""
  return [note for found in questions.of_split("train", 2000) for note in found]


@pytest.mark.parametrize("meaning", CASES, ids=lambda m: "-".join((m.kind, *m.actions)))
def test_answers_follow_from_what_a_clip_shows(meaning):
  expected, impossible = CASES[meaning]
  found = {q.text: q.answer for q in questions.asked(meaning)}
  assert found | expected == found
  assert not set(impossible) & set(found)


def test_no_text_has_two_answers_of_one_clip():
  for meaning in scene.meanings("train", 2000):
    found = collections.defaultdict(set)
    for question in questions.asked(meaning):
      found[question.text].add(question.answer)
    assert max(map(len, found.values())) == 1, meaning


def test_things_of_one_colour_are_told_apart_by_no_question_of_it():
  both_green = Meaning("while", (HEART, Thing("green", "bar")), ("turn", "blink"))
  texts = {q.text for q in questions.asked(both_green)}
  assert "what shape is green" not in texts
  assert "what colour is the heart" in texts


def test_a_clip_played_backwards_has_the_answers_of_the_story_told_backwards():
  forward = Meaning("steps", (HEART,), ("left", "grow"))
  ask = "what does the green heart do first"
  story = {q.text: q.answer for q in questions.asked(scene.backward(forward))}
  assert story[ask] == "shrinks"


def test_types_and_answers_are_balanced(training):
  types = collections.Counter(note.type for note in training)
  assert set(types) == set(questions.TYPES)
  assert min(types, key=types.get) == "count"
  counts = collections.Counter(note.answer for note in training)
  assert set(counts) == set(questions.ANSWERS)
  assert len(counts) == 31
  for one, other in (questions.COUNTS, questions.TRUTHS):
    assert 0.7 < counts[one] / counts[other] < 1.4
  for kind in (questions.ACTIONS, questions.COLOURS, questions.SHAPES):
    found = [counts[answer] for answer in kind]
    assert max(found) < 2 * min(found)


@pytest.mark.parametrize("split", ["test", "novel"])
def test_guesses_without_a_video_are_of_little_use(training, split):
  """The usual answer of a type, and of each text without colours and shapes."""
  asked = [note for found in questions.of_split(split, 400) for note in found]
  things = re.compile(rf"({'|'.join(questions.COLOURS + questions.SHAPES)})")
  for name, bound in (("type", 25), ("words", 32)):
    group = lambda n: n.type if name == "type" else things.sub("", n.text)  # noqa: B023
    usual = collections.defaultdict(list)
    for note in training:
      usual[group(note)].append(note.answer)
    guess = [answers.frequent(usual[group(n)] or ["yes"], 1)[0] for n in asked]
    hits = answers.right(guess, [note.answer for note in asked])
    assert 15 < 100 * hits.mean() < bound, name


def test_questions_have_words_of_captions_and_eight_others(training):
  """Which are spelt: a question and <cls> still fit the recipe's 24 tokens."""
  spelt = {"what", "colour", "shape", "do", "does", "how", "many", "last"}
  rng, known = np.random.default_rng(0), set()
  for meaning in scene.meanings("train", 2000):
    for text in captions.captions(meaning, rng):
      known |= set(text.replace(",", "").split())
  longest = 0
  for note in training:
    words = note.text.split()
    assert set(words) <= known | spelt
    longest = max(longest, sum(1 + len(w) * (w in spelt) for w in words))
  assert not spelt & known
  assert longest + 1 <= 24


def test_options_are_five_of_a_kind(training):
  for note in training:
    if note.type in ("count", "truth"):
      assert not note.options
      continue
    (kind,) = (
      kind
      for kind in (questions.ACTIONS, questions.COLOURS, questions.SHAPES)
      if note.answer in kind
    )
    assert len(set(note.options)) == 5
    assert set(note.options) <= set(kind)
    assert note.answer in note.options


def test_questions_are_the_same_on_every_machine():
  found = [[*n] for clip in questions.of_split("test", 50) for n in clip]
  digest = hashlib.sha256(repr(found).encode()).hexdigest()
  assert digest[:16] == "7220374fa97d5caf"
  assert questions.of_split("test", 20) == questions.of_split("test", 50)[:20]


def test_the_build_writes_three_questions_a_clip(data_dir):
  (directory,) = (data_dir / "moving_shapes/tiny").iterdir()
  for split, count in builders.variants("moving_shapes")["tiny"].counts.items():
    found = notes.read(directory, split, "question", name="questions")
    assert [len(clip) for clip in found] == [questions.PER_CLIP] * count
  check._check_notes(str(directory))


def test_older_data_sets_get_questions_and_keep_their_bytes(data_dir, tmp_path):
  shutil.copytree(data_dir / "moving_shapes/tiny", tmp_path / "moving_shapes/tiny")
  (directory,) = (tmp_path / "moving_shapes/tiny").iterdir()
  (directory / "manifest.json").unlink()
  for path in directory.glob("notes-*"):
    path.unlink()
  before = {path: path.read_bytes() for path in directory.iterdir()}
  with pytest.raises(DataError, match="has no questions"):
    notes.read(directory, "test", "question", name="questions")
  assert build.build(tmp_path, "moving_shapes/tiny", progress=False) == directory
  assert all(path.read_bytes() == data for path, data in before.items())
  assert len(notes.read(directory, "test", "question", name="questions")) == 32
