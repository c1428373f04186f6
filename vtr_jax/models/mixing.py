"""Mixup and CutMix of clips and their targets on the device, as in timm and VideoMAE.

timm draws once for the rows of a GPU and pairs each row with the one at the mirrored
place. Here fixed groups of rows take the part of the GPU: what becomes of a row depends
on its group, the key and its place in the global batch, not on the mesh or on
microbatches.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int32, Num

from vtr_jax.core.arrays import AnyArray
from vtr_jax.core.config import require
from vtr_jax.models.patch_embed import unit_pixels

_PAIRS = 64  # of which half or more are accepted, whatever alpha is


@dataclasses.dataclass(frozen=True)
class MixConfig:
  """How clips are mixed. The defaults are VideoMAE's; `prob = 0` is off."""

  # alpha of Beta(alpha, alpha), at most 1; 0 = CutMix alone; code: VideoMAE
  mixup: float = 0.8
  cutmix: float = 1.0  # alpha likewise; 0 = mixup alone; code: VideoMAE
  prob: float = 1.0  # that a group is mixed; code: VideoMAE
  switch_prob: float = 0.5  # of CutMix where both are on; code: VideoMAE
  # Rows that share a draw. A multiple of 2 x data.repeats, or a clip may be mixed with
  # another one of its record. Ours; VideoMAE's code: the rows of a GPU.
  group: int = 4

  def __post_init__(self):
    for name in ("mixup", "cutmix"):
      alpha = getattr(self, name)
      require(0 <= alpha <= 1, f"{name}: {alpha} not in [0, 1]")
    for name in ("prob", "switch_prob"):
      chance = getattr(self, name)
      require(0 <= chance <= 1, f"{name}: {chance} not in [0, 1]")
    require(
      not self.prob or self.mixup > 0 or self.cutmix > 0,
      "mixup: 0, as cutmix; set one of them, or prob = 0",
    )
    require(
      self.group >= 2 and self.group % 2 == 0,
      f"group: {self.group} must be even and at least 2",
    )


def smooth_targets(
  labels: Int32[AnyArray, " b"], num_classes: int, smoothing: float
) -> Float[Array, "b {num_classes}"]:
  """Target distributions of labels; `smoothing` is spread evenly over all classes."""
  return optax.smooth_labels(jax.nn.one_hot(labels, num_classes), smoothing)


def mix(
  key: jax.Array,
  video: Num[AnyArray, "b t h w c"],
  targets: Float[Array, "b v"],
  valid: Bool[AnyArray, " b"],
  row: Int32[AnyArray, " b"],
  config: MixConfig,
) -> tuple[Float[Array, "b t h w c"], Float[Array, "b v"]]:
  """Mixes each clip, and its target, with another one of its group of rows.

  Nothing is exchanged between devices that have whole groups.

  Args:
    key: the same for all microbatches of a step.
    video: uint8, or floats in [0, 1].
    targets: rows sum to 1.
    valid: a row is mixed with valid ones only; without any it stays as it is.
    row: place of each row in the global batch: groups of `config.group` consecutive
      ones, of which the first is a multiple of that.
    config: see `MixConfig`.

  Returns:
    The clips in [0, 1] in float32, and their targets.

  Raises:
    ConfigError: the number of rows is not a multiple of the group's.
  """
  require(
    len(video) % config.group == 0,
    f"config.objective.mix.group: {config.group} does not divide the {len(video)} rows "
    "of a batch or microbatch; change one of them",
  )
  grouped = lambda x: jnp.asarray(x).reshape(-1, config.group, *x.shape[1:])
  first = grouped(row)[:, 0] // config.group

  def of_group(number, video, targets, valid):
    area, weight = _draw(jax.random.fold_in(key, number), video.shape[2:4], config)
    mirrored = valid[::-1]
    video = _mixed(video, area[None, None, :, :, None], mirrored)
    return video, _mixed(targets, weight[None, None], mirrored)

  mixed = jax.vmap(of_group)(
    first, grouped(unit_pixels(video)), grouped(targets), grouped(valid)
  )
  video, targets = (x.reshape(-1, *x.shape[2:]) for x in mixed)
  return video, targets


def _mixed(
  x: Float[Array, "g ..."], own: Float[Array, "..."], mirrored: Bool[Array, " g"]
) -> Float[Array, "g ..."]:
  """own * x + (1 - own) * its mirror image along the rows, where that is valid."""
  # where, not a product alone: rows that are not valid may be anything, even NaN.
  there = mirrored.reshape(-1, *(1,) * (x.ndim - 1))
  return jnp.where(there & (own < 1), own * x + (1 - own) * x[::-1], x)


def _draw(
  key: jax.Array, size: tuple[int, int], config: MixConfig
) -> tuple[Float[Array, "h w"], Float[Array, ""]]:
  """(weight of the clip's own pixels, of its own target) in a group.

  CutMix's target has the true area of the box, which the frame's border may cut.
  """
  mix_key, switch_key, mixup_key, cutmix_key, box_key = jax.random.split(key, 5)
  is_mixed = jax.random.bernoulli(mix_key, config.prob)
  is_cutmix = jax.random.bernoulli(switch_key, _cutmix_share(config))
  # A Beta distribution needs an alpha even where its draw is not used.
  mixup = jnp.full(size, _beta(mixup_key, config.mixup or 1.0))
  cutmix = 1 - _box(box_key, size, _beta(cutmix_key, config.cutmix or 1.0))
  own = jnp.where(is_mixed, jnp.where(is_cutmix, cutmix, mixup), 1)
  return own, jnp.where(is_cutmix, own.mean(), own[0, 0])


def _cutmix_share(config: MixConfig) -> float:
  if not config.mixup or not config.cutmix:
    return float(config.cutmix > 0)
  return config.switch_prob


def _beta(key: jax.Array, alpha: float) -> Float[Array, ""]:
  """From Beta(alpha, alpha), alpha at most 1, by Joehnk's rejection of pairs.

  jax.random.beta rejects in a loop, which would wait for all devices in each turn.
  """
  logs = jnp.log(jax.random.uniform(key, (2, _PAIRS), minval=1e-7)) / alpha
  accepted = jnp.logaddexp(logs[0], logs[1]) <= 0
  return jax.nn.sigmoid((logs[0] - logs[1])[jnp.argmax(accepted)])


def _box(
  key: jax.Array, size: tuple[int, int], outside: Float[Array, ""]
) -> Float[Array, "h w"]:
  """1 in a box of the frame's shape and about 1 - `outside` of its area, else 0.

  Its centre is anywhere in the frame, which cuts off what lies outside.
  """
  inside = []
  for axis, length in zip(jax.random.split(key), size, strict=True):
    half = (length * jnp.sqrt(1 - outside)).astype(jnp.int32) // 2
    distance = jnp.arange(length) - jax.random.randint(axis, (), 0, length)
    inside.append((distance >= -half) & (distance < half))
  return (inside[0][:, None] & inside[1][None]).astype(jnp.float32)
