"""Attention maps of a video tower.

The query is what the embedding is pooled from: the class token if the model reads it,
the probe of an attention pooling, otherwise the mean over all tubelets. Probabilities
are recomputed from the queries and keys that the towers `sow`, outside training, which
stores nothing.
"""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Float
from PIL import Image

from vtr_jax.core.batch import Batch, ClipSpec
from vtr_jax.core.errors import DataError
from vtr_jax.eval.viz import base
from vtr_jax.eval.viz.canvas import Video
from vtr_jax.models.backbones import base as backbones
from vtr_jax.objectives.base import Objective, Params


class Attention(NamedTuple):
  """Probabilities of one kind of attention; each head's sum to 1 over both fields."""

  tubelets: Float[np.ndarray, "b l h t y x"]  # l layers, h heads
  cls: Float[np.ndarray, "b l h"]  # class token; the sum, if each frame has one


def attention(model: base.Model, clips: base.Clips) -> dict[str, Attention]:
  """Attention of the embedding's query over unmasked clips.

  Args:
    model: see `base.Model`.
    clips: uint8 [t h w 3], of the model's frames and size.

  Returns:
    By kind: "joint" or "frame" attention, "time" and "space" of divided attention, and
    "probe" of an attention pooling; see `Backbone.attentions`. Frames that are encoded
    independently, and groups of divided attention, are averaged.

  Raises:
    DataError: there are no clips, or one has another size.
  """
  batch = dict(video=base.clip_rows(model, clips))
  probabilities = base.on_devices(model, _attention, batch, model.config.clip)
  return {kind: Attention(*pair) for kind, pair in probabilities.items()}


def overlay(
  model: base.Model, clip: Video, layer: int = -1, heads: bool = False
) -> Image.Image:
  """A clip, and the map of each kind of attention overlaid on it.

  Args:
    model: see `base.Model`.
    clip: uint8 [t h w 3], of the model's frames and size.
    layer: index, may be negative; ignored for a pooling, which has one layer.
    heads: draw one row per head instead of their mean.

  Raises:
    DataError: the clip has another size, or the model fewer layers.
  """
  return base.frame_grid(
    [("clip", clip), *rows(clip, attention(model, [clip]), layer, heads)]
  )


def layers(model: base.Model, clip: Video) -> Image.Image:
  """A clip, and the attention of every layer overlaid on it; mean over heads."""
  grid = [("clip", clip)]
  for kind, weights in attention(model, [clip]).items():
    for layer in range(weights.tubelets.shape[1]):
      grid += rows(clip, {f"{kind}, layer {layer}": weights}, layer)
  return base.frame_grid(grid)


def rows(
  clip: Video,
  attentions: Mapping[str, Attention],
  layer: int = -1,
  heads: bool = False,
  index: int = 0,
) -> list[tuple[str, Video]]:
  """Rows of `base.frame_grid` for clip `index` of `attentions`.

  The colour scale of each row goes from 0 to its maximum.
  """
  labelled = []
  for kind, weights in attentions.items():
    count = weights.tubelets.shape[1]
    if count > 1 and not -count <= layer < count:
      raise DataError(f"layer: {layer}, but there are {count}; use 0 to {count - 1}")
    maps = weights.tubelets[index, layer if count > 1 else 0]
    by_head = [(f"{kind}, head {i}", values) for i, values in enumerate(maps)]
    for name, values in by_head if heads else [(kind, maps.mean(axis=0))]:
      label = f"{name}\nmax {values.max() * values.size:.1f} × uniform"
      labelled.append((label, base.heatmap(clip, values, low=0.0)))
  return labelled


def normalized_perplexity(weights: Attention) -> float:
  """exp(entropy) of the last layer over tubelets, divided by their number.

  1 = uniform over the clip, 1 / number = one tubelet. Mean over clips and heads.
  """
  last = weights.tubelets[:, -1].astype(np.float64)
  probs = last.reshape(*last.shape[:2], -1)
  probs = probs / np.maximum(probs.sum(axis=-1, keepdims=True), 1e-30)
  entropy = -(probs * np.log(np.maximum(probs, 1e-30))).sum(axis=-1)
  return float((np.exp(entropy) / probs.shape[-1]).mean())


def _attention(
  objective: Objective, clip: ClipSpec
) -> Callable[[Params, Batch], dict[str, tuple[Array, Array]]]:
  def probabilities(params: Params, batch: Batch) -> dict[str, tuple[Array, Array]]:
    _, state = objective.model.apply(
      {"params": params}, batch, method="embed_video", mutable=["intermediates"]
    )
    config = objective.model.config
    reads_class = getattr(config, "pool", "mean") == "cls"
    video = getattr(config, "video", None)
    backbone = backbones.tower(video) if video else backbones.Backbone
    layers = {}  # kind of attention -> (queries, keys) of its layers
    sown: dict[tuple[str, ...], Any] = flatten_dict(state["intermediates"])
    for path in sorted(sown, key=_order):
      if path[-1] == "heads":
        (pair,) = sown[path]
        stacked = pair if pair[0].ndim == 5 else [x[None] for x in pair]
        layers.setdefault(_kind(path, backbone.attentions), []).append(stacked)
    rows, out = len(batch["video"]), {}
    for kind, pairs in layers.items():
      query, key = (jnp.concatenate(x) for x in zip(*pairs, strict=True))
      reader = "first" if kind == "probe" or reads_class else "mean"
      cap = 0.0 if kind == "probe" else backbone.logit_cap
      weights = functools.partial(_weights, kind, reader, rows, clip.grid, cap)
      pair = jax.lax.map(lambda pair, weights=weights: weights(*pair), (query, key))
      tubelets, cls = (jnp.moveaxis(x, 0, 1) for x in pair)
      out[kind] = tubelets, cls
    return out

  return probabilities


def _order(path: tuple[str, ...]) -> tuple:
  """Sorts block_2 before block_10."""
  return tuple(
    int(part) if part.isdigit() else part
    for name in path
    for part in re.split(r"(\d+)", name)
  )


def _kind(path: tuple[str, ...], attentions: Mapping[str, str]) -> str:
  """Kind of attention, by the path of the module that sowed."""
  return next((attentions[part] for part in path if part in attentions), "probe")


def _weights(
  kind: str,
  reader: str,
  rows: int,
  grid: tuple[int, int, int],
  cap: float,
  query: Float[Array, "r q h e"],
  key: Float[Array, "r k h e"],
) -> tuple[Float[Array, "b h t y x"], Float[Array, "b h"]]:
  """(probabilities of tubelets, of class tokens) in one layer."""
  slices, patches = grid[0], grid[1] * grid[2]
  if kind == "time" and key.shape[1] == slices:  # each patch alone, no class token
    return _alongside(softmax(query, key, cap).mean(axis=2), rows, grid)
  framewise = query.shape[0] > rows
  first = key.shape[1] - (patches if framewise else slices * patches)  # class tokens
  query, key = query.astype(jnp.float32), key.astype(jnp.float32)
  if reader == "first" and (first or kind == "probe"):
    probs = softmax(query[:, :1], key, cap)[:, :, 0]
  elif kind in ("time", "space"):
    cls, inner = _divided(query, key, kind, slices)
    probs = jnp.concatenate([cls[..., None], inner], axis=-1)
  else:
    probs = softmax(query[:, first:], key, cap).mean(axis=2)
  frames = slices if framewise else 1
  probs = probs.reshape(rows, frames, *probs.shape[1:]).swapaxes(1, 2) / frames
  cls = probs[..., :first].sum(axis=(2, 3))
  return probs[..., first:].reshape(*cls.shape, *grid), cls


def _alongside(
  probs: Float[Array, "n h t"], rows: int, grid: tuple[int, int, int]
) -> tuple[Float[Array, "b h t y x"], Float[Array, "b h"]]:
  """As `_weights`, of attention along time by each patch; their mean."""
  heads, (frames, high, wide) = probs.shape[1], grid
  maps = probs.reshape(rows, high, wide, heads, frames) / (high * wide)
  return maps.transpose(0, 3, 4, 1, 2), jnp.zeros((rows, heads))


def _divided(
  query: Float[Array, "b m h e"],
  key: Float[Array, "b m h e"],
  kind: str,
  slices: int,
) -> tuple[Float[Array, "b h"], Float[Array, "b h m-1"]]:
  """Attention to the class token and to each tubelet; mean over all query tubelets."""

  def groups(x: Array) -> Array:
    x = x[:, 1:].reshape(x.shape[0], slices, -1, *x.shape[2:])
    return x.swapaxes(1, 2) if kind == "time" else x

  group = groups(key)
  shape = (*group.shape[:2], 1, *group.shape[3:])
  keys = jnp.concatenate([jnp.broadcast_to(key[:, :1, None], shape), group], axis=2)
  probs = jax.vmap(softmax, in_axes=1, out_axes=1)(groups(query), keys)
  probs = probs.mean(axis=3)  # over the queries of a group: [b g h 1+m]
  cls = probs[..., 0].mean(axis=1)
  inner = probs[..., 1:].swapaxes(1, 2) / probs.shape[1]
  if kind == "time":
    inner = inner.swapaxes(2, 3)
  return cls, inner.reshape(*inner.shape[:2], -1)


def softmax(
  query: Float[Array, "b q h e"], key: Float[Array, "b k h e"], cap: float = 0.0
) -> Float[Array, "b h q k"]:
  """Attention probabilities as in models/attention.py, float32."""
  query, key = query.astype(jnp.float32), key.astype(jnp.float32)
  scores = jnp.einsum("bqhe,bkhe->bhqk", query, key) * query.shape[-1] ** -0.5
  if cap:
    scores = cap * jnp.tanh(scores / cap)
  return jax.nn.softmax(scores, axis=-1)
