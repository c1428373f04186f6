"""Video tubelets: selection, linear embedding, fixed space-time positions."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, Num

from vtr_jax.core.arrays import AnyArray
from vtr_jax.core.batch import ClipSpec
from vtr_jax.models.layers import Dense


def gather(
  x: Num[AnyArray, "b n d"], idx: Int32[AnyArray, "b k"]
) -> Num[Array, "b k d"]:
  """Selects tokens by index; needs no communication when the batch is sharded."""
  return jnp.take_along_axis(x, idx[:, :, None], axis=1)


def unit_pixels(pixels: Num[AnyArray, "..."]) -> Float[Array, "..."]:
  """RGB in [0, 1]: uint8 is divided by 255, floats are in that range already."""
  floats = jnp.asarray(pixels, jnp.float32)
  return floats / 255 if pixels.dtype == jnp.uint8 else floats


def project_pixels(
  patches: Num[AnyArray, "b k p"],
  clip: ClipSpec,
  width: int,
  dtype: str,
  use_bias: bool = True,
) -> Float[Array, "b k d"]:
  """Linear embedding `proj` of raw tubelets, inside a compact method.

  A Conv3d with stride = kernel.
  """
  repeats = clip.tubelet_dim // 3
  mean, std = np.tile(clip.mean, repeats), np.tile(clip.std, repeats)
  mean, std = mean.astype("f")[None, None], std.astype("f")[None, None]
  x = (unit_pixels(patches) - mean) / std
  return Dense(width, ("pixels", "embed"), dtype, use_bias, name="proj")(x)


def flat_positions(grid: tuple[int, int, int], width: int) -> Float[np.ndarray, "n d"]:
  """Fixed sinusoid over the flat space-time index (VideoMAE's and SimVTP's table).

  Even columns are sines, odd columns cosines, of index / 10000^(2 (i // 2) / width).
  """
  rate = 10000.0 ** (-2 * (np.arange(width) // 2) / width)
  angle = np.arange(np.prod(grid))[:, None] * rate
  table = np.where(np.arange(width) % 2 == 0, np.sin(angle), np.cos(angle))
  return table.astype(np.float32)


def space_time_positions(
  grid: tuple[int, int, int], width: int
) -> Float[np.ndarray, "n d"]:
  """Sinusoids with a third of the columns each for time, height and width. Ours.

  Wavelengths grow from 2 pi to 200 pi tubelets: the usual 10000 is for texts, which
  are far longer than these grids.
  """
  cells = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), axis=-1)
  rate = 100.0 ** (-np.arange(width // 6) / (width // 6))
  angle = cells.reshape(-1, 3, 1) * rate
  table = np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)
  table = table.reshape(len(angle), -1)
  unused = width - table.shape[1]
  return np.pad(table, ((0, 0), (0, unused))).astype(np.float32)


POSITIONS = dict(flat=flat_positions, space_time=space_time_positions)


class VideoEmbed(nn.Module):
  """Linear embedding of tubelets plus fixed positions."""

  clip: ClipSpec
  width: int
  pos_embed: str  # one of POSITIONS
  dtype: str

  @nn.compact
  def __call__(
    self,
    patches: Num[AnyArray, "b k p"],
    idx: Int32[AnyArray, "b k"] | None = None,
  ) -> Float[Array, "b k d"]:
    """`patches` are raw pixels at indices `idx`, None = all in order."""
    x = project_pixels(patches, self.clip, self.width, self.dtype)
    table = POSITIONS[self.pos_embed](self.clip.grid, self.width)
    positions = jnp.asarray(table, self.dtype)
    return x + (positions[None, : x.shape[1]] if idx is None else positions[idx])
