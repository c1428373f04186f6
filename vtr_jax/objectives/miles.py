"""MILES: a dual encoder that predicts a snapshot's features (arXiv 2204.12408).

Blocks of patches, the same in all frames, are replaced by a learned mask token. The
masked video is contrasted with its caption; and the tower's features at masked patches
are regressed to those of a snapshot of the tower, an earlier copy of it, for the
unmasked video. The snapshot is a teacher of the video tower and gets no gradient.
Inference masks nothing.

The paper's: Frozen's two towers with divided attention (models/dual_encoder.py), mask
token, block masks shared over time, unmasked captions, contrast with the masked video,
a stop-gradient target at the masked patches, temperature 0.05. Its training code is
not public.
Ours, all by config: `distance` between features after the last LayerNorm, or between
their projections, by default 2 - 2 cos of the former; the snapshot is an EMA, or copied
every k steps; `masked_tokens = "drop"` drops masked tubelets and compares features at
visible patches, for which the snapshot sees the unmasked video.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vtr_jax.core.batch import Batch, ClipSpec, MaskSpec, TextSpec
from vtr_jax.core.config import choose, require
from vtr_jax.models import dual_encoder
from vtr_jax.models.layers import l2_normalize
from vtr_jax.models.patch_embed import gather
from vtr_jax.objectives.base import (
  Objective,
  Outputs,
  Pairs,
  Params,
  apply,
  dropout,
  initializer,
  methods,
)
from vtr_jax.objectives.losses import masked_sum
from vtr_jax.objectives.teacher import Teacher, TeacherConfig

# By the features that are predicted.
TEACHER_PARAMS = dict(tower=("video_tower",), projection=("video_tower", "video_proj"))


@dataclasses.dataclass(frozen=True)
class Config(dual_encoder.Config):
  """Section `objective` of the config: a dual encoder and its snapshot."""

  # the snapshot; ours: the paper only states that it is updated
  teacher: TeacherConfig = dataclasses.field(default_factory=TeacherConfig)
  distance: str = "cosine"  # cosine | mse; ours
  # of patches: tower | projection, into the space of embeddings; paper: not said
  features: str = "tower"

  def __post_init__(self):
    super().__post_init__()
    choose(self.distance, ("cosine", "mse"), "distance")
    choose(self.features, TEACHER_PARAMS, "features")
    require(
      self.features == "tower" or self.parts.projections[0] != "none",
      f"features: arch {self.arch} has no projection of videos; use tower",
    )


class MILES(dual_encoder.DualEncoder):
  """The dual encoder on masked clips, without any further parameters."""

  config: Config

  def __call__(
    self, batch: Batch
  ) -> tuple[Float[Array, "b e"], Float[Array, "b e"], Float[Array, "b m f"]]:
    """(video embeddings, text embeddings, features) of the masked batch.

    Features are those of masked patches; of visible ones if masked ones are dropped.
    """
    tokens = self.masked_tokens(batch)
    features = tokens.patches
    if self.config.masked_tokens == "mask_token":
      features = gather(features, batch["video_mask_idx"])
    pooled = self.pool_video(tokens), self.masked_text(batch)
    return *pooled, self._as_predicted(features)

  def target_features(self, batch: Batch) -> Float[Array, "b m f"]:
    """Features of the unmasked clip at the same patches."""
    masked = self.config.masked_tokens == "mask_token"
    idx = batch["video_mask_idx" if masked else "video_keep_idx"]
    return self._as_predicted(gather(self.video_tokens(batch).patches, idx))

  def _as_predicted(self, features: Float[Array, "b m d"]) -> Float[Array, "b m f"]:
    """The tower's features, or their projection."""
    projected = self.config.features == "projection"
    return self.project_video(features) if projected else features


def forward(
  model: MILES, params: Params, teacher: Params | None, batch: Batch, key: jax.Array
) -> Outputs:
  """Embeddings and the distance of features; `teacher` holds the snapshot."""
  assert teacher is not None, "MILES needs its snapshot"
  video, text, features = apply(model, params, batch, rngs=dropout(key, batch))
  with jax.named_scope("snapshot"):
    snapshot = {**params, **teacher}
    target = apply(model, snapshot, batch, method="target_features")
  error = distance(model.config.distance, features, jax.lax.stop_gradient(target))
  scale = apply(model, params, method="scale")
  terms = dict(features=masked_sum(error, batch["valid"]))
  pairs = Pairs(l2_normalize(video), l2_normalize(text), scale, batch["valid"])
  return Outputs(terms, dict(vtc=pairs))


def distance(
  kind: str, features: Float[Array, "b m d"], target: Float[Array, "b m d"]
) -> Float[Array, "b m"]:
  """Distance of features, in float32: 2 - 2 cos, or the mean squared error."""
  if kind == "cosine":
    return 2 - 2 * (l2_normalize(features) * l2_normalize(target)).sum(axis=-1)
  features, target = features.astype(jnp.float32), target.astype(jnp.float32)
  return jnp.square(features - target).mean(axis=-1)


def build(config: Config, clip: ClipSpec, text: TextSpec, mask: MaskSpec) -> Objective:
  """Builds the objective.

  Raises:
    ConfigError: see `dual_encoder.check_mask`.
  """
  dual_encoder.check_mask(config, clip, mask)
  model = MILES(clip, text, mask, config)
  return Objective(
    model=model,
    mask=mask,
    compute=config.compute,
    init=initializer(model),
    forward=functools.partial(forward, model),
    terms=("features",),
    pairs=("vtc",),
    predict=methods(model, *dual_encoder.PREDICTIONS),
    teacher=Teacher(TEACHER_PARAMS[config.features], config.teacher),
  )
