"""Layouts: how each public code names the arrays of its files, one function per layout.

Names and shapes are those of the authors' code, and of `transformers` 5 for "hf_". A
layout is built for one model, whose depths and tubelet size it takes.
"""

from collections.abc import Callable, Iterator, Sequence

import flax.linen as nn
import numpy as np

from vtr_jax.models.dual_encoder import DualEncoder
from vtr_jax.objectives.actions import Actions
from vtr_jax.weights import entries as e
from vtr_jax.weights.entries import Entries, Entry

VIDEO, TEXT = "video_tower", "text_tower"

Layout = Callable[..., Iterator[Entry]]


def reads_text(model: nn.Module) -> bool:
  """Whether it has a text side; the layouts of others are of the video tower alone."""
  return not isinstance(model, Actions)


def blocks(depth: int, prefix: str, path: str, block: Callable) -> Entries:
  """`block(prefix of the keys, prefix of the paths)` for each of `depth` layers."""
  for i in range(depth):
    yield from block(f"{prefix}.{i}.", f"{path}/block_{i}/")


def _block(
  norms: tuple[str, str], projections: Sequence[str], mlp: tuple[str, str]
) -> Callable[[str, str], Entries]:
  """(prefix of the keys, of the paths) -> a block with separate projections.

  Args:
    norms: before or after attention, and the MLP.
    projections: query, key, value, output.
    mlp: up and down.
  """

  def entries(prefix: str, path: str) -> Entries:
    for key, name in zip(norms, ("norm_attention", "norm_mlp"), strict=True):
      yield from e.norm(prefix + key, path + name)
    yield from e.attention([prefix + key for key in projections], path + "attention")
    up, down = mlp
    yield from e.mlp(prefix + up, prefix + down, path + "mlp")

  return entries


_hf_vit_block = _block(
  ("layernorm_before", "layernorm_after"),
  [f"attention.{part}_proj" for part in "qkvo"],
  ("mlp.fc1", "mlp.fc2"),
)
_distilbert_block = _block(
  ("sa_layer_norm", "output_layer_norm"),
  [f"attention.{part}_lin" for part in ("q", "k", "v", "out")],
  ("ffn.lin1", "ffn.lin2"),
)
_bert_block = _block(
  ("attention.output.LayerNorm", "output.LayerNorm"),
  [f"attention.{part}" for part in ("self.query", "self.key", "self.value")]
  + ["attention.output.dense"],
  ("intermediate.dense", "output.dense"),
)
_hf_block = _block(
  ("layer_norm1", "layer_norm2"),
  [f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")],
  ("mlp.fc1", "mlp.fc2"),
)


# ------------------------------------------------------------------ image towers


def timm_vit(model: DualEncoder, prefix: str = "") -> Entries:
  """timm's VisionTransformer: the video tower without its temporal parameters."""
  yield from _timm_embed(model, prefix)
  yield from blocks(model.config.video.depth, prefix + "blocks", VIDEO, _timm_block)
  yield from e.norm(prefix + "norm", f"{VIDEO}/norm")


def _timm_embed(model: DualEncoder, prefix: str) -> Entries:
  yield e.squeezed(prefix + "cls_token", f"{VIDEO}/cls_token", 2)
  yield e.squeezed(prefix + "pos_embed", f"{VIDEO}/space_positions", 1)
  proj = prefix + "patch_embed.proj"
  yield e.patches(proj + ".weight", f"{VIDEO}/proj/kernel", model.clip.tubelet_size)
  yield e.plain(proj + ".bias", f"{VIDEO}/proj/bias")


def _timm_block(prefix: str, path: str) -> Entries:
  yield from e.norm(prefix + "norm1", path + "norm_attention")
  yield from e.norm(prefix + "norm2", path + "norm_mlp")
  yield from _fused(prefix + "attn", path + "attention")
  yield from e.mlp(prefix + "mlp.fc1", prefix + "mlp.fc2", path + "mlp")


def _fused(prefix: str, path: str) -> Entries:
  qkv = prefix + ".qkv"
  yield from e.fused_attention(qkv + ".weight", qkv + ".bias", prefix + ".proj", path)


def hf_vit(model: DualEncoder) -> Entries:
  embed = "embeddings."
  yield e.squeezed(embed + "cls_token", f"{VIDEO}/cls_token", 2)
  yield e.squeezed(embed + "position_embeddings", f"{VIDEO}/space_positions", 1)
  proj = embed + "patch_embeddings.projection"
  yield e.patches(proj + ".weight", f"{VIDEO}/proj/kernel", model.clip.tubelet_size)
  yield e.plain(proj + ".bias", f"{VIDEO}/proj/bias")
  yield from blocks(model.config.video.depth, "layers", VIDEO, _hf_vit_block)
  yield from e.norm("layernorm", f"{VIDEO}/norm")


# ------------------------------------------------------------------- text towers


def distilbert(model: DualEncoder, prefix: str = "") -> Entries:
  yield from _bert_tokens(prefix, f"{TEXT}/embed")
  table = prefix + "embeddings.position_embeddings.weight"
  yield e.plain(table, f"{TEXT}/embed/positions")
  layers = prefix + "transformer.layer"
  yield from blocks(model.config.text.depth, layers, TEXT, _distilbert_block)


def _bert_tokens(prefix: str, path: str) -> Entries:
  embed = prefix + "embeddings."
  yield e.plain(embed + "word_embeddings.weight", path + "/words")
  yield from e.norm(embed + "LayerNorm", path + "/norm")


def bert(model: DualEncoder) -> Entries:
  yield from bert_embed("", f"{TEXT}/embed")
  yield from blocks(model.config.text.depth, "encoder.layer", TEXT, _bert_block)


def bert_embed(prefix: str, path: str) -> Entries:
  yield from _bert_tokens(prefix, path)
  positions, types = (
    f"{prefix}embeddings.{kind}_embeddings.weight"
    for kind in ("position", "token_type")
  )
  yield e.bert_positions(positions, types, path + "/positions")


# -------------------------------------------------------------------- dual encoders


def frozen(model: DualEncoder) -> Entries:
  """Frozen in Time, whose text projection is named txt_proj."""
  yield from _frozen(model, "txt_proj.1")


def miles(model: DualEncoder) -> Entries:
  yield from _frozen(model, "text_proj.1")


def mcq(model: DualEncoder) -> Entries:
  """MCQ (BridgeFormer): Frozen without temporal parameters, its last norm named norm1.

  This equals divided attention whose temporal part is 0, its initial value.
  """
  video = "video_model."
  yield from _timm_embed(model, video)
  yield from blocks(model.config.video.depth, video + "blocks", VIDEO, _timm_block)
  yield from e.norm(video + "norm1", f"{VIDEO}/norm")
  yield from _frozen_text(model, "text_proj.1")


def _frozen_text(model: DualEncoder, text_proj: str) -> Entries:
  """The text tower and both projections."""
  if reads_text(model):
    yield from distilbert(model, "text_model.")
    yield from e.linear("vid_proj.0", "video_proj")
    yield from e.linear(text_proj, "text_proj")


def _frozen(model: DualEncoder, text_proj: str) -> Entries:
  video = "video_model."
  yield from _timm_embed(model, video)
  yield e.squeezed(video + "temporal_embed", f"{VIDEO}/time_positions", 1)
  depth = model.config.video.depth
  divided = model.config.video.name == "divided"
  block = _frozen_block if divided else _timm_block
  yield from blocks(depth, video + "blocks", VIDEO, block)
  yield from e.norm(video + "norm", f"{VIDEO}/norm")
  yield from _frozen_text(model, text_proj)


def _frozen_block(prefix: str, path: str) -> Entries:
  yield from _timm_block(prefix, path)
  yield from e.norm(prefix + "norm3", path + "norm_time")
  yield from _fused(prefix + "timeattn", path + "time_attention")


def openai_clip(model: DualEncoder) -> Entries:
  """OpenAI's CLIP, and open_clip's models of the same architecture."""
  yield from _openai_towers(model, "visual.", "")
  if reads_text(model) and model.config.learn_temperature:
    yield e.plain("logit_scale", "logit_scale")


def viclip(model: DualEncoder) -> Entries:
  """ViCLIP (InternVid, arXiv 2307.06942): CLIP with positions in time.

  It stores the temperature, not the logarithm of its inverse.
  """
  video = "vision_encoder."
  yield from _openai_towers(model, video, "text_encoder.", flat=False)
  times = video + "temporal_positional_embedding"
  yield e.squeezed(times, f"{VIDEO}/time_positions", 1)
  if reads_text(model) and model.config.learn_temperature:
    array = lambda x: (np.asarray(x),)  # functions of NumPy return numbers
    convert = lambda x: array(-np.log(x)), lambda x: array(np.exp(-x))
    yield Entry(("temp",), ("logit_scale",), *convert)


def _openai_towers(
  model: DualEncoder, visual: str, text: str, flat: bool = True
) -> Entries:
  """Both towers of CLIP; `flat`, see `entries.patches`."""
  c = model.config
  yield e.plain(visual + "class_embedding", f"{VIDEO}/cls_token")
  yield e.plain(visual + "positional_embedding", f"{VIDEO}/space_positions")
  conv, kernel = visual + "conv1.weight", f"{VIDEO}/proj/kernel"
  yield e.patches(conv, kernel, model.clip.tubelet_size, flat)
  yield from e.norm(visual + "ln_pre", f"{VIDEO}/norm_input")
  layers = visual + "transformer.resblocks"
  yield from blocks(c.video.depth, layers, VIDEO, _openai_block)
  yield from e.norm(visual + "ln_post", f"{VIDEO}/norm")
  if not reads_text(model):
    return
  yield e.plain(visual + "proj", "video_proj/kernel")
  words = f"{TEXT}/embed/words"
  yield e.token_embeddings(text + "token_embedding.weight", words, model.text.mask_id)
  yield e.plain(text + "positional_embedding", f"{TEXT}/embed/positions")
  tower = f"{TEXT}/transformer"
  layers = text + "transformer.resblocks"
  yield from blocks(c.text.depth, layers, tower, _openai_block)
  yield from e.norm(text + "ln_final", f"{tower}/norm")
  yield e.plain(text + "text_projection", "text_proj/kernel")


def _openai_block(prefix: str, path: str) -> Entries:
  yield from e.norm(prefix + "ln_1", path + "norm_attention")
  yield from e.norm(prefix + "ln_2", path + "norm_mlp")
  attn = prefix + "attn."
  names = attn + "in_proj_weight", attn + "in_proj_bias", attn + "out_proj"
  yield from e.fused_attention(*names, path + "attention")
  yield from e.mlp(prefix + "mlp.c_fc", prefix + "mlp.c_proj", path + "mlp")


def hf_clip(model: DualEncoder) -> Entries:
  c, video = model.config, "vision_model."
  yield e.plain(video + "embeddings.class_embedding", f"{VIDEO}/cls_token")
  yield from _hf_towers(model)
  yield from e.norm(video + "pre_layrnorm", f"{VIDEO}/norm_input")
  if not reads_text(model):
    return
  yield e.transposed("visual_projection.weight", "video_proj/kernel")
  yield e.transposed("text_projection.weight", "text_proj/kernel")
  if c.learn_temperature:
    yield e.plain("logit_scale", "logit_scale")


def hf_siglip(model: DualEncoder) -> Entries:
  c, head = model.config, "vision_model.head."
  yield from _hf_towers(model)
  bias = "vision_model.embeddings.patch_embedding.bias"
  yield e.plain(bias, f"{VIDEO}/proj/bias")
  if c.pool == "cls":
    yield e.squeezed(head + "probe", "video_pool/probe", 1)
    attn = head + "attention."
    names = attn + "in_proj_weight", attn + "in_proj_bias", attn + "out_proj"
    yield from e.fused_attention(*names, "video_pool")
    yield from e.norm(head + "layernorm", "video_pool/norm")
    yield from e.mlp(head + "mlp.fc1", head + "mlp.fc2", "video_pool/mlp")
  if not reads_text(model):
    return
  yield from e.linear("text_model.head", "text_proj")
  if c.learn_temperature:
    yield Entry(
      ("logit_scale",),
      ("logit_scale",),
      lambda x: (x.reshape(()),),
      lambda x: (x.reshape(1),),
    )


def _hf_towers(model: DualEncoder) -> Entries:
  """The parameters that CLIP and SigLIP share in transformers."""
  c, video, text = model.config, "vision_model.", "text_model."
  table = "embeddings.position_embedding.weight"
  yield e.plain(video + table, f"{VIDEO}/space_positions")
  conv, kernel = video + "embeddings.patch_embedding.weight", f"{VIDEO}/proj/kernel"
  yield e.patches(conv, kernel, model.clip.tubelet_size)
  yield from blocks(c.video.depth, video + "encoder.layers", VIDEO, _hf_block)
  yield from e.norm(video + "post_layernorm", f"{VIDEO}/norm")
  if not reads_text(model):
    return
  words, path = text + "embeddings.token_embedding.weight", f"{TEXT}/embed/words"
  yield e.token_embeddings(words, path, model.text.mask_id)
  yield e.plain(text + table, f"{TEXT}/embed/positions")
  tower = f"{TEXT}/transformer"
  yield from blocks(c.text.depth, text + "encoder.layers", tower, _hf_block)
  yield from e.norm(text + "final_layer_norm", f"{tower}/norm")
