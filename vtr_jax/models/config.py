"""Architecture and size of a dual encoder's towers."""

import dataclasses
from typing import Any

from vtr_jax.core.config import choose, require
from vtr_jax.models.backbones import base as backbones
from vtr_jax.models.backbones.base import BackboneConfig
from vtr_jax.models.layers import VIT, BlockConfig, Compute, TransformerConfig


@dataclasses.dataclass(frozen=True)
class ArchSpec:
  """How the towers of an architecture with public weights differ from ViT and BERT."""

  kind: BlockConfig = VIT  # of the blocks; text ones may also be causal
  class_token: bool = True  # of the video tower
  patch_bias: bool = True
  norm_input: bool = False  # a LayerNorm before the video blocks
  norm_text_embed: bool = True  # a LayerNorm after the text embedding
  causal_text: bool = False
  # token that `pool = "cls"` selects: first | last | appended (a class token, put
  # behind the padding)
  text_at: str = "first"
  # words times sqrt(width) plus sinusoids (arXiv 1706.03762), not learned positions
  sinusoid_text: bool = False
  attention_pool: str = ""  # `pool = "cls"` of a video: one of pooling.POOLS, "" = none
  norm_pooled: bool = False  # final LayerNorm after the pooling, not before it
  relu: bool = False  # before the text projection
  # of video and text: linear | affine | none
  projections: tuple[str, str] = ("linear", "linear")
  max_scale: float = 100.0  # of a learned 1 / temperature


# CLIP: arXiv 2103.00020 and its code; open_clip trains most of its models with the
# exact GELU. SigLIP: arXiv 2303.15343 and big_vision. SimVTP: the two copies of its
# encoder that its code fine-tunes. sentence: a sentence encoder of BERT's layers, into
# whose space clips are projected; ours. VideoPrism: arXiv 2402.13217 and its code; of
# its video tower, only the pooling is stated here, see models/backbones/videoprism.py.
_CLIP = ArchSpec(
  kind=BlockConfig(1e-5, "quick"),
  patch_bias=False,
  norm_input=True,
  norm_text_embed=False,
  causal_text=True,
  text_at="last",
)


ARCHS = dict(
  frozen=ArchSpec(relu=True, projections=("affine", "affine")),
  sentence=ArchSpec(projections=("affine", "none")),
  clip=_CLIP,
  open_clip=dataclasses.replace(_CLIP, kind=BlockConfig(1e-5, "exact")),
  siglip=ArchSpec(
    kind=BlockConfig(1e-6, "tanh"),
    class_token=False,
    norm_text_embed=False,
    text_at="last",
    attention_pool="siglip",
    projections=("none", "affine"),
    max_scale=float("inf"),
  ),
  simvtp=ArchSpec(class_token=False, norm_pooled=True, projections=("none", "none")),
  videoprism=ArchSpec(
    kind=BlockConfig(1e-6, "relu", logit_cap=50.0, key_bias=True, zero_centred=True),
    class_token=False,
    norm_text_embed=False,
    causal_text=True,
    text_at="appended",
    sinusoid_text=True,
    attention_pool="videoprism",
    projections=("none", "none"),
  ),
)


def check_video(config: Any) -> None:
  """Checks that a backbone, an architecture, pooling and attention fit together.

  Args:
    config: has arch, parts, video, pool and compute, as `Config`.

  Raises:
    ConfigError: they do not.
  """
  tower, parts = backbones.tower(config.video), config.parts
  tower.check(config)
  has_heads = isinstance(config.video, TransformerConfig)
  pools = bool(parts.attention_pool) and has_heads
  require(
    config.pool != "cls" or tower.has_class_token(config) or pools,
    f"pool: 'cls', but arch {config.arch!r} has no class token with backbone "
    f"{config.video.name!r}; set 'mean'",
  )
  require(
    config.pool != "attention" or has_heads,
    f"pool: 'attention' needs heads, which backbone {config.video.name!r} has not; set "
    "'mean'",
  )
  attention, cap = config.compute.attention, tower.logit_cap or parts.kind.logit_cap
  require(
    attention in ("auto", "xla") or not cap,
    f"compute.attention: {attention!r} has no logit cap; set 'auto'",
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Keys of section `objective` of the config that dual encoders share.

  Keyword-only, so that an objective's own `Config` may add keys without a default.
  """

  # frozen | sentence | clip | open_clip | siglip | simvtp | videoprism; code: Frozen
  arch: str = "frozen"
  video: BackboneConfig
  text: TransformerConfig
  compute: Compute = dataclasses.field(default_factory=Compute)
  projection: int = 256  # width of the joint embedding space; code: Frozen
  masked_tokens: str  # drop | mask_token (replaced by a learned token)
  # cls (the class token, or as `ArchSpec` says) | mean (of other tokens); paper: MAC;
  # code: Frozen
  pool: str = "cls"
  # LayerNorm after each sum (post) | before each layer (pre); code: DistilBERT
  text_norm: str = "post"
  # after the text embedding and every MLP; pre: embedding only; code: DistilBERT
  text_dropout: float = 0.1
  # of the contrastive term; initial value if learned; code: Frozen
  temperature: float = 0.05
  learn_temperature: bool = False  # False = fixed; code: Frozen

  def __post_init__(self):
    choose(self.arch, ARCHS, "arch")
    choose(self.pool, ("cls", "mean"), "pool")
    choose(self.text_norm, ("post", "pre"), "text_norm")
    choose(self.masked_tokens, ("drop", "mask_token"), "masked_tokens")
    require(self.projection > 0, f"projection: {self.projection} must be positive")
    require(self.temperature > 0, f"temperature: {self.temperature} must be positive")
    minimum = 1 / self.parts.max_scale
    require(
      not self.learn_temperature or self.temperature >= minimum,
      f"temperature: {self.temperature} is below {minimum}, the minimum of a "
      "learned one; raise it, or set learn_temperature = False",
    )
    self._check_arch()

  @property
  def parts(self) -> ArchSpec:
    return ARCHS[self.arch]

  def _check_arch(self) -> None:
    """Checks that the architecture supports the other keys."""
    parts, where = self.parts, f"arch {self.arch!r}"
    require(
      self.arch in ("frozen", "sentence") or self.text_norm == "pre",
      f"text_norm: {self.text_norm!r}, but {where} has it before each layer; set 'pre'",
    )
    check_video(self)
    for name, how in zip(("video", "text"), parts.projections, strict=True):
      width = getattr(self, name).width
      require(
        how != "none" or width == self.projection,
        f"projection: {self.projection}, but {where} does not project: set it to "
        f"{name}.width, {width}",
      )
