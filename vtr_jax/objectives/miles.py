"""MILES: a dual encoder that predicts its own snapshot's features (arXiv 2204.12408).

Blocks of the video are hidden, the same places in all frames, and stay in the input
as a learned mask token. The class token of such a video must still find its text; and
what the tower makes of the hidden places must be like what a snapshot of the tower,
an older copy of itself, makes of them when it sees the whole video. The snapshot
shadows the video tower alone and is not trained. Inference hides nothing.

The paper's: Frozen's two towers with divided attention (models/dual.py), mask token,
block masks shared over time, whole captions, contrast from the masked video, a
stop-gradient target at the hidden places, temperature 0.05. Its training code is not
public.
Ours, all by config: `distance` between features after the last LayerNorm, by default
2 - 2 cos; the snapshot is an EMA or is copied every k steps;
`masked_tokens = "drop"` leaves masked tubelets out and compares at the visible patches,
where the snapshot sees the rest.
"""

import dataclasses
import functools

import jax
from jaxtyping import Array, Float

from vtr_jax.core.batch import Batch, ClipSpec, MaskSpec, TextSpec
from vtr_jax.core.config import choose
from vtr_jax.models import dual_encoder
from vtr_jax.models.layers import l2_normalize
from vtr_jax.models.patch_embed import gather
from vtr_jax.objectives.base import (
  Forward,
  Objective,
  Params,
  features_of,
  initializer,
  method,
)
from vtr_jax.objectives.losses import masked_mean
from vtr_jax.objectives.teacher import Teacher, TeacherConfig

SHADOWED = ("video_tower",)


@dataclasses.dataclass(frozen=True)
class Config(dual_encoder.Config):
  """Section `objective` of the config: the dual encoder's, and the snapshot."""

  # how the snapshot follows; ours: the paper only states that it is updated
  teacher: TeacherConfig = dataclasses.field(default_factory=TeacherConfig)
  distance: str = "cosine"  # cosine | mse; ours

  def __post_init__(self):
    super().__post_init__()
    choose(self.distance, ("cosine", "mse"), "distance")


class MILES(dual_encoder.DualEncoder):
  """The dual encoder on masked clips; it has no head of its own."""

  config: Config

  def __call__(
    self, batch: Batch
  ) -> tuple[Float[Array, "b e"], Float[Array, "b e"], Float[Array, "b m f"]]:
    """(video, text, features where they are compared) of the masked batch."""
    tokens = self.masked_tokens(batch)
    found = tokens.places
    if self.config.masked_tokens == "mask_token":
      found = gather(found, batch["video_mask_idx"])
    return self.pool_video(tokens), self.masked_text(batch), found

  def features(self, batch: Batch) -> Float[Array, "b m d"]:
    """Features of the whole clip where they are compared."""
    where = (
      "video_mask_idx"
      if self.config.masked_tokens == "mask_token"
      else "video_keep_idx"
    )
    return gather(self.video_tokens(batch).places, batch[where])


def forward(
  model: MILES, params: Params, teacher: Params, batch: Batch, key: jax.Array
) -> Forward:
  """Embeddings and the features' distance; `teacher` holds the snapshot."""
  variables = {"params": params}
  video, text, found = model.apply(variables, batch, rngs={"dropout": key})
  with jax.named_scope("snapshot"):
    wanted = model.apply({"params": params | teacher}, batch, method="features")
  error = distance(model.config.distance, found, jax.lax.stop_gradient(wanted))
  scale = model.apply(variables, method="scale")
  terms = dict(features=masked_mean(error, batch["valid"]))
  return Forward(l2_normalize(video), l2_normalize(text), scale, terms)


def distance(
  kind: str, found: Float[Array, "b m d"], wanted: Float[Array, "b m d"]
) -> Float[Array, "b m"]:
  """Distance of features, in float32: 2 - 2 cos, or a mean over their entries."""
  if kind == "cosine":
    return 2 - 2 * (l2_normalize(found) * l2_normalize(wanted)).sum(axis=-1)
  found, wanted = found.astype("float32"), wanted.astype("float32")
  return jax.numpy.square(found - wanted).mean(axis=-1)


def build(config: Config, clip: ClipSpec, text: TextSpec, mask: MaskSpec) -> Objective:
  """Builds the objective.

  Raises:
    ConfigError: see `dual.check_mask`.
  """
  dual_encoder.check_mask(config, clip, mask)
  model = MILES(clip, text, mask, config)
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
    terms=("features",),
    teacher=Teacher(SHADOWED, config.teacher),
  )
