import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from runtime_types import unchecked

from vtr_jax.core.errors import DataError, VtrError
from vtr_jax.eval.viz import plots

RED = np.full((4, 32, 32, 3), (200, 0, 0), np.uint8)
BLUE = np.full((4, 32, 32, 3), (0, 0, 200), np.uint8)
GRAY = np.full((4, 32, 32, 3), 128, np.uint8)


def draw(function, *args, **kwargs):
  """The figure that `function` writes, uint8 [h, w, 3]."""
  file = io.BytesIO()
  function(file, *args, **kwargs)
  image = Image.open(file)
  assert image.format == "PNG"
  pixels = np.asarray(image.convert("RGB"))
  assert min(pixels.shape[:2]) > 100
  assert max(pixels.shape[:2]) < 4000
  return pixels


def near(pixels, color, within=12):
  """Where the pixels have about this colour, bool [h, w]."""
  return (np.abs(pixels.astype(int) - color) <= within).all(axis=-1)


def hex_color(code):
  return [int(code[i : i + 2], 16) for i in (1, 3, 5)]


def test_reconstruction_draws_the_three_videos_in_order():
  pixels = draw(plots.reconstruction, [RED], [GRAY], [BLUE], [[("dog", False, None)]])
  middles = [
    np.nonzero(near(pixels, color))[0].mean()
    for color in ((200, 0, 0), (128, 128, 128), (0, 0, 200))
  ]
  assert middles == sorted(middles)
  assert min(np.diff(middles)) > 100
  # Labels end before the videos.
  rows, columns = np.nonzero(near(pixels, (0, 0, 200)))
  video = np.s_[rows.min() : rows.max(), columns.min() - 8 : columns.min() - 2]
  assert near(pixels[video], (255, 255, 255)).all()


@pytest.mark.parametrize(
  ("guess", "right", "wrong"), [("dog", True, False), ("cat", False, True)]
)
def test_reconstruction_marks_correct_and_wrong_predictions(guess, right, wrong):
  words = [("a", False, None), ("dog", True, guess)]
  pixels = draw(plots.reconstruction, [GRAY], [GRAY], [GRAY], [words])
  assert near(pixels, hex_color(plots.canvas.BOX)).sum() > 100
  # Marks in the legend are gray; colours occur only in predictions.
  assert near(pixels, hex_color(plots.canvas.GREEN)).any() == right
  assert near(pixels, hex_color(plots.canvas.RED)).any() == wrong


def test_reconstruction_accepts_any_number_of_frames_and_tokens():
  many = np.concatenate([RED] * 8)
  words = [(f"word{i} costs $5_{{", i % 3 == 0, None) for i in range(60)]
  short = draw(plots.reconstruction, [RED[:1]], [RED[:1]], [RED[:1]], [[]])
  videos = [RED[:1], many, np.concatenate([RED, RED], axis=2)]
  tall = draw(plots.reconstruction, videos, videos, videos, [[], words, words])
  assert len(tall) > 3 * len(short) - 200


def test_retrievals_frame_the_correct_video():
  found = []
  for rank in (1, 3, 40):
    pixels = draw(
      plots.retrievals, ["a dog"], [[RED] * 5], [[0.9, 0.8, 0.7, 0.6, 0.5]], [rank]
    )
    columns = np.nonzero(near(pixels, hex_color(plots.canvas.GREEN)))[1]
    found.append(columns.mean() / pixels.shape[1] if columns.size else None)
  assert 0 < found[0] < 0.2
  assert 0.4 < found[1] < 0.6
  assert found[2] is None


def test_retrievals_draw_videos_in_order_and_accept_any_number():
  pixels = draw(plots.retrievals, ["q"], [[RED, BLUE]], [[0.9, 0.8]], [2])
  red, blue = (np.nonzero(near(pixels, c))[1] for c in ((200, 0, 0), (0, 0, 200)))
  assert red.max() < blue.min()
  queries, strips = ["word " * 100, ""], [[RED] * 7, [BLUE[:1]]]
  tall = draw(plots.retrievals, queries, strips, [[0.5] * 7, [0.1]], [1, 9])
  assert len(tall) > 2 * len(pixels)


@pytest.mark.parametrize(("texts", "videos"), [(1, 1), (20, 20), (1200, 1200), (60, 7)])
def test_similarity_is_highest_at_the_correct_pairs(texts, videos):
  owner = np.arange(texts) * videos // texts
  sim = np.where(owner[:, None] == np.arange(videos), 1.0, 0.0)
  upright = draw(plots.similarity, sim, owner=owner)
  flipped = draw(plots.similarity, sim[::-1], owner=owner[::-1])
  assert upright.shape == flipped.shape
  assert (upright != flipped).any() == (texts > 1)
  if texts > 1:
    rows, columns = np.nonzero(near(upright[:, :630], hex_color("#FDE725"), 60))
    assert rows.size > 200
    assert np.corrcoef(rows, columns)[0, 1] > 0.9


@pytest.mark.parametrize("count", [1, 18, 70])
def test_confusion_is_in_fractions_of_each_row(count):
  names = [f"class $_{{ {i}" for i in range(count)]
  # Rows of different sizes are normalised.
  counts = np.diag(np.arange(1.0, count + 1))
  right = draw(plots.confusion, counts, names, "right")
  dark = near(right, hex_color("#08306B"))[:, : int(right.shape[1] * 0.85)]
  rows, columns = np.nonzero(dark)
  assert rows.size > 100
  if count > 1:
    assert np.corrcoef(rows, columns)[0, 1] > 0.9
    wrong = draw(plots.confusion, counts[::-1], names, "right")
    assert (right != wrong).any()


def test_confusion_accepts_a_class_without_clips():
  draw(plots.confusion, np.array([[0.0, 0.0], [1.0, 2.0]]), ["none", "some"], "title")


def test_curves_follow_the_logged_values():
  steps = np.arange(300)
  down = [{"step": int(s), "loss/total": 300.0 - s} for s in steps]
  up = [{"step": int(s), "loss/total": 0.0 + s} for s in steps]
  figures = [draw(plots.curves, records) for records in (down, up)]
  slopes = []
  for pixels in figures:
    plot = pixels[80:-80, 80 : pixels.shape[1] // 2]
    rows, columns = np.nonzero(near(plot, hex_color(plots.canvas.INK)))
    slopes.append(np.corrcoef(rows, columns)[0, 1])
  assert slopes[0] > 0.9
  assert slopes[1] < -0.9


def test_curves_separate_recalls_from_losses():
  losses = [{"step": 1, "loss/total": 2.0}, {"step": 2, "loss/total": 1.0}]
  recalls = [{"step": 2, "test/t2v/R@1": 50.0, "t2v/R@1": 10.0, "t2v/MedR": 3.0}]
  blue = hex_color(plots.canvas.CYCLE[0])
  half = draw(plots.curves, losses).shape[1] // 2
  assert not near(draw(plots.curves, losses)[:, half:], blue).any()
  assert near(draw(plots.curves, losses + recalls)[:, half:], blue).any()
  assert near(draw(plots.curves, recalls)[:, half:], blue).any()


def test_curves_accept_gaps_and_restarts():
  values = [np.nan, 2.0, np.inf, None, 1.0]
  records = [{"step": i, "loss/vtc": v} for i, v in enumerate(values)]
  records += [{"step": 7, "loss/total": float("nan")}, {"step": 7, "loss/total": 1e30}]
  draw(plots.curves, records)
  draw(plots.curves, [{"step": 0, "loss/total": float("nan")}])
  again = [{"step": 1, "loss/vtc": 9.0}, {"step": 0, "loss/vtc": 1.0}]
  clean = [{"step": 0, "loss/vtc": 1.0}, {"step": 1, "loss/vtc": 2.0}]
  late = draw(plots.curves, [*again, {"step": 1, "loss/vtc": 2.0}])
  np.testing.assert_array_equal(late, draw(plots.curves, clean))


def test_figures_are_written_to_paths_and_strings(tmp_path):
  paths = [tmp_path / "path.png", str(tmp_path / "name.png")]
  for path in paths:
    plots.similarity(path, np.eye(3))
  first, second = (
    np.asarray(Image.open(io.BytesIO(p.read_bytes())))
    for p in sorted(tmp_path.iterdir())
  )
  np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda f: plots.curves(f, [{"step": 1, "lr": 0.1}]), "no loss and no R@K"),
    (lambda f: plots.similarity(f, np.eye(3), owner=np.arange(2)), "owner"),
    (lambda f: plots.similarity(f, np.zeros((0, 3))), "at least one"),
    (lambda f: plots.confusion(f, np.eye(3), ["a", "b"], "title"), "2 names"),
    (lambda f: plots.confusion(f, np.zeros((0, 0)), [], "title"), "0 names"),
    (lambda f: plots.reconstruction(f, [], [], [], []), "at least one"),
    (lambda f: plots.reconstruction(f, [RED], [RED], [], [[]]), "0 of predicted"),
    (lambda f: plots.retrievals(f, ["a"], [[RED]], [[1.0, 2.0]], [1]), "2 of scores"),
    (lambda f: plots.retrievals(f, ["a"], [[RED / 255]], [[1.0]], [1]), "uint8"),
  ],
)
def test_unfit_arrays_are_rejected(call, message):
  with unchecked(), pytest.raises(DataError, match=message):
    call(io.BytesIO())


def test_missing_matplotlib_is_an_error_that_names_the_package(monkeypatch):
  for name in [m for m in sys.modules if m.split(".")[0] == "matplotlib"]:
    monkeypatch.delitem(sys.modules, name)
  monkeypatch.setitem(sys.modules, "matplotlib", None)
  with pytest.raises(VtrError, match="pip install matplotlib"):
    plots.similarity(io.BytesIO(), np.eye(2))


def test_importing_plots_does_not_import_matplotlib():
  code = "import sys, vtr_jax.eval.viz.plots; sys.exit('matplotlib' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", code]).returncode == 0
