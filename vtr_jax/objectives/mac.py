"""MAC: contrastive learning from masked clips and captions (arXiv 2212.00986).

Most tubelets are dropped before the video tower and some tokens masked before the text
tower; the loss contrasts the embeddings of both. Nothing is reconstructed, so the cost
of training falls with the number of tubelets. Inference masks nothing.

The paper's: two towers with class tokens, separate space and time positions, tubelets
dropped and not replaced (the same number in every frame, but different ones), tokens
replaced by the mask token, the contrastive loss alone. Its code is based on Frozen
(models/dual_encoder.py): fixed temperature 0.05, the sum of both directions.
Ours, where the paper and its code leave it open: joint attention, since divided
attention needs the same patches in all frames; optionally a learned temperature; the
contrastive loss over the global batch. Beyond the paper, optional: a light decoder
that reconstructs masked pixels, in addition to the contrastive loss.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from vtr_jax.core.batch import Batch, ClipSpec, MaskSpec, TextSpec
from vtr_jax.core.config import choose
from vtr_jax.models import dual_encoder, pixel_decoder
from vtr_jax.models.backbones import base as backbones
from vtr_jax.models.backbones.base import Tokens
from vtr_jax.models.layers import TransformerConfig, l2_normalize
from vtr_jax.models.patch_embed import gather
from vtr_jax.objectives.base import (
  Objective,
  Outputs,
  Pairs,
  Params,
  Reconstruction,
  apply,
  dropout,
  initializer,
  methods,
)
from vtr_jax.objectives.losses import masked_sum


@dataclasses.dataclass(frozen=True)
class Config(dual_encoder.Config):
  """Section `objective` of the config: a dual encoder and an optional decoder."""

  # of masked pixels; None = no reconstruction; paper: none
  decoder: TransformerConfig | None = None
  # per tubelet and colour: standardized | raw, read with a decoder; ours
  pixel_target: str = "standardized"

  def __post_init__(self):
    super().__post_init__()
    choose(self.pixel_target, pixel_decoder.TARGETS, "pixel_target")


class MAC(dual_encoder.DualEncoder):
  """The dual encoder on masked batches."""

  config: Config

  def setup(self):
    super().setup()
    c = self.config
    if c.decoder is not None:
      self.pixel_decoder = pixel_decoder.PixelDecoder(
        self.clip, c.decoder, c.compute, "space_time"
      )
      nn.share_scope(self, self.pixel_decoder)

  def __call__(
    self, batch: Batch
  ) -> tuple[Float[Array, "b e"], Float[Array, "b e"], Float[Array, "b m p"] | None]:
    """(video embeddings, text embeddings, masked pixels) of the masked batch.

    Embeddings are not normalised.
    """
    tokens = self.masked_tokens(batch)
    pixels = None if self.config.decoder is None else self.decode(tokens, batch)
    return self.pool_video(tokens), self.masked_text(batch), pixels

  def decode(self, tokens: Tokens, batch: Batch) -> Float[Array, "b m p"]:
    """Masked pixels, normalised as `pixel_decoder.targets`."""
    keep_idx, visible = batch["video_keep_idx"], tokens.patches
    if self.config.masked_tokens == "mask_token":
      visible = gather(visible, keep_idx)
    return self.pixel_decoder(visible, keep_idx, batch["video_mask_idx"])

  def reconstruct(self, batch: Batch) -> Reconstruction:
    """Reconstructs the masked tubelets."""
    pixels = self.decode(self.masked_tokens(batch), batch)
    kind = self.config.pixel_target
    return Reconstruction(pixel_decoder.to_rgb(pixels, batch, kind, self.clip), None)


def forward(
  model: MAC, params: Params, teacher: Params | None, batch: Batch, key: jax.Array
) -> Outputs:
  """Embeddings and loss terms of one masked batch; `key` is for dropout."""
  del teacher
  video, text, pixels = apply(model, params, batch, rngs=dropout(key, batch))
  terms = {}
  if pixels is not None:
    c = model.config
    error = pixel_decoder.errors(pixels, batch, c.pixel_target, model.clip)
    terms["pixels"] = masked_sum(error, batch["valid"])
  scale = apply(model, params, method="scale")
  pairs = Pairs(l2_normalize(video), l2_normalize(text), scale, batch["valid"])
  return Outputs(terms, dict(vtc=pairs))


def build(config: Config, clip: ClipSpec, text: TextSpec, mask: MaskSpec) -> Objective:
  """Builds the objective.

  Raises:
    ConfigError: see `dual_encoder.check_mask`.
  """
  dual_encoder.check_mask(config, clip, mask)
  decodes = config.decoder is not None
  tower = backbones.tower(config.video)
  drops = config.masked_tokens == "drop" and tower.visible_only
  mask = dataclasses.replace(mask, visible_only=drops and not decodes)
  model = MAC(clip, text, mask, config)
  reconstruct = ("reconstruct",) if decodes else ()
  return Objective(
    model=model,
    mask=mask,
    compute=config.compute,
    init=initializer(model),
    forward=functools.partial(forward, model),
    terms=("pixels",) if decodes else (),
    pairs=("vtc",),
    predict=methods(model, *dual_encoder.PREDICTIONS, *reconstruct),
  )
