"""How each family of public files names its arrays; one function per layout.

Shapes and names: the authors' code, and `transformers` 5 for "HF". A layout is made for
one model: depths and tubelets are the model's.
"""

from collections.abc import Callable, Iterator

from vtr_jax.models.dual_encoder import DualEncoder
from vtr_jax.objectives.simvtp import SimVTP
from vtr_jax.weights import entries as e
from vtr_jax.weights.entries import Entries, Entry

VIDEO, TEXT = "video_tower", "text_tower"

Layout = Callable[..., Iterator[Entry]]


def blocks(depth: int, theirs: str, ours: str, block: Callable) -> Entries:
  """`block(their prefix, our prefix)` for each of `depth` layers."""
  for i in range(depth):
    yield from block(f"{theirs}.{i}.", f"{ours}/block_{i}/")


# ------------------------------------------------------------------ image towers


def timm_vit(model: DualEncoder, prefix: str = "") -> Entries:
  """timm's VisionTransformer: the video tower, but for what is about time."""
  yield from _timm_embed(model, prefix)
  yield from blocks(model.config.video.depth, prefix + "blocks", VIDEO, _timm_block)
  yield from e.norm(prefix + "norm", f"{VIDEO}/norm")


def _timm_embed(model: DualEncoder, prefix: str) -> Entries:
  yield e.flat(prefix + "cls_token", f"{VIDEO}/cls_token", 2)
  yield e.flat(prefix + "pos_embed", f"{VIDEO}/space_positions", 1)
  proj = prefix + "patch_embed.proj"
  yield e.patches(proj + ".weight", f"{VIDEO}/proj/kernel", model.clip.tubelet_size)
  yield e.plain(proj + ".bias", f"{VIDEO}/proj/bias")


def _timm_block(theirs: str, ours: str) -> Entries:
  yield from e.norm(theirs + "norm1", ours + "norm_attention")
  yield from e.norm(theirs + "norm2", ours + "norm_mlp")
  yield from _fused(theirs + "attn", ours + "attention")
  yield from e.mlp(theirs + "mlp.fc1", theirs + "mlp.fc2", ours + "mlp")


def _fused(theirs: str, ours: str) -> Entries:
  qkv = theirs + ".qkv"
  yield from e.fused(qkv + ".weight", qkv + ".bias", theirs + ".proj", ours)


def hf_vit(model: DualEncoder) -> Entries:
  embed = "embeddings."
  yield e.flat(embed + "cls_token", f"{VIDEO}/cls_token", 2)
  yield e.flat(embed + "position_embeddings", f"{VIDEO}/space_positions", 1)
  proj = embed + "patch_embeddings.projection"
  yield e.patches(proj + ".weight", f"{VIDEO}/proj/kernel", model.clip.tubelet_size)
  yield e.plain(proj + ".bias", f"{VIDEO}/proj/bias")
  yield from blocks(model.config.video.depth, "layers", VIDEO, _hf_vit_block)
  yield from e.norm("layernorm", f"{VIDEO}/norm")


def _hf_vit_block(theirs: str, ours: str) -> Entries:
  yield from e.norm(theirs + "layernorm_before", ours + "norm_attention")
  yield from e.norm(theirs + "layernorm_after", ours + "norm_mlp")
  parts = [f"{theirs}attention.{part}_proj" for part in "qkvo"]
  yield from e.attention(*parts, ours + "attention")
  yield from e.mlp(theirs + "mlp.fc1", theirs + "mlp.fc2", ours + "mlp")


# ------------------------------------------------------------------- text towers


def distilbert(model: DualEncoder, prefix: str = "") -> Entries:
  yield from _words(prefix, f"{TEXT}/embed")
  table = prefix + "embeddings.position_embeddings.weight"
  yield e.plain(table, f"{TEXT}/embed/positions")
  layers = prefix + "transformer.layer"
  yield from blocks(model.config.text.depth, layers, TEXT, _distilbert_block)


def _words(prefix: str, ours: str) -> Entries:
  embed = prefix + "embeddings."
  yield e.plain(embed + "word_embeddings.weight", ours + "/words")
  yield from e.norm(embed + "LayerNorm", ours + "/norm")


def _distilbert_block(theirs: str, ours: str) -> Entries:
  yield from e.norm(theirs + "sa_layer_norm", ours + "norm_attention")
  yield from e.norm(theirs + "output_layer_norm", ours + "norm_mlp")
  parts = [f"{theirs}attention.{part}_lin" for part in ("q", "k", "v", "out")]
  yield from e.attention(*parts, ours + "attention")
  yield from e.mlp(theirs + "ffn.lin1", theirs + "ffn.lin2", ours + "mlp")


def bert(model: DualEncoder) -> Entries:
  yield from _bert_embed("", f"{TEXT}/embed")
  yield from blocks(model.config.text.depth, "encoder.layer", TEXT, _bert_block)


def _bert_embed(prefix: str, ours: str) -> Entries:
  yield from _words(prefix, ours)
  positions, types = (
    f"{prefix}embeddings.{kind}_embeddings.weight"
    for kind in ("position", "token_type")
  )
  yield e.bert_positions(positions, types, ours + "/positions")


def _bert_block(theirs: str, ours: str) -> Entries:
  yield from e.norm(theirs + "attention.output.LayerNorm", ours + "norm_attention")
  yield from e.norm(theirs + "output.LayerNorm", ours + "norm_mlp")
  own = theirs + "attention.self."
  out = theirs + "attention.output.dense"
  parts = (own + "query", own + "key", own + "value", out)
  yield from e.attention(*parts, ours + "attention")
  up, down = theirs + "intermediate.dense", theirs + "output.dense"
  yield from e.mlp(up, down, ours + "mlp")


def bert_words(model: SimVTP) -> Entries:
  """What SimVTP takes of BERT: its first layer."""
  del model
  yield from _bert_embed("", "text_embed")


# -------------------------------------------------------------------- dual encoders


def frozen(model: DualEncoder) -> Entries:
  """Frozen in Time; its text projection is called txt_proj."""
  yield from _frozen(model, "txt_proj.1")


def miles(model: DualEncoder) -> Entries:
  yield from _frozen(model, "text_proj.1")


def mcq(model: DualEncoder) -> Entries:
  """MCQ (BridgeFormer): Frozen without time, whose last norm is called norm1.

  Its attention is divided attention whose time part is 0, as that part starts.
  """
  video = "video_model."
  yield from _timm_embed(model, video)
  yield from blocks(model.config.video.depth, video + "blocks", VIDEO, _timm_block)
  yield from e.norm(video + "norm1", f"{VIDEO}/norm")
  yield from distilbert(model, "text_model.")
  yield from e.linear("vid_proj.0", "video_proj")
  yield from e.linear("text_proj.1", "text_proj")


def _frozen(model: DualEncoder, text_proj: str) -> Entries:
  video = "video_model."
  yield from _timm_embed(model, video)
  yield e.flat(video + "temporal_embed", f"{VIDEO}/time_positions", 1)
  depth = model.config.video.depth
  divided = model.config.attention == "divided"
  block = _frozen_block if divided else _timm_block
  yield from blocks(depth, video + "blocks", VIDEO, block)
  yield from e.norm(video + "norm", f"{VIDEO}/norm")
  yield from distilbert(model, "text_model.")
  yield from e.linear("vid_proj.0", "video_proj")
  yield from e.linear(text_proj, "text_proj")


def _frozen_block(theirs: str, ours: str) -> Entries:
  yield from _timm_block(theirs, ours)
  yield from e.norm(theirs + "norm3", ours + "norm_time")
  yield from _fused(theirs + "timeattn", ours + "time_attention")


def openai_clip(model: DualEncoder) -> Entries:
  """OpenAI's CLIP, and open_clip's models of the same shape."""
  c, visual = model.config, "visual."
  yield e.plain(visual + "class_embedding", f"{VIDEO}/cls_token")
  yield e.plain(visual + "positional_embedding", f"{VIDEO}/space_positions")
  conv, kernel = visual + "conv1.weight", f"{VIDEO}/proj/kernel"
  yield e.patches(conv, kernel, model.clip.tubelet_size)
  yield from e.norm(visual + "ln_pre", f"{VIDEO}/norm_input")
  layers = visual + "transformer.resblocks"
  yield from blocks(c.video.depth, layers, VIDEO, _openai_block)
  yield from e.norm(visual + "ln_post", f"{VIDEO}/norm")
  yield e.plain(visual + "proj", "video_proj/kernel")
  words = f"{TEXT}/embed/words"
  yield e.words("token_embedding.weight", words, model.text.mask_id)
  yield e.plain("positional_embedding", f"{TEXT}/embed/positions")
  tower = f"{TEXT}/transformer"
  yield from blocks(c.text.depth, "transformer.resblocks", tower, _openai_block)
  yield from e.norm("ln_final", f"{tower}/norm")
  yield e.plain("text_projection", "text_proj/kernel")
  if c.learn_temperature:
    yield e.plain("logit_scale", "logit_scale")


def _openai_block(theirs: str, ours: str) -> Entries:
  yield from e.norm(theirs + "ln_1", ours + "norm_attention")
  yield from e.norm(theirs + "ln_2", ours + "norm_mlp")
  attn = theirs + "attn."
  names = attn + "in_proj_weight", attn + "in_proj_bias", attn + "out_proj"
  yield from e.fused(*names, ours + "attention")
  yield from e.mlp(theirs + "mlp.c_fc", theirs + "mlp.c_proj", ours + "mlp")


def hf_clip(model: DualEncoder) -> Entries:
  c, video = model.config, "vision_model."
  yield e.plain(video + "embeddings.class_embedding", f"{VIDEO}/cls_token")
  yield from _hf_towers(model)
  yield from e.norm(video + "pre_layrnorm", f"{VIDEO}/norm_input")
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
    yield e.flat(head + "probe", "video_pool/probe", 1)
    attn = head + "attention."
    names = attn + "in_proj_weight", attn + "in_proj_bias", attn + "out_proj"
    yield from e.fused(*names, "video_pool")
    yield from e.norm(head + "layernorm", "video_pool/norm")
    yield from e.mlp(head + "mlp.fc1", head + "mlp.fc2", "video_pool/mlp")
  yield from e.linear("text_model.head", "text_proj")
  if c.learn_temperature:
    yield Entry(
      ("logit_scale",),
      ("logit_scale",),
      lambda x: (x.reshape(()),),
      lambda x: (x.reshape(1),),
    )


def _hf_towers(model: DualEncoder) -> Entries:
  """What CLIP and SigLIP have in common in transformers."""
  c, video, text = model.config, "vision_model.", "text_model."
  table = "embeddings.position_embedding.weight"
  yield e.plain(video + table, f"{VIDEO}/space_positions")
  conv, kernel = video + "embeddings.patch_embedding.weight", f"{VIDEO}/proj/kernel"
  yield e.patches(conv, kernel, model.clip.tubelet_size)
  yield from blocks(c.video.depth, video + "encoder.layers", VIDEO, _hf_block)
  yield from e.norm(video + "post_layernorm", f"{VIDEO}/norm")
  words, ours = text + "embeddings.token_embedding.weight", f"{TEXT}/embed/words"
  yield e.words(words, ours, model.text.mask_id)
  yield e.plain(text + table, f"{TEXT}/embed/positions")
  tower = f"{TEXT}/transformer"
  yield from blocks(c.text.depth, text + "encoder.layers", tower, _hf_block)
  yield from e.norm(text + "final_layer_norm", f"{tower}/norm")


def _hf_block(theirs: str, ours: str) -> Entries:
  yield from e.norm(theirs + "layer_norm1", ours + "norm_attention")
  yield from e.norm(theirs + "layer_norm2", ours + "norm_mlp")
  parts = [f"{theirs}self_attn.{part}_proj" for part in ("q", "k", "v", "out")]
  yield from e.attention(*parts, ours + "attention")
  yield from e.mlp(theirs + "mlp.fc1", theirs + "mlp.fc2", ours + "mlp")


# ------------------------------------------------------------- masked autoencoders


def videomae(model: SimVTP) -> Entries:
  """The authors' VideoMAE: encoder and decoder of pixels."""
  c = model.config
  proj = "encoder.patch_embed.proj"
  yield e.patches(proj + ".weight", "video_embed/proj/kernel", model.clip.tubelet_size)
  yield e.plain(proj + ".bias", "video_embed/proj/bias")
  yield from blocks(c.encoder.depth, "encoder.blocks", "encoder", _videomae_block)
  yield from e.norm("encoder.norm", "encoder/norm")
  yield from _decoder()
  yield from blocks(c.decoder.depth, "decoder.blocks", "decoder", _videomae_block)


def _decoder() -> Entries:
  yield e.transposed("encoder_to_decoder.weight", "to_decoder/kernel")
  yield e.flat("mask_token", "mask_token", 2)
  yield from e.norm("decoder.norm", "decoder/norm")
  yield from e.linear("decoder.head", "pixel_head")


def _videomae_block(theirs: str, ours: str) -> Entries:
  yield from e.norm(theirs + "norm1", ours + "norm_attention")
  yield from e.norm(theirs + "norm2", ours + "norm_mlp")
  yield from e.fused_without_key_bias(theirs + "attn", ours + "attention")
  yield from e.mlp(theirs + "mlp.fc1", theirs + "mlp.fc2", ours + "mlp")


def hf_videomae(model: SimVTP) -> Entries:
  """transformers' VideoMAEForPreTraining.

  Its encoder ends in a LayerNorm, as the authors', only without `use_mean_pooling`.
  """
  c = model.config
  proj = "videomae.embeddings.patch_embeddings.projection"
  yield e.patches(proj + ".weight", "video_embed/proj/kernel", model.clip.tubelet_size)
  yield e.plain(proj + ".bias", "video_embed/proj/bias")
  layers = "videomae.encoder.layer"
  yield from blocks(c.encoder.depth, layers, "encoder", _hf_videomae_block)
  yield from e.norm("videomae.layernorm", "encoder/norm")
  yield from _decoder()
  layers = "decoder.decoder_layers"
  yield from blocks(c.decoder.depth, layers, "decoder", _hf_videomae_block)


def _hf_videomae_block(theirs: str, ours: str) -> Entries:
  yield from e.norm(theirs + "layernorm_before", ours + "norm_attention")
  yield from e.norm(theirs + "layernorm_after", ours + "norm_mlp")
  attention = ours + "attention"
  for part in ("query", "key", "value"):
    name = f"{theirs}attention.attention.{part}"
    yield e.transposed(name + ".weight", f"{attention}/{part}/kernel")
    if part != "key":
      yield e.plain(name + ".bias", f"{attention}/{part}/bias")
  yield from e.linear(theirs + "attention.output.dense", attention + "/out")
  up, down = theirs + "intermediate.dense", theirs + "output.dense"
  yield from e.mlp(up, down, ours + "mlp")


def simvtp(model: SimVTP) -> Entries:
  """SimVTP's pre-training."""
  yield from videomae(model)
  yield from _bert_embed("text_", "text_embed")
  yield from e.linear("text_cls", "word_head")
  yield from e.linear("vtm_head", "match_head")


def simvtp_finetuned(model: DualEncoder) -> Entries:
  """SimVTP after fine-tuning: a copy of the encoder for each side, pooled by means."""
  c, proj = model.config, "video_encoder.patch_embed.proj"
  yield e.patches(proj + ".weight", f"{VIDEO}/proj/kernel", model.clip.tubelet_size)
  yield e.plain(proj + ".bias", f"{VIDEO}/proj/bias")
  layers = "video_encoder.blocks"
  yield from blocks(c.video.depth, layers, VIDEO, _videomae_block)
  yield from e.norm("video_encoder.fc_norm", "video_norm")
  yield from _bert_embed("text_encoder.text_", f"{TEXT}/embed")
  layers, tower = "text_encoder.blocks", f"{TEXT}/transformer"
  yield from blocks(c.text.depth, layers, tower, _videomae_block)
  yield from e.norm("text_encoder.fc_norm", "text_norm")
