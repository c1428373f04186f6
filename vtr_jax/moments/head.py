"""A head for moments on frozen window features: anchor-free span regression.

One anchor a step of the grid. Its input is, for each length, the embedding of the
window whose middle is nearest, times the query's and beside it. Self-attention over the
anchors, then three outputs: whether the anchor is inside the moment (binary cross
entropy), and the distances to both ends (L1 and IoU). Without anchors of fixed length
(FCOS, arXiv 1904.01355), as in DRN (arXiv 2004.03545); Moment-DETR has the same losses
of spans.

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
from vtr_jax.models.layers import Compute, Dense, Transformer, TransformerConfig
from vtr_jax.moments.features import Features
from vtr_jax.moments.grid import Grid
from vtr_jax.train import workdir

_COMPUTE = Compute(dtype="float32", attention="xla")


@dataclasses.dataclass(frozen=True)
class Recipe:
  """Hyperparameters; the learning rate has a cosine decay to 0, after 5 % warm-up."""

  epochs: int = 20  # ours; 2D-TAN and VSLNet have 100
  lr: float = 1e-3  # ours, for so few layers; Moment-DETR: 1e-4
  weight_decay: float = 1e-4  # Moment-DETR
  videos: int = 16  # of a batch, with all their queries; ours
  width: int = 96  # ours; Moment-DETR: 256
  depth: int = 2  # Moment-DETR's encoder

  def __post_init__(self):
    require(self.epochs > 0, f"epochs: {self.epochs} must be positive")
    require(self.lr > 0, f"lr: {self.lr} must be positive")


class Outputs(NamedTuple):
  """Of each anchor: logit of being inside, and the ends in seconds."""

  inside: Float[Array, "b c"]
  ends: Float[Array, "b c 2"]


class Head(nn.Module):
  """Queries and the anchors of their videos, to `Outputs`."""

  recipe: Recipe
  step: float  # of the grid, seconds

  @nn.compact
  def __call__(
    self,
    video: Float[AnyArray, "b c l e"],
    text: Float[AnyArray, "b e"],
    centre: Float[AnyArray, "b c"],
    valid: Bool[AnyArray, "b c"],
  ) -> Outputs:
    width = self.recipe.width
    dense = functools.partial(Dense, width, ("embed", "mlp"), "float32")
    flat = lambda x: x.reshape(*x.shape[:2], -1)
    # Embeddings of unit norm have components of about 1 / sqrt(e).
    scale = text.shape[-1] ** 0.5
    product = video * text[:, None, None]
    cosine = product.sum(-1)
    mean = (cosine * valid[..., None]).sum(1) / valid.sum(1)[:, None]
    x = dense(name="product")(scale * scale * flat(product))
    x += dense(name="video")(scale * flat(video))
    x += dense(name="text")(scale * text)[:, None]
    x += dense(name="cosine")(10 * (cosine - mean[:, None]))
    x += _positions(x.shape[1], width)[None]
    heads = next(h for h in range(max(width // 32, 1), 0, -1) if width % h == 0)
    size = TransformerConfig(width, self.recipe.depth, 2 * width, heads)
    x = Transformer(size, _COMPUTE, name="blocks")(x, valid)
    out = Dense(3, ("embed", "classes"), "float32", name="out")(x)
    distance = self.step * nn.softplus(out[..., 1:])
    ends = jnp.stack([centre - distance[..., 0], centre + distance[..., 1]], -1)
    # At the start the head ranks as the cosines do.
    prior = Dense(
      1, ("embed", "classes"), "float32", kernel_init=nn.initializers.ones, name="prior"
    )(10 * (cosine - mean[:, None]))
    return Outputs(out[..., 0] + prior[..., 0], ends)


class Batch(NamedTuple):
  """Queries, with the anchors of their videos."""

  video: Float[np.ndarray, "b c l e"]
  text: Float[np.ndarray, "b e"]
  centre: Float[np.ndarray, "b c"]
  valid: Bool[np.ndarray, "b c"]
  truth: Float[np.ndarray, "b c 2"]  # the window that an anchor is inside
  inside: Bool[np.ndarray, "b c"]
  counts: Bool[np.ndarray, " b"]  # False: padding


def anchors(
  features: Features, grid: Grid
) -> tuple[Float[np.ndarray, "c l e"], Float[np.ndarray, " c"]]:
  """Of each step, the windows of every length whose middles are nearest; the middles.

  Videos shorter than a length have one window instead, which is all of them.
  """
  times, end = features.times, features.times[:, 1].max()
  centre, middle = grid.cells(end), times.mean(axis=1)
  lengths, picked = times[:, 1] - times[:, 0], []
  for length in grid.lengths:
    own = np.flatnonzero(np.abs(lengths - min(length, end)) < 1e-3)
    nearest = np.abs(centre[:, None] - middle[own]).argmin(axis=1)
    picked.append(own[nearest])
  vectors = np.asarray(features.vectors, np.float32)
  return vectors[np.stack(picked, axis=1)], centre.astype(np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
  """A trained head."""

  params: Any
  recipe: Recipe
  grid: Grid

  @functools.cached_property
  def _apply(self) -> Any:
    return jax.jit(Head(self.recipe, self.grid.step).apply)

  def windows(
    self, features: Features, text: Float[np.ndarray, "q e"]
  ) -> tuple[Float[np.ndarray, "q c 2"], Float[np.ndarray, "q c"]]:
    """Windows in seconds, inside the video, and their scores, 0 to 1; of one video."""
    video, centre = anchors(features, self.grid)
    # Few sizes, each of which is compiled once.
    rows, cells = _evened(len(text)), 16 * -(-len(centre) // 16)
    notes = [Note("moment", "", "")] * len(text)
    b = _batch([(video, centre, text, notes)], rows, cells)
    out = jax.device_get(self._apply({"params": self.params}, *b[:4]))
    ends = np.clip(out.ends, 0, features.times[:, 1].max())
    ends[..., 1] = np.maximum(ends[..., 1], ends[..., 0] + 1e-3)
    score = 1 / (1 + np.exp(-out.inside))
    count = len(text), len(centre)
    return ends[: count[0], : count[1]], score[: count[0], : count[1]]

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
  anchored = [anchors(f, grid) for f in features]
  asked = [i for i, own in enumerate(notes) if own]
  size = min(recipe.videos, len(asked))
  cells = 16 * -(-max(len(centre) for _, centre in anchored) // 16)
  queries = size * max(len(own) for own in notes)
  head, steps = Head(recipe, grid.step), -(-len(asked) // size)
  take = lambda rows: _batch(
    [(*anchored[i], texts[i], notes[i]) for i in rows], queries, cells
  )
  params = nn.unbox(head.init(jax.random.key(0), *take(asked[:size])[:4]))["params"]
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
  """Mean over queries: BCE of anchors, and L1 and IoU of those inside the moment.

  L1 is relative to the moment's length, so that short moments count as much as long.
  """
  out = head.apply({"params": params}, *batch[:4])
  assert isinstance(out, Outputs)
  counted = batch.valid & batch.counts[:, None]
  bce = optax.sigmoid_binary_cross_entropy(out.inside, batch.inside)
  bce = jnp.where(counted, bce, 0).sum() / counted.sum()
  length = jnp.maximum(batch.truth[..., 1] - batch.truth[..., 0], 1e-3)
  l1 = jnp.abs(out.ends - batch.truth).sum(-1) / length
  # Both windows contain the anchor, so they overlap, and their hull is their union.
  low, high = jnp.minimum(out.ends, batch.truth), jnp.maximum(out.ends, batch.truth)
  iou = (low[..., 1] - high[..., 0]) / jnp.maximum(high[..., 1] - low[..., 0], 1e-3)
  inside = batch.inside & counted
  spans = jnp.where(inside, l1 + 1 - iou, 0).sum() / jnp.maximum(inside.sum(), 1)
  return bce + spans


def _order(asked: list[int], size: int, epoch: int) -> Iterator[list[int]]:
  """Numbers of the videos of each batch; the last one may have fewer."""
  order = np.random.default_rng(epoch).permutation(asked).tolist()
  yield from (order[i : i + size] for i in range(0, len(order), size))


def _batch(videos: Sequence[tuple], rows: int, cells: int) -> Batch:
  """The queries of some videos (anchors, middles, texts, notes), padded."""
  first = videos[0][0]
  b = Batch(
    np.zeros((rows, cells, *first.shape[1:]), np.float32),
    np.zeros((rows, videos[0][2].shape[1]), np.float32),
    np.zeros((rows, cells), np.float32),
    np.zeros((rows, cells), np.bool_),
    np.zeros((rows, cells, 2), np.float32),
    np.zeros((rows, cells), np.bool_),
    np.zeros(rows, np.bool_),
  )
  b.valid[:, 0] = True  # padding attends to something
  row = 0
  for video, centre, texts, notes in videos:
    count = len(centre)
    for text, note in zip(texts, notes, strict=True):
      b.video[row, :count], b.text[row] = video, text
      b.centre[row, :count], b.valid[row, :count] = centre, True
      b.counts[row] = True
      # Of windows that overlap, the shortest.
      for start, end in sorted(note.windows, key=lambda w: w[0] - w[1]):
        inside = (start <= centre) & (centre < end)
        b.truth[row, :count][inside] = start, end
        b.inside[row, :count] |= inside
      row += 1
  return b


def _positions(count: int, width: int) -> Float[Array, "c d"]:
  """Sines and cosines of the anchor's number (Vaswani et al., 2017)."""
  angle = jnp.arange(count)[:, None] / 1e3 ** (jnp.arange(width // 2) * 2 / width)[None]
  return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def _evened(count: int) -> int:
  """The next power of two."""
  return 1 << max(count - 1, 0).bit_length()
