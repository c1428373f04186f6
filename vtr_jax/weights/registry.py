"""Which public files there are: layouts, variants of names, what they leave."""

import dataclasses
from typing import Any

from vtr_jax.core.config import nearest
from vtr_jax.core.errors import WeightsError
from vtr_jax.models.dual_encoder import DualEncoder
from vtr_jax.objectives.simvtp import SimVTP
from vtr_jax.weights import layouts
from vtr_jax.weights.layouts import Layout

Renames = tuple[tuple[str, str], ...]  # (regular expression, replacement), in order
Patterns = tuple[str, ...]  # regular expressions that a whole name must match


@dataclasses.dataclass(frozen=True)
class Source:
  """One kind of public file."""

  recipe: str  # file and variant in configs/ that a run of it starts from
  dual: tuple[Layout, ...] = ()  # for dual encoders; the one with most keys counts
  archs: tuple[str, ...] = ()  # of dual encoders that it fits
  simvtp: tuple[Layout, ...] = ()  # for SimVTP's model
  words: bool = True  # whether it has word embeddings, which need its vocabulary
  renames: Renames = ()  # other spellings of the layouts' keys
  unused: Patterns = ()  # keys that have no place here, and are known
  optional: Patterns = ()  # keys that some of these files lack
  fresh: Patterns = ()  # paths of ours that no such file can give
  changes: dict[str, Any] = dataclasses.field(default_factory=dict)  # of the recipe

  def layouts(self, name: str, model: DualEncoder | SimVTP) -> tuple[Layout, ...]:
    """Those that fit `model`.

    Raises:
      WeightsError: there is none.
    """
    if isinstance(model, SimVTP):
      if self.simvtp:
        return self.simvtp
      raise WeightsError(f"{name!r} weights fit no SimVTP model")
    arch = model.config.arch
    if arch not in self.archs:
      known = ", ".join(self.archs) or "none"
      raise WeightsError(
        f"{name!r} weights do not fit a dual encoder of arch {arch!r}; "
        f"set config.objective.arch to one of: {known}; {self.recipe} is a start"
      )
    return self.dual


_BERT_SPELLING = ((r"\.gamma$", ".weight"), (r"\.beta$", ".bias"))
_DUAL_ADDS = ("video_tower/mask_token", "logit_scale")
_PIXELS = ("to_decoder/.*", "mask_token", "decoder/.*", "pixel_head/.*")
_TIME = (".*/time_attention/.*", ".*/norm_time/.*", "video_tower/time_positions")
_MAC = "configs/mac.py:webvid2m_cc3m"
_CLIP_NOT = (".*position_ids", "input_resolution", "context_length", "vocab_size")

SOURCES = dict(
  vit=Source(
    recipe=_MAC,
    dual=(layouts.timm_vit, layouts.hf_vit),
    archs=("frozen",),
    words=False,
    renames=(  # transformers before 5
      (r"^vit\.", ""),
      (r"^encoder\.layer\.", "layers."),
      (r"\.attention\.attention\.([qkv])(uery|ey|alue)\.", r".attention.\1_proj."),
      (r"\.attention\.output\.dense\.", ".attention.o_proj."),
      (r"\.intermediate\.dense\.", ".mlp.fc1."),
      (r"^(layers\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    ),
    unused=(r"(head|head_dist|pre_logits|pooler|classifier)\..*",),  # of ImageNet
    fresh=(*_TIME, *_DUAL_ADDS, *_PIXELS, "text_.*", "video_proj/.*"),
  ),
  distilbert=Source(
    recipe=_MAC,
    dual=(layouts.distilbert,),
    archs=("frozen",),
    renames=((r"^distilbert\.", ""), *_BERT_SPELLING),
    unused=(
      r"vocab_(transform|layer_norm|projector)\..*",
      r"(pre_)?classifier\..*",
      ".*position_ids",
    ),
    fresh=("video_.*", "text_proj/.*", *_DUAL_ADDS, *_PIXELS),
  ),
  bert=Source(
    recipe=_MAC,
    dual=(layouts.bert,),
    archs=("frozen",),
    renames=((r"^bert\.", ""), *_BERT_SPELLING),
    unused=(r"(pooler|cls|classifier)\..*", ".*position_ids"),
    fresh=("video_.*", "text_proj/.*", *_DUAL_ADDS, *_PIXELS),
  ),
  bert_words=Source(  # SimVTP takes BERT's first layer alone
    recipe="configs/simvtp.py:webvid2m",
    simvtp=(layouts.bert_words,),
    renames=((r"^bert\.", ""), *_BERT_SPELLING),
    unused=(r"(encoder|pooler|cls)\..*", ".*position_ids"),
    fresh=("(?!text_embed/).*",),
  ),
  videomae=Source(
    recipe="configs/simvtp.py:webvid2m",
    simvtp=(layouts.videomae, layouts.hf_videomae),
    words=False,
    # The authors' biases in files of transformers before 5.
    renames=(
      (r"(attention\.attention)\.q_bias$", r"\1.query.bias"),
      (r"(attention\.attention)\.v_bias$", r"\1.value.bias"),
    ),
    optional=(r"videomae\.layernorm\..*",),  # see layouts.hf_videomae
    fresh=("text_embed/.*", "word_head/.*", "match_head/.*", "encoder/norm/.*"),
  ),
  simvtp=Source(
    recipe="configs/simvtp.py:webvid2m",
    simvtp=(layouts.simvtp,),
    unused=(r"text_embeddings\.position_ids",),
  ),
  simvtp_finetuned=Source(
    recipe=_MAC,
    dual=(layouts.simvtp_finetuned,),
    archs=("simvtp",),
    # Each copy brings along what only the other one reads.
    unused=(
      r"video_encoder\.text_embeddings\..*",
      r"text_encoder\.patch_embed\..*",
      ".*position_ids",
    ),
    fresh=_DUAL_ADDS,
    changes={
      "objective.arch": "simvtp",
      "objective.pos_embed": "flat",
      "objective.pool": "mean",
      "objective.text_norm": "pre",
    },
  ),
  frozen=Source(
    recipe=_MAC,
    dual=(layouts.frozen,),
    archs=("frozen",),
    unused=(".*position_ids",),
    fresh=(*_DUAL_ADDS, *_PIXELS),
    changes={
      "objective.attention": "divided",
      "mask.video": "tube",
      "mask.video_ratio": 0.0,
      "mask.text_ratio": 0.0,
    },
  ),
  miles=Source(
    recipe="configs/miles.py:webvid2m_cc3m",
    dual=(layouts.miles,),
    archs=("frozen",),
    unused=(".*position_ids",),
    fresh=(*_DUAL_ADDS, *_PIXELS),
  ),
  mcq=Source(
    recipe="configs/miles.py:webvid2m_cc3m",
    dual=(layouts.mcq,),
    archs=("frozen",),
    # BridgeFormer itself answers questions in training only.
    unused=(
      ".*position_ids",
      r"video_model\.norm2\..*",
      r"video_model\.blocks\.\d+\.(crossattn|bridgeattn|bridge_mlp|norm[4-7])\..*",
      r"bridge_proj\..*",
    ),
    fresh=(*_TIME, *_DUAL_ADDS, *_PIXELS),
  ),
  clip=Source(
    recipe="configs/mac.py:clip",
    dual=(layouts.hf_clip, layouts.openai_clip),
    archs=("clip", "open_clip"),
    unused=_CLIP_NOT,
    fresh=(*_TIME, *_DUAL_ADDS, *_PIXELS),
  ),
  open_clip=Source(
    recipe="configs/mac.py:clip",
    dual=(layouts.openai_clip, layouts.hf_clip),
    archs=("open_clip", "clip"),
    renames=((r"^text\.", ""),),  # models with a text tower by name
    unused=(*_CLIP_NOT, "attn_mask"),
    fresh=(*_TIME, *_DUAL_ADDS, *_PIXELS),
    changes={"objective.arch": "open_clip"},
  ),
  siglip=Source(
    recipe="configs/mac.py:clip",
    dual=(layouts.hf_siglip,),
    archs=("siglip",),
    unused=(".*position_ids", "logit_bias"),  # the bias is config.contrastive.bias
    fresh=(*_TIME, *_DUAL_ADDS, *_PIXELS),
    changes={
      "objective.arch": "siglip",
      "contrastive.loss": "sigmoid",
      "clip.mean": (0.5, 0.5, 0.5),
      "clip.std": (0.5, 0.5, 0.5),
    },
  ),
)


def find(name: str) -> Source:
  """The source of that name.

  Raises:
    WeightsError: there is none.
  """
  if name not in SOURCES:
    raise WeightsError(f"{name!r}: no kind of weights; {nearest(name, SOURCES)}")
  return SOURCES[name]
