"""VideoPrism's factorised encoder (arXiv 2402.13217; google-deepmind/videoprism).

A stack within frames, then one along time for each patch, each with a final LayerNorm;
its video-text models (LvT) add a stack over all tokens. There is no class token.
Spatial positions are added before the first stack, temporal ones between the first two;
both are interpolated to the clip's grid.

The code's: all numbers of `Config`, the logit cap of 50, bilinear interpolation with
antialiasing. Ours: initial values (models/layers.py), masks.
"""

import dataclasses
import functools
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, Num

from vtr_jax.core.arrays import AnyArray
from vtr_jax.core.config import require
from vtr_jax.models.backbones.base import Backbone, BackboneConfig, Tokens
from vtr_jax.models.config import ARCHS
from vtr_jax.models.depth import layer_of
from vtr_jax.models.layers import Transformer, TransformerConfig, logical

KIND = dataclasses.replace(ARCHS["videoprism"].kind, gelu="exact")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(TransformerConfig, BackboneConfig):
  """Section `objective.video`; name = "videoprism", `depth` is the first stack's."""

  name: str = "videoprism"  # code
  temporal_depth: int = 4  # blocks along time; code
  auxiliary_depth: int = 2  # blocks over all tokens, 0 = none; code: LvT
  # frames, rows and columns of the learned positions; code: base
  pos_grid: tuple[int, int, int] = (16, 16, 16)

  def __post_init__(self):
    super().__post_init__()
    require(min(self.pos_grid) > 0, f"pos_grid: {self.pos_grid} must be positive")
    require(
      self.temporal_depth > 0, f"temporal_depth: {self.temporal_depth} is not > 0"
    )
    require(self.auxiliary_depth >= 0, f"auxiliary_depth: {self.auxiliary_depth} < 0")


class Tower(Backbone):
  """Attention along time relates the same patch of all frames."""

  drops = "same"
  visible_only = False
  attentions: ClassVar = dict(spatial="frame", temporal="time", auxiliary="joint")
  logit_cap = KIND.logit_cap

  @nn.nowrap
  def stacks(self) -> dict[str, int]:
    """Name -> depth of the stacks, in order."""
    c = self.config.video
    return dict(spatial=c.depth, temporal=c.temporal_depth, auxiliary=c.auxiliary_depth)

  @nn.nowrap
  def depth(self) -> int:
    return sum(self.stacks().values())

  @nn.nowrap
  def layer(self, path: str) -> int | range:
    stack, _, rest = path.partition("/")
    below = 0
    for name, depth in self.stacks().items():
      if name == stack:
        layer = layer_of(rest, depth)
        if isinstance(layer, range):
          return range(below + layer.start, below + layer.stop)
        # A LayerNorm between two stacks is of the block before it.
        between = layer > depth and below + depth < self.depth()
        return below + (depth if between else layer)
      below += depth
    return self.stacks()["spatial"] if stack == "temporal_positions" else 0

  @nn.compact
  def __call__(
    self,
    video: Num[AnyArray, "b t h w c"] | Num[AnyArray, "b k p"],
    keep_idx: Int32[AnyArray, "b k"] | None = None,
    mask_idx: Int32[AnyArray, "b m"] | None = None,
    drop_path: float = 0.0,
  ) -> Tokens:
    """See `Backbone`; masks are the same in every frame."""
    dtype = self.config.compute.dtype
    frames = self.num_frames(video)
    x = self.embed_tubelets(video, keep_idx, mask_idx)
    rows, count, width = x.shape
    space = self._positions("spatial", self.clip.grid[1:]).astype(dtype)
    if keep_idx is None:
      x += jnp.tile(space, (frames, 1))[None]
    else:
      x += jnp.take(space, jnp.asarray(keep_idx) % len(space), axis=0)
    # One schedule over all stacks, as layer decay counts their blocks.
    stacks = self.stacks()
    rates = np.linspace(0, drop_path, sum(stacks.values())).tolist()
    stack = functools.partial(self._stack, rates)
    x = stack("spatial", x.reshape(rows * frames, count // frames, width))
    x = x.reshape(rows, frames, -1, width).swapaxes(1, 2)
    x = x.reshape(-1, frames, width)  # each patch is a row of the batch
    x += self._positions("temporal", (frames,)).astype(dtype)[None]
    x = stack("temporal", x).reshape(rows, -1, frames, width)
    x = x.swapaxes(1, 2).reshape(rows, count, width)
    if self.config.video.auxiliary_depth:
      x = stack("auxiliary", x, norm_last=False)
    return Tokens(x[:, :0], x)

  def _stack(
    self,
    rates: list[float],
    name: str,
    x: Float[Array, "b n d"],
    norm_last: bool = True,
  ) -> Float[Array, "b n d"]:
    """A stack of blocks; `rates` of drop path are of all blocks of the tower."""
    stacks = self.stacks()
    depth, names = stacks[name], list(stacks)
    first = sum(stacks[before] for before in names[: names.index(name)])
    size = dataclasses.replace(self.config.video, depth=depth)
    stack = Transformer(size, self.config.compute, KIND, norm_last, name=name)
    return stack(x, drop_path=rates[first : first + depth])

  def _positions(self, name: str, grid: tuple[int, ...]) -> Float[Array, "n d"]:
    """Learned positions `<name>_positions`, interpolated to `grid`."""
    c = self.config.video
    learned = c.pos_grid[1:] if name == "spatial" else c.pos_grid[:1]
    rows = learned[0] * (learned[1] if name == "spatial" else 1)
    init = logical(nn.initializers.truncated_normal(0.02), ("length", "embed"))
    table = jnp.asarray(self.param(f"{name}_positions", init, (rows, c.width)))
    if grid != learned:
      table = table.reshape(*learned, c.width)
      table = jax.image.resize(table, (*grid, c.width), "bilinear", antialias=True)
    return table.reshape(-1, c.width)
