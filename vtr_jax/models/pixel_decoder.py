"""The light decoder of masked autoencoders, its targets and its error."""

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
  """Predicts masked tubelets from encoded visible ones (VideoMAE, arXiv 2203.12602).

  Owners put its parameters next to their own, as VideoMAE does, by `nn.share_scope`.
  """

  clip: ClipSpec
  size: TransformerConfig
  compute: Compute
  pos_embed: str  # one of patch_embed.POSITIONS

  @nn.compact
  def __call__(
    self,
    encoded: Float[Array, "b k d"],
    keep_idx: Int32[AnyArray, "b k"],
    mask_idx: Int32[AnyArray, "b m"],
  ) -> Float[Array, "b m p"]:
    """Pixels at `mask_idx`, normalised as `targets`."""
    width, dtype = self.size.width, self.compute.dtype
    project = Dense(width, ("embed", "mlp"), dtype, use_bias=False, name="to_decoder")
    x = project(encoded)
    init = logical(nn.initializers.truncated_normal(0.02), ("norm",))
    mask_token = self.param("mask_token", init, (width,))
    table = POSITIONS[self.pos_embed](self.clip.grid, width)
    positions = jnp.asarray(table, x.dtype)
    masked = mask_token.astype(x.dtype)[None, None] + positions[mask_idx]
    x = jnp.concatenate([x + positions[keep_idx], masked], axis=1)
    x = Transformer(self.size, self.compute, name="decoder")(x)
    head = Dense(self.clip.tubelet_dim, ("embed", "pixels"), dtype, name="pixel_head")
    return head(x[:, keep_idx.shape[1] :])


def targets(
  patches: Num[AnyArray, "b m p"], kind: str, clip: ClipSpec
) -> tuple[Float[Array, "b m s 3"], Array, Array]:
  """(targets, mean, std) of tubelets of s pixels with 3 colours.

  "standardized": RGB in [0, 1] normalised by mean and standard deviation of each
  tubelet and colour, with the unbiased variance and 1e-6 added to the deviation, as in
  SimVTP's engine_for_pretraining. "raw": normalised by the clip's `mean` and `std`.
  """
  x = _by_colour(unit_pixels(patches))
  if kind == "raw":
    mean, std = (jnp.asarray(v)[None, None, None] for v in (clip.mean, clip.std))
  else:
    mean = x.mean(axis=-2, keepdims=True)
    std = jnp.sqrt(x.var(axis=-2, ddof=1, keepdims=True)) + 1e-6
  return (x - mean) / std, mean, std


def errors(
  pixels: Float[Array, "b m p"], batch: Batch, kind: str, clip: ClipSpec
) -> Float[Array, " b"]:
  """Mean squared error over each clip's masked tubelets; 0 if none is masked."""
  target, _, _ = targets(_masked_patches(batch, clip), kind, clip)
  error = jnp.square(pixels.astype(jnp.float32) - target.reshape(pixels.shape))
  return error.sum(axis=(1, 2)) / max(error[0].size, 1)


def to_rgb(
  pixels: Float[Array, "b m p"], batch: Batch, kind: str, clip: ClipSpec
) -> Float[Array, "b m p"]:
  """Predictions as RGB in [0, 1].

  Standardised tubelets are scaled by the true mean and standard deviation, as in
  VideoMAE's figures; raw ones need nothing of the true tubelets.
  """
  _, mean, std = targets(_masked_patches(batch, clip), kind, clip)
  rgb = _by_colour(pixels.astype(jnp.float32)) * std + mean
  return jnp.clip(rgb, 0, 1).reshape(pixels.shape)


def _masked_patches(batch: Batch, clip: ClipSpec) -> Num[Array, "b m p"]:
  return gather(patchify(batch["video"], clip.tubelet_size), batch["video_mask_idx"])


def _by_colour(patches: Float[Array, "b m p"]) -> Float[Array, "b m s 3"]:
  *rest, values = patches.shape
  return patches.reshape(*rest, values // 3, 3)
