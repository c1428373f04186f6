"""Windows of a video, their scores, the head, and the moment of a search's hit."""

import io

import av
import jax
import numpy as np
import pytest
from training import trained_smoke

from configs import mac
from vtr_jax.core.errors import ConfigError, DataError, DivergedError
from vtr_jax.data.notes import Note
from vtr_jax.eval import highlights, moments
from vtr_jax.inference.load import load
from vtr_jax.inference.model import LoadedModel
from vtr_jax.moments import features, head, refine, zero_shot
from vtr_jax.moments.features import Features
from vtr_jax.moments.grid import Grid

GRID = Grid((1.0, 2.0), 0.5)


def test_windows_of_each_length_start_at_every_step_and_reach_the_end():
  found = GRID.windows(2.7)
  wanted = [(0, 1), (0, 2), (0.5, 1.5), (0.5, 2.5), (0.7, 2.7), (1, 2), (1.5, 2.5)]
  np.testing.assert_allclose(found, [*wanted, (1.7, 2.7)])
  np.testing.assert_allclose(GRID.windows(5, 3.5), [(3.5, 4.5), (3.5, 5), (4, 5)])
  np.testing.assert_allclose(GRID.windows(0.4), [(0, 0.4)])
  np.testing.assert_allclose(GRID.cells(1.25), [0.25, 0.75, 1.125])


@pytest.mark.parametrize("lengths", [(), (2.0, 1.0), (1.0, 1.0), (0.01,)])
def test_lengths_that_are_no_lengths_are_rejected(lengths):
  with pytest.raises(ConfigError, match="ascending"):
    Grid(lengths)


def test_the_best_window_comes_first_and_those_much_like_it_are_left_out():
  times = np.array([(0.0, 2.0), (0.5, 2.5), (4.0, 6.0), (4.0, 5.0)])
  found = zero_shot.ranked(times, np.array([0.1, 0.4, 0.2, 0.3]))
  # (0, 2) overlaps (0.5, 2.5) by 0.6; (4, 6) and (4, 5) by 0.5, which is kept.
  assert found == [[0.5, 2.5, 0.4], [4, 5, 0.3], [4, 6, 0.2]]


def test_scores_are_cosines_less_their_mean_over_the_video():
  vectors = np.array([(1.0, 0.0), (0.6, 0.8)], np.float16)
  found = zero_shot.scores(vectors, np.array([(1.0, 0.0)], np.float32))
  np.testing.assert_allclose(found, [[0.2, -0.2]], atol=1e-3)


def test_the_curve_is_the_mean_of_the_windows_around_a_step():
  times = np.array([(0.0, 1.0), (0.0, 2.0), (1.0, 2.0)])
  found = zero_shot.curve(Grid((1.0, 2.0), 1.0), times, np.array([3.0, 1.0, 5.0]))
  np.testing.assert_allclose(found, [2, 3])


def test_clips_of_highlights_have_the_mean_of_the_windows_around_their_middle():
  times = np.array([(0.0, 2.0), (1.0, 3.0), (2.0, 4.0), (4.0, 6.0)])
  scores = np.array([[0.9, 0.5, 0.1, 0.2], [0.0, 0.0, -1.0, 1.0]])
  found = [zero_shot.saliency(7.5, times, score) for score in scores]
  np.testing.assert_allclose(found, [[0.7, 0.1, 0.2], [0, -1, 1]])
  # No window reaches the middle of the fifth clip: it has the score of the nearest.
  longer = zero_shot.saliency(10.0, times, scores[1])
  np.testing.assert_allclose(longer[3:], [1, 1])
  rated = [highlights.ratings(((i, 4, 1),), 7.5) for i in (0, 2)]
  results = highlights.summarize(found, rated)
  assert (results["VeryGood/mAP"], results["VeryGood/Hit@1"]) == (50, 100)


def story(rng, events=8, width=32):
  """Features of a video of events, one direction each, and queries for some."""
  lengths = rng.uniform(1, 4, events)
  edges = np.concatenate([[0], lengths.cumsum()])
  times = GRID.windows(edges[-1])
  overlap = np.minimum(times[:, 1:], edges[1:]) - np.maximum(times[:, :1], edges[:-1])
  directions = rng.normal(size=(events, width))
  directions /= np.linalg.norm(directions, axis=1, keepdims=True)
  vectors = np.maximum(overlap, 0) @ directions
  vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
  asked = [
    Note("moment", str(i), "x", windows=((edges[i], edges[i + 1]),)) for i in range(3)
  ]
  return Features(times, vectors), directions[:3].astype(np.float32), asked


@pytest.fixture(scope="module")
def stories():
  rng = np.random.default_rng(0)
  return [story(rng) for _ in range(96)]


@pytest.fixture(scope="module")
def trained(stories):
  recipe = head.Recipe(epochs=40, lr=3e-3, width=32)
  return head.fit(recipe, GRID, *zip(*stories[:64], strict=True), progress=False)


def recall(stories, windows_of, threshold):
  best = []
  for f, text, asked in stories:
    for times, score, note in zip(*windows_of(f, text), asked, strict=True):
      found = moments.pad([zero_shot.ranked(times, score)])
      best.append(moments.best_iou(found, moments.pad([note.windows]))[0, 0])
  return np.mean(np.array(best) >= threshold)


def plain(f, text):
  score = zero_shot.scores(f.vectors, text)
  return [f.times] * len(score), score


def test_the_head_finds_starts_and_ends_that_no_window_has(stories, trained):
  """Events last 1 to 4 s, windows 1 or 2 s."""
  rest = stories[64:]
  for threshold, before, gain in ((0.5, 0.3, 0.2), (0.7, 0.05, 0.3)):
    zero = recall(rest, plain, threshold)
    assert zero > before
    assert recall(rest, trained.windows, threshold) > zero + gain


def test_an_untrained_head_ranks_steps_by_their_best_windows(stories):
  """The best window of zero-shot lies around the best step, or starts or ends there."""
  for f, text, _ in stories[:8]:
    steps, score = head._inputs(GRID, f, text)
    valid = np.ones(score.shape[:2], bool)
    model = head.Head(8)
    params = jax.jit(model.init)(jax.random.key(0), score, valid)
    logit, reach = jax.jit(model.apply)(params, score, valid)
    found, ranked = plain(f, text)
    for own, times, windows in zip(np.asarray(logit), found, ranked, strict=True):
      middle = times[windows.argmax()].mean()
      assert abs(steps[own.argmax()] - middle) <= GRID.step / 2
    np.testing.assert_allclose(reach, np.log1p(np.e), rtol=1e-5)


def test_two_fits_are_bitwise_equal_and_a_head_is_stored(stories, trained, tmp_path):
  few = [columns[:8] for columns in zip(*stories, strict=True)]
  recipe = head.Recipe(epochs=3, batch_size=5, width=32)
  one, two = (head.fit(recipe, GRID, *few, progress=False) for _ in range(2))
  for a, b in zip(*map(jax.tree.leaves, (one.params, two.params)), strict=True):
    np.testing.assert_array_equal(a, b)
  f, text, _ = stories[-1]
  trained.save(tmp_path, dict(kind="head"))
  again = head.load(tmp_path)
  assert all(map(np.array_equal, again.windows(f, text), trained.windows(f, text)))


@pytest.mark.parametrize("damage", ["absent", "cut", "old"])
def test_a_head_that_cannot_be_read_is_an_error_with_the_cure(
  trained, tmp_path, damage
):
  trained.save(tmp_path, dict(kind="head"))
  arrays, values = tmp_path / "head.npz", tmp_path / "head.json"
  if damage == "absent":
    arrays.unlink()
  elif damage == "cut":
    arrays.write_bytes(arrays.read_bytes()[:500])
  else:
    values.write_text(values.read_text().replace('"width"', '"breadth"'))
  with pytest.raises(DataError, match="--kind=head"):
    head.load(tmp_path)


def test_a_head_that_diverges_in_its_only_step_is_an_error(stories):
  few = [columns[:2] for columns in zip(*stories, strict=True)]
  with pytest.raises(DivergedError, match="lower --lr"):
    head.fit(head.Recipe(epochs=1, lr=1e30), GRID, *few, progress=False)


def test_padding_changes_no_output_of_the_head(stories, trained):
  """Queries of a video are padded to a power of two, steps to a multiple of 32."""
  f, text, _ = stories[-1]
  steps, score = head._inputs(GRID, f, text)
  assert len(steps) % 32
  found = []
  for count in (len(steps), 96):
    padded = np.zeros((len(text), count, score.shape[-1]), np.float32)
    padded[:, : len(steps)] = score
    valid = np.tile(np.arange(count) < len(steps), (len(text), 1))
    found.append(trained._apply({"params": trained.params}, padded, valid))
  for short, long in zip(*found, strict=True):
    np.testing.assert_allclose(short, long[:, : len(steps)], rtol=1e-4, atol=1e-5)
  many = trained.windows(f, np.concatenate([text, text]))
  for a, b in zip(trained.windows(f, text), many, strict=True):
    np.testing.assert_allclose(a, b[:3], rtol=1e-4, atol=1e-5)
  assert many[0].min() >= 0


def test_steps_near_the_middle_of_a_moment_are_trained_to_find_it():
  middle = np.arange(10) + 0.5
  positive, truth = head._targets(1.0, middle, [(2, 3), (0, 9), (6.6, 6.8)])
  # (0, 9): the steps within 1.5 of 4.5; (6.6, 6.8) is shorter than a step.
  assert np.flatnonzero(positive).tolist() == [2, 3, 4, 5, 6]
  wanted = [(2, 3), (0, 9), (0, 9), (0, 9), (6.6, 6.8)]
  np.testing.assert_allclose(truth[positive], wanted)


def test_a_moment_that_ends_after_its_video_is_trained_up_to_its_end():
  times = GRID.windows(4.0)
  f = Features(times, np.ones((len(times), 1), np.float32))
  notes = [
    Note("moment", str(i), "x", windows=w)
    for i, w in enumerate((((3.0, 9.0),), ((5.0, 6.0),)))
  ]
  inside, outside = head._queries(GRID, [f], [np.ones((2, 1), np.float32)], [notes])
  np.testing.assert_allclose(inside.truth[inside.positive], [(3, 4)] * 2)
  assert not outside.positive.any()


def test_a_step_has_the_scores_of_the_windows_around_it():
  """Of each length; a window longer than the video is all of it."""
  grid = Grid((1.0, 9.0), 0.5)
  times = grid.windows(2.0)
  np.testing.assert_allclose(times, [(0, 1), (0, 2), (0.5, 1.5), (1, 2)])
  angles = np.arccos([0.8, 0.4, 0.6, 0.2])
  vectors = np.stack([np.cos(angles), np.sin(angles)], -1).astype(np.float32)
  steps, score = head._inputs(grid, Features(times, vectors), np.float32([[1, 0]]))
  np.testing.assert_allclose(steps, [0.25, 0.75, 1.25, 1.75])
  # Less the mean, 0.5; the middles of the windows are at 0.5, 1 and 1.5 s.
  start, middle, end = score[0, :, :3].T
  np.testing.assert_allclose(start, [0.3, 0.3, 0.1, -0.3], atol=1e-6)
  np.testing.assert_allclose(middle, [0.3, 0.2, -0.1, -0.3], atol=1e-6)
  np.testing.assert_allclose(end, [0.3, 0.1, -0.3, -0.3], atol=1e-6)
  np.testing.assert_allclose(score[0, :, 3:], -0.1, atol=1e-6)


class Colours(LoadedModel):
  """Embeds clips by their mean colour."""

  def embed_clips(self, clips):
    means = np.stack([clip.mean(axis=(0, 1, 2)) for clip in clips]) + 1.0
    return np.float32(means / np.linalg.norm(means, axis=1, keepdims=True))


@pytest.fixture(scope="module")
def colours(data_dir, tmp_path_factory):
  place = trained_smoke(mac, data_dir, tmp_path_factory.mktemp("run"))
  return load(place, kind=Colours)


@pytest.fixture
def film(tmp_path):
  """20 s of grey, red from 9 to 11 s."""
  buffer = io.BytesIO()
  with av.open(buffer, "w", format="mp4") as out:
    stream = out.add_stream("libx264", rate=8)
    stream.width = stream.height = 64
    stream.pix_fmt = "yuv420p"
    for i in range(160):
      frame = np.full((64, 64, 3), 120, np.uint8)
      if 72 <= i < 88:
        frame[...] = 220, 20, 20
      out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
    out.mux(stream.encode())
  path = tmp_path / "film.mp4"
  path.write_bytes(buffer.getvalue())
  return path


RED = np.float32([1, 0, 0])


@pytest.mark.parametrize(("start", "end"), [(0, 10), (4, 14), (10, 20)])
def test_a_hit_is_cut_to_its_moment_also_across_its_ends(colours, film, start, end):
  found = refine.refine(film, start, end, RED, colours)
  times = np.array([[(found.start, found.end)]])
  assert moments.iou(times, np.array([[(9.0, 11.0)]])) >= 0.6
  assert found.first == max(start - 2.5, 0)
  assert found.last == min(end + 2.5, 20)
  peak = found.first + (np.argmax(found.curve) + 0.5) * 0.625
  assert 9 <= peak <= 11
  assert found.score > 0.1


def test_an_image_and_a_short_clip_are_their_own_moment(colours, film):
  assert refine.refine(film, 0, 0, RED, colours) is None
  assert refine.refine(film, 3, 3.5, RED, colours) is None


def test_windows_of_a_file_are_those_of_the_grid_and_see_their_own_frames(
  colours, film
):
  f = features.of_file(film, Grid((2.0, 20.0), 1.0), colours)
  np.testing.assert_allclose(f.times, Grid((2.0, 20.0), 1.0).windows(20.0))
  red = f.vectors[:, 0] > 0.95
  np.testing.assert_allclose(f.times[red], [(9, 11)])
