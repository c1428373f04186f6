"""The evaluate command on a trained run."""

import dataclasses
import json
import shutil

import clips
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import run_main

from configs import simvtp
from vtr_jax import evaluate
from vtr_jax.core import sharding
from vtr_jax.core.errors import CheckpointError, ConfigError, DataError
from vtr_jax.data import sources, views
from vtr_jax.eval import embeddings, protocols, query_texts
from vtr_jax.eval.evaluators import base, pictures, retrieval
from vtr_jax.eval.multiple_choice import read_candidates
from vtr_jax.eval.scoring import Extras
from vtr_jax.inference import embed_split
from vtr_jax.inference import load as load_lib
from vtr_jax.models.layers import l2_normalize
from vtr_jax.objectives import base as objectives
from vtr_jax.train.loop import train_and_evaluate

DATA = "moving_shapes/tiny"


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
  """(directory, results) of a smoke run of SimVTP, which has a matching head."""
  config = simvtp.get_config("smoke").to_dict()
  config["data"]["dir"] = str(data_dir)
  test = config["evals"]["test"] | dict(dual_softmax=0.05, rerank=3)
  config |= dict(steps=2, checkpoint_every=2, evals=dict(test=test))
  config["optim"]["warmup_steps"] = 1
  directory = tmp_path_factory.mktemp("run")
  return directory, train_and_evaluate(config, directory)


def call(run, name="custom", extras=None, **flags):
  changes = flags.pop("changes", {})
  return evaluate.evaluate(
    evaluate.Request(
      name, changes, checkpoint=str(run[0]), extras=extras or Extras(), **flags
    )
  )


def test_results_equal_those_of_the_training_run(run, tmp_path, capsys):
  extras = Extras(dual_softmax=0.05, rerank=3)
  results = call(run, extras=extras, out=str(tmp_path))
  expected = {k.removeprefix("test/"): v for k, v in run[1].items()}
  assert results == pytest.approx(expected)
  assert "rerank_3/t2v" in capsys.readouterr().out
  written = json.loads((tmp_path / "results.json").read_text())
  assert written["results"] == results
  assert written["reranking"].startswith("cosine + temperature * log P(match)")
  manifest = written["embeddings"]["manifest"]
  assert manifest["model"]["step"] == 2
  assert manifest["model"]["objective"] == "simvtp"
  train = json.loads((run[0] / "results.json").read_text())
  assert manifest["data"]["fingerprint"] == train["protocols"]["test"]["fingerprint"]
  assert train["protocols"]["test"]["reranking"] == written["reranking"]


def test_saved_embeddings_give_the_same_results(run, tmp_path):
  extras = Extras(querybank=0.05)
  place = tmp_path / "e"
  results = call(run, extras=extras, out=str(tmp_path), save_embeddings=str(place))
  request = evaluate.Request("custom", {}, embeddings=str(place), extras=extras)
  assert evaluate.evaluate(request) == results
  saved = embeddings.load(place)
  assert saved.ids[0].startswith("test-")
  assert all(name.startswith("train-") for name in saved.bank_ids)
  assert len(saved.bank) == len(saved.bank_ids) > len(saved.texts)


def test_evaluation_changes_no_file_of_the_run(run, tmp_path):
  """Training may still be writing a checkpoint."""
  busy = run[0] / "checkpoints" / "4.orbax-checkpoint-tmp-1"
  busy.mkdir()
  before = sorted((p, p.stat().st_mtime_ns) for p in run[0].rglob("*"))
  call(run, out=str(tmp_path))
  assert sorted((p, p.stat().st_mtime_ns) for p in run[0].rglob("*")) == before
  busy.rmdir()


def test_command_by_flags(run, data_dir):
  """Data by its directory; the rest by flags."""
  done = run_main(
    f"--checkpoint={run[0]}",
    f"--data={sources.find(str(data_dir), DATA)}",
    "--protocol=msvd",
    "--set=captions=first",
    "--set=split=novel",
    module="vtr_jax.evaluate",
  )
  assert done.returncode == 0, done.stderr
  assert "changed: captions = 'first', split = 'novel'" in done.stdout
  assert "NOT THE PROTOCOL'S DATA: 16 clips, not 670" in done.stdout
  assert "\r" not in done.stderr
  written = json.loads((run[0] / "evaluations/msvd/results.json").read_text())
  assert written["texts"] == written["clips"] == 16


def test_recognition_equals_that_of_the_zero_shot_evaluator(run, tmp_path):
  """Classes are the labels as phrases."""
  changes = dict(frames=4, prompts=("a red bar {}",))
  results = call(run, "hmdb51", changes=changes, out=str(tmp_path))
  model = load_lib.load(run[0])
  source = model.config.data.open("test")
  labels = sorted({source[i]["label"] for i in range(len(source))})
  section = dict(
    kind="zero_shot",
    split="test",
    every=0,
    classes={label: (query_texts.label_phrase(label),) for label in labels},
    prompts=changes["prompts"],
    temperature=0.0,
    others="refuse",
  )
  c = model.config
  context = base.Context(
    model.objective, c.clip, c.text, c.data, model.tokenizer, model.mesh, 16
  )
  own = base.build(base.check(dict(z=section)), context)["z"].run(model.params)
  assert results == pytest.approx(own)


def candidates(tmp_path, ids):
  items = [
    dict(video=f"videos/{name}.mp4", caption=["a cat", "a red bar", "it"], answer=1)
    for name in ids
  ]
  path = tmp_path / "mc.json"
  path.write_text(json.dumps(items))
  return path, items


def test_multiple_choice_picks_the_highest_cosine(run, tmp_path):
  ids = embed_split.read_clips(load_lib.load(run[0]).config.data.open("test")).ids
  path, _ = candidates(tmp_path, ids)
  place = tmp_path / "e"
  results = call(
    run,
    "msrvtt_mc",
    candidates=str(path),
    out=str(tmp_path),
    save_embeddings=str(place),
  )
  e = embeddings.load(place)
  scores = np.einsum("te,te->t", e.text, e.video[e.owner]).reshape(-1, 3)
  assert results["accuracy"] == pytest.approx(100 * np.mean(scores.argmax(1) == 1))
  assert results["chance"] == pytest.approx(100 / 3)
  with pytest.raises(ConfigError, match="--candidates: missing"):
    call(run, "msrvtt_mc")
  with pytest.raises(ConfigError, match="--candidates: are not for retrieval"):
    call(run, candidates=str(path))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda items: items[:1], "no candidates for clip 'b'"),
    (lambda items: [*items, items[0]], "item 2: 'videos/a.mp4' is named twice"),
    (lambda items: [items[0] | dict(video="c")], "item 0: 'c' is not a clip"),
    (lambda items: [items[0] | dict(answer=3)], "item 0: expected video, caption"),
    (lambda items: [items[0] | dict(answer="1")], "item 0: expected video, caption"),
    (lambda items: [dict(video="a")], "item 0: expected video, caption"),
    (lambda items: [5], "item 0: expected video, caption"),
    (lambda items: "text", "item 0: expected video, caption"),
    (lambda items: 5, r"mc\.json, item 0: expected video, caption"),
    (lambda items: [items[0] | dict(caption=["a", 5])], "item 0: expected video, cap"),
    (lambda items: [items[0] | dict(caption=["a", None])], "item 0: expected video"),
    (lambda items: [items[0] | dict(answer=0.5)], "item 0: expected video, caption"),
  ],
)
def test_invalid_candidates_are_rejected(tmp_path, change, message):
  path, items = candidates(tmp_path, ["a", "b"])
  path.write_text(json.dumps(change(items)))
  with pytest.raises(DataError, match=message):
    read_candidates(str(path), ["a", "b"])


def test_candidates_may_be_json_lines(tmp_path):
  ids = ["a", "b"]
  path, items = candidates(tmp_path, ids)
  lines = tmp_path / "mc.jsonl"
  with lines.open("w") as f:
    for name, item in zip(ids, items, strict=True):
      line = dict(clip_name=name, options=item["caption"], answer=item["answer"])
      f.write(json.dumps(line | dict(qid="4")) + "\n")
  found, expected = (read_candidates(str(p), ids) for p in (lines, path))
  assert found[0] == expected[0]
  assert (found[1] == expected[1]).all()
  assert found[2].tolist() == expected[2].tolist() == 2 * [False, True, False]


def no_embedding(*args):
  raise AssertionError("embedded before the request was checked")


def test_unfit_requests_are_rejected_before_embedding(run, tmp_path, monkeypatch):
  """Embedding takes hours; the mistake shows in seconds."""
  monkeypatch.setattr(base.Embedder, "videos", no_embedding)
  monkeypatch.setattr(base.Embedder, "texts", no_embedding)
  with pytest.raises(DataError, match="already exists"):
    call(run, save_embeddings=str(tmp_path))
  with pytest.raises(ConfigError, match="rescoring: is for retrieval"):
    call(run, "msrvtt_mc", Extras(rerank=2))
  with pytest.raises(DataError, match=r"bank: clip 'train-.*' is also in the test"):
    call(run, extras=Extras(querybank=0.1), changes=dict(split="train"))
  with pytest.raises(ConfigError, match="folds: 99 are more than the 16 clips"):
    call(run, changes=dict(folds=99, split="novel"))
  with pytest.raises(DataError, match=r"its label '.*' is not one of the 1"):
    call(run, "hmdb51", changes=dict(frames=4, classes={"cat": ("a cat",)}))
  built = objectives.build

  def without(*args):
    objective = built(*args)
    fewer = {k: f for k, f in objective.predict.items() if k != "match"}
    return dataclasses.replace(objective, predict=fewer)

  monkeypatch.setattr(objectives, "build", without)
  with pytest.raises(ConfigError, match="rerank: needs a checkpoint with a matching"):
    call(run, extras=Extras(rerank=2))


def test_an_empty_text_is_refused_before_any_video_is_decoded(
  run, tmp_path, monkeypatch
):
  """By `evaluate` and by the evaluators of a run, which name where it is."""
  words = load_lib.load(run[0]).tokenizer
  rows = [clips.record(f"c{i}", b"", [text]) for i, text in enumerate(["a ball", "?!"])]
  data = clips.prepare(tmp_path, dict(test=rows))
  monkeypatch.setattr(type(words), "_encode", lambda _, text: [5] * text.count("a"))
  told = r"1 of 2 texts cannot be used: {} \('\?!': empty caption: no token of it in "
  with pytest.raises(DataError, match=told.format("'c1'")):
    call(run, data=data)
  context = embed_split.make_context(
    load_lib.load(run[0]), protocols.get("custom"), data, 8
  )
  for kind in (retrieval, pictures):
    with pytest.raises(DataError, match=told.format("record 1")):
      kind.Evaluator(kind.Config("test"), context)


def test_a_bank_requires_a_train_split(run, tints, monkeypatch):
  monkeypatch.setattr(base.Embedder, "videos", no_embedding)
  data = f"{tints[0].dir}/{tints[0].name}"
  with pytest.raises(DataError, match="no split 'train'"):
    call(run, data=data, extras=Extras(querybank=0.1))


def test_results_are_written_even_if_the_embeddings_cannot_be_saved(
  run, tmp_path, capsys
):
  (tmp_path / "file").touch()
  place = str(tmp_path / "file" / "e")
  with pytest.raises(DataError, match="cannot be written"):
    call(run, out=str(tmp_path), save_embeddings=place)
  assert "t2v" in capsys.readouterr().out
  assert (tmp_path / "results.json").exists()


def test_unfit_frames_split_and_data_are_rejected(run):
  with pytest.raises(
    ConfigError, match="of 4 frames does not accept 16; --set=frames=4"
  ):
    call(run, "hmdb51")
  with pytest.raises(DataError, match="no split 'tset'; did you mean 'test'"):
    call(run, changes=dict(split="tset"))
  with pytest.raises(DataError, match="no prepared data set"):
    call(run, data="nowhere")


@pytest.mark.parametrize(
  ("spoil", "message"),
  [
    (shutil.rmtree, "not a run"),
    (lambda d: (d / "config.json").write_text("{"), "not a run"),
    (lambda d: shutil.rmtree(d / "checkpoints"), "no checkpoint; train first"),
    (lambda d: shutil.rmtree(d / "checkpoints/2/state"), "2: cannot be restored"),
  ],
)
def test_damaged_runs_are_rejected(run, tmp_path, spoil, message):
  copy = tmp_path / "copy"
  shutil.copytree(run[0], copy)
  spoil(copy)
  with pytest.raises(CheckpointError, match=message):
    load_lib.load(copy)


def test_a_checkpoint_of_another_model_is_rejected(run, tmp_path):
  shutil.copytree(run[0], tmp_path / "copy")
  config = json.loads((tmp_path / "copy/config.json").read_text())
  config["objective"]["encoder"]["mlp_dim"] += 16
  (tmp_path / "copy/config.json").write_text(json.dumps(config))
  with pytest.raises(
    CheckpointError,
    match=r"(?s)parameters differ.*config.json.*mlp/down/kernel is .*, not ",
  ):
    load_lib.load(tmp_path / "copy")


@pytest.fixture(scope="module")
def tints(tmp_path_factory):
  """(DataConfig, tokenizer) of three clips that brighten over time."""
  root = tmp_path_factory.mktemp("tints")
  rows = [clips.record(f"c{i}", clips.mp4(12, 32, 64, seed=i)) for i in range(3)]
  clips.prepare(root, dict(test=rows))
  return clips.config(root, split="test"), clips.tokenizer(root)


def brightness(params, batch):
  """A known embedding: (brightness of the clip, one), not normalised."""
  del params
  mean = batch["video"].astype(jnp.float32).mean(axis=(1, 2, 3, 4))
  return jnp.stack([mean / 20, jnp.ones_like(mean)], axis=1)


def test_recognition_requires_labels(run, tints):
  data = f"{tints[0].dir}/{tints[0].name}"
  with pytest.raises(DataError, match=r"record 0 of 'test' .* \(c0: no label\)"):
    call(run, "kinetics400", data=data, changes=dict(split="test"))


def test_evaluators_of_a_split_share_its_embeddings(tints, monkeypatch):
  """Of the same parameters; a training step gives others."""
  data, tokenizer = tints
  scaled = lambda p, b: p["scale"] * brightness(p, b)
  ones = lambda p, b: jnp.ones((len(b["text_ids"]), 2))
  model = clips.objective(embed_video=scaled, embed_text=ones)
  mesh = sharding.make_mesh(sharding.MeshConfig(-1, 1, 1))
  context = base.Context(model, clips.CLIP, clips.TEXT, data, tokenizer, mesh, 8)
  opened, read = [], base.loader.eval_videos
  tell = lambda split, *rest, **more: (
    opened.append(split.name) or read(split, *rest, **more)
  )
  monkeypatch.setattr(base.loader, "eval_videos", tell)
  one, two = dict(scale=np.float32(1)), dict(scale=np.float32(2))
  first = context.embedder.videos(one, data.open())
  assert context.embedder.videos(one, data.open()) is first
  sections = {
    n: dict(kind="retrieval", split="test", captions=n) for n in ("all", "first")
  }
  for evaluator in base.build(base.check(sections), context).values():
    evaluator.run(one)
  half = context.embedder.videos(one, data.open(f"{data.split}[:50%]"))
  np.testing.assert_array_equal(half, first[: len(half)])
  assert opened == [data.split, f"{data.split}[:50%]"]
  with pytest.raises(ValueError, match="read-only"):
    first += 1
  np.testing.assert_array_equal(context.embedder.videos(two, data.open()), 2 * first)


@pytest.mark.parametrize("average", ["before", "after"])
def test_embeddings_of_several_views_are_averaged(tints, average):
  data, tokenizer = tints
  seen = views.Views(4, "segments", 1, windows=2, crops=3)
  model = clips.objective(
    embed_video=lambda p, b: l2_normalize(brightness(p, b)),
    encode_video=brightness,
    embed_text=brightness,
  )
  mesh = sharding.make_mesh(sharding.MeshConfig(-1, 1, 1))
  context = base.Context(model, clips.CLIP, clips.TEXT, data, tokenizer, mesh, 8)
  source = data.open()
  found = base.Embedder(context, seen, average).videos({}, source)
  norm = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  example = views.ViewExample(source, data, clips.CLIP, seen)
  for i in range(3):
    shown = np.stack([example(6 * i + v)["video"] for v in range(6)])
    each = np.asarray(brightness(None, dict(video=shown)))
    mean = norm(each).mean(axis=0) if average == "after" else each.mean(axis=0)
    np.testing.assert_allclose(found[i], norm(mean), atol=1e-6)
  del model.predict["encode_video"]
  context = dataclasses.replace(context, objective=model)
  if average == "before":
    with pytest.raises(ConfigError, match="use 'after'"):
      base.Embedder(context, seen, average)
  else:
    base.Embedder(context, seen, average)
