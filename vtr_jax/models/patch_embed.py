"""Video tubelets: picking, embedding, fixed space-time positions."""

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
  """Picks tokens by index; needs no communication when the batch is sharded."""
  return jnp.take_along_axis(x, idx[:, :, None], axis=1)


def unit_pixels(pixels: Num[AnyArray, "..."]) -> Float[AnyArray, "..."]:
  """RGB in [0, 1]; uint8 is divided by 255, floats are taken as they are."""
  if pixels.dtype == jnp.uint8:
    return pixels.astype(jnp.float32) / 255
  return pixels.astype(jnp.float32)


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
  """A third of the columns each for time, height and width, sines then cosines.

  Wavelengths grow from 2 pi to 200 pi tubelets: grids are far shorter than the texts
  that the usual 10000 was made for. Ours.
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
  """Linear embedding of tubelets plus positions; a Conv3d with stride = kernel."""

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
    """`patches` are raw pixels; `idx` are their places, None = all in order."""
    repeats = self.clip.tubelet_dim // 3
    mean, std = np.tile(self.clip.mean, repeats), np.tile(self.clip.std, repeats)
    mean, std = mean.astype("f")[None, None], std.astype("f")[None, None]
    x = (unit_pixels(patches) - mean) / std
    x = Dense(self.width, ("pixels", "embed"), self.dtype, name="proj")(x)
    table = POSITIONS[self.pos_embed](self.clip.grid, self.width)
    positions = jnp.asarray(table, self.dtype)
    return x + (positions[None, : x.shape[1]] if idx is None else positions[idx])
