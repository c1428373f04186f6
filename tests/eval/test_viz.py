"""The numbers behind pictures, and that pictures show them."""

import dataclasses
import io
import re
import sys
import types

import dual_cases
import flax.linen as nn
import jax
import numpy as np
import pytest
from clips import CLIP, TEXT
from conftest import ROOT, on_eight_devices
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict
from PIL import Image
from runtime_types import unchecked
from weights import draw

from configs import mac, miles, simvtp
from vtr_jax.core import batch as batch_lib
from vtr_jax.core.batch import VIDEO_MASKS, MaskSpec, patchify
from vtr_jax.core.errors import ConfigError, DataError, VtrError
from vtr_jax.core.sharding import MeshConfig, make_mesh
from vtr_jax.eval.viz import attention, base, gallery, masks, plots, space, words
from vtr_jax.objectives import base as objectives
from vtr_jax.train.loop import train_and_evaluate

MASK = MaskSpec("tube", 0.5, "replace", 0.5, False)
CAPTIONS = ["a red ball moves up", "blue box", "a small green box moves slowly"]
LONG = dataclasses.replace(
  TEXT, max_length=40
)  # its vocabulary cuts words into letters
DOT = Image.new("RGB", (1, 1))
FRAMES = np.full((4, 32, 32, 3), (200, 0, 0), np.uint8)
SCANNED = dict(scan=True, remat="full")


def subject(file, tokenizer=None, clip=CLIP, text=LONG, depth=2, **changes):
  """A small model with drawn parameters."""
  values = file.get_config("smoke").objective.to_dict()
  compute = changes.pop("compute", {})
  values |= changes
  values["compute"] |= compute
  for tower in {"video", "text", "encoder"} & set(values):
    values[tower]["depth"] = depth
  objective = objectives.build(values, clip, text, MASK)
  fake = batch_lib.fake(clip, text, MASK, 2)
  boxed = jax.eval_shape(objective.init, jax.random.key(0), fake)
  params = draw(nn.unbox(boxed))
  config = types.SimpleNamespace(clip=clip, text=text)
  mesh = make_mesh(MeshConfig(-1, 1, 1))
  return types.SimpleNamespace(
    config=config,
    objective=objective,
    params=params,
    tokenizer=tokenizer,
    mesh=mesh,
  )


def random_clips(count=3, clip=CLIP, seed=0):
  shape = (count, clip.num_frames, clip.image_size, clip.image_size, 3)
  return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def queries_and_keys(model, clips):
  """{module: [(query, key) of each layer]}, [b n d] each, as linen captures them."""

  def wanted(module, method):
    return module.name in ("query", "key") and method == "__call__"

  _, state = model.objective.model.apply(
    {"params": model.params},
    dict(video=clips),
    method="embed_video",
    capture_intermediates=wanted,
  )
  found = {}
  for path, (value,) in sorted(flatten_dict(state["intermediates"]).items()):
    if path[-1] == "__call__":
      layers = value if value.ndim == 4 else value[None]
      found.setdefault(path[-3], {}).setdefault(path[-2], []).append(layers)
  return {
    module: (np.concatenate(each["query"]), np.concatenate(each["key"]))
    for module, each in found.items()
  }


def all_pairs(query, key, heads, allowed):
  """Probabilities [b h q k] by NumPy in float64, those not `allowed` [q k] left out."""
  split = lambda x: x.reshape(*x.shape[:2], heads, -1).astype(np.float64)
  query, key = split(query), split(key)
  scores = np.einsum("bqhe,bkhe->bhqk", query, key) / np.sqrt(query.shape[-1])
  scores = np.where(allowed, np.exp(scores - scores.max()), 0)
  return scores / scores.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize(
  ("changes", "kinds"),
  [
    (dict(attention="joint", pool="cls"), ("joint",)),
    (dict(attention="joint", pool="mean", compute=SCANNED), ("joint",)),
    (dict(attention="divided", pool="cls", compute=SCANNED), ("time", "space")),
    (dict(attention="divided", pool="mean"), ("time", "space")),
    (dict(attention="divided", pool="mean", compute=SCANNED), ("time", "space")),
  ],
  ids=str,
)
def test_attention_is_that_of_all_pairs(changes, kinds):
  """Against plain attention under a mask made of the tubelets' true places."""
  model = subject(mac, clip=dual_cases.CLIP, time_init="output", **changes)
  clips = random_clips(3, dual_cases.CLIP)
  found = attention.attention(model, clips)
  assert set(found) == set(kinds)
  pairs = queries_and_keys(model, clips)
  grid = dual_cases.CLIP.grid
  cells = np.indices(grid).reshape(3, -1)
  for kind, each in found.items():
    assert each.tubelets.shape == (3, 2, 2, *grid)
    sums = each.tubelets.sum(axis=(3, 4, 5)) + each.cls
    np.testing.assert_allclose(sums, 1, atol=1e-5)
    allowed = np.ones((1 + cells.shape[1],) * 2, bool)
    if kind == "space":
      allowed[1:, 1:] = cells[0][:, None] == cells[0]
    elif kind == "time":
      same = cells[1:, :, None] == cells[1:, None]
      allowed[1:, 1:] = same.all(axis=0)
    queries, keys = pairs["time_attention" if kind == "time" else "attention"]
    for layer, (query, key) in enumerate(zip(queries, keys, strict=True)):
      probs = all_pairs(query, key, 2, allowed)
      reads = changes["pool"] == "cls"
      want = probs[:, :, 0] if reads else probs[:, :, 1:].mean(axis=2)
      got = each.tubelets[:, layer].reshape(3, 2, -1)
      np.testing.assert_allclose(got, want[:, :, 1:], atol=1e-5)
      np.testing.assert_allclose(each.cls[:, layer], want[:, :, 0], atol=1e-5)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_attention_of_frames_alone(pool):
  """Of each frame's own tokens, and frames count alike."""
  model = subject(mac, clip=dual_cases.CLIP, attention="frame", pool=pool)
  clips = random_clips(3, dual_cases.CLIP)
  (found,) = attention.attention(model, clips).values()
  np.testing.assert_allclose(found.tubelets.sum(axis=(3, 4, 5)) + found.cls, 1, 1e-5)
  query, key = queries_and_keys(model, clips)["attention"]
  probs = all_pairs(query[-1], key[-1], 2, np.ones((5, 5), bool))
  want = probs[:, :, 0] if pool == "cls" else probs[:, :, 1:].mean(axis=2)
  want = want[..., 1:].reshape(3, 4, 2, 2, 2).swapaxes(1, 2) / 4
  np.testing.assert_allclose(found.tubelets[:, -1], want, atol=1e-5)


def test_attention_of_a_probe():
  """Where an attention pooling reads, beside that of its tower."""
  towers = dict(arch="siglip", attention="joint", pool="cls", text_norm="pre")
  model = subject(mac, pos_embed="space_time", projection=32, **towers)
  clips = random_clips()
  found = attention.attention(model, clips)
  assert found["probe"].tubelets.shape == (3, 1, 2, *CLIP.grid)
  assert found["joint"].tubelets.shape == (3, 2, 2, *CLIP.grid)
  pairs = queries_and_keys(model, clips)["video_pool"]
  query, key = (x.reshape(-1, *x.shape[-2:]) for x in pairs)
  query = np.broadcast_to(query.reshape(-1, 1, query.shape[-1])[:1], (3, 1, 32))
  want = all_pairs(query, key, 2, np.ones((1, 8), bool))[:, :, 0]
  got = found["probe"].tubelets[:, 0].reshape(3, 2, 8)
  np.testing.assert_allclose(got, want, atol=1e-5)
  np.testing.assert_array_equal(found["joint"].cls, 0)


def test_attention_of_simvtp():
  model = subject(simvtp, compute=SCANNED)
  clips = random_clips()
  (found,) = attention.attention(model, clips).values()
  query, key = queries_and_keys(model, clips)["attention"]
  for layer in range(2):
    probs = all_pairs(query[layer], key[layer], 2, np.ones((8, 8), bool))
    got = found.tubelets[:, layer].reshape(3, 2, 8)
    np.testing.assert_allclose(got, probs.mean(axis=2), atol=1e-5)


def test_spread():
  even = np.full((2, 1, 2, 4, 2, 2), 1 / 16)
  point = np.zeros_like(even)
  point[..., 3, 1, 0] = 0.5  # the rest is the class token's
  of = lambda x: attention.spread(attention.Attention(x, 1 - x.sum(axis=(3, 4, 5))))
  np.testing.assert_allclose([of(even), of(point)], [1, 1 / 16])


def test_layers_and_heads_have_a_row_each(monkeypatch):
  model = subject(mac, attention="divided", pool="cls")
  drawn = []
  monkeypatch.setattr(base, "strips", lambda rows, *_, **__: drawn.append(rows) or DOT)
  clip = random_clips(1)[0]
  attention.overlay(model, clip)
  attention.overlay(model, clip, heads=True)
  attention.layers(model, clip)
  assert [len(rows) for rows in drawn] == [1 + 2, 1 + 2 * 2, 1 + 2 * 2]
  names = [name.split("\n")[0] for name, _ in drawn[2]]
  assert {"time, layer 0", "space, layer 1"} <= set(names)
  with pytest.raises(DataError, match="layer: 2, but there are 2; use 0 to 1"):
    attention.overlay(model, clip, layer=2)


@pytest.mark.parametrize(
  ("file", "changes", "first"),
  [
    (mac, dict(text_norm="post", pool="cls"), 0),
    (miles, dict(pool="mean", compute=SCANNED), None),
    (mac, dict(arch="clip", pool="cls"), -1),
    (simvtp, {}, None),
  ],
  ids=str,
)
def test_word_maps_are_cosines(file, changes, first, tokenizer):
  model = subject(file, tokenizer, **changes)
  clips = random_clips()
  found = words.word_maps(model, clips, CAPTIONS)
  batch = dict(video=clips) | base.text_rows(model, CAPTIONS)
  apply = lambda method, *args, **kw: model.objective.model.apply(
    {"params": model.params}, *args, method=method, **kw
  )
  text = np.asarray(model.objective.embed_text(model.params, batch))
  for i, each in enumerate(found):
    assert "".join(each.words) == CAPTIONS[i].replace(" ", "")
    assert each.maps.shape == (len(each.words), *CLIP.grid)
    assert each.whole.shape == CLIP.grid
  if file is simvtp:
    places = apply(lambda m, b: m.encoder(m.embed_visible(b["video"], None)), batch)
  else:
    places = apply(lambda m, b: m.project_video(m.video_tokens(b).places), batch)
  places = np.asarray(places)
  size = lambda x: np.linalg.norm(x, axis=-1, keepdims=True)
  want = np.einsum("be,bne->bn", text, places / size(places))
  got = np.stack([each.whole.reshape(-1) for each in found])
  np.testing.assert_allclose(got, want, atol=1e-5)
  # The word that the model reads means what the caption means.
  spoken = np.asarray(model.objective.embed_tokens(model.params, batch))
  np.testing.assert_allclose(size(spoken[batch["text_valid"]]), 1, atol=1e-5)
  if first is not None:
    last = batch["text_valid"].sum(axis=1) - 1
    at = last if first == -1 else np.zeros(3, int)
    np.testing.assert_allclose(spoken[np.arange(3), at], text, atol=1e-5)
  if changes.get("pool") == "mean":  # the mean of the parts is the whole
    tokens = lambda m, b: m.pool_video(m.video_tokens(b))
    whole = np.asarray(apply(tokens, batch))
    np.testing.assert_allclose(places.mean(axis=1), whole, atol=1e-5)


def test_a_picture_of_words_has_a_row_for_each(tokenizer, monkeypatch):
  model = subject(simvtp, tokenizer)
  drawn = []
  monkeypatch.setattr(base, "strips", lambda rows, *_, **__: drawn.append(rows) or DOT)
  words.picture(model, random_clips(1)[0], CAPTIONS[1])
  names = [name.split("\n")[0] for name, _ in drawn[0]]
  assert names[:2] == ["clip", "caption"]
  assert "".join(names[2:]) == "bluebox"


def test_without_words_or_decoder_it_is_told(tokenizer):
  model, clips = subject(mac, tokenizer), random_clips(1)
  bare = dataclasses.replace(model.objective, embed_tokens=None)
  with pytest.raises(ConfigError, match="no embed_tokens"):
    words.word_maps(
      types.SimpleNamespace(**vars(model) | dict(objective=bare)), clips, CAPTIONS[:1]
    )
  with pytest.raises(ConfigError, match="has no decoder"):
    masks.reconstruct(model, clips, CAPTIONS[:1])


@pytest.mark.parametrize("call", [words.word_maps, masks.reconstruct])
def test_unfit_clips_are_refused(call, tokenizer):
  model, clips = subject(simvtp, tokenizer), random_clips(2)
  with pytest.raises(DataError, match="texts: 1 of 2 clips"):
    call(model, clips, CAPTIONS[:1])
  with pytest.raises(DataError, match=r"clip 0: .*model\.clip\(video\)"):
    call(model, clips[:, :2], CAPTIONS[:2])
  with pytest.raises(DataError, match="none"):
    call(model, [], [])


def test_any_number_of_clips_on_any_number_of_devices(tokenizer):
  """Three clips on eight devices give what they give on one."""
  code = """
import sys
sys.path[:0] = ["tests", "tests/support", "tests/eval"]
import clips, numpy as np, test_viz as t
from vtr_jax.eval.viz import attention
model = t.subject(t.mac)
print(model.mesh.size, *attention.attention(model, t.random_clips())["joint"].cls.flat)
"""
  count, *values = map(float, on_eight_devices(code)[-1].split())
  assert count == 8
  found = attention.attention(subject(mac), random_clips())["joint"]
  np.testing.assert_allclose(values, found.cls.ravel(), atol=1e-5)


def test_a_hidden_tubelet_is_gray_and_no_other():
  clips = random_clips()
  idx = np.array([[0, 5], [1, 2], [6, 7]], np.int32)
  hidden = masks.masked(clips, idx, CLIP)
  before, after = (patchify(x, CLIP.tubelet_size) for x in (clips, hidden))
  for row, places in enumerate(idx):
    others = np.setdiff1d(np.arange(8), places)
    assert (after[row, places] == masks.GRAY).all()
    np.testing.assert_array_equal(after[row, others], before[row, others])
  pixels = np.take_along_axis(before, idx[:, :, None], axis=1) / np.float32(255)
  np.testing.assert_array_equal(masks.filled(hidden, idx, pixels, CLIP), clips)


@pytest.mark.parametrize("ratio", [None, 0.25, 0.8])
def test_rebuilding_at_any_ratio(ratio, tokenizer):
  """As many hidden as asked for; what is visible stays; a clip's words are told."""
  model, clips = subject(simvtp, tokenizer), random_clips()
  found = masks.reconstruct(model, clips, CAPTIONS, ratio)
  patches = [
    patchify(x, CLIP.tubelet_size) for x in (clips, found.masked, found.reconstructed)
  ]
  gray = (patches[1] == masks.GRAY).all(axis=2)
  wanted = int((MASK.video_ratio if ratio is None else ratio) * 8)
  np.testing.assert_array_equal(gray.sum(axis=1), wanted)
  np.testing.assert_array_equal(patches[0][~gray], patches[2][~gray])
  assert (patches[2][gray] != masks.GRAY).any()
  for caption, told in zip(CAPTIONS, found.words, strict=True):
    assert "".join(word for word, _, _ in told) == caption.replace(" ", "")
    assert all((guess is not None) == hidden for _, hidden, guess in told)
  assert any(hidden for told in found.words for _, hidden, _ in told)
  again = masks.reconstruct(model, clips, CAPTIONS, ratio)
  np.testing.assert_array_equal(found.reconstructed, again.reconstructed)
  other = masks.reconstruct(model, clips, CAPTIONS, ratio, seed=1)
  assert (found.masked != other.masked).any()


def test_a_ratio_that_hides_nothing_is_refused(tokenizer):
  model = subject(simvtp, tokenizer)
  with pytest.raises(ConfigError, match=r"ratio: 0\.01 masks nothing"):
    masks.reconstruct(model, random_clips(1), CAPTIONS[:1], 0.01)


def test_strips_of_ratios_and_a_gif(tokenizer):
  model, clip = subject(simvtp, tokenizer), random_clips(1)[0]
  one, two = (masks.ratios(model, clip, "a ball", n) for n in ((0.5,), (0.5, 0.8)))
  assert two.height > one.height + 100
  found = Image.open(io.BytesIO(masks.gif(model, clip, "a ball").data))
  assert found.n_frames == CLIP.num_frames
  assert found.size == (3 * (3 * CLIP.image_size + 2 * 4), 3 * CLIP.image_size)


def test_every_kind_of_mask_is_drawn(monkeypatch):
  drawn = []
  monkeypatch.setattr(base, "strips", lambda rows, *_, **__: drawn.extend(rows) or DOT)
  clip = random_clips(1)[0]
  masks.kinds(clip, CLIP, ratio=0.5)
  assert [name.split("\n")[0] for name, _ in drawn] == ["clip", *VIDEO_MASKS]
  for _, video in drawn[1:]:
    gray = (patchify(video[None], CLIP.tubelet_size) == masks.GRAY).all(axis=2)
    assert gray.sum() == 4


def test_what_a_training_would_see(tokenizer):
  config = types.SimpleNamespace(clip=CLIP, text=LONG)
  mask = MaskSpec("tube", 0.5, "replace", 1.0, False)
  found = masks.seen(random_clips(), CAPTIONS, config, mask, tokenizer)
  gray = (patchify(found.masked, CLIP.tubelet_size) == masks.GRAY).all(axis=2)
  np.testing.assert_array_equal(gray.reshape(3, 2, 4).sum(axis=2), 2)
  assert all(hidden for told in found.words for _, hidden, _ in told)
  assert not any(guess for told in found.words for _, _, guess in told)


def test_heat_is_where_the_values_are():
  values = np.zeros((2, 2, 2))
  values[1, 0, 1] = 1
  gray = base.heat(FRAMES, values)
  patches = patchify(gray[None], CLIP.tubelet_size)[0].reshape(8, -1, 3)
  shades = np.ptp(patches.astype(int), axis=2).max(axis=1)
  assert set(np.flatnonzero(shades > 10)) == {5}
  assert patches[5].mean() > patches[0].mean()
  # Beyond the scale's ends there is no more of it.
  np.testing.assert_array_equal(gray, base.heat(FRAMES, 7 * values, 0, 1))
  np.testing.assert_array_equal(gray[:2], base.heat(FRAMES, 0 * values)[:2])
  with pytest.raises(DataError, match="no grid"):
    base.heat(FRAMES, np.zeros((3, 2, 2)))


def test_strips_show_each_row_in_order():
  blue = np.full_like(FRAMES, (0, 0, 200))
  page = np.asarray(base.strips([("a", FRAMES), ("b", blue)], "title").convert("RGB"))
  rows = [
    np.nonzero((abs(page.astype(int) - color).max(axis=2) < 9).any(axis=1))[0]
    for color in ((200, 0, 0), (0, 0, 200))
  ]
  assert 80 < np.ptp(rows[0]) < 100
  assert rows[0].max() < rows[1].min()
  with pytest.raises(DataError, match="no row"):
    base.strips([])


def test_a_gif_has_all_frames(tmp_path):
  made = base.Gif([FRAMES, FRAMES[:, :, :16]], seconds=0.5, zoom=2)
  made.save(tmp_path / "a.gif")
  found = Image.open(io.BytesIO((tmp_path / "a.gif").read_bytes()))
  # Like frames become one that stays longer.
  assert found.info["duration"] * found.n_frames == 4 * 500
  assert found.size == (2 * (32 + 4 + 16), 64)
  assert "base64," in made._repr_html_()
  for clips in ([], [FRAMES, FRAMES[:2]], [FRAMES, FRAMES[:, :16]]):
    with pytest.raises(DataError, match="of one length and height"):
      base.Gif(clips)


def test_pca_is_that_of_the_covariance():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(50, 6)) * [5, 3, 1, 1, 1, 1] + 7
  points, share = space.pca(x, 3)
  values, vectors = np.linalg.eigh(np.cov(x.T))
  want = (x - x.mean(axis=0)) @ vectors[:, ::-1][:, :3]
  np.testing.assert_allclose(abs(points), abs(want), atol=1e-9)
  np.testing.assert_allclose(share, values[::-1][:3] / values.sum())
  # Signs do not depend on how it was computed.
  again, _ = space.pca(x[::-1], 3)
  np.testing.assert_allclose(again[::-1], points, atol=1e-9)
  with pytest.raises(DataError, match="no 2 axes"):
    space.pca(x[:1])


def test_the_map_shows_clips_captions_and_groups():
  x = np.random.default_rng(0).normal(size=(40, 8)).astype("f")
  plain = space.picture(x)
  groups = [f"group {i % 12}" for i in range(40)]
  full = space.picture(x, x[::-1], groups)
  assert np.ptp(np.asarray(plain.convert("RGB")).astype(int), axis=2).max() > 50
  assert (np.asarray(full) != np.asarray(plain)).any()
  with pytest.raises(DataError, match="do not fit together"):
    space.picture(x, x[:3], groups[:2])
  with pytest.raises(DataError, match="do not fit together"):
    space.embedding_map(io.BytesIO(), x, x[:2], np.array([0, 40]))
  with pytest.raises(ConfigError, match="did you mean 'pca'"):
    space.picture(x, how="pcaa")


def test_umap_is_used_where_it_is_installed(monkeypatch):
  x = np.random.default_rng(0).normal(size=(9, 4)).astype("f")
  monkeypatch.setitem(sys.modules, "umap", None)
  with pytest.raises(VtrError, match="pip install umap-learn"):
    space.umap(x)
  fake = types.ModuleType("umap")
  fake.UMAP = lambda **_: types.SimpleNamespace(fit_transform=lambda x: x[:, :2])
  monkeypatch.setitem(sys.modules, "umap", fake)
  np.testing.assert_array_equal(space.umap(x), x[:, :2])
  space.picture(x, how="umap")


def test_a_gallery_shows_the_best_first(monkeypatch):
  drawn = {}

  def keep(path, queries, strips, scores, truth):
    drawn.update(queries=queries, strips=strips, scores=scores, truth=truth)

  monkeypatch.setattr(plots, "retrievals", keep)
  sim = np.array([[0.1, 0.9, 0.5], [0.7, 0.2, 0.3], [0.0, 0.1, 0.2]])
  owner, clip = np.array([2, 0, 1]), lambda i: f"clip {i}"
  with unchecked():  # names in place of clips, and no file
    gallery.gallery(None, ["a", "b", "c"], sim, owner, clip, [0, 2])
  assert drawn["queries"] == ["a", "c"]
  assert drawn["strips"] == [
    ["clip 1", "clip 2", "clip 0"],
    ["clip 2", "clip 1", "clip 0"],
  ]
  assert drawn["scores"][0] == [0.9, 0.5, 0.1]
  assert drawn["truth"] == [2, 2]


def test_neighbours_are_the_nearest_others(monkeypatch):
  drawn = []
  monkeypatch.setattr(base, "strips", drawn.extend)
  angle = np.array([0.0, 1.0, 0.1, 0.5])
  video = np.stack([np.cos(angle), np.sin(angle)], axis=1)
  with unchecked():  # indices in place of clips
    gallery.neighbours(video, lambda i: i, 0, 2)
  assert [clip for _, clip in drawn] == [0, 2, 3]


def test_the_evaluator_and_the_page_draw(smoke, tmp_path, monkeypatch):
  """At the end of a training, and by the commands of docs/pictures.md."""
  page = (ROOT / "docs" / "pictures.md").read_text()
  commands, section = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
  config = ConfigDict(smoke | dict(steps=2, evals={}))
  config.optim.warmup_steps = 1
  exec(section, dict(config=config))
  run = tmp_path / "runs" / "simvtp-demo"
  numbers = train_and_evaluate(config.to_dict(), run)
  assert 1 / 8 <= numbers["pictures/attention/joint/spread"] <= 1
  found = {path.name for path in (run / "figures").iterdir()}
  names = ("attention", "words_0", "words_2", "space", "gallery")
  assert {f"pictures_{name}.png" for name in names} <= found
  (tmp_path / "docs").mkdir()
  monkeypatch.chdir(tmp_path)
  exec(commands, {})
  for name in ("attention", "words", "ratios"):
    with Image.open(tmp_path / f"docs/pictures_{name}.png") as made:
      assert made.width > 300
    assert (ROOT / f"docs/pictures_{name}.png").exists()


def test_queries_and_keys_are_kept_for_pictures_alone():
  """Training's programs hold no trace of them."""
  model = subject(mac, compute=SCANNED)
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
