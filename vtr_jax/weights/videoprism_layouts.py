"""Layouts of VideoPrism's .npz files; the layers of a stack lie in one array."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vtr_jax.models.dual_encoder import DualEncoder
from vtr_jax.weights import entries as e
from vtr_jax.weights.entries import Arrays, Entries, Entry
from vtr_jax.weights.layouts import TEXT, VIDEO, reads_text

_Reshape = Callable[[np.ndarray], np.ndarray]
_POOLER = "params/contrastive_vision_pooler/"
_TEXT = "params/text_encoder/"


def videoprism(model: DualEncoder) -> Entries:
  """The video encoders, without auxiliary stack, pooler and text."""
  yield from _encoder(model, "params/")


def videoprism_lvt(model: DualEncoder) -> Entries:
  """The video-text models."""
  c, pool = model.config, "video_pool"
  yield from _encoder(model, "params/vision_encoder/")
  depth = getattr(c.video, "auxiliary_depth", 0)
  keys = "params/auxiliary_encoder/transformers_stack/x_layers/"
  yield from _stack(keys, f"{VIDEO}/auxiliary", depth, c.video)
  yield e.plain(_POOLER + "pooling_attention_query", f"{pool}/probe")
  attention = _POOLER + "pooling_attention/"
  yield e.plain(attention + "per_dim_scale/per_dim_scale", f"{pool}/query_scale")
  yield from _attention(attention, (f"{pool}/",), c.video, stacked=False)
  yield from _norm(_POOLER + "pooling_attention_layer_norm", f"{pool}/norm")
  if not reads_text(model):
    return
  words = f"{TEXT}/embed/words"
  yield e.token_embeddings(_TEXT + "token_emb/emb_var", words, model.text.mask_id)
  yield e.squeezed(_TEXT + "cls_emb", f"{TEXT}/cls_token", 2)
  keys, tower = _TEXT + "unimodal_transformer/x_layers/", f"{TEXT}/transformer"
  yield from _stack(keys, tower, c.text.depth, c.text)
  yield from _norm(_TEXT + "unimodal_ln", f"{tower}/norm")


def _encoder(model: DualEncoder, prefix: str) -> Entries:
  c: Any = model.config.video
  for part in ("kernel", "bias"):
    yield e.plain(f"{prefix}patch_projection/linear/{part}", f"{VIDEO}/proj/{part}")
  depths = dict(spatial=c.depth, temporal=getattr(c, "temporal_depth", 0))
  for name, depth in depths.items():
    yield e.plain(f"{prefix}{name}_pos_emb/emb_var", f"{VIDEO}/{name}_positions")
    keys = f"{prefix}{name}_encoder/transformers_stack/x_layers/"
    yield from _stack(keys, f"{VIDEO}/{name}", depth, c)
    yield from _norm(f"{prefix}{name}_ln", f"{VIDEO}/{name}/norm")


def _norm(prefix: str, path: str) -> Entries:
  """Scales are stored without their 1 in both."""
  yield e.plain(prefix + "/scale", path + "/scale")
  yield e.plain(prefix + "/bias", path + "/bias")


def _stack(prefix: str, path: str, depth: int, size: Any) -> Entries:
  """A stack of blocks, each array of which has the layers as first axis."""
  blocks = tuple(f"{path}/block_{i}/" for i in range(depth))
  names = {"layer_norm": "norm_attention", "ff_layer/layer_norm": "norm_mlp"}
  linear = {"ff_layer/ffn_layer1": "mlp/up", "ff_layer/ffn_layer2": "mlp/down"}
  pairs = [
    (f"{k}/{p}", f"{v}/{p}") for k, v in names.items() for p in ("scale", "bias")
  ]
  pairs += [
    (f"{k}/linear/{p}", f"{v}/{p}")
    for k, v in linear.items()
    for p in ("kernel", "bias")
  ]
  same = lambda x: x
  for key, name in pairs:
    yield _entry(prefix + key, [block + name for block in blocks], same, same)
  paths = tuple(block + "attention/" for block in blocks)
  yield from _attention(prefix + "self_attention/", paths, size)


def _attention(
  prefix: str, paths: tuple[str, ...], size: Any, stacked: bool = True
) -> Entries:
  """Heads are an axis of their own, and of `post` the last but one."""
  heads = size.num_heads
  for part in ("query", "key", "value"):
    names = [f"{path}{part}/" for path in paths]
    yield _entry(
      f"{prefix}{part}/w",
      [name + "kernel" for name in names],
      lambda x: x.reshape(len(x), -1),
      lambda x: x.reshape(len(x), heads, -1),
      stacked,
    )
    yield _entry(
      f"{prefix}{part}/b",
      [name + "bias" for name in names],
      lambda x: x.reshape(-1),
      lambda x: x.reshape(heads, -1),
      stacked,
    )
  yield _entry(
    prefix + "post/w",
    [f"{path}out/kernel" for path in paths],
    lambda x: x.reshape(len(x), -1).T,
    lambda x: x.T.reshape(x.shape[1], heads, -1),
    stacked,
  )
  same = lambda x: x
  out = [f"{path}out/bias" for path in paths]
  yield _entry(prefix + "post/b", out, same, same, stacked)


def _entry(
  key: str, paths: list[str], load: _Reshape, save: _Reshape, stacked: bool = True
) -> Entry:
  """`load` and `save` are of one layer."""

  def load_all(x: np.ndarray) -> Arrays:
    if stacked and len(x) != len(paths):
      raise ValueError(f"{len(x)} layers, the model has {len(paths)}")
    return tuple(map(load, x)) if stacked else (load(x),)

  def save_all(*layers: np.ndarray) -> Arrays:
    return (np.stack([save(x) for x in layers]) if stacked else save(layers[0]),)

  return Entry((key,), tuple(paths), load_all, save_all)


def infer(c: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
  """Sets sizes of the complete config `c` to those of a file; all are in it."""
  shapes = {key: x.shape for key, x in arrays.items()}
  prefix = "params/vision_encoder/"
  if lvt := any(key.startswith(prefix) for key in shapes):
    words = shapes.get(_TEXT + "token_emb/emb_var", (c["text"]["vocab_size"] - 1,))
    c["text"].update(vocab_size=words[0] + 1, mask_id=words[0])
  else:
    prefix = "params/"
    c["objective"]["pool"] = "mean"
  video = c["objective"]["video"]
  video.update(_size(shapes, f"{prefix}spatial_encoder/transformers_stack/"))
  for name, keys in dict(
    temporal=f"{prefix}temporal_encoder/", auxiliary="params/auxiliary_encoder/"
  ).items():
    size = _size(shapes, keys + "transformers_stack/")
    video[f"{name}_depth"] = size.get("depth", 0 if not lvt else video[f"{name}_depth"])
  space, time = (
    shapes.get(f"{prefix}{name}_pos_emb/emb_var", (0,))[0]
    for name in ("spatial", "temporal")
  )
  kernel = shapes.get(f"{prefix}patch_projection/linear/kernel", (0,))[0]
  side, patch = math.isqrt(space), math.isqrt(kernel // 3)
  if side and time and patch:
    video["pos_grid"] = (time, side, side)
    clip = dict(tubelet_size=(1, patch, patch), image_size=side * patch)
    c["clip"].update(clip, num_frames=time)
  text = _size(shapes, _TEXT + "unimodal_transformer/")
  if not text:  # as wide as the video tower, for its embedding has that width
    text = {key: video[key] for key in ("width", "mlp_dim", "num_heads")}
  c["objective"]["text"].update(text)
  c["objective"]["projection"] = video["width"]


def _size(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> dict[str, int]:
  """Size of a stack of blocks; {} if it is not in the file."""
  query = shapes.get(f"{prefix}x_layers/self_attention/query/w", ())
  up = shapes.get(f"{prefix}x_layers/ff_layer/ffn_layer1/linear/kernel", ())
  if len(query) != 4 or len(up) != 3:
    return {}
  depth, width, heads, _ = query
  return dict(width=width, depth=depth, mlp_dim=up[2], num_heads=heads)
