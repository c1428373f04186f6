"""Runs that start from another run's parameters."""

import functools
import json
import re

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from training import trained_smoke

from configs import finetune_actions, finetune_answers, mac, miles, simvtp
from vtr_jax.core import sharding
from vtr_jax.core.errors import CheckpointError, ConfigError
from vtr_jax.objectives import base as objectives
from vtr_jax.train import init_from, restore_params, setup
from vtr_jax.train.loop import train_and_evaluate
from vtr_jax.weights import stacks


def config_values(file, data_dir, variant="smoke", **changes):
  c = file.get_config(variant).to_dict()
  c["data"]["dir"] = str(data_dir)
  c |= dict(evals={}, steps=2, checkpoint_every=2)
  c["optim"] |= dict(warmup_steps=0)
  for key, value in changes.items():
    c[key] = c[key] | value if isinstance(value, dict) else value
  return json.loads(json.dumps(c))


@pytest.fixture(scope="module")
def pretrained(data_dir, tmp_path_factory):
  """Directory of a MAC run; parameters: those of its checkpoint."""
  place = tmp_path_factory.mktemp("mac")
  trained_smoke(mac, data_dir, place)
  return place


def build(config, place):
  run = setup.build(config, place)
  run.writer.close()
  run.checkpoints.close()
  return run


def stored(place, like):
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
  )
  return restore_params.read_params(place / "checkpoints", shapes)


def test_a_run_starts_from_the_parameters_of_another(pretrained, data_dir, tmp_path):
  config = config_values(mac, data_dir, init_from=str(pretrained), seed=7)
  run = build(config, tmp_path)
  found, step = stored(pretrained, run.state.params)
  assert step == 2
  assert int(run.state.step) == 0
  jax.tree.map(np.testing.assert_array_equal, run.state.params, found)
  # Moments are zero, and the tokenizer of that run is copied.
  assert not any(np.any(m) for m in jax.tree.leaves(run.state.opt_state))
  copy = (tmp_path / "tokenizer.model").read_bytes()
  assert copy == (pretrained / "tokenizer.model").read_bytes()


@pytest.mark.nightly  # by day: tests/weights/test_stacks.py
@pytest.mark.parametrize("scan", [False, True])
def test_layers_are_stacked_or_not_in_either_run(scan, data_dir, tmp_path):
  first = config_values(mac, data_dir, steps=1, checkpoint_every=1)
  first["objective"]["video"] |= dict(depth=3)
  first["objective"]["compute"] |= dict(scan=scan)
  train_and_evaluate(first, tmp_path / "a")
  flat = lambda run: flatten_dict(run.state.params, sep="/")
  source = flat(build(first, tmp_path / "a"))
  other = json.loads(json.dumps(first)) | dict(seed=7)
  other["objective"]["compute"] |= dict(scan=not scan)
  found = flat(build(other | dict(init_from=str(tmp_path / "a")), tmp_path / "b"))
  assert stacks.stacked(source) == scan != stacks.stacked(found)
  source, found = (stacks.split(x) if stacks.stacked(x) else x for x in (source, found))
  assert source.keys() == found.keys()
  for path in source:
    np.testing.assert_array_equal(source[path], found[path])
  # The run itself keeps its layout, whatever the config says.
  kept = flat(build(other | dict(seed=first["seed"]), tmp_path / "a"))
  assert stacks.stacked(kept) == scan


@pytest.mark.nightly
def test_a_run_started_from_another_resumes_from_its_own_checkpoint(
  pretrained, data_dir, tmp_path
):
  config = config_values(mac, data_dir, init_from=str(pretrained), steps=3)
  config["checkpoint_every"] = 1
  train_and_evaluate(config, tmp_path)
  run = build(config, tmp_path)
  assert int(run.state.step) == 3
  found, _ = stored(pretrained, run.state.params)
  same = jax.tree.map(lambda a, b: np.array_equal(a, b), run.state.params, found)
  assert not all(jax.tree.leaves(same))


@pytest.mark.parametrize("time_pos_embed_resize", ["zeros", "linear"])
def test_time_positions_are_extended_for_more_frames(
  pretrained, data_dir, tmp_path, time_pos_embed_resize
):
  config = config_values(
    mac, data_dir, init_from=str(pretrained), clip=dict(num_frames=8)
  )
  config["objective"]["video"]["time_pos_embed_resize"] = time_pos_embed_resize
  time = np.asarray(
    build(config, tmp_path).state.params["video_tower"]["time_positions"]
  )
  before = config_values(mac, data_dir, init_from=str(pretrained))
  short = build(before, tmp_path / "short").state.params["video_tower"]
  learned = np.asarray(short["time_positions"])
  assert (learned.shape[0], time.shape[0]) == (2, 4)
  if time_pos_embed_resize == "zeros":
    np.testing.assert_array_equal(time, np.pad(learned, ((0, 2), (0, 0))))
  else:  # half-pixel centres: 3/4 and 1/4 of the two between the ends
    np.testing.assert_allclose(time[1], 0.75 * learned[0] + 0.25 * learned[1], 1e-5)
    np.testing.assert_allclose(time[[0, 3]], learned, 1e-5)


@pytest.mark.nightly
def test_a_teacher_starts_as_a_copy_of_the_initial_parameters(data_dir, tmp_path):
  train_and_evaluate(config_values(miles, data_dir), tmp_path / "a")
  config = config_values(miles, data_dir, init_from=str(tmp_path / "a"), seed=7)
  state = build(config, tmp_path / "b").state
  teacher, own = state.teacher["video_tower"], state.params["video_tower"]
  jax.tree.map(np.testing.assert_array_equal, teacher, own)


def test_parameters_that_do_not_fit_are_named(pretrained, data_dir, tmp_path):
  config = config_values(mac, data_dir, init_from=str(pretrained))
  config["objective"]["text"] |= dict(depth=2)
  config["objective"]["projection"] = 64
  with pytest.raises(ConfigError) as caught:
    build(config, tmp_path)
  assert "config.init_from: " in str(caught.value)
  assert "text_tower/transformer/block_1/mlp/up/kernel is missing" in str(caught.value)
  assert "video_proj/kernel is (32, 256), not (32, 64)" in str(caught.value)
  config["objective"]["text"] |= dict(depth=1)
  config["init_from"] = str(tmp_path / "nothing")
  config["tokenizer"] = str(pretrained / "tokenizer.model")
  with pytest.raises(CheckpointError, match="no checkpoint; train first"):
    build(config, tmp_path)


def embed(run, video):
  """Unit-norm embeddings of clips with any number of frames."""
  with sharding.scope(run.mesh):
    function = jax.jit(run.objective.predict["embed_video"])
    return np.asarray(function(run.state.params, dict(video=video)))


@pytest.mark.parametrize(
  ("module", "backbone"),
  [(mac, "vit"), (miles, "divided")],
)
@pytest.mark.nightly
def test_runs_of_1_then_4_then_16_frames_keep_the_embeddings_of_shorter_clips(
  module, backbone, data_dir, tmp_path
):
  """Each run starts from the last one, and first embeds its clips bitwise equally."""
  mask = dict(video="block_tube")
  clip = lambda frames: dict(num_frames=frames, tubelet_size=(1, 16, 16))
  video = module.get_config("smoke").objective.video.to_dict()
  video |= dict(name=backbone, time_pos_embed_resize="zeros")
  config = lambda frames, source: config_values(
    module,
    data_dir,
    init_from=source and str(tmp_path / source),
    clip=clip(frames),
    mask=mask,
    objective=dict(video=video),
  )
  rng = np.random.default_rng(0)
  clips = rng.integers(0, 255, (4, 16, 32, 32, 3), np.uint8)
  stages, before = ((1, ""), (4, "1"), (16, "4")), None
  for frames, source in stages:
    place = tmp_path / str(frames)
    start = build(config(frames, source), tmp_path / f"start{frames}")
    assert start.state.params["video_tower"]["time_positions"].shape[0] == frames
    if source:
      seen = clips[:, : int(source)]
      np.testing.assert_array_equal(embed(start, seen), before)
    if frames == 4:
      # An image shown for longer is still much like itself: the class token alone
      # sees a difference, four times as many places; other images are not like it.
      still = embed(start, np.repeat(seen, 4, axis=1))
      assert (still * before).sum(axis=1).min() > 0.95
      assert (still @ before.T)[~np.eye(4, dtype=bool)].max() < 0.9
    train_and_evaluate(config(frames, source), place)
    end = build(config(frames, source), place)
    before = embed(end, clips[:, :frames])
    # It has learned from there: all places in time, and what they are added to.
    old, new = start.state.params["video_tower"], end.state.params["video_tower"]
    moved = np.abs(new["time_positions"] - old["time_positions"]).max(axis=1)
    assert (moved > 0).all()


TEXT_SIDE = "text_proj, text_tower, video_proj"
STARTS = dict(  # config of the run: what is new, and what is not used
  mac=(mac, [], TEXT_SIDE),
  miles=(miles, [], TEXT_SIDE),
  simvtp=(
    simvtp,
    ["video_tower/space_positions", "video_tower/time_positions"],
    "decoder, mask_token, match_head, pixel_head, text_embed, to_decoder, word_head",
  ),
)


def classifier(data_dir, name, **changes):
  variant = f"moving_shapes,{name},smoke"
  return config_values(finetune_actions, data_dir, variant, batch_size=16, **changes)


def assert_starts(name, place, data_dir, folder, capsys):
  """A classifier starts from a run: what it takes, what it reports, that it trains."""
  _, new, unused = STARTS[name]
  config = classifier(data_dir, name, init_from=str(place))
  run = build(config, folder)
  out = capsys.readouterr().out
  groups = ", ".join(["head", "head_pool", *sorted({p.split("/")[0] for p in new})])
  assert f"{place}: initial values: {groups}; not used: {unused}" in out
  listed = (folder / "weights.txt").read_text()
  assert "initialised head/kernel" in listed
  found = re.findall(r"^initialised (.*)", listed, re.M)
  assert sorted(p for p in found if not p.startswith("head")) == new
  saved = restore_params.param_shapes(place / "checkpoints")
  like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding.replicated(run.mesh)
    ),
    saved,
  )
  old, _ = restore_params.read_params(place / "checkpoints", like)
  tower = run.state.params["video_tower"]
  blocks, embed = old.get("video_tower", {}), old.get("video_tower", {})
  if name == "simvtp":
    blocks, embed = old["encoder"], old["video_embed"]
    jax.tree.map(
      np.testing.assert_array_equal, run.state.params["video_norm"], blocks["norm"]
    )
  np.testing.assert_array_equal(tower["proj"]["kernel"], embed["proj"]["kernel"])
  jax.tree.map(np.testing.assert_array_equal, tower["block_0"], blocks["block_0"])
  assert 0 < np.abs(run.state.params["head"]["kernel"]).max() < 0.01
  train_and_evaluate(config, folder)


@pytest.mark.parametrize("length", [24, 12])
def test_questions_may_be_longer_or_shorter_than_captions(
  pretrained, data_dir, tmp_path, length
):
  """Positions are taken as far as they go; the rest keep their initial values."""
  variant, changes = "moving_shapes,mac,smoke", dict(text=dict(max_length=length))
  config = config_values(finetune_answers, data_dir, variant, **changes)
  fresh = build(config, tmp_path / "fresh").state.params
  run = build(config | dict(init_from=str(pretrained)), tmp_path / "run")
  shapes = restore_params.param_shapes(pretrained / "checkpoints")
  whole = sharding.replicated(run.mesh)
  like = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole)
  old, _ = restore_params.read_params(
    pretrained / "checkpoints", jax.tree.map(like, shapes)
  )
  old, new = old["text_tower"]["embed"], run.state.params["text_tower"]["embed"]
  known = min(length, 16)
  assert new["positions"].shape[0] == length
  np.testing.assert_array_equal(new["positions"][:known], old["positions"][:known])
  np.testing.assert_array_equal(
    new["positions"][known:], fresh["text_tower"]["embed"]["positions"][known:]
  )
  np.testing.assert_array_equal(new["words"], old["words"])
  jax.tree.map(
    np.testing.assert_array_equal, run.state.params["fusion"], fresh["fusion"]
  )


@pytest.mark.parametrize("head", ["haed", "head.*", "head/kernal", "video_tower/x"])
def test_a_head_that_the_model_has_not_is_rejected(head):
  params = dict(head=dict(kernel=1, bias=2), video_tower=dict(proj=dict(kernel=3)))
  init_from.check_heads(("head", "video_tower/proj", "head/bias"), params)
  with pytest.raises(ConfigError, match=f"init_heads: '{re.escape(head)}' is no param"):
    init_from.check_heads(("head", head), params)


def test_a_head_of_other_classes_must_be_new(tmp_path):
  (tmp_path / "config.json").write_text('{"objective": {"classes": ["a", "b", "c"]}}')
  check = functools.partial(init_from.check_classes, str(tmp_path))
  check(("a", "b", "c"), ())
  check(("a", "c", "b"), ("head",))
  check((), ())
  with pytest.raises(
    ConfigError, match=r"class 1 of .* is 'b', of this config 'c'; name"
  ):
    check(("a", "c", "b"), ())
  with pytest.raises(ConfigError, match=r"class 2 of .* is 'c', of this config None"):
    check(("a", "b"), ("head_pool",))


@pytest.mark.nightly  # by day: from public weights, test_weights_actions.py
def test_a_classifier_starts_from_a_run(pretrained, data_dir, tmp_path, capsys):
  assert_starts("mac", pretrained, data_dir, tmp_path, capsys)
  # One of other classes needs a new head.
  other = classifier(data_dir, "mac", init_from=str(tmp_path), init_heads=[])
  classes = (*other["objective"]["classes"], "another")
  other["objective"] |= dict(classes=classes, num_classes=len(classes))
  with pytest.raises(ConfigError, match=r"class 18 of .* is None, of this config 'ano"):
    build(other, tmp_path / "other")
  run = build(other | dict(init_heads=["head"]), tmp_path / "new")
  assert run.state.params["head"]["kernel"].shape == (32, len(classes))


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["miles", "simvtp"])
def test_classifiers_start_from_runs_of_every_objective(
  name, data_dir, tmp_path, capsys
):
  place = tmp_path / "pretrained"
  train_and_evaluate(config_values(STARTS[name][0], data_dir), place)
  assert_starts(name, place, data_dir, tmp_path / "run", capsys)


@pytest.mark.parametrize(
  ("labels", "message"),
  [
    (["", ""], "config.data: the training split has no labels; prepare it with"),
    (["a", "a"], "the training split has one class only, 'a'; nothing to tell"),
    (["a", "b"], "num_classes: 3, but the training split has 2 classes, as 'a'; set 0"),
    (["jumps", "run", "fly"], r"classes: lacks 'fly' and 1 more of .*known: jump, run"),
  ],
)
def test_training_labels_that_do_not_fit_are_rejected(labels, message):
  named = ("run", "jump") if "run" in labels else ()
  section = dict(name="actions", classes=named, num_classes=3)
  with pytest.raises(ConfigError, match=message):
    objectives.from_data(section, lambda _: labels)


def test_a_list_of_classes_must_have_the_expected_number(data_dir, tmp_path):
  config = classifier(data_dir, "mac")
  config["objective"] |= dict(num_classes=5)
  with pytest.raises(ConfigError, match=r"num_classes: 5, but .* 18 classes; set 0"):
    build(config, tmp_path)
