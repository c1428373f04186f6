"""The supported kinds of public weights: their layouts and variants of key names."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from vtr_jax.core.config import nearest
from vtr_jax.core.errors import WeightsError
from vtr_jax.models.dual_encoder import DualEncoder
from vtr_jax.objectives.simvtp import SimVTP
from vtr_jax.weights import layouts, simvtp_layouts, videoprism_layouts
from vtr_jax.weights.layouts import Layout

Renames = tuple[tuple[str, str], ...]  # (regular expression, replacement), in order
Patterns = tuple[str, ...]  # regular expressions that a whole name must match


@dataclasses.dataclass(frozen=True)
class Source:
  """One kind of public file."""

  recipe: str  # file and variant in configs/: the config of a converted run
  dual: tuple[Layout, ...] = ()  # for dual encoders; the one with most keys is used
  archs: tuple[str, ...] = ()  # values of objective.arch that it fits
  simvtp: tuple[Layout, ...] = ()  # for SimVTP's model
  words: bool = True  # whether it has token embeddings, which need its vocabulary
  renames: Renames = ()  # other spellings of the layouts' keys
  ignored: Patterns = ()  # keys that the model has no parameters for
  others: Patterns = ()  # keys of other parts, which a model of clips alone ignores
  only_text: bool = False  # whether it has nothing for a model of clips alone
  optional: Patterns = ()  # keys that some of these files lack
  initialised: Patterns = ()  # parameter paths that no such file contains
  changes: dict[str, Any] = dataclasses.field(default_factory=dict)  # of the recipe
  # (complete config, arrays of the file): sets the sizes, if the file states all of
  # them; None = by shapes of the parameters, see infer.py
  infer: Callable[[dict[str, Any], Mapping[str, Any]], None] | None = None

  def layouts(self, name: str, model: nn.Module) -> tuple[Layout, ...]:
    """The layouts that fit `model`.

    Raises:
      WeightsError: there is none.
    """
    if isinstance(model, SimVTP) and self.simvtp:
      return self.simvtp
    if self.only_text and not layouts.reads_text(model):
      raise WeightsError(f"{name!r} weights: this model reads no text; omit them")
    if not isinstance(model, DualEncoder):
      raise WeightsError(f"{name!r} weights do not fit a {type(model).__name__} model")
    arch = model.config.arch
    if arch not in self.archs:
      archs = " | ".join(self.archs)
      hint = f"set config.objective.arch to {archs}, " if archs else ""
      raise WeightsError(
        f"{name!r} weights do not fit a dual encoder of arch {arch!r}; "
        f"{hint}see {self.recipe}"
      )
    return self.dual

  def ignores(self, model: nn.Module) -> Patterns:
    """Keys that `model` has no parameters for."""
    return self.ignored + (() if layouts.reads_text(model) else self.others)


_BERT_SPELLING = ((r"\.gamma$", ".weight"), (r"\.beta$", ".bias"))
_DUAL_ONLY = ("video_tower/mask_token", "logit_scale")
_PIXELS = ("to_decoder/.*", "mask_token", "decoder/.*", "pixel_head/.*")
_TIME = (".*/time_attention/.*", ".*/norm_time/.*", "video_tower/time_positions")
_MAC = "configs/mac.py:webvid2m_cc3m"
_FROZEN_TEXT = (r"text_model\..*", r"(vid|text|txt)_proj\..*")
_CLIP_TEXT = (
  r"(text_model|transformer|token_embedding|ln_final)\..*",
  r"(visual|text)_projection(\.weight)?|visual\.proj|positional_embedding|logit_scale",
)
_VIDEOMAE_DECODER = (r"(decoder|encoder_to_decoder)\..*", "mask_token")
_CLIP_IGNORED = (".*position_ids", "input_resolution", "context_length", "vocab_size")

_SIGLIP = Source(
  recipe="configs/mac.py:clip",
  dual=(layouts.hf_siglip,),
  archs=("siglip",),
  others=(*_CLIP_TEXT, r"vision_model\.head\..*"),  # its pooling, with another one
  ignored=(".*position_ids", "logit_bias"),  # the bias is config.contrastive.bias
  initialised=(*_TIME, *_DUAL_ONLY, *_PIXELS),
  changes={
    "objective.arch": "siglip",
    "contrastive.loss": "sigmoid",
    "clip.mean": (0.5, 0.5, 0.5),
    "clip.std": (0.5, 0.5, 0.5),
  },
)

SOURCES = dict(
  vit=Source(
    recipe=_MAC,
    dual=(layouts.timm_vit, layouts.hf_vit),
    archs=("frozen", "sentence"),
    words=False,
    renames=(  # transformers before 5
      (r"^vit\.", ""),
      (r"^encoder\.layer\.", "layers."),
      (r"\.attention\.attention\.([qkv])(uery|ey|alue)\.", r".attention.\1_proj."),
      (r"\.attention\.output\.dense\.", ".attention.o_proj."),
      (r"\.intermediate\.dense\.", ".mlp.fc1."),
      (r"^(layers\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    ),
    ignored=(r"(head|head_dist|pre_logits|pooler|classifier)\..*",),  # of ImageNet
    initialised=(*_TIME, *_DUAL_ONLY, *_PIXELS, "text_.*", "video_proj/.*"),
  ),
  distilbert=Source(
    recipe=_MAC,
    dual=(layouts.distilbert,),
    archs=("frozen", "sentence"),
    only_text=True,
    renames=((r"^distilbert\.", ""), *_BERT_SPELLING),
    ignored=(
      r"vocab_(transform|layer_norm|projector)\..*",
      r"(pre_)?classifier\..*",
      ".*position_ids",
    ),
    initialised=("video_.*", "text_proj/.*", *_DUAL_ONLY, *_PIXELS),
  ),
  bert=Source(
    recipe=_MAC,
    dual=(layouts.bert,),
    archs=("frozen", "sentence"),
    only_text=True,
    renames=((r"^bert\.", ""), *_BERT_SPELLING),
    ignored=(r"(pooler|cls|classifier)\..*", ".*position_ids"),
    initialised=("video_.*", "text_proj/.*", *_DUAL_ONLY, *_PIXELS),
  ),
  sentence_transformers=Source(
    recipe=_MAC,
    dual=(layouts.bert, layouts.distilbert),
    archs=("sentence", "frozen"),
    only_text=True,
    renames=((r"^(bert|distilbert)\.", ""), *_BERT_SPELLING),
    ignored=(r"(pooler|cls|vocab_\w+)\..*", ".*position_ids"),
    initialised=("video_.*", "text_proj/.*", *_DUAL_ONLY, *_PIXELS),
    changes={"objective.arch": "sentence", "objective.pool": "mean"},
  ),
  bert_words=Source(  # SimVTP starts from BERT's embedding layer
    recipe="configs/simvtp.py:webvid2m",
    simvtp=(simvtp_layouts.bert_words,),
    only_text=True,
    renames=((r"^bert\.", ""), *_BERT_SPELLING),
    ignored=(r"(encoder|pooler|cls)\..*", ".*position_ids"),
    initialised=("(?!text_embed/).*",),
  ),
  videomae=Source(
    recipe="configs/simvtp.py:webvid2m",
    simvtp=(simvtp_layouts.videomae, simvtp_layouts.hf_videomae),
    dual=(  # after pre-training, and after fine-tuning
      simvtp_layouts.videomae_tower,
      simvtp_layouts.hf_videomae_tower,
      simvtp_layouts.videomae_finetuned,
      simvtp_layouts.hf_videomae_finetuned,
    ),
    archs=("simvtp",),
    others=_VIDEOMAE_DECODER,
    words=False,
    # The authors' biases in files of transformers before 5.
    renames=(
      (r"(attention\.attention)\.q_bias$", r"\1.query.bias"),
      (r"(attention\.attention)\.v_bias$", r"\1.value.bias"),
    ),
    optional=(r"videomae\.layernorm\..*",),  # see simvtp_layouts
    initialised=("text_embed/.*", "word_head/.*", "match_head/.*", "encoder/norm/.*"),
  ),
  simvtp=Source(
    recipe="configs/simvtp.py:webvid2m",
    simvtp=(simvtp_layouts.simvtp,),
    dual=(simvtp_layouts.videomae_tower,),
    archs=("simvtp",),
    others=(*_VIDEOMAE_DECODER, r"(text_embeddings|text_cls|vtm_head)\..*"),
    ignored=(r"text_embeddings\.position_ids",),
  ),
  simvtp_finetuned=Source(
    recipe=_MAC,
    dual=(simvtp_layouts.simvtp_finetuned,),
    archs=("simvtp",),
    # Each copy also contains the embeddings that only the other one uses.
    ignored=(
      r"video_encoder\.text_embeddings\..*",
      r"text_encoder\.patch_embed\..*",
      ".*position_ids",
    ),
    others=(r"text_encoder\..*",),
    initialised=_DUAL_ONLY,
    changes={
      "objective.arch": "simvtp",
      "objective.video.pos_embed": "flat",
      "objective.pool": "mean",
      "objective.text_norm": "pre",
    },
  ),
  frozen=Source(
    recipe=_MAC,
    dual=(layouts.frozen,),
    archs=("frozen",),
    others=_FROZEN_TEXT,
    ignored=(".*position_ids",),
    initialised=(*_DUAL_ONLY, *_PIXELS),
    changes={
      "objective.video.name": "divided",
      "mask.video": "tube",
      "mask.video_ratio": 0.0,
      "mask.text_ratio": 0.0,
    },
  ),
  miles=Source(
    recipe="configs/miles.py:webvid2m_cc3m",
    dual=(layouts.miles,),
    archs=("frozen",),
    others=_FROZEN_TEXT,
    ignored=(".*position_ids",),
    initialised=(*_DUAL_ONLY, *_PIXELS),
  ),
  mcq=Source(
    recipe="configs/miles.py:webvid2m_cc3m",
    dual=(layouts.mcq,),
    archs=("frozen",),
    others=_FROZEN_TEXT,
    # BridgeFormer itself is used in pre-training only.
    ignored=(
      ".*position_ids",
      r"video_model\.norm2\..*",
      r"video_model\.blocks\.\d+\.(crossattn|bridgeattn|bridge_mlp|norm[4-7])\..*",
      r"bridge_proj\..*",
    ),
    initialised=(*_TIME, *_DUAL_ONLY, *_PIXELS),
  ),
  clip=Source(
    recipe="configs/mac.py:clip",
    dual=(layouts.hf_clip, layouts.openai_clip),
    archs=("clip", "open_clip"),
    others=_CLIP_TEXT,
    ignored=_CLIP_IGNORED,
    initialised=(*_TIME, *_DUAL_ONLY, *_PIXELS),
  ),
  open_clip=Source(
    recipe="configs/mac.py:clip",
    dual=(layouts.openai_clip, layouts.hf_clip),
    archs=("open_clip", "clip"),
    others=_CLIP_TEXT,
    renames=((r"^text\.", ""),),  # models whose text tower is a module of its own
    ignored=(*_CLIP_IGNORED, "attn_mask"),
    initialised=(*_TIME, *_DUAL_ONLY, *_PIXELS),
    changes={"objective.arch": "open_clip"},
  ),
  viclip=Source(
    recipe="configs/mac.py:clip",
    dual=(layouts.viclip,),
    archs=("clip", "open_clip"),
    others=(r"text_encoder\..*", r"vision_encoder\.proj", "temp"),
    ignored=(r"text_encoder\.attn_mask",),
    initialised=(*_DUAL_ONLY, *_PIXELS),
    # Of a user's script; ViCLIP's own states none.
    changes={
      "clip.mean": (0.485, 0.456, 0.406),
      "clip.std": (0.229, 0.224, 0.225),
    },
  ),
  siglip=_SIGLIP,
  siglip2=_SIGLIP,  # of fixed size: the same model with another vocabulary
  videoprism=Source(
    recipe="configs/mac.py:videoprism",
    dual=(videoprism_layouts.videoprism_lvt, videoprism_layouts.videoprism),
    archs=("videoprism", "frozen"),
    others=(r"params/(text_encoder|contrastive_vision_pooler)/.*",),
    # The video encoders have no text; with other text towers, no projection either.
    initialised=(*_DUAL_ONLY, *_PIXELS, "text_.*", "video_proj/.*"),
    infer=videoprism_layouts.infer,
  ),
)


def find(name: str) -> Source:
  """The kind of weights with that name.

  Raises:
    WeightsError: there is none.
  """
  if name not in SOURCES:
    raise WeightsError(f"{name!r} is not a kind of weights; {nearest(name, SOURCES)}")
  return SOURCES[name]
