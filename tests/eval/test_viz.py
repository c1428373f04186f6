"""Figures: masks, reconstructions, frame grids, embedding maps, retrieval results."""

import io
import re
import sys
import types

import numpy as np
import pytest
from clips import CLIP
from conftest import ROOT
from ml_collections import ConfigDict
from PIL import Image
from runtime_types import unchecked
from viz_cases import CAPTIONS, MASK, SIZES, random_clips, record_grids, small_model

from configs import mac, simvtp
from vtr_jax.core.batch import VIDEO_MASKS, MaskSpec, patchify
from vtr_jax.core.errors import ConfigError, DataError, VtrError
from vtr_jax.eval.viz import base, gallery, masks, plots, space, words
from vtr_jax.train.loop import train_and_evaluate

FRAMES = np.full((4, 32, 32, 3), (200, 0, 0), np.uint8)


@pytest.mark.parametrize("call", [words.word_maps, masks.reconstruct])
def test_unfit_clips_are_rejected(call, tokenizer):
  model, clips = small_model(simvtp, tokenizer), random_clips(2)
  with pytest.raises(DataError, match="texts: 1 for 2 clips"):
    call(model, clips, CAPTIONS[:1])
  with pytest.raises(DataError, match=r"clip 0: .*model\.clip\(video\)"):
    call(model, clips[:, :2], CAPTIONS[:2])
  with pytest.raises(DataError, match="none"):
    call(model, [], [])


def test_exactly_the_masked_tubelets_are_gray():
  clips = random_clips()
  idx = np.array([[0, 5], [1, 2], [6, 7]], np.int32)
  masked = masks.masked(clips, idx, CLIP)
  before, after = (patchify(x, CLIP.tubelet_size) for x in (clips, masked))
  for row, tubelets in enumerate(idx):
    others = np.setdiff1d(np.arange(8), tubelets)
    assert (after[row, tubelets] == masks.GRAY).all()
    np.testing.assert_array_equal(after[row, others], before[row, others])
  pixels = np.take_along_axis(before, idx[:, :, None], axis=1) / np.float32(255)
  np.testing.assert_array_equal(masks.filled(masked, idx, pixels, CLIP), clips)


@pytest.mark.parametrize("ratio", [None, 0.25, 0.8])
def test_reconstruction_changes_only_the_masked_fraction(ratio, tokenizer):
  model, clips = small_model(simvtp, tokenizer), random_clips()
  result = masks.reconstruct(model, clips, CAPTIONS, ratio)
  patches = [
    patchify(x, CLIP.tubelet_size) for x in (clips, result.masked, result.reconstructed)
  ]
  gray = (patches[1] == masks.GRAY).all(axis=2)
  count = int((MASK.video_ratio if ratio is None else ratio) * 8)
  np.testing.assert_array_equal(gray.sum(axis=1), count)
  np.testing.assert_array_equal(patches[0][~gray], patches[2][~gray])
  assert (patches[2][gray] != masks.GRAY).any()
  for caption, tokens in zip(CAPTIONS, result.words, strict=True):
    assert "".join(token for token, _, _ in tokens) == caption.replace(" ", "")
    assert all((prediction is not None) == masked for _, masked, prediction in tokens)
  assert any(masked for tokens in result.words for _, masked, _ in tokens)
  again = masks.reconstruct(model, clips, CAPTIONS, ratio)
  np.testing.assert_array_equal(result.reconstructed, again.reconstructed)
  other = masks.reconstruct(model, clips, CAPTIONS, ratio, seed=1)
  assert (result.masked != other.masked).any()


@pytest.mark.parametrize(
  ("file", "message"),
  [(simvtp, r"ratio: 0\.01 masks nothing"), (mac, "has no decoder")],
)
def test_reconstruction_requires_a_decoder_and_a_mask(file, message, tokenizer):
  model = small_model(file, tokenizer)
  with pytest.raises(ConfigError, match=message):
    masks.reconstruct(model, random_clips(1), CAPTIONS[:1], 0.01)


def test_ratios_and_gif_draw_every_reconstruction(tokenizer):
  model, clip = small_model(simvtp, tokenizer), random_clips(1)[0]
  one, two = (masks.ratios(model, clip, "a ball", n) for n in ((0.5,), (0.5, 0.8)))
  assert two.height > one.height + 100
  gif = Image.open(io.BytesIO(masks.gif(model, clip, "a ball").data))
  assert gif.n_frames == CLIP.num_frames
  assert gif.size == (3 * (3 * CLIP.image_size + 2 * 4), 3 * CLIP.image_size)


def test_every_kind_of_mask_is_drawn(monkeypatch):
  grids = record_grids(monkeypatch)
  clip = random_clips(1)[0]
  masks.kinds(clip, CLIP, ratio=0.5)
  (rows,) = grids
  assert [name.split("\n")[0] for name, _ in rows] == ["clip", *VIDEO_MASKS]
  for _, video in rows[1:]:
    gray = (patchify(video[None], CLIP.tubelet_size) == masks.GRAY).all(axis=2)
    assert gray.sum() == 4


def test_masked_inputs_are_masked_as_in_training(tokenizer):
  mask = MaskSpec("tube", 0.5, "replace", 1.0, False)
  result = masks.masked_inputs(random_clips(), CAPTIONS, SIZES, mask, tokenizer)
  gray = (patchify(result.masked, CLIP.tubelet_size) == masks.GRAY).all(axis=2)
  np.testing.assert_array_equal(gray.reshape(3, 2, 4).sum(axis=2), 2)
  assert all(masked for tokens in result.words for _, masked, _ in tokens)
  assert not any(prediction for tokens in result.words for *_, prediction in tokens)


def test_a_heatmap_colours_the_tubelets_with_high_values():
  values = np.zeros((2, 2, 2))
  values[1, 0, 1] = 1
  heatmap = base.heatmap(FRAMES, values)
  patches = patchify(heatmap[None], CLIP.tubelet_size)[0].reshape(8, -1, 3)
  shades = np.ptp(patches.astype(int), axis=2).max(axis=1)
  assert set(np.flatnonzero(shades > 10)) == {5}
  assert patches[5].mean() > patches[0].mean()
  # Values are clipped to the scale.
  np.testing.assert_array_equal(heatmap, base.heatmap(FRAMES, 7 * values, 0, 1))
  np.testing.assert_array_equal(heatmap[:2], base.heatmap(FRAMES, 0 * values)[:2])
  with pytest.raises(DataError, match="does not divide"):
    base.heatmap(FRAMES, np.zeros((3, 2, 2)))


def test_a_frame_grid_has_its_rows_in_order():
  blue = np.full_like(FRAMES, (0, 0, 200))
  page = np.asarray(
    base.frame_grid([("a", FRAMES), ("b", blue)], "title").convert("RGB")
  )
  rows = [
    np.nonzero((abs(page.astype(int) - color).max(axis=2) < 9).any(axis=1))[0]
    for color in ((200, 0, 0), (0, 0, 200))
  ]
  assert 80 < np.ptp(rows[0]) < 100
  assert rows[0].max() < rows[1].min()
  with pytest.raises(DataError, match="no rows"):
    base.frame_grid([])


def test_a_gif_has_all_frames_of_all_clips(tmp_path):
  gif = base.Gif([FRAMES, FRAMES[:, :, :16]], seconds=0.5, zoom=2)
  gif.save(tmp_path / "a.gif")
  image = Image.open(io.BytesIO((tmp_path / "a.gif").read_bytes()))
  # Equal frames are merged into one of longer duration.
  assert image.info["duration"] * image.n_frames == 4 * 500
  assert image.size == (2 * (32 + 4 + 16), 64)
  assert "base64," in gif._repr_html_()
  for clips in ([], [FRAMES, FRAMES[:2]], [FRAMES, FRAMES[:, :16]]):
    with pytest.raises(DataError, match="of equal length and height"):
      base.Gif(clips)


def test_pca_equals_the_eigenvectors_of_the_covariance():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(50, 6)) * [5, 3, 1, 1, 1, 1] + 7
  points, ratios = space.pca(x, 3)
  values, vectors = np.linalg.eigh(np.cov(x.T))
  expected = (x - x.mean(axis=0)) @ vectors[:, ::-1][:, :3]
  np.testing.assert_allclose(abs(points), abs(expected), atol=1e-9)
  np.testing.assert_allclose(ratios, values[::-1][:3] / values.sum())
  # Signs do not depend on the order of the rows.
  again, _ = space.pca(x[::-1], 3)
  np.testing.assert_allclose(again[::-1], points, atol=1e-9)
  with pytest.raises(DataError, match="fewer than 2 axes"):
    space.pca(x[:1])


def test_the_embedding_map_draws_clips_captions_and_groups():
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


def test_umap_is_used_if_installed(monkeypatch):
  x = np.random.default_rng(0).normal(size=(9, 4)).astype("f")
  monkeypatch.setitem(sys.modules, "umap", None)
  with pytest.raises(VtrError, match="pip install umap-learn"):
    space.umap(x)
  fake = types.ModuleType("umap")
  fake.UMAP = lambda **_: types.SimpleNamespace(fit_transform=lambda x: x[:, :2])
  monkeypatch.setitem(sys.modules, "umap", fake)
  np.testing.assert_array_equal(space.umap(x), x[:, :2])
  space.picture(x, how="umap")


def test_a_gallery_shows_the_top_clips_and_the_rank(monkeypatch):
  drawn = {}

  def keep(path, queries, videos, scores, truth):
    drawn.update(queries=queries, videos=videos, scores=scores, truth=truth)

  monkeypatch.setattr(plots, "retrievals", keep)
  sim = np.array([[0.1, 0.9, 0.5], [0.7, 0.2, 0.3], [0.0, 0.1, 0.2]])
  owner, clip = np.array([2, 0, 1]), lambda i: f"clip {i}"
  with unchecked():  # strings instead of clips, and no file
    gallery.gallery(None, ["a", "b", "c"], sim, owner, clip, [0, 2])
  assert drawn["queries"] == ["a", "c"]
  assert drawn["videos"] == [
    ["clip 1", "clip 2", "clip 0"],
    ["clip 2", "clip 1", "clip 0"],
  ]
  assert drawn["scores"][0] == [0.9, 0.5, 0.1]
  assert drawn["truth"] == [2, 2]


def test_neighbours_are_the_nearest_others(monkeypatch):
  grids = record_grids(monkeypatch)
  angle = np.array([0.0, 1.0, 0.1, 0.5])
  video = np.stack([np.cos(angle), np.sin(angle)], axis=1)
  with unchecked():  # indices instead of clips
    gallery.neighbours(video, lambda i: i, 0, 2)
  assert [clip for _, clip in grids[0]] == [0, 2, 3]


@pytest.mark.nightly  # by day: each picture by itself
def test_the_evaluator_and_the_commands_of_the_docs_write_all_figures(
  smoke, tmp_path, monkeypatch
):
  """At the end of training, and by the commands of docs/pictures.md."""
  page = (ROOT / "docs" / "pictures.md").read_text()
  commands, section = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
  config = ConfigDict(smoke | dict(steps=2, evals={}))
  config.optim.warmup_steps = 1
  exec(section, dict(config=config))
  run = tmp_path / "runs" / "simvtp-demo"
  results = train_and_evaluate(config.to_dict(), run)
  assert 1 / 8 <= results["pictures/attention/joint/perplexity"] <= 1
  files = {path.name for path in (run / "figures").iterdir()}
  names = ("attention", "words_0", "words_2", "space", "gallery")
  assert {f"pictures_{name}.png" for name in names} <= files
  (tmp_path / "docs").mkdir()
  (run.parent / "simvtp-fine").symlink_to(run)
  monkeypatch.chdir(tmp_path)
  exec(commands, {})
  for name in ("attention", "words", "ratios"):
    with Image.open(tmp_path / f"docs/pictures_{name}.png") as made:
      assert made.width > 300
    assert (ROOT / f"docs/pictures_{name}.png").exists()
