"""Question answering: rows of questions, fusion, heads, losses."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from configs import finetune_answers
from vtr_jax.core.batch import MaskSpec, patchify, unpatchify
from vtr_jax.core.config import read
from vtr_jax.core.errors import ConfigError
from vtr_jax.data import notes, sources
from vtr_jax.data.examples import Reader
from vtr_jax.data.notes import Note
from vtr_jax.data.questions import QuestionRows
from vtr_jax.data.tokenizers.base import SentencePiece
from vtr_jax.objectives import base as objectives
from vtr_jax.train.config import TrainConfig

ROWS = 3


def built(base="mac", mask=0.0, **changes):
  values = finetune_answers.get_config(f"moving_shapes,{base},smoke")
  values.batch_size = ROWS
  values.mask.update(video="random", video_ratio=mask)
  values.objective.update(changes)
  config = read(TrainConfig, values.to_dict())
  return config, config.make_objective()


def case(base="mac", **changes):
  """(objective, parameters, batch) with random values; nothing starts at zero."""
  config, objective = built(base, **changes)
  rng, batch = np.random.default_rng(0), {}
  for key, shape in config.spec().items():
    batch[key] = np.zeros(shape.shape, shape.dtype)
    if key.endswith("ids"):
      batch[key] = rng.integers(4, 200, shape.shape, np.int32)
    if key.endswith("valid") and shape.ndim > 1:
      batch[key] = np.broadcast_to(np.arange(shape.shape[-1]) < 9, shape.shape).copy()
  batch["video"] = rng.integers(0, 256, batch["video"].shape, np.uint8)
  batch |= dict(valid=np.ones(ROWS, bool), row=np.arange(ROWS, dtype=np.int32))
  params = nn.unbox(jax.jit(objective.init)(jax.random.key(0), batch))
  return objective, params, batch


@pytest.fixture(scope="module", params=["mac", "simvtp"])
def open_case(request):
  return case(request.param)


def scores(found, **changes):
  objective, params, batch = found
  return np.asarray(jax.jit(objective.predict["answers"])(params, batch | changes))


def test_scores_depend_on_the_clip_and_on_the_question_of_a_row_alone(open_case):
  _, _, batch = open_case
  before = scores(open_case)
  assert before.shape == (ROWS, 31)
  for key in ("video", "text_ids"):
    other = batch[key].copy()
    other[0] = other[0] + 7
    after = scores(open_case, **{key: other})
    assert np.abs(after[0] - before[0]).max() > 1e-3, key
    np.testing.assert_allclose(after[1:], before[1:], atol=1e-5)


def test_padding_is_not_read(open_case):
  _, _, batch = open_case
  other = np.where(batch["text_valid"], batch["text_ids"], 77)
  np.testing.assert_allclose(
    scores(open_case, text_ids=other), scores(open_case), atol=1e-5
  )


def test_the_order_of_frames_is_read(open_case):
  _, _, batch = open_case
  reverse = batch["video"][:, ::-1].copy()
  assert np.abs(scores(open_case, video=reverse) - scores(open_case)).max() > 1e-4


@pytest.mark.parametrize(
  ("base", "new", "old"),
  [
    ("mac", {"fusion", "head"}, {"video_tower", "text_tower"}),
    ("miles", {"fusion", "head"}, {"video_tower", "text_tower"}),
    ("simvtp", {"head"}, {"video_embed", "text_embed", "encoder"}),
  ],
)
def test_parameters_are_the_bases_and_what_is_named_new(base, new, old):
  config, objective = built(base)
  spec = config.spec()
  params = nn.unbox(jax.eval_shape(objective.init, jax.random.key(0), spec))
  assert set(params) == new | old
  assert set(config.init_heads) == new
  section = dict(config.objective["base"], compute=config.objective["compute"])
  own = objectives.build(section, config.clip, config.text, config.mask)
  batch = {
    k: jnp.zeros(s.shape, s.dtype)
    for k, s in own.rows.spec(config.clip, config.text, own.mask, 4).items()
  }
  theirs = nn.unbox(jax.eval_shape(own.init, jax.random.key(0), batch))
  flat = lambda tree: {k: x.shape for k, x in flatten_dict(tree, sep="/").items()}
  known = flat(theirs)  # MILES's mask token is not used
  mine = {k: v for k, v in flat(params).items() if k.split("/")[0] in old}
  assert known | mine == known
  assert objective.model.layers_above("head/out/kernel") == 0


def test_simvtp_pools_the_pass_that_matches():
  objective, params, batch = case("simvtp")
  model, keep = objective.model.base, (batch["text_ids"], batch["text_valid"])
  variables = {"params": params}
  x = model.apply(variables, batch["video"], None, method="embed_visible")
  pooled = model.apply(variables, x, *keep, train=False, method="pooled_pair")
  joint = model.apply(
    variables,
    x,
    model.apply(
      variables, *keep, train=False, method=lambda m, *a, **k: m.text_embed(*a, **k)
    ),
    batch["text_valid"],
    method="encode_pair",
  )
  read_ = np.concatenate([np.ones((ROWS, x.shape[1]), bool), batch["text_valid"]], 1)
  for row in range(ROWS):
    mean = np.asarray(joint)[row][read_[row]].mean(axis=0)
    np.testing.assert_allclose(pooled[row], mean, atol=1e-5)


def test_training_reads_the_visible_tubelets_and_answers_read_all():
  objective, params, batch = case(mask=0.5, head_dropout=0.0)
  config, _ = built(mask=0.5)
  kept = batch["video_keep_idx"].shape[1]
  assert kept == config.clip.num_tubelets // 2
  batch["video_keep_idx"][:] = np.arange(kept)
  tubelets = patchify(batch["video"], config.clip.tubelet_size).copy()
  tubelets[:, kept:] = 255 - tubelets[:, kept:]
  other = batch | dict(video=np.asarray(unpatchify(tubelets, config.clip)))
  key = jax.random.key(1)
  loss = jax.jit(lambda b: objective.forward(params, None, b, key).terms)
  assert loss(other)["answers"].total == loss(batch)["answers"].total
  answers = jax.jit(objective.predict["answers"])
  assert np.abs(answers(params, other) - answers(params, batch)).max() > 1e-4


def test_the_loss_is_the_cross_entropy_of_valid_rows():
  found = objective, params, batch = case(head_dropout=0.0)
  batch |= dict(label=np.array([3, 0, 30], np.int32), valid=np.array([1, 0, 1], bool))
  term = objective.forward(params, None, batch, jax.random.key(1)).terms["answers"]
  logits = scores(found).astype(np.float64)
  log = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
  np.testing.assert_allclose(term.total, -log[0, 3] - log[2, 30], rtol=1e-5)
  assert term.count == 2


def test_the_loss_of_counts_is_the_squared_error():
  found = objective, params, batch = case(form="count", head_dropout=0.0)
  batch["label"] = np.array([0, 4, 10], np.int32)
  number = scores(found)
  assert number.shape == (ROWS, 1)
  term = objective.forward(params, None, batch, jax.random.key(1)).terms["answers"]
  np.testing.assert_allclose(
    term.total, ((number[:, 0] - batch["label"]) ** 2).sum(), rtol=1e-5
  )


@pytest.mark.parametrize("base", ["mac", "simvtp"])
def test_the_score_of_an_option_depends_on_no_other_option(base):
  found = _, _, batch = case(base, form="choice")
  before = scores(found)
  assert before.shape == (ROWS, 5)
  assert len(set(before[0].tolist())) == 5
  turned = {k: batch[k][:, ::-1].copy() for k in ("option_ids", "option_valid")}
  np.testing.assert_allclose(scores(found, **turned), before[:, ::-1], atol=1e-5)


def test_counts_are_rounded_halves_up_and_cut():
  rows = QuestionRows("some", form="count")
  found = rows.answers(np.array([[-3.0], [0.49], [0.5], [2.5], [10.7]]), [()] * 5)
  assert found == [0, 0, 1, 3, 10]


# Rows.

NOTES = [
  (Note("question", "a", "what is it", "dog", "what"),),
  (),
  (
    Note("question", "b", "who runs", "man", "who"),
    Note("question", "c", "what runs", "cat", "what", ("cat", "dog")),
    Note("question", "d", "how many", "3", "how"),
  ),
]


@pytest.fixture
def split(monkeypatch):
  asked = []
  monkeypatch.setattr(
    notes, "read", lambda *args, **kwargs: asked.append((args, kwargs)) or NOTES
  )
  monkeypatch.setattr(sources.Split, "__getitem__", lambda _, i: dict(id=f"r{i}"))
  yield sources.Split("here", "train[:3]", [None] * 3)
  assert asked == [(("here", "train[:3]", "question"), dict(name="set"))] * len(asked)


@pytest.mark.parametrize(
  ("changes", "expected"),
  [
    (dict(classes=("dog", "man", "cat", "3")), "abcd"),
    (dict(classes=("man", "cat")), "bc"),  # the others cannot be learned
    (dict(classes=("dog", "man", "cat"), types=("what",)), "ac"),
    (dict(form="choice", options=2), "c"),
    (dict(form="count"), "d"),
  ],
)
def test_an_example_is_a_question_with_its_record(split, changes, expected):
  rows = QuestionRows("set", **changes)
  found = rows.examples(split)
  assert [found[i]["note"].id for i in range(len(found))] == list(expected)
  owner = dict(a="r0", b="r2", c="r2", d="r2")
  for i, name in enumerate(expected):
    assert found[i]["id"] == owner[name]


def test_a_split_without_a_usable_question_is_rejected(split):
  with pytest.raises(ConfigError, match=r"no question of split 'train\[:3\]' has an"):
    QuestionRows("set", classes=("horse", "sheep")).examples(split)


@pytest.mark.parametrize(
  ("changes", "note", "label"),
  [
    (dict(classes=("man", "dog")), NOTES[0][0], 1),
    (dict(form="choice", options=2), NOTES[2][1], 0),
    (dict(form="count"), NOTES[2][2], 3),
  ],
)
def test_a_row_has_the_question_and_the_right_answer(
  monkeypatch, data_dir, changes, note, label
):
  config, _ = built(mask=0.5)
  monkeypatch.setattr(Reader, "read", lambda *_: np.zeros((4, 32, 32, 3), np.uint8))
  rows = QuestionRows("set", **changes)
  (model,) = data_dir.glob("moving_shapes/tiny/*/tokenizer.model")
  mask, tokenizer = MaskSpec("random", 0.5), SentencePiece(str(model))
  reader = Reader(config.data, config.clip, config.text, mask, tokenizer)
  row = rows.row(dict(note=note, video=b""), reader, np.random.default_rng(1))
  spec = rows.spec(config.clip, config.text, mask, 1)
  assert set(row) | {"row", "valid"} == set(spec)
  for key, value in row.items():
    assert (1, *value.shape) == spec[key].shape, key
    assert value.dtype == spec[key].dtype, key
  assert row["label"] == label
  if rows.form == "choice":
    for ids, option in zip(row["option_ids"], note.options, strict=True):
      text = f"{note.text} {option}"
      np.testing.assert_array_equal(ids, tokenizer.encode(text, len(ids))[0])


@pytest.mark.parametrize(
  ("values", "expected"),
  [
    (dict(vocabulary=2), ("b", "a")),
    (dict(vocabulary=0), ("b", "a", "c")),
    (dict(vocabulary=9), ("b", "a", "c")),
    (dict(vocabulary=2, classes=("x", "y")), ("x", "y")),
  ],
)
def test_classes_are_the_most_frequent_training_answers(values, expected):
  section = dict(name="answers", notes="set", **values)
  found = objectives.from_data(section, lambda _: ["a", "b", "c", "b", "a", "b"])
  assert found["classes"] == expected


@pytest.mark.parametrize(
  ("base", "changes", "message"),
  [
    ("mac", dict(fusion=0), r"objective.fusion: 0; towers need some, as 3"),
    ("simvtp", dict(fusion=3), r"objective.fusion: 3; SimVTP has its own joint pass"),
    ("mac", dict(form="essay"), "form: 'essay' is unknown; known"),
    ("mac", dict(classes=(), vocabulary=0), r"vocabulary: 0 until training reads"),
    ("mac", dict(classes=("a", "a")), "classes: an answer twice"),
    ("mac", dict(base=dict(name="mak")), r"objective.base.name: 'mak' is unknown"),
    ("mac", dict(base={}), r"objective.base.name: missing"),
  ],
)
def test_sections_that_do_not_fit_are_rejected(base, changes, message):
  values = finetune_answers.get_config(f"moving_shapes,{base},smoke").to_dict()
  values["objective"] |= changes
  with pytest.raises(ConfigError, match=message):
    read(TrainConfig, values).make_objective()


def test_a_base_without_texts_is_rejected():
  values = finetune_answers.get_config("moving_shapes,mac,smoke").to_dict()
  video = dict(values["objective"]["base"]["video"])
  values["objective"]["base"] = dict(name="actions", video=video, num_classes=3)
  with pytest.raises(ConfigError, match=r"base\.name: 'actions' does not read texts"):
    read(TrainConfig, values).make_objective()
