"""Layouts of VideoMAE and SimVTP: pixel decoders, and encoders for two modalities."""

from vtr_jax.models.dual_encoder import DualEncoder
from vtr_jax.objectives.simvtp import SimVTP
from vtr_jax.weights import entries as e
from vtr_jax.weights.entries import Entries
from vtr_jax.weights.layouts import TEXT, VIDEO, bert_embed, blocks, reads_text


def videomae(model: SimVTP) -> Entries:
  """The authors' VideoMAE: encoder and pixel decoder."""
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
  yield e.squeezed("mask_token", "mask_token", 2)
  yield from e.norm("decoder.norm", "decoder/norm")
  yield from e.linear("decoder.head", "pixel_head")


def _videomae_block(prefix: str, path: str) -> Entries:
  yield from e.norm(prefix + "norm1", path + "norm_attention")
  yield from e.norm(prefix + "norm2", path + "norm_mlp")
  yield from e.fused_attention_without_key_bias(prefix + "attn", path + "attention")
  yield from e.mlp(prefix + "mlp.fc1", prefix + "mlp.fc2", path + "mlp")


def hf_videomae(model: SimVTP) -> Entries:
  """transformers' VideoMAEForPreTraining.

  Its encoder ends in a LayerNorm, like the authors', unless `use_mean_pooling` is set.
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


def _hf_videomae_block(prefix: str, path: str) -> Entries:
  yield from e.norm(prefix + "layernorm_before", path + "norm_attention")
  yield from e.norm(prefix + "layernorm_after", path + "norm_mlp")
  attention = path + "attention"
  for part in ("query", "key", "value"):
    name = f"{prefix}attention.attention.{part}"
    yield e.transposed(name + ".weight", f"{attention}/{part}/kernel")
    if part != "key":
      yield e.plain(name + ".bias", f"{attention}/{part}/bias")
  yield from e.linear(prefix + "attention.output.dense", attention + "/out")
  up, down = prefix + "intermediate.dense", prefix + "output.dense"
  yield from e.mlp(up, down, path + "mlp")


def simvtp(model: SimVTP) -> Entries:
  """SimVTP after pre-training."""
  yield from videomae(model)
  yield from bert_embed("text_", "text_embed")
  yield from e.linear("text_cls", "word_head")
  yield from e.linear("vtm_head", "match_head")


def simvtp_finetuned(model: DualEncoder) -> Entries:
  """SimVTP after fine-tuning: a mean-pooled copy of the encoder for each modality."""
  c = model.config
  yield from _tower(model, "video_encoder.", "fc_norm")
  if not reads_text(model):
    return
  yield from bert_embed("text_encoder.text_", f"{TEXT}/embed")
  layers, tower = "text_encoder.blocks", f"{TEXT}/transformer"
  yield from blocks(c.text.depth, layers, tower, _videomae_block)
  yield from e.norm("text_encoder.fc_norm", "text_norm")


def bert_words(model: SimVTP) -> Entries:
  """The embedding layer of BERT, from which SimVTP starts."""
  del model
  yield from bert_embed("", "text_embed")


def videomae_tower(model: DualEncoder) -> Entries:
  """The encoder of `videomae`; its last norm becomes that of the pooled features.

  VideoMAE's own fine-tuning initialises that norm.
  """
  yield from _tower(model, "encoder.", "norm")


def videomae_finetuned(model: DualEncoder) -> Entries:
  """The authors' VideoMAE after fine-tuning: encoder, norm of the mean, head."""
  yield from _tower(model, "", "fc_norm")
  yield from e.linear("head", "head")


def _tower(model: DualEncoder, prefix: str, norm: str) -> Entries:
  proj, depth = prefix + "patch_embed.proj", model.config.video.depth
  yield e.patches(proj + ".weight", f"{VIDEO}/proj/kernel", model.clip.tubelet_size)
  yield e.plain(proj + ".bias", f"{VIDEO}/proj/bias")
  yield from blocks(depth, prefix + "blocks", VIDEO, _videomae_block)
  yield from e.norm(prefix + norm, "video_norm")


def hf_videomae_tower(model: DualEncoder) -> Entries:
  """The encoder of `hf_videomae`, as in `videomae_tower`."""
  yield from _hf_tower(model, "videomae.layernorm")


def hf_videomae_finetuned(model: DualEncoder) -> Entries:
  """transformers' VideoMAEForVideoClassification with `use_mean_pooling`."""
  yield from _hf_tower(model, "fc_norm")
  yield from e.linear("classifier", "head")


def _hf_tower(model: DualEncoder, norm: str) -> Entries:
  proj = "videomae.embeddings.patch_embeddings.projection"
  yield e.patches(proj + ".weight", f"{VIDEO}/proj/kernel", model.clip.tubelet_size)
  yield e.plain(proj + ".bias", f"{VIDEO}/proj/bias")
  layers, depth = "videomae.encoder.layer", model.config.video.depth
  yield from blocks(depth, layers, VIDEO, _hf_videomae_block)
  yield from e.norm(norm, "video_norm")
