"""A head for moments: windows are scored again, by those around them.

The input of a window is its cosine with the query, less the mean and less the largest
of the video, and when it is: embeddings themselves would be memorised by so few videos.
Self-attention over the windows of the video, then whether the window fits the moment:
binary cross entropy, whose target is the IoU, scaled, as in 2D-TAN (arXiv 1912.03590).
Untrained, it ranks as the cosines do.

On one device, in float32, from seed 0: two runs are bitwise identical.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Bool, Float

from vtr_jax.core import io
from vtr_jax.core.arrays import AnyArray
from vtr_jax.core.config import read, require
from vtr_jax.core.errors import DataError, DivergedError, one_line
from vtr_jax.core.progress import Bar
from vtr_jax.data.notes import Note
from vtr_jax.eval import moments
from vtr_jax.models.layers import Compute, Dense, Transformer, TransformerConfig
from vtr_jax.moments import zero_shot
from vtr_jax.moments.features import Features
from vtr_jax.moments.grid import Grid
from vtr_jax.train import workdir

_LOW, _HIGH = 0.5, 1.0  # IoUs that are scaled to 0 and 1; 2D-TAN on Charades-STA
_SHARP = 10.0  # of cosines, so that differences between windows are of order 1; ours
_RARE = -3.0  # the logit at first: few windows fit; as RetinaNet's, arXiv 1708.02002
_COMPUTE = Compute(dtype="float32", attention="xla")


@dataclasses.dataclass(frozen=True)
class Recipe:
  """Hyperparameters; the learning rate has a cosine decay to 0, after 5 % warm-up."""

  epochs: int = 8  # ours; 2D-TAN and VSLNet have 100
  lr: float = 3e-3  # ours, for so few layers; Moment-DETR: 1e-4
  weight_decay: float = 1e-4  # Moment-DETR
  videos: int = 16  # of a batch, with all their queries; ours
  width: int = 32  # ours; Moment-DETR: 256
  depth: int = 2  # Moment-DETR's encoder

  def __post_init__(self):
    require(self.epochs > 0, f"epochs: {self.epochs} must be positive")
    require(self.lr > 0, f"lr: {self.lr} must be positive")


class Head(nn.Module):
  """Queries and the windows of their videos, to a logit of fitting for each."""

  recipe: Recipe
  step: float  # of the grid, seconds

  @nn.compact
  def __call__(
    self,
    score: Float[AnyArray, "b w"],  # zero_shot.scores; 0 = padding
    times: Float[AnyArray, "b w 2"],
    valid: Bool[AnyArray, "b w"],
  ) -> Float[Array, "b w"]:
    width = self.recipe.width
    dense = functools.partial(Dense, width, ("embed", "mlp"), "float32")
    score *= _SHARP
    both = jnp.stack([score, score - score.max(1, keepdims=True)], -1)
    middle, length = times.mean(-1), times[..., 1] - times[..., 0]
    waves = [_waves(t / self.step, width) for t in (middle, length / 2)]
    x = dense(name="score")(both)
    x += dense(name="times")(jnp.concatenate(waves, axis=-1))
    heads = next(h for h in range(max(width // 32, 1), 0, -1) if width % h == 0)
    size = TransformerConfig(width, self.recipe.depth, 2 * width, heads)
    x = Transformer(size, _COMPUTE, name="blocks")(x, valid)
    zeros, ones = nn.initializers.zeros, nn.initializers.ones
    last = functools.partial(Dense, 1, ("embed", "classes"), "float32")
    out = last(kernel_init=zeros, name="out")(x)
    prior = last(kernel_init=ones, name="prior")(score[..., None])
    return (out + prior)[..., 0] + _RARE


class Batch(NamedTuple):
  """Queries, with the windows of their videos."""

  score: Float[np.ndarray, "b w"]
  times: Float[np.ndarray, "b w 2"]
  valid: Bool[np.ndarray, "b w"]
  iou: Float[np.ndarray, "b w"]  # with the true window that fits best
  counts: Bool[np.ndarray, " b"]  # False: padding


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
  """A trained head."""

  params: Any
  recipe: Recipe
  grid: Grid

  @functools.cached_property
  def _apply(self) -> Any:
    return jax.jit(Head(self.recipe, self.grid.step).apply)

  def scores(
    self, features: Features, text: Float[np.ndarray, "q e"]
  ) -> Float[np.ndarray, "q w"]:
    """Scores of the windows of a video for each query, 0 to 1."""
    # Few sizes, each of which is compiled once.
    count = len(text), len(features.times)
    notes = [Note("moment", "", "")] * len(text)
    b = _batch([(features, text, notes)], _evened(count[0]), _padded(count[1]))
    out = jax.device_get(self._apply({"params": self.params}, *b[:3]))
    return 1 / (1 + np.exp(-out[: count[0], : count[1]]))

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
    with np.load(directory / "head.npz", allow_pickle=False) as file:
      params = unflatten_dict({k: file[k] for k in file.files}, sep="/")
    recipe = read(Recipe, values["recipe"], "recipe")
    grid = read(Grid, values["grid"], "grid")
  except (OSError, ValueError, KeyError) as e:
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
    DivergedError: a loss is not finite.
  """
  asked = [i for i, own in enumerate(notes) if own]
  size = min(recipe.videos, len(asked))
  most = _padded(max(len(f.times) for f in features))
  queries = size * max(len(own) for own in notes)
  head, steps = Head(recipe, grid.step), -(-len(asked) // size)
  take = lambda rows: _batch(
    [(features[i], texts[i], notes[i]) for i in rows], queries, most
  )
  params = nn.unbox(head.init(jax.random.key(0), *take(asked[:size])[:3]))["params"]
  total = recipe.epochs * steps
  rate = optax.warmup_cosine_decay_schedule(0, recipe.lr, total // 20, total)
  matrices = lambda tree: jax.tree.map(lambda p: p.ndim > 1, tree)
  optimizer = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adamw(rate, weight_decay=recipe.weight_decay, mask=matrices),
  )
  state = optimizer.init(params)

  @jax.jit
  def step(params, state, batch):
    value, grads = jax.value_and_grad(_loss)(params, head, batch)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state, value

  epochs = Bar(range(recipe.epochs), "training the head", disable=not progress)
  for epoch in epochs:
    values = []
    for rows in _order(asked, size, epoch):
      params, state, value = step(params, state, take(rows))
      values.append(value)
    mean = float(np.mean(jax.device_get(values)))
    if not np.isfinite(mean):
      raise DivergedError(f"epoch {epoch + 1}: the loss is {mean}; lower --lr")
    epochs.set_postfix_str(f"loss {mean:.3f}", refresh=False)
  return Trained(jax.device_get(params), recipe, grid)


def _loss(params: Any, head: Head, batch: Batch) -> Float[Array, ""]:
  """Binary cross entropy, mean over windows."""
  logits: Any = head.apply({"params": params}, *batch[:3])
  counted = batch.valid & batch.counts[:, None]
  target = jnp.clip((batch.iou - _LOW) / (_HIGH - _LOW), 0, 1)
  values = optax.sigmoid_binary_cross_entropy(logits, target)
  return jnp.where(counted, values, 0).sum() / counted.sum()


def _order(asked: list[int], size: int, epoch: int) -> Iterator[list[int]]:
  """Numbers of the videos of each batch; the last one may have fewer."""
  order = np.random.default_rng(epoch).permutation(asked).tolist()
  yield from (order[i : i + size] for i in range(0, len(order), size))


def _batch(videos: Sequence[tuple], rows: int, count: int) -> Batch:
  """The queries of some videos (features, texts, notes), padded."""
  b = Batch(
    np.zeros((rows, count), np.float32),
    np.zeros((rows, count, 2), np.float32),
    np.zeros((rows, count), np.bool_),
    np.zeros((rows, count), np.float32),
    np.zeros(rows, np.bool_),
  )
  b.valid[:, 0] = True  # padding attends to something
  row = 0
  for features, texts, notes in videos:
    own = len(features.times)
    for score, note in zip(
      zero_shot.scores(features.vectors, texts), notes, strict=True
    ):
      b.score[row, :own] = score
      b.times[row, :own], b.valid[row, :own] = features.times, True
      b.counts[row] = True
      if note.windows:
        truth = np.array(note.windows)
        fit = moments.iou(features.times[None], truth[None])[0]
        b.iou[row, :own] = fit.max(axis=1)
      row += 1
  return b


def _waves(t: Float[AnyArray, "b w"], width: int) -> Float[Array, "b w d"]:
  """Sines and cosines of a number of steps (Vaswani et al., 2017)."""
  angle = t[..., None] / 1e3 ** (jnp.arange(width // 2) * 2 / width)[None, None]
  return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def _evened(count: int) -> int:
  """The next power of two."""
  return 1 << max(count - 1, 0).bit_length()


def _padded(count: int) -> int:
  """The next multiple of 32."""
  return 32 * -(-count // 32)
