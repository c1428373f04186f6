"""The zero-shot evaluator, on a model with known embeddings."""

import clips
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from vtr_jax.core import sharding
from vtr_jax.core.errors import ConfigError, DataError
from vtr_jax.data import sources
from vtr_jax.data.moving_shapes import scene
from vtr_jax.data.moving_shapes.captions import captions
from vtr_jax.data.tokenizers.base import SentencePiece
from vtr_jax.eval.evaluators import base, zero_shot

# A clip's class is its dominant colour channel, by at least 8 of 255; a text's class is
# given by a word with unique pieces.
WORDS = ("moves", "left", "slowly")
SEEDS = ((2, 3, 8), (21, 27, 31), (11, 24))
PROMPTS = ("a {} ball", "{} box")
SECTION = dict(
  kind="zero_shot",
  split="test",
  every=0,
  classes={
    "the red": ("moves", "moves up"),
    "the green": ("left",),
    "blue": ("slowly",),
  },
  prompts=PROMPTS,
  temperature=0.0,
  others="refuse",
)
LABELS = tuple(SECTION["classes"])


def records():
  """Eight clips, one class after another."""
  return [
    clips.record(f"clip{seed}", clips.mp4(2, 32, 32, seed=seed)) | dict(label=label)
    for label, seeds in zip(LABELS, SEEDS, strict=True)
    for seed in seeds
  ]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp("data")
  empty = [*records()[:2], records()[2] | dict(label="")]
  clips.prepare(root, dict(test=records(), empty=empty))
  return root


def build(root, tokenizer, **changes):
  """The evaluator of a model that recognises the three colours in clips and texts.

  Its parameter is a matrix applied to the video embedding.
  """
  pieces = {w: set(tokenizer.encode(w, 9)[0]) for w in (*WORDS, "a up ball box")}
  own = [pieces[w] - set().union(*(pieces[v] for v in pieces if v != w)) for w in WORDS]
  marks = np.array([min(found) for found in own])

  def embed_video(params, batch):
    tint = batch["video"].astype(jnp.float32).mean(axis=(1, 2, 3))
    return (tint == tint.max(axis=1, keepdims=True)) @ params["turn"]

  def embed_text(params, batch):
    says = batch["text_ids"][:, :, None] == marks[None, None]
    # With zero parameters, all texts have the same embedding, too.
    return jnp.where(params["turn"].any(), says.any(axis=1), 0.1).astype(jnp.float32)

  context = base.Context(
    clips.objective(embed_video=embed_video, embed_text=embed_text),
    clips.CLIP,
    clips.TEXT,
    clips.config(root),
    tokenizer,
    sharding.make_mesh(sharding.MeshConfig(-1, 1, 1)),
    batch_size=8,
  )
  return base.build(base.check(dict(colours=SECTION | changes)), context)["colours"]


@pytest.mark.parametrize("temperature", [0.0, 0.05])
def test_a_perfect_model_has_full_accuracy(root, tokenizer, temperature):
  evaluator = build(root, tokenizer, temperature=temperature)
  results = evaluator.run(dict(turn=np.eye(3)))
  assert results == dict(top1=100, top5=100, mean_class_top1=100)


@pytest.mark.parametrize("temperature", [0.0, 0.05])
def test_a_collapsed_model_is_at_chance(root, tokenizer, temperature):
  """Even if classes have different results of texts."""
  results = build(root, tokenizer, temperature=temperature).run(
    dict(turn=np.zeros((3, 3)))
  )
  assert results == pytest.approx(dict(top1=100 / 3, top5=100, mean_class_top1=100 / 3))


def test_report_and_figures_show_the_confusion(root, tokenizer, tmp_path):
  evaluator = build(root, tokenizer)
  # Blue clips look green.
  results = evaluator.run(dict(turn=np.eye(3)[[0, 1, 1]]))
  assert results["top1"] == 75
  assert results["mean_class_top1"] == pytest.approx(200 / 3)
  report = evaluator.report()
  assert "8 clips, 3 classes, chance top-1 33.3, top-5 100.0" in report
  assert "top-1 75.0" in report
  assert "_classes.md" in report  # where the classes are listed
  evaluator.draw(tmp_path, "colours")
  table = (tmp_path / "colours_classes.md").read_text()
  assert "| blue      |     2 |   0.0 | the green (100 %) |" in table
  assert (tmp_path / "colours_confusion.png").stat().st_size > 1000


def test_protocol_records_the_section(root, tokenizer):
  protocol = build(root, tokenizer).protocol()
  assert protocol["classes"] == SECTION["classes"]
  assert protocol["prompts"] == PROMPTS
  assert (protocol["split"], protocol["clips"], protocol["texts"]) == ("test", 8, 8)
  assert protocol["fingerprint"]


def test_without_classes_the_labels_are_the_phrases(root, tokenizer):
  evaluator = build(root, tokenizer, classes={}, prompts=("{}",))
  assert evaluator.protocol()["classes"] == {k: (k,) for k in sorted(LABELS)}


def test_unknown_and_missing_labels_are_rejected(root, tokenizer):
  classes = {"the red": ("moves",), "the greens": ("left",), "blue": ("slowly",)}
  with pytest.raises(ConfigError, match=r"'the green', .* mean 'the greens'\?"):
    build(root, tokenizer, classes=classes)
  with pytest.raises(DataError, match=r"record 2 of 'empty' .*\(clip8: no label\)"):
    build(root, tokenizer, split="empty")


def test_others_skip_excludes_clips_of_other_labels(root, tokenizer):
  classes = {k: SECTION["classes"][k] for k in ("the red", "blue")}
  evaluator = build(root, tokenizer, classes=classes, others="skip")
  results = evaluator.run(dict(turn=np.eye(3)))
  assert results["top1"] == 100
  assert evaluator.protocol()["clips"] == 5
  assert "5 clips, 2 classes" in evaluator.report()
  with pytest.raises(ConfigError, match="not among classes"):
    build(root, tokenizer, classes={"no such": ("moves",)}, others="skip")


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(prompts=()), "prompts: none"),
    (dict(prompts=("a ball",)), r"prompts: 'a ball' needs one"),
    (dict(prompts=("{} and {}",)), r"prompts: '\{\} and \{\}' needs one"),
    (dict(classes=dict(blue=())), r"classes\.blue: \(\)"),
    (dict(classes=dict(blue=("sky", " "))), r"classes\.blue"),
    (dict(others="ignore"), "others: 'ignore' is unknown"),
    (dict(temperature=-0.1), "temperature: -0.1 is negative"),
  ],
)
def test_invalid_sections_are_rejected(change, message):
  with pytest.raises(ConfigError, match=r"config\.evals\.colours\." + message):
    base.check(dict(colours=SECTION | change))


def l2_normalize(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_a_class_is_the_normalised_mean_of_its_texts():
  rng = np.random.default_rng(0)
  video, text = (l2_normalize(rng.normal(size=(n, 6))) for n in (4, 7))
  owner = np.array([0, 0, 0, 1, 1, 2, 2])
  # A video with a class's own embedding has cosine 1.
  centers = np.stack([l2_normalize(text[owner == i].mean(axis=0)) for i in range(3)])
  scores = zero_shot.class_scores(centers, text, owner, 0.0)
  np.testing.assert_allclose(scores.diagonal(), 1, rtol=1e-6)
  scores = zero_shot.class_scores(video, text, owner, 0.0)
  np.testing.assert_allclose(scores, centers @ video.T, rtol=1e-5)
  mixed = rng.permutation(7)
  for temperature in (0.0, 0.05):
    np.testing.assert_allclose(
      zero_shot.class_scores(video, text[mixed], owner[mixed], temperature),
      zero_shot.class_scores(video, text, owner, temperature),
      rtol=1e-6,
    )


def test_temperature_interpolates_between_max_and_mean_cosine():
  rng = np.random.default_rng(0)
  video, text = (l2_normalize(rng.normal(size=(n, 6))) for n in (4, 5))
  owner, cosines = np.array([0, 0, 0, 1, 1]), text @ video.T
  groups = [cosines[owner == i] for i in range(2)]
  for temperature, expected in (
    (1e-4, [g.max(axis=0) for g in groups]),
    (0.05, [0.05 * np.log(np.exp(g / 0.05).mean(axis=0)) for g in groups]),
    (1e4, [g.mean(axis=0) for g in groups]),
  ):
    scores = zero_shot.class_scores(video, text, owner, temperature)
    np.testing.assert_allclose(scores, expected, atol=5e-4)


def test_texts_whose_mean_is_zero_score_zero():
  text = np.array([[1.0, 0.0], [-1.0, 0.0]])
  scores = zero_shot.class_scores(np.eye(2), text, np.array([0, 0]), 0.0)
  np.testing.assert_array_equal(scores, [[0, 0]])


@pytest.fixture(scope="module")
def motions():
  """The section for moving_shapes, checked."""
  section = common.motion_recognition("test", single=False, every=7)
  return base.check(dict(m=section))["m"][1]


def test_motion_phrases_cover_every_label(motions):
  assert (motions.split, motions.every) == ("test", 7)
  assert tuple(motions.classes) == scene.LABELS
  phrases = [p for found in motions.classes.values() for p in found]
  assert len(set(phrases)) == len(phrases) < 600
  for label, phrase in {
    "move left": "moves to the left",
    "grow": "gets bigger",
    "move then change": "moves up, then shrinks",
    "change then move": "moves left after blinking",
    "both the same": "and a green square both turn",
    "cross": "and a black bar swap places",
  }.items():
    assert phrase in motions.classes[label]
  for label, word in {
    "both at once": " while a",
    "one after another": ", then a",
  }.items():
    assert all(word in phrase for phrase in motions.classes[label])


def test_single_motions_are_the_ten_actions(motions):
  section = common.motion_recognition("test", single=True)
  single = base.check(dict(m=section))["m"][1].classes
  assert len(single) == len(scene.ACTIONS)
  assert all(motions.classes[label] == phrases for label, phrases in single.items())
  labels = {scene.label_of(scene.Meaning("steps", (), (a,))) for a in scene.ACTIONS}
  assert set(single) == labels


def test_motion_phrases_use_the_captions_vocabulary(motions, data_dir):
  """No unknown word, few long texts, and no object that only `novel` has."""
  directory = sources.find(str(data_dir), "moving_shapes/tiny")
  tokenizer = SentencePiece(f"{directory}/tokenizer.model")
  rng = np.random.default_rng(0)
  texts = [c for m in scene.meanings("train", 2000) for c in captions(m, rng)]
  vocabulary = set(" ".join(texts).replace(",", "").split())
  cut, count = 0, 0
  for phrases in motions.classes.values():
    for phrase in phrases:
      for prompt in motions.prompts:
        text = prompt.replace("{}", phrase)
        ids, valid = tokenizer.encode(text, 32)
        assert tokenizer.unk_id not in ids
        assert tokenizer.decode(ids[valid]) == text
        assert set(text.replace(",", "").split()) <= vocabulary
        cut, count = cut + (valid.sum() > 16), count + 1
        assert not any(f"{c} {s}" in text for c, s in scene.NOVEL_THINGS)
  assert cut < 0.02 * count
