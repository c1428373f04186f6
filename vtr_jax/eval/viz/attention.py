"""Where a video tower looks: attention of what the embedding is read from.

That is the class token where the model reads it, the probe of an attention pooling, and
else the mean over all tubelets. Probabilities are recomputed from the queries and keys
that the towers `sow`, outside training; nothing is kept there.
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
from vtr_jax.objectives.base import Objective, Params


class Attention(NamedTuple):
  """Shares of one kind of attention; of each head, both together sum to 1."""

  tubelets: Float[np.ndarray, "b l h t y x"]  # l layers, h heads
  cls: Float[np.ndarray, "b l h"]  # of the class token (of all, if frames have each)


def attention(model: base.Model, clips: base.Clips) -> dict[str, Attention]:
  """What the embedding's reader attends to in whole clips.

  Args:
    model: see `base.Model`.
    clips: uint8 [t h w 3] of the model's size.

  Returns:
    By kind: "joint" or "frame" attention, "time" and "space" of divided attention, and
    "probe" of an attention pooling. Of frames that are encoded alone, and of groups of
    divided attention, it is the mean over them, each tubelet in its own place.

  Raises:
    DataError: clips of another size, or none.
  """
  batch = dict(video=base.clip_rows(model, clips))
  found = base.on_devices(model, _attention, batch, model.config.clip)
  return {kind: Attention(*shares) for kind, shares in found.items()}


def overlay(
  model: base.Model, clip: Video, layer: int = -1, heads: bool = False
) -> Image.Image:
  """A clip, and over it where each kind of attention goes.

  Args:
    model: see `base.Model`.
    clip: uint8 [t h w 3] of the model's size.
    layer: from 0, or from the end; a pooling has one alone.
    heads: whether each head has a row of its own; else their mean is drawn.

  Raises:
    DataError: clips of another size; or the model has fewer layers.
  """
  return base.strips(
    [("clip", clip), *rows(clip, attention(model, [clip]), layer, heads)]
  )


def layers(model: base.Model, clip: Video) -> Image.Image:
  """A clip, and over it the attention of every layer, by the mean of heads."""
  found, strips = attention(model, [clip]), [("clip", clip)]
  for kind, each in found.items():
    for layer in range(each.tubelets.shape[1]):
      one = {f"{kind}, layer {layer}": each}
      strips += rows(clip, one, layer)
  return base.strips(strips)


def rows(
  clip: Video,
  found: Mapping[str, Attention],
  layer: int = -1,
  heads: bool = False,
  number: int = 0,
) -> list[tuple[str, Video]]:
  """What `base.strips` draws of the clip that has this number in `found`.

  The scale of each strip goes from nothing to its own greatest value.
  """
  strips = []
  for kind, each in found.items():
    count = each.tubelets.shape[1]
    if count > 1 and not -count <= layer < count:
      raise DataError(f"layer: {layer}, but there are {count}; use 0 to {count - 1}")
    maps = each.tubelets[number, layer if count > 1 else 0]
    many = [(f"{kind}, head {i}", one) for i, one in enumerate(maps)]
    for name, one in many if heads else [(kind, maps.mean(axis=0))]:
      label = f"{name}\nat most {one.max() * one.size:.1f} times even"
      strips.append((label, base.heat(clip, one, low=0.0)))
  return strips


def spread(found: Attention) -> float:
  """How widely the last layer looks: exp(entropy) of its tubelets, over their number.

  1 = evenly over the clip, 1 / number = at one tubelet. Mean over clips and heads.
  """
  last = found.tubelets[:, -1].astype(np.float64)
  share = last.reshape(*last.shape[:2], -1)
  share = share / np.maximum(share.sum(axis=-1, keepdims=True), 1e-30)
  entropy = -(share * np.log(np.maximum(share, 1e-30))).sum(axis=-1)
  return float((np.exp(entropy) / share.shape[-1]).mean())


def _attention(
  objective: Objective, clip: ClipSpec
) -> Callable[[Params, Batch], dict[str, tuple[Array, Array]]]:
  def look(params: Params, batch: Batch) -> dict[str, tuple[Array, Array]]:
    _, state = objective.model.apply(
      {"params": params}, batch, method="embed_video", mutable=["intermediates"]
    )
    reads_class = getattr(objective.model.config, "pool", "mean") == "cls"
    layers = {}  # of each kind of attention: (queries, keys) of its layers
    sown: dict[tuple[str, ...], Any] = flatten_dict(state["intermediates"])
    for path in sorted(sown, key=_order):
      if path[-1] == "heads":
        (pair,) = sown[path]
        stacked = pair if pair[0].ndim == 5 else [x[None] for x in pair]
        layers.setdefault(_kind(path), []).append(stacked)
    if "time" in layers:
      layers["space"] = layers.pop("joint")
    rows, out = len(batch["video"]), {}
    for kind, pairs in layers.items():
      query, key = (jnp.concatenate(x) for x in zip(*pairs, strict=True))
      reader = "first" if kind == "probe" or reads_class else "mean"
      shares = functools.partial(_shares, kind, reader, rows, clip.grid)
      found = jax.lax.map(lambda pair, shares=shares: shares(*pair), (query, key))
      name = "frame" if kind == "joint" and query.shape[1] > rows else kind
      tubelets, cls = (jnp.moveaxis(x, 0, 1) for x in found)
      out[name] = tubelets, cls
    return out

  return look


def _order(path: tuple[str, ...]) -> tuple:
  """Sorts block_2 before block_10."""
  return tuple(
    int(part) if part.isdigit() else part
    for name in path
    for part in re.split(r"(\d+)", name)
  )


def _kind(path: tuple[str, ...]) -> str:
  """Of the module that sowed, by its name."""
  return dict(time_attention="time", attention="joint").get(path[-2], "probe")


def _shares(
  kind: str,
  reader: str,
  rows: int,
  grid: tuple[int, int, int],
  query: Float[Array, "r q h e"],
  key: Float[Array, "r k h e"],
) -> tuple[Float[Array, "b h t y x"], Float[Array, "b h"]]:
  """(of tubelets, of class tokens) in one layer."""
  slices, places = grid[0], grid[1] * grid[2]
  apart = query.shape[0] > rows  # rows are frames
  first = key.shape[1] - (places if apart else slices * places)  # class tokens: 0 or 1
  query, key = query.astype(jnp.float32), key.astype(jnp.float32)
  if reader == "first" and (first or kind == "probe"):
    probs = softmax(query[:, :1], key)[:, :, 0]
  elif kind in ("time", "space"):
    cls, inner = _divided(query, key, kind, slices)
    probs = jnp.concatenate([cls[..., None], inner], axis=-1)
  else:
    probs = softmax(query[:, first:], key).mean(axis=2)
  parts = slices if apart else 1
  probs = probs.reshape(rows, parts, *probs.shape[1:]).swapaxes(1, 2) / parts
  cls = probs[..., :first].sum(axis=(2, 3))
  return probs[..., first:].reshape(*cls.shape, *grid), cls


def _divided(
  query: Float[Array, "b m h e"],
  key: Float[Array, "b m h e"],
  kind: str,
  slices: int,
) -> tuple[Float[Array, "b h"], Float[Array, "b h m-1"]]:
  """Means over all tubelets of what each gives the class token, and its own group."""

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
  query: Float[Array, "b q h e"], key: Float[Array, "b k h e"]
) -> Float[Array, "b h q k"]:
  """Probabilities of attention, as in models/attention.py, float32."""
  scores = jnp.einsum("bqhe,bkhe->bhqk", query, key) * query.shape[-1] ** -0.5
  return jax.nn.softmax(scores, axis=-1)
