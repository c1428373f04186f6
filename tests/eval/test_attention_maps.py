"""Attention and token maps: against plain attention and cosines in NumPy."""

import dataclasses

import dual_cases
import jax
import numpy as np
import pytest
from clips import CLIP
from conftest import on_eight_devices
from flax.traverse_util import flatten_dict
from viz_cases import CAPTIONS, SCANNED, random_clips, record_grids, small_model

from configs import mac, miles, simvtp
from vtr_jax.core.errors import ConfigError, DataError
from vtr_jax.eval.viz import attention, base, words


def queries_and_keys(model, clips):
  """module -> (queries, keys) [layers b n d], as captured by linen."""

  def projections(module, method):
    return module.name in ("query", "key") and method == "__call__"

  _, state = model.objective.model.apply(
    {"params": model.params},
    dict(video=clips),
    method="embed_video",
    capture_intermediates=projections,
  )
  captured = {}
  for path, (value,) in sorted(flatten_dict(state["intermediates"]).items()):
    if path[-1] == "__call__":
      layers = value if value.ndim == 4 else value[None]
      captured.setdefault(path[-3], {}).setdefault(path[-2], []).append(layers)
  return {
    module: (np.concatenate(pair["query"]), np.concatenate(pair["key"]))
    for module, pair in captured.items()
  }


def all_pairs(query, key, heads, allowed):
  """Probabilities [b h q k] by NumPy in float64; 0 where not `allowed` [q k]."""
  split = lambda x: x.reshape(*x.shape[:2], heads, -1).astype(np.float64)
  query, key = split(query), split(key)
  scores = np.einsum("bqhe,bkhe->bhqk", query, key) / np.sqrt(query.shape[-1])
  scores = np.where(allowed, np.exp(scores - scores.max()), 0)
  return scores / scores.sum(axis=-1, keepdims=True)


def allowed_pairs(kind, grid, first):
  """Which tokens [q k] attend to each other; the first `first` are class tokens."""
  cells = np.indices(grid).reshape(3, -1)
  allowed = np.ones((first + cells.shape[1],) * 2, bool)
  if kind == "space":
    allowed[1:, 1:] = cells[0][:, None] == cells[0]
  elif kind == "time":
    allowed[1:, 1:] = (cells[1:, :, None] == cells[1:, None]).all(axis=0)
  return allowed


@pytest.mark.parametrize(
  ("file", "changes", "kinds"),
  [
    (mac, dict(backbone="vit", pool="cls"), ("joint",)),
    (mac, dict(backbone="vit", pool="mean", compute=SCANNED), ("joint",)),
    (mac, dict(backbone="divided", pool="cls", compute=SCANNED), ("time", "space")),
    (mac, dict(backbone="divided", pool="mean"), ("time", "space")),
    (mac, dict(backbone="divided", pool="mean", compute=SCANNED), ("time", "space")),
    (simvtp, dict(compute=SCANNED), ("joint",)),
  ],
  ids=str,
)
def test_attention_equals_that_of_all_pairs(file, changes, kinds):
  clip = CLIP if file is simvtp else dual_cases.CLIP
  first = 0 if file is simvtp else 1  # class tokens
  changes = changes | (dict(time_init="output") if file is mac else {})
  model, clips = small_model(file, clip=clip, **changes), random_clips(3, clip)
  attentions = attention.attention(model, clips)
  assert set(attentions) == set(kinds)
  pairs = queries_and_keys(model, clips)
  for kind, weights in attentions.items():
    assert weights.tubelets.shape == (3, 2, 2, *clip.grid)
    sums = weights.tubelets.sum(axis=(3, 4, 5)) + weights.cls
    np.testing.assert_allclose(sums, 1, atol=1e-5)
    allowed = allowed_pairs(kind, clip.grid, first)
    queries, keys = pairs["time_attention" if kind == "time" else "attention"]
    for layer, (query, key) in enumerate(zip(queries, keys, strict=True)):
      probs = all_pairs(query, key, 2, allowed)
      reads_class = changes.get("pool") == "cls"
      expected = probs[:, :, 0] if reads_class else probs[:, :, first:].mean(axis=2)
      tubelets = weights.tubelets[:, layer].reshape(3, 2, -1)
      np.testing.assert_allclose(tubelets, expected[:, :, first:], atol=1e-5)
      cls = expected[:, :, :first].sum(axis=2)
      np.testing.assert_allclose(weights.cls[:, layer], cls, atol=1e-5)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_attention_of_independent_frames_is_averaged_over_frames(pool):
  model = small_model(mac, clip=dual_cases.CLIP, backbone="frame", pool=pool)
  clips = random_clips(3, dual_cases.CLIP)
  (weights,) = attention.attention(model, clips).values()
  sums = weights.tubelets.sum(axis=(3, 4, 5)) + weights.cls
  np.testing.assert_allclose(sums, 1, 1e-5)
  query, key = queries_and_keys(model, clips)["attention"]
  probs = all_pairs(query[-1], key[-1], 2, np.ones((5, 5), bool))
  expected = probs[:, :, 0] if pool == "cls" else probs[:, :, 1:].mean(axis=2)
  expected = expected[..., 1:].reshape(3, 4, 2, 2, 2).swapaxes(1, 2) / 4
  np.testing.assert_allclose(weights.tubelets[:, -1], expected, atol=1e-5)


@pytest.mark.nightly
def test_attention_pooling_has_a_map_of_its_own():
  towers = dict(arch="siglip", backbone="vit", pool="cls", text_norm="pre")
  model = small_model(mac, pos_embed="space_time", projection=32, **towers)
  clips = random_clips()
  attentions = attention.attention(model, clips)
  assert attentions["probe"].tubelets.shape == (3, 1, 2, *CLIP.grid)
  assert attentions["joint"].tubelets.shape == (3, 2, 2, *CLIP.grid)
  pairs = queries_and_keys(model, clips)["video_pool"]
  query, key = (x.reshape(-1, *x.shape[-2:]) for x in pairs)
  query = np.broadcast_to(query.reshape(-1, 1, query.shape[-1])[:1], (3, 1, 32))
  expected = all_pairs(query, key, 2, np.ones((1, 8), bool))[:, :, 0]
  probe = attentions["probe"].tubelets[:, 0].reshape(3, 2, 8)
  np.testing.assert_allclose(probe, expected, atol=1e-5)
  np.testing.assert_array_equal(attentions["joint"].cls, 0)


def test_perplexity_is_1_if_uniform_and_1_over_n_at_one_tubelet():
  uniform = np.full((2, 1, 2, 4, 2, 2), 1 / 16)
  point = np.zeros_like(uniform)
  point[..., 3, 1, 0] = 0.5  # the class token has the rest
  perplexity = lambda x: attention.normalized_perplexity(
    attention.Attention(x, 1 - x.sum(axis=(3, 4, 5)))
  )
  np.testing.assert_allclose([perplexity(uniform), perplexity(point)], [1, 1 / 16])


def test_layers_and_heads_have_a_row_each(monkeypatch):
  grids = record_grids(monkeypatch)
  model, clip = small_model(mac, backbone="divided", pool="cls"), random_clips(1)[0]
  attention.overlay(model, clip)
  attention.overlay(model, clip, heads=True)
  attention.layers(model, clip)
  assert [len(rows) for rows in grids] == [1 + 2, 1 + 2 * 2, 1 + 2 * 2]
  names = [name.split("\n")[0] for name, _ in grids[2]]
  assert {"time, layer 0", "space, layer 1"} <= set(names)
  with pytest.raises(DataError, match="layer: 2, but there are 2; use 0 to 1"):
    attention.overlay(model, clip, layer=2)


@pytest.mark.parametrize(
  ("file", "changes", "first"),
  [
    pytest.param(mac, dict(text_norm="post", pool="cls"), 0, marks=pytest.mark.nightly),
    pytest.param(
      *(miles, dict(pool="mean", compute=SCANNED), None), marks=pytest.mark.nightly
    ),
    pytest.param(mac, dict(arch="clip", pool="cls"), -1, marks=pytest.mark.nightly),
    (simvtp, {}, None),
  ],
  ids=str,
)
def test_token_maps_are_cosines(file, changes, first, tokenizer):
  model, clips = small_model(file, tokenizer, **changes), random_clips()
  maps = words.word_maps(model, clips, CAPTIONS)
  batch = dict(video=clips) | base.text_rows(model, CAPTIONS)
  apply = lambda method: np.asarray(
    model.objective.model.apply({"params": model.params}, batch, method=method)
  )
  text = np.asarray(model.objective.predict["embed_text"](model.params, batch))
  for caption, cosines in zip(CAPTIONS, maps, strict=True):
    assert "".join(cosines.words) == caption.replace(" ", "")
    assert cosines.maps.shape == (len(cosines.words), *CLIP.grid)
    assert cosines.caption.shape == CLIP.grid
  if file is simvtp:
    patches = apply(lambda m, b: m.encoder(m.embed_visible(b["video"], None)))
  else:
    patches = apply(lambda m, b: m.project_video(m.video_tokens(b).patches))
  norm = lambda x: np.linalg.norm(x, axis=-1, keepdims=True)
  expected = np.einsum("be,bne->bn", text, patches / norm(patches))
  caption_maps = np.stack([cosines.caption.reshape(-1) for cosines in maps])
  np.testing.assert_allclose(caption_maps, expected, atol=1e-5)
  tokens = np.asarray(model.objective.predict["embed_tokens"](model.params, batch))
  np.testing.assert_allclose(norm(tokens[batch["text_valid"]]), 1, atol=1e-5)
  if first is not None:  # the token that the model reads has the caption's embedding
    last = batch["text_valid"].sum(axis=1) - 1
    position = last if first == -1 else np.zeros(3, int)
    np.testing.assert_allclose(tokens[np.arange(3), position], text, atol=1e-5)
  if changes.get("pool") == "mean":  # the clip's embedding is the mean of the patches
    video = apply(lambda m, b: m.pool_video(m.video_tokens(b)))
    np.testing.assert_allclose(patches.mean(axis=1), video, atol=1e-5)


def test_the_figure_of_token_maps_has_a_row_per_token(tokenizer, monkeypatch):
  grids = record_grids(monkeypatch)
  words.picture(small_model(simvtp, tokenizer), random_clips(1)[0], CAPTIONS[1])
  names = [name.split("\n")[0] for name, _ in grids[0]]
  assert names[:2] == ["clip", "caption"]
  assert "".join(names[2:]) == "bluebox"


def test_token_maps_require_embeddings_of_tokens(tokenizer):
  model = small_model(mac, tokenizer)
  fewer = {k: f for k, f in model.objective.predict.items() if k != "embed_tokens"}
  bare = dataclasses.replace(model.objective, predict=fewer)
  with pytest.raises(ConfigError, match="token maps: needs embed_tokens"):
    words.word_maps(model._replace(objective=bare), random_clips(1), CAPTIONS[:1])


@pytest.mark.nightly
def test_three_clips_on_eight_devices_give_the_same_as_on_one():
  printed = on_eight_devices("attention_on_devices")[-1]
  count, *values = map(float, printed.split())
  assert count == 8
  joint = attention.attention(small_model(mac), random_clips())["joint"]
  np.testing.assert_allclose(values, joint.cls.ravel(), atol=1e-5)


def test_queries_and_keys_are_no_output_of_training():
  model = small_model(mac, compute=SCANNED)
  batch = dict(video=random_clips())
  apply = lambda **kw: jax.eval_shape(
    lambda p: model.objective.model.apply(
      {"params": p}, batch, method="embed_video", **kw
    ),
    model.params,
  )
  assert apply().shape == (3, 256)
  _, state = apply(mutable=["intermediates"])
  sown = jax.tree.leaves(state)
  assert [x.shape for x in sown] == [(2, 3, 9, 2, 16)] * 2
