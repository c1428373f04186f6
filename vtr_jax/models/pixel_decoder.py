"""The light decoder of masked autoencoders, and what it has to predict."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, Num

from vtr_jax.core.arrays import AnyArray
from vtr_jax.core.batch import Batch, ClipSpec, patchify
from vtr_jax.models.layers import (
  Compute,
  Dense,
  Transformer,
  TransformerConfig,
  logical,
)
from vtr_jax.models.patch_embed import POSITIONS, gather, unit_pixels

TARGETS = ("standardized", "raw")


class PixelDecoder(nn.Module):
  """Hidden tubelets from the encoded visible ones (VideoMAE, arXiv 2203.12602).

  Its parameters are to lie beside the encoder's, as in VideoMAE: see `nn.share_scope`.
  """

  clip: ClipSpec
  size: TransformerConfig
  compute: Compute
  pos_embed: str  # one of video.POSITIONS

  @nn.compact
  def __call__(
    self,
    encoded: Float[Array, "b k d"],
    keep_idx: Int32[AnyArray, "b k"],
    mask_idx: Int32[AnyArray, "b m"],
  ) -> Float[Array, "b m p"]:
    """Pixels at `mask_idx`, in units of `targets`."""
    width, dtype = self.size.width, self.compute.dtype
    narrow = Dense(width, ("embed", "mlp"), dtype, use_bias=False, name="to_decoder")
    x = narrow(encoded)
    init = logical(nn.initializers.truncated_normal(0.02), ("norm",))
    mask_token = self.param("mask_token", init, (width,))
    table = POSITIONS[self.pos_embed](self.clip.grid, width)
    positions = jnp.asarray(table, x.dtype)
    hidden = mask_token.astype(x.dtype)[None, None] + positions[mask_idx]
    x = jnp.concatenate([x + positions[keep_idx], hidden], axis=1)
    x = Transformer(self.size, self.compute, name="decoder")(x)
    head = Dense(self.clip.tubelet_dim, ("embed", "pixels"), dtype, name="pixel_head")
    return head(x[:, keep_idx.shape[1] :])


def targets(
  patches: Num[AnyArray, "b m p"], kind: str, clip: ClipSpec
) -> tuple[Float[Array, "b m s 3"], Array, Array]:
  """(targets, mean, std) of tubelets, s places of 3 colours each.

  "standardized": RGB in [0, 1] by mean and spread of each tubelet and colour, with
  the unbiased variance and 1e-6 added to the standard deviation, as SimVTP's
  engine_for_pretraining. "raw": by the clip's `mean` and `std` alone.
  """
  x = by_colour(unit_pixels(patches))
  if kind == "raw":
    mean, std = (jnp.asarray(v)[None, None, None] for v in (clip.mean, clip.std))
  else:
    mean = x.mean(axis=-2, keepdims=True)
    std = jnp.sqrt(x.var(axis=-2, ddof=1, keepdims=True)) + 1e-6
  return (x - mean) / std, mean, std


def errors(
  pixels: Float[Array, "b m p"], batch: Batch, kind: str, clip: ClipSpec
) -> Float[Array, " b"]:
  """Mean squared error of each clip's hidden tubelets; 0 where nothing is hidden."""
  hidden = gather(patchify(batch["video"], clip.tubelet_size), batch["video_mask_idx"])
  wanted, _, _ = targets(hidden, kind, clip)
  error = jnp.square(pixels.astype(jnp.float32) - wanted.reshape(pixels.shape))
  return error.sum(axis=(1, 2)) / max(error[0].size, 1)


def to_rgb(
  pixels: Float[Array, "b m p"], batch: Batch, kind: str, clip: ClipSpec
) -> Float[Array, "b m p"]:
  """Predictions as RGB in [0, 1].

  Of standardised tubelets the true mean and spread bring back the colours, as in
  VideoMAE's pictures; raw ones are predicted without such help.
  """
  hidden = gather(patchify(batch["video"], clip.tubelet_size), batch["video_mask_idx"])
  _, mean, std = targets(hidden, kind, clip)
  rgb = by_colour(pixels.astype(jnp.float32)) * std + mean
  return jnp.clip(rgb, 0, 1).reshape(*hidden.shape)


def by_colour(patches: Float[Array, "b m p"]) -> Float[Array, "b m s 3"]:
  *rest, values = patches.shape
  return patches.reshape(*rest, values // 3, 3)
