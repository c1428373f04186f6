"""Probes: classifiers trained on a run's frozen features."""

import collections
import dataclasses
import json
import shutil

import clips
import flax.linen as nn
import jax
import numpy as np
import pytest
from conftest import run_main

from configs import mac, miles, simvtp
from vtr_jax import probe
from vtr_jax.core import batch
from vtr_jax.core.config import read
from vtr_jax.core.errors import ConfigError, DataError, DivergedError
from vtr_jax.data.embedded.clips import encode
from vtr_jax.inference import classifier, embed_split, features
from vtr_jax.inference import load as load_lib
from vtr_jax.inference.classifier import RECIPES, Recipe
from vtr_jax.train.config import TrainConfig
from vtr_jax.train.loop import train_and_evaluate

COLOURS = dict(blue=(0, 0, 1), green=(0, 1, 0), red=(1, 0, 0), yellow=(1, 1, 0))
NAMES = tuple(COLOURS)


def clip(rng, colour):
  """A falling square of one colour and any brightness, on noise."""
  frames = rng.integers(0, 60, (8, 64, 64, 3), np.uint8)
  top, left = rng.integers(0, 36, 2)
  tint = np.array(COLOURS[colour]) * rng.integers(120, 255)
  for i, frame in enumerate(frames):
    frame[top + i : top + i + 20, left : left + 20] = tint
  return encode(frames)


def labelled(count, seed, classes=NAMES):
  rng = np.random.default_rng(seed)
  names = [classes[i % len(classes)] for i in range(count)]
  return [
    clips.record(f"clip{seed}-{i}", clip(rng, name)) | dict(label=name)
    for i, name in enumerate(names)
  ]


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
  """A smoke run of MAC, trained on captions of moving shapes."""
  config = mac.get_config("smoke").to_dict()
  config["data"]["dir"] = str(data_dir)
  config |= dict(steps=6, checkpoint_every=6, evals={})
  config["data"]["flip"] = False
  place = tmp_path_factory.mktemp("run")
  train_and_evaluate(config, place)
  return place


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """Prepared data whose labels are colours, and splits with unfit labels."""
  nameless = labelled(4, 5)
  nameless[2]["label"] = ""
  return clips.prepare(
    tmp_path_factory.mktemp("data"),
    dict(
      train=labelled(160, 1),
      test=labelled(40, 2),
      validation=labelled(4, 3, NAMES[:2]),
      nameless=nameless,
    ),
  )


@pytest.mark.parametrize(
  "kind", ["linear", pytest.param("attentive", marks=pytest.mark.nightly)]
)
def test_probes_classify_far_above_chance(run, data, kind, tmp_path, capsys):
  """Chance is 25; files and the printed table have the same results."""
  out = tmp_path / "out"
  # With so few clips, an epoch is one step.
  epochs = dict(linear=400, attentive=100)[kind]
  request = probe.Request(str(run), kind, data, epochs=epochs, out=str(out))
  results = probe.probe(request)
  assert results["top1"] > 75
  printed = capsys.readouterr().out
  assert "test: 40 clips, 4 classes, chance top-1 25.0, top-5 100.0" in printed
  written = json.loads((out / "results.json").read_text())
  assert written["results"] == results
  assert set(written["classes"]) == set(NAMES)
  assert np.mean(list(written["classes"].values())) == pytest.approx(results["top1"])
  assert written["splits"]["train"]["clips"] == 160
  recipe = dataclasses.replace(RECIPES[kind], epochs=epochs)
  assert written["recipe"] == dataclasses.asdict(recipe)
  assert (out / "classes.md").read_text().strip() in printed
  assert (out / "confusion.png").stat().st_size > 1000
  # Again, from cached features: bitwise identical.
  assert probe.probe(request) == results
  assert capsys.readouterr().out.count("cached features are reused") == 2


def test_cached_features_are_recomputed_for_other_weights(run, data, tmp_path):
  model = load_lib.load(run)
  config = embed_split.with_data(model.config.data, str(data))
  source = config.open("test")
  get = lambda params: np.array(
    features.of_split(
      dataclasses.replace(model, params=params),
      *(config, source, "pooled", tmp_path, model.config.eval_batch_size),
    )
  )
  first = get(model.params)
  other = get(jax.tree.map(lambda p: p * 1.1, model.params))
  assert np.abs(first - other).max() > 1e-3
  np.testing.assert_array_equal(get(model.params), first)
  # Files of a process killed while writing are not used.
  (tmp_path / "pooled-test.json").write_text("{")
  (tmp_path / "pooled-test.npy").write_bytes(b"half")
  np.testing.assert_array_equal(get(model.params), first)


@pytest.mark.nightly
def test_the_probe_command_is_configured_by_flags(run, data, tmp_path):
  copy = tmp_path / "copy"
  shutil.copytree(run, copy)
  flags = [f"--checkpoint={copy}", f"--data={data}", "--epochs=2", "--lr=0.2"]
  done = run_main(*flags, module="vtr_jax.probe")
  assert done.returncode == 0, done.stderr
  assert "\r" not in done.stderr
  written = json.loads((copy / "probes/linear/results.json").read_text())
  assert (written["recipe"]["lr"], written["recipe"]["epochs"]) == (0.2, 2)
  done = run_main(*flags, "--split=novel", module="vtr_jax.probe")
  assert done.returncode == 2
  assert "no split 'novel'" in done.stderr
  assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (dict(split="nameless"), r"record 2 of 'nameless' .* no label"),
    (dict(split="train"), "--split: 'train' is the probe's training split"),
    (dict(kind="linaer"), "--kind: 'linaer' is unknown; did you mean 'linear'"),
    (dict(checkpoint=""), "--checkpoint: missing"),
    (dict(lr=-1.0), "--lr: -1.0 is negative"),
  ],
)
def test_unfit_requests_are_rejected(run, data, changes, message):
  with pytest.raises((ConfigError, DataError), match=message):
    probe.probe(probe.Request(**dict(checkpoint=str(run), data=data) | changes))


def test_classes_must_be_several_and_known_from_training(run, data, tmp_path):
  with pytest.raises(
    DataError, match=r"all 3 clips have the label 'a'; .* two classes"
  ):
    probe._classes(["a"] * 3, ["a"], "test")
  with pytest.raises(DataError, match=r"test: its label 'tow' is not among the 2 of"):
    probe._classes(["one", "two"], ["one", "tow"], "test")
  # Classes without a test clip are excluded.
  request = probe.Request(str(run), data=data, split="validation", out=str(tmp_path))
  probe.probe(request)
  written = json.loads((tmp_path / "results.json").read_text())
  assert set(written["classes"]) == set(NAMES[:2])


def test_a_disk_too_small_for_the_features_is_reported(
  run, data, tmp_path, monkeypatch
):
  usage = collections.namedtuple("usage", "free")(100)
  monkeypatch.setattr(features.shutil, "disk_usage", lambda place: usage)
  place = str(tmp_path / "full")
  with pytest.raises(DataError, match=r"tokens-train.npy takes .* GB, and 0.0 are"):
    probe.probe(probe.Request(str(run), "attentive", data, out=place))


@pytest.mark.parametrize("module", [mac, miles, simvtp])
def test_video_features_are_what_the_embedding_is_computed_from(module):
  """`pooled` is the mean of the tokens; the embedding is a projection of `pooled`."""
  values = module.get_config("smoke").to_dict() | dict(evals={})
  c = read(TrainConfig, values)
  objective = c.make_objective()
  fake = batch.fake(c.clip, c.text, c.mask, 4)
  spec = batch.fake(c.clip, c.text, c.mask, 4)
  params = nn.unbox(jax.jit(objective.init)(jax.random.key(0), spec))
  found = objective.predict["video_features"](params, fake)
  tokens = np.asarray(found.tokens, np.float64)
  first = 0 if module is simvtp else 1  # the class token
  mean = tokens[:, first:].mean(axis=1)
  np.testing.assert_allclose(found.pooled, mean, atol=1e-5)
  embedding = found.pooled
  if module is not simvtp:
    proj = params["video_proj"]
    embedding = embedding @ proj["kernel"] + proj["bias"][None]
  np.testing.assert_allclose(
    objective.predict["encode_video"](params, fake), embedding, rtol=1e-4, atol=1e-5
  )


def random_tokens(count, seed):
  """Tokens [count 6 8], one of which is marked and has the class; the mean lacks it."""
  rng = np.random.default_rng(seed)
  label = rng.integers(0, 2, count)
  x = rng.normal(size=(count, 6, 8)).astype("f")
  x[..., 0], x[..., 1] = 0, rng.choice([-4, 4], (count, 6))
  where = rng.integers(0, 6, count)
  x[np.arange(count), where, :2] = np.stack([np.full(count, 8), 8 * label - 4], 1)
  return x, label


def test_an_attentive_probe_finds_the_informative_token():
  (x, label), (y, true) = random_tokens(1000, 0), random_tokens(300, 1)
  recipe = Recipe(20, 0, 3e-3, 0.01, "adamw", batch_size=64)
  found = classifier.fit("attentive", recipe, x, label, 2, progress=False)
  right = (found.scores(y).argmax(axis=0) == true).mean()
  mean = classifier.fit("linear", recipe, x.mean(axis=1), label, 2, progress=False)
  assert (
    right > 0.95 > 0.9 > (mean.scores(y.mean(axis=1)).argmax(axis=0) == true).mean()
  )


def test_a_linear_probe_is_invariant_to_feature_scale_and_offset():
  """Features are standardised; a constant feature is harmless."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(300, 5)).astype("f")
  label = (x[:, 0] + 0.5 * x[:, 3] > 0).astype(int)
  x[:, 4] = 7
  recipe = dataclasses.replace(RECIPES["linear"], epochs=30, batch_size=64)
  fit = lambda x: classifier.fit("linear", recipe, x, label, 2, False).scores(x)
  plain, far = fit(x), fit(x * [1, 100, 1, 10, 1] + [5, -300, 0, 9, 0])
  np.testing.assert_allclose(plain, far, atol=0.02 * np.abs(plain).max())
  assert (plain.argmax(axis=0) == label).mean() > 0.97


def test_divergence_is_an_error_that_names_the_learning_rate():
  x = np.random.default_rng(0).normal(size=(40, 5)).astype("f")
  recipe = dataclasses.replace(RECIPES["linear"], lr=1e38)
  with pytest.raises(DivergedError, match="lower --lr"):
    classifier.fit("linear", recipe, x, np.arange(40) % 2, 2, progress=False)
