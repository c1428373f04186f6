"""Weights for tests: random ones, and Frozen's and DistilBERT's as our trees."""

import jax
import numpy as np


def draw(shapes, seed=1):
  """Random parameters; scales of norms around 1."""
  rng = np.random.default_rng(seed)

  def leaf(path, x):
    return (path[-1].key == "scale") + rng.normal(0, 0.2, x.shape).astype("f")

  return jax.tree_util.tree_map_with_path(leaf, shapes)


def norm(state, name):
  return dict(scale=state[name + ".weight"], bias=state[name + ".bias"])


def dense(state, name):
  return dict(kernel=state[name + ".weight"].T, bias=state[name + ".bias"])


def divided_blocks(state, prefix, depth):
  """Frozen's blocks; the key part of the fused bias changes no output and is left."""
  tree = {}
  for i in range(depth):
    p = f"{prefix}.blocks.{i}."
    tree[f"block_{i}"] = dict(
      norm_time=norm(state, p + "norm3"),
      norm_attention=norm(state, p + "norm1"),
      norm_mlp=norm(state, p + "norm2"),
      time_attention=fused_attention(state, p + "timeattn"),
      attention=fused_attention(state, p + "attn"),
      mlp=dict(up=dense(state, p + "mlp.fc1"), down=dense(state, p + "mlp.fc2")),
    )
  return tree


def fused_attention(state, name):
  q, k, v = np.split(state[name + ".qkv.weight"], 3)
  q_bias, _, v_bias = np.split(state[name + ".qkv.bias"], 3)
  return dict(
    query=dict(kernel=q.T, bias=q_bias),
    key=dict(kernel=k.T),
    value=dict(kernel=v.T, bias=v_bias),
    out=dense(state, name + ".proj"),
  )


def distilbert_blocks(state, prefix, depth):
  tree = {}
  for i in range(depth):
    p = f"{prefix}.transformer.layer.{i}."
    tree[f"block_{i}"] = dict(
      norm_attention=norm(state, p + "sa_layer_norm"),
      norm_mlp=norm(state, p + "output_layer_norm"),
      attention=dict(
        query=dense(state, p + "attention.q_lin"),
        key=dict(kernel=state[p + "attention.k_lin.weight"].T),
        value=dense(state, p + "attention.v_lin"),
        out=dense(state, p + "attention.out_lin"),
      ),
      mlp=dict(up=dense(state, p + "ffn.lin1"), down=dense(state, p + "ffn.lin2")),
    )
  return tree


def patch_kernel(weight):
  """Conv2d [d, c, ph, pw] to [ph pw c, d]."""
  return weight.transpose(2, 3, 1, 0).reshape(-1, weight.shape[0])


def frozen_params(state, video_depth, text_depth):
  video, table = "video_model.", "text_model.embeddings."
  return dict(
    video_tower=dict(
      proj=dict(
        kernel=patch_kernel(state[video + "patch_embed.proj.weight"]),
        bias=state[video + "patch_embed.proj.bias"],
      ),
      cls_token=state[video + "cls_token"].reshape(-1),
      space_positions=state[video + "pos_embed"][0],
      time_positions=state[video + "temporal_embed"][0],
      norm=norm(state, video + "norm"),
    )
    | divided_blocks(state, "video_model", video_depth),
    text_tower=dict(
      embed=dict(
        words=state[table + "word_embeddings.weight"],
        positions=state[table + "position_embeddings.weight"],
        norm=norm(state, table + "LayerNorm"),
      )
    )
    | distilbert_blocks(state, "text_model", text_depth),
    video_proj=dense(state, "vid_proj.0"),
    text_proj=dense(state, "txt_proj.1"),
  )
