"""Probes: classifiers trained on frozen features.

linear: a linear layer on features standardised by the training set's mean and standard
deviation, as MAE's probe (arXiv 2111.06377, A.1) with its batch norm without affine.
attentive: a learned query that cross-attends to a clip's tokens, an MLP and a linear
layer, as V-JEPA's one-block `AttentivePooler` (arXiv 2404.08471), after CoCa.

On one device, in float32, from seed 0: two runs are bitwise identical.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Int32, Num

from vtr_jax.core.arrays import AnyArray
from vtr_jax.core.config import require
from vtr_jax.core.errors import DivergedError
from vtr_jax.core.progress import Bar
from vtr_jax.models.attention import attend
from vtr_jax.models.layers import Dense, Mlp, multi_head
from vtr_jax.models.norm_gelu import LayerNorm
from vtr_jax.objectives.losses import cross_entropy, masked_sum

_EPSILON = 1e-6  # added to variances; MAE's batch norm
_CHUNK = 4096  # clips whose features are in memory at once


@dataclasses.dataclass(frozen=True)
class Recipe:
  """Hyperparameters of a probe; the learning rate has a cosine decay to 0."""

  epochs: int
  warmup_epochs: int  # linear, from 0
  lr: float  # peak, for batches of `batch_size`
  weight_decay: float  # of matrices only
  optimizer: str  # sgd (momentum 0.9) | adamw
  batch_size: int = 256  # at most the number of clips

  def __post_init__(self):
    require(self.epochs > 0, f"epochs: {self.epochs} must be positive")
    require(self.lr > 0, f"lr: {self.lr} must be positive")


RECIPES = dict(
  # MAE, table 10 and code: lr 0.1 per 256 examples. MAE uses LARS for batches of
  # 16,384; ours of 256 use plain SGD with the same momentum.
  linear=Recipe(90, 10, 0.1, 0.0, "sgd"),
  # V-JEPA's code, configs/evals/vith16_k400_16x8x3.yaml: 64 GPUs of 4 clips.
  attentive=Recipe(20, 0, 1e-3, 0.01, "adamw"),
)


class Linear(nn.Module):
  """Logits of standardised features; initialised as in MAE's code."""

  classes: int

  @nn.compact
  def __call__(self, x: Float[Array, "b *n d"]) -> Float[Array, "b *n c"]:
    init = nn.initializers.truncated_normal(0.01)
    axes = ("embed", "classes")
    dense = Dense(self.classes, axes, "float32", kernel_init=init, name="linear")
    return jnp.asarray(dense(x))


class Attentive(nn.Module):
  """Logits of tokens by one learned query, as in V-JEPA; heads of width 64."""

  classes: int

  @nn.compact
  def __call__(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b c"]:
    d = tokens.shape[-1]
    heads = next(h for h in range(max(d // 64, 1), 0, -1) if d % h == 0)
    query = self.param("token", nn.initializers.truncated_normal(0.02), (d,))[
      None, None
    ]
    x = LayerNorm(1e-6, "float32", name="norm_tokens")(tokens)
    y = query + multi_head(self, attend, query, x, heads, "float32")
    norm = LayerNorm(1e-6, "float32", name="norm_mlp")
    y += Mlp(4 * d, "float32", name="mlp")(norm(y))
    return Linear(self.classes, name="head")(y[:, 0])


MODULES = dict(linear=Linear, attentive=Attentive)


@dataclasses.dataclass(frozen=True)
class Classifier:
  """A trained probe."""

  logits: Callable[[Num[AnyArray, "b *n d"]], Float[Array, "b c"]]  # jitted
  batch_size: int

  def scores(self, features: Num[np.ndarray, "v *n d"]) -> Float[np.ndarray, "c v"]:
    """Logits of every class (row) for every clip; reads one batch at a time."""
    logits = [
      np.asarray(self.logits(features[rows]))[: (rows >= 0).sum()]
      for rows in _batches(np.arange(len(features)), self.batch_size)
    ]
    return np.concatenate(logits).T


def fit(
  kind: str,
  recipe: Recipe,
  features: Num[np.ndarray, "v *n d"],
  labels: Int[np.ndarray, " v"],
  classes: int,
  progress: bool = True,
) -> Classifier:
  """Trains a probe.

  Args:
    kind: linear | attentive.
    recipe: hyperparameters.
    features: of each clip: [v d], or tokens [v n d]. May be memory-mapped: one batch is
      read at a time.
    labels: class of each clip, 0 to `classes` - 1.
    classes: number of classes.
    progress: show a progress bar.

  Raises:
    DivergedError: a loss is not finite.
  """
  size = min(recipe.batch_size, len(features))
  model, key = MODULES[kind](classes), jax.random.key(0)
  standardise = _standardise(features) if kind == "linear" else _to_float32
  start = standardise(jnp.asarray(features[:1]))
  params = nn.unbox(jax.jit(model.init)(key, start))["params"]
  optimizer = _optimizer(recipe, -(-len(features) // size))
  state = optimizer.init(params)

  def loss(params: Any, x: Array, label: Int32[Array, " b"], valid: Bool[Array, " b"]):
    logits = model.bind({"params": params})(standardise(x))
    return masked_sum(cross_entropy(logits, label), valid).mean()

  @jax.jit
  def step(params, state, x, label, valid):
    value, grads = jax.value_and_grad(loss)(params, x, label, valid)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state, value

  labels = np.asarray(labels, np.int32)
  epochs = Bar(range(recipe.epochs), f"training {kind}", disable=not progress)
  for epoch in epochs:
    values = []
    for rows in _batches(np.random.default_rng(epoch).permutation(len(labels)), size):
      batch = features[rows], labels[rows], rows >= 0
      params, state, value = step(params, state, *batch)
      values.append(value)
    mean = float(np.mean(jax.device_get(values)))
    if not np.isfinite(mean):
      raise DivergedError(f"epoch {epoch + 1}: the loss is {mean}; lower --lr")
    epochs.set_postfix_str(f"loss {mean:.3f}", refresh=False)
  logits = lambda x: model.bind({"params": params})(standardise(x))
  return Classifier(jax.jit(logits), size)


def _batches(order: Int[np.ndarray, " v"], size: int) -> list[Int[np.ndarray, " b"]]:
  """Row indices of each batch; the last is padded with -1, masked in the loss."""
  count = -(-len(order) // size) * size
  padded = np.pad(order, (0, count - len(order)), constant_values=-1)
  return list(padded.reshape(-1, size))


def _to_float32(x: Num[Array, "..."]) -> Float[Array, "..."]:
  return x.astype(jnp.float32)


def _standardise(features: Num[np.ndarray, "v d"]) -> Callable:
  """x -> (x - mean) / standard deviation of `features`, computed in float64 chunks."""
  count = len(features)
  chunks = lambda: (
    features[i : i + _CHUNK].astype(np.float64) for i in range(0, count, _CHUNK)
  )
  total = lambda rows: sum(rows, np.zeros(features.shape[1:]))
  mean = total(chunk.sum(axis=0) for chunk in chunks()) / count
  variance = total(((chunk - mean) ** 2).sum(axis=0) for chunk in chunks()) / count
  deviation = np.sqrt(variance + _EPSILON)
  shift, scale = (row[None].astype("f") for row in (mean, 1 / deviation))
  return lambda x: (x.astype(jnp.float32) - shift) * scale


def _optimizer(recipe: Recipe, steps: int) -> optax.GradientTransformation:
  """The recipe's optimizer, for `steps` steps per epoch."""
  r, warm = recipe, min(recipe.warmup_epochs, recipe.epochs - 1) * steps
  rate = optax.warmup_cosine_decay_schedule(
    0.0 if warm else r.lr, r.lr, warm, r.epochs * steps
  )
  if r.optimizer == "sgd":
    return optax.sgd(rate, momentum=0.9)
  matrices = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)
  return optax.adamw(rate, weight_decay=r.weight_decay, mask=matrices)
