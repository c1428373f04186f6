"""MAC: contrast of what is left of clip and caption (arXiv 2212.00986).

Most tubelets are dropped before the video tower and some words hidden before the
text tower; both towers' class tokens must still find each other. No reconstruction,
so training costs about as much less as is dropped. Inference hides nothing.

The paper's: two towers with class tokens, factored positions, tubelets dropped and
not replaced, equally many in every frame and other ones in each, words replaced by
the mask token, contrast alone. Its code's base is Frozen (models/dual.py), and from
there: temperature 0.05, fixed, and the sum of both directions.
Ours, for what the paper's public parts leave open: joint attention, since divided
attention pairs the same place in all frames and needs tubes; a learned temperature
by choice; the contrast runs over the global batch. Beyond the paper, by choice: a
light decoder that reconstructs the masked pixels, next to the contrastive loss.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from vtr_jax.core.batch import Batch, ClipSpec, MaskSpec, TextSpec
from vtr_jax.core.config import choose
from vtr_jax.models import dual_encoder, pixel_decoder
from vtr_jax.models.layers import TransformerConfig, l2_normalize
from vtr_jax.models.patch_embed import gather
from vtr_jax.models.video_tower import Tokens
from vtr_jax.objectives.base import (
  Forward,
  Objective,
  Params,
  Reconstruction,
  features_of,
  initializer,
  method,
)
from vtr_jax.objectives.losses import masked_mean


@dataclasses.dataclass(frozen=True)
class Config(dual_encoder.Config):
  """Section `objective` of the config: the dual encoder's, and a decoder."""

  # of masked pixels; None = contrast alone; paper: none
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
      self.rebuild = pixel_decoder.PixelDecoder(
        self.clip, c.decoder, c.compute, "space_time"
      )
      nn.share_scope(self, self.rebuild)

  def __call__(
    self, batch: Batch
  ) -> tuple[Float[Array, "b e"], Float[Array, "b e"], Float[Array, "b m p"] | None]:
    """(video, text, hidden pixels) of the masked batch; not normalised."""
    tokens = self.masked_tokens(batch)
    rebuilt = None if self.config.decoder is None else self.decode(tokens, batch)
    return self.pool_video(tokens), self.masked_text(batch), rebuilt

  def decode(self, tokens: Tokens, batch: Batch) -> Float[Array, "b m p"]:
    keep_idx, visible = batch["video_keep_idx"], tokens.places
    if self.config.masked_tokens == "mask_token":
      visible = gather(visible, keep_idx)
    return self.rebuild(visible, keep_idx, batch["video_mask_idx"])

  def reconstruct(self, batch: Batch) -> Reconstruction:
    """Fills the hidden places of the video."""
    rebuilt = self.decode(self.masked_tokens(batch), batch)
    kind = self.config.pixel_target
    return Reconstruction(pixel_decoder.to_rgb(rebuilt, batch, kind, self.clip), None)


def forward(
  model: MAC, params: Params, teacher: None, batch: Batch, key: jax.Array
) -> Forward:
  """Embeddings and terms of one masked batch; `key` is of the dropout."""
  del teacher
  variables = {"params": params}
  video, text, rebuilt = model.apply(variables, batch, rngs={"dropout": key})
  terms = {}
  if rebuilt is not None:
    c = model.config
    error = pixel_decoder.errors(rebuilt, batch, c.pixel_target, model.clip)
    terms["pixels"] = masked_mean(error, batch["valid"])
  scale = model.apply(variables, method="scale")
  return Forward(l2_normalize(video), l2_normalize(text), scale, terms)


def build(config: Config, clip: ClipSpec, text: TextSpec, mask: MaskSpec) -> Objective:
  """Builds the objective.

  Raises:
    ConfigError: see `dual.check_mask`.
  """
  dual_encoder.check_mask(config, clip, mask)
  decodes = config.decoder is not None
  drops = config.masked_tokens == "drop" and config.attention != "divided"
  mask = dataclasses.replace(mask, visible_only=drops and not decodes)
  model = MAC(clip, text, mask, config)
  return Objective(
    model=model,
    mask=mask,
    init=initializer(model),
    forward=functools.partial(forward, model),
    embed_video=method(model, "embed_video"),
    encode_video=method(model, "encode_video"),
    embed_text=method(model, "embed_text"),
    embed_patches=method(model, "embed_patches"),
    embed_tokens=method(model, "embed_tokens"),
    video_features=features_of(model),
    terms=("pixels",) if decodes else (),
    reconstruct=method(model, "reconstruct") if decodes else None,
  )
