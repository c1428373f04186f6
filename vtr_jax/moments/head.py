"""A head for moments: when they start and end, from the scores of the windows around.

Anchor-free, as ActionFormer (arXiv 2202.07925): every step of the grid says how likely
the moment is around it, and how far its start and end are. The input of a step is the
scores of the windows of each length around it, less their mean and less the largest of
the video; embeddings themselves would be memorised by so few videos. Convolutions over
time, so what is learned at one time holds at another. Untrained, a step is ranked by
its best window.

In float32, from seed 0: two runs on a CPU are bitwise identical.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple
from zipfile import BadZipFile

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Bool, Float, Int

from vtr_jax.core import io
from vtr_jax.core.arrays import AnyArray
from vtr_jax.core.config import read, require
from vtr_jax.core.errors import ConfigError, DataError, DivergedError, one_line
from vtr_jax.core.progress import Bar
from vtr_jax.data.notes import Note
from vtr_jax.moments import zero_shot
from vtr_jax.moments.features import Features
from vtr_jax.moments.grid import Grid
from vtr_jax.train import workdir

_DILATIONS = (1, 2, 4, 8)  # steps; an output sees 16 steps on each side; ours
_CENTRE = 1.5  # steps around the middle of a moment that shall find it; ActionFormer
_SHARP = 10.0  # of cosines, so that differences between windows are of order 1; ours
# Logit of the best step at first; ours. ActionFormer: -4.6, of all steps.
_PRIOR = -2.0
_REACH = 1.0  # before softplus: 1.3 steps to the start and to the end, at first; ours
# Of a step, in steps: windows of an even number of steps have their middle at its ends,
# those of an odd number in its middle.
_AROUND = (-0.5, 0.0, 0.5)
_LARGEST = 1e6  # norm of the parameters of a head that has diverged; ours


@dataclasses.dataclass(frozen=True)
class Recipe:
  """Hyperparameters; the learning rate has a cosine decay to 0, after 5 % warm-up."""

  epochs: int = 30  # ours, on validation; ActionFormer: 15 to 50
  lr: float = 1e-3  # ours, on validation; ActionFormer: 1e-4, on ActivityNet 1e-3
  weight_decay: float = 1e-2  # ours; ActionFormer: 0.05
  batch_size: int = 64  # queries; ours
  width: int = 64  # ours; ActionFormer: 512, of embeddings

  def __post_init__(self):
    require(self.epochs > 0, f"epochs: {self.epochs} must be positive")
    require(self.lr > 0, f"lr: {self.lr} must be positive")


class Head(nn.Module):
  """Predicts, from a query's window scores, a moment at each step.

  Returns the logit of a moment around each step, and how many steps before and after
  the middle of the step the moment starts and ends.
  """

  width: int

  @nn.compact
  def __call__(
    self,
    score: Float[AnyArray, "b s l"],  # of the windows around each step
    valid: Bool[AnyArray, "b s"],
  ) -> tuple[Float[Array, "b s"], Float[Array, "b s 2"]]:
    mask = valid[..., None]
    score = _SHARP * jnp.asarray(score)
    best = jnp.where(mask, score, -jnp.inf).max((1, 2), keepdims=True)
    below = jnp.where(mask, score - best, 0)
    # Zeros after the last step, as a convolution sees before the first.
    conv = lambda x, step: nn.Conv(self.width, (3,), kernel_dilation=step)(x * mask)
    x = nn.Dense(self.width)(jnp.concatenate([score, below], -1))
    for dilation in _DILATIONS:
      y = nn.gelu(conv(nn.LayerNorm()(x), dilation))
      x += nn.Dense(self.width)(y)
    x = nn.gelu(conv(nn.LayerNorm()(x), 1))
    out = nn.Dense(3, kernel_init=nn.initializers.zeros, name="out")(x)
    return out[..., 0] + below.max(-1) + _PRIOR, nn.softplus(out[..., 1:] + _REACH)


class Batch(NamedTuple):
  """Queries, at the steps of their videos; seconds."""

  score: Float[np.ndarray, "*b s l"]
  valid: Bool[np.ndarray, "*b s"]
  middle: Float[np.ndarray, "*b s"]  # of each step
  positive: Bool[np.ndarray, "*b s"]  # a true moment is around it
  truth: Float[np.ndarray, "*b s 2"]  # that moment


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
  """A trained head."""

  params: Any
  recipe: Recipe
  grid: Grid

  @functools.cached_property
  def _apply(self) -> Any:
    return jax.jit(Head(self.recipe.width).apply)

  def windows(
    self, features: Features, text: Float[np.ndarray, "q e"]
  ) -> tuple[Float[np.ndarray, "q s 2"], Float[np.ndarray, "q s"]]:
    """For each query, a window of the video for each step and its score, 0 to 1."""
    middle, score = _inputs(self.grid, features, text)
    # Few sizes, each of which is compiled once.
    shape = _evened(len(text)), _padded(len(middle))
    valid = np.zeros(shape, np.bool_)
    valid[:, : len(middle)] = True
    padded = np.zeros((*shape, score.shape[-1]), np.float32)
    padded[: len(text), : len(middle)] = score
    out = jax.device_get(self._apply({"params": self.params}, padded, valid))
    logit, reach = (x[: len(text), : len(middle)] for x in out)
    reach = reach.astype(np.float64) * self.grid.step
    times = np.stack([middle - reach[..., 0], middle + reach[..., 1]], axis=-1)
    first, last = features.times.min(), features.times.max()
    # The last window may end up to a quarter of a step before the video: see Grid.
    return times.clip(first, last + self.grid.step / 4), 1 / (1 + np.exp(-logit))

  def save(self, directory: pathlib.Path, inputs: dict[str, Any]) -> None:
    """Writes head.npz and head.json."""
    flat = flatten_dict(jax.device_get(self.params), sep="/")
    arrays: dict[str, Any] = dict(flat)
    np.savez(directory / "head.npz", **arrays)
    values = dict(recipe=dataclasses.asdict(self.recipe))
    values |= dict(grid=dataclasses.asdict(self.grid))
    workdir.write_json(directory / "head.json", values | inputs)


def load(directory: pathlib.Path) -> Trained:
  """What `save` has written.

  Raises:
    DataError: a file is missing or damaged.
  """
  try:
    values = io.mapping((directory / "head.json").read_bytes())
    arrays = directory / "head.npz"
    with arrays.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
      params = unflatten_dict({k: file[k] for k in file.files}, sep="/")
    recipe = read(Recipe, values["recipe"], "recipe")
    grid = read(Grid, values["grid"], "grid")
  except (ConfigError, OSError, ValueError, KeyError, BadZipFile) as e:
    raise DataError(
      f"{directory}: no head ({one_line(e)}); train one with --kind=head"
    ) from e
  return Trained(params, recipe, grid)


def fit(
  recipe: Recipe,
  grid: Grid,
  features: Sequence[Features],
  texts: Sequence[Float[np.ndarray, "q e"]],
  notes: Sequence[Sequence[Note]],
  progress: bool = True,
) -> Trained:
  """Trains a head.

  Args:
    recipe: hyperparameters.
    grid: of the features.
    features: of each video.
    texts: embeddings of the queries of each video.
    notes: these queries; windows are the truth.
    progress: show a progress bar.

  Raises:
    DivergedError: a loss is not finite, or the parameters are not or huge.
  """
  data = _queries(grid, features, texts, notes)
  size = min(recipe.batch_size, len(data))
  head, total = Head(recipe.width), recipe.epochs * (len(data) // size)
  first = _batch(data[:1])
  params = head.init(jax.random.key(0), first.score, first.valid)["params"]
  rate = optax.warmup_cosine_decay_schedule(0, recipe.lr, total // 20, total)
  matrices = lambda tree: jax.tree.map(lambda p: p.ndim > 1, tree)
  optimizer = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adamw(rate, weight_decay=recipe.weight_decay, mask=matrices),
  )
  state = optimizer.init(params)

  @jax.jit
  def step(params, state, batch):
    value, grads = jax.value_and_grad(_loss)(params, head, grid.step, batch)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state, value

  epochs = Bar(range(recipe.epochs), "training the head", disable=not progress)
  for epoch in epochs:
    values = []
    for rows in _order(len(data), size, epoch):
      batch = _batch([data[row] for row in rows])
      params, state, value = step(params, state, batch)
      values.append(value)
    mean = float(np.mean(jax.device_get(values)))
    norm = float(optax.tree.norm(params))  # of the last step there is no loss
    if not np.isfinite(mean + norm) or norm > _LARGEST:
      raise DivergedError(
        f"epoch {epoch + 1}: the loss is {mean:.3g}, the norm of the parameters "
        f"{norm:.3g}; lower --lr"
      )
    epochs.set_postfix_str(f"loss {mean:.3f}", refresh=False)
  return Trained(jax.device_get(params), recipe, grid)


def _loss(params: Any, head: Head, step: float, batch: Batch) -> Float[Array, ""]:
  """Sum over steps of both losses, divided by the number of positive steps.

  Classification: binary cross entropy; the target of a positive step is the IoU of its
  own window with the truth (VarifocalNet, arXiv 2008.13367; without its weights), of
  others 0. Regression, of positive steps: DIoU (arXiv 1911.08287).
  """
  out: Any = head.apply({"params": params}, batch.score, batch.valid)
  logit, reach = out
  start = batch.middle - reach[..., 0] * step
  end = batch.middle + reach[..., 1] * step
  first, last = batch.truth[..., 0], batch.truth[..., 1]
  outer = jnp.maximum(end, last) - jnp.minimum(start, first)
  inner = jnp.maximum(jnp.minimum(end, last) - jnp.maximum(start, first), 0)
  iou = inner / (end - start + last - first - inner)
  distance = ((start + end - first - last) / 2 / outer) ** 2
  target = jnp.where(batch.positive, jax.lax.stop_gradient(iou), 0)
  cross = optax.sigmoid_binary_cross_entropy(logit, target)
  total = jnp.where(batch.valid, cross, 0).sum()
  total += jnp.where(batch.positive, 1 - iou + distance, 0).sum()
  return total / jnp.maximum(batch.positive.sum(), 1)


def _order(count: int, size: int, epoch: int) -> Int[np.ndarray, "n b"]:
  """The queries of each batch; those left over differ from epoch to epoch."""
  order = np.random.default_rng(epoch).permutation(count)
  return order[: count // size * size].reshape(-1, size)


def _queries(
  grid: Grid,
  features: Sequence[Features],
  texts: Sequence[Float[np.ndarray, "q e"]],
  notes: Sequence[Sequence[Note]],
) -> list[Batch]:
  """Each query of each video, at the video's own steps."""
  found = []
  for f, text, own in zip(features, texts, notes, strict=True):
    if not own:
      continue
    middle, scores = _inputs(grid, f, text)
    last = float(f.times.max())
    valid = np.ones(len(middle), np.bool_)
    for score, note in zip(scores, own, strict=True):
      # Annotators may have ended a moment after the video.
      windows = [(a, min(b, last)) for a, b in note.windows if a < last]
      targets = _targets(grid.step, middle, windows)
      found.append(Batch(score, valid, middle, *targets))
  return found


def _batch(queries: Sequence[Batch]) -> Batch:
  """Queries together, padded to a multiple of 32 steps."""
  most = _padded(max(len(query.valid) for query in queries))

  def stacked(arrays: Sequence[np.ndarray]) -> np.ndarray:
    out = np.zeros((len(arrays), most, *arrays[0].shape[1:]), arrays[0].dtype)
    for row, x in zip(out, arrays, strict=True):
      row[: len(x)] = x
    return out

  score, valid, middle, positive, truth = map(stacked, zip(*queries, strict=True))
  truth[~positive] = 0, 1  # any window: an IoU of padding is finite
  to32 = lambda x: x.astype(np.float32)
  return Batch(to32(score), valid, to32(middle), positive, to32(truth))


def _inputs(
  grid: Grid, features: Features, text: Float[np.ndarray, "q e"]
) -> tuple[Float[np.ndarray, " s"], Float[np.ndarray, "q s l"]]:
  """The middle of each step, and the scores of the windows of each length around it.

  At the start, the middle and the end of the step; interpolated linearly between the
  middles of windows, constant before the first and after the last.
  """
  times = features.times
  first, last = float(times.min()), float(times.max())
  middle, length = times.mean(axis=1), times[:, 1] - times[:, 0]
  steps = grid.cells(last, first)
  score = zero_shot.scores(features.vectors, text)
  columns = []
  for each in grid.lengths:
    own = np.abs(length - min(each, last - first)) < 1e-3
    for part in _AROUND:
      at = steps + part * grid.step
      columns.append([np.interp(at, middle[own], row[own]) for row in score])
  return steps, np.stack(columns, axis=-1).astype(np.float32)


def _targets(
  step: float, middle: Float[np.ndarray, " s"], windows: Sequence[tuple[float, float]]
) -> tuple[Bool[np.ndarray, " s"], Float[np.ndarray, "s 2"]]:
  """Which steps are near the middle of a true window, and of which: the shortest."""
  positive, truth = np.zeros(len(middle), np.bool_), np.zeros((len(middle), 2))
  for start, end in sorted(windows, key=lambda w: w[0] - w[1]):
    away = np.abs(middle - (start + end) / 2)
    inside = (start < middle) & (middle < end) & (away < _CENTRE * step)
    own = inside | (away <= step / 2)  # of one shorter than a step
    positive |= own
    truth[own] = start, end
  return positive, truth


def _evened(count: int) -> int:
  """The next power of two."""
  return 1 << max(count - 1, 0).bit_length()


def _padded(count: int) -> int:
  """The next multiple of 32."""
  return 32 * -(-count // 32)
