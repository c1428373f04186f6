"""MAC: contrast of what is left of clip and caption (arXiv 2212.00986).

Most tubelets are dropped before the video tower and some words hidden before the
text tower; both towers' class tokens must still find each other. Nothing is rebuilt,
so training costs about as much less as is dropped. Inference hides nothing.

The paper's: two towers with class tokens, factored positions, tubelets dropped and
not replaced, equally many in every frame and other ones in each, words replaced by
the mask token, contrast alone. Its code's base is Frozen (models/dual.py), and from
there: temperature 0.05, fixed, and the sum of both directions.
Ours, for what the paper's public parts leave open: joint attention, since divided
attention pairs the same place in all frames and needs `mask.video = "tube"`; a
learned temperature by choice; the contrast runs over the global batch.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vtr_jax.batch import Batch, ClipSpec, MaskSpec, TextSpec
from vtr_jax.errors import ConfigError
from vtr_jax.losses import unit
from vtr_jax.models import dual
from vtr_jax.objectives.base import Forward, Objective, Params, method


@dataclasses.dataclass(frozen=True)
class Config(dual.Config):
  """Section `objective` of the config: the dual encoder's, and nothing more."""


class MAC(dual.DualEncoder):
  """The dual encoder on masked batches; it has no head of its own."""

  def __call__(
    self, batch: Batch
  ) -> tuple[Float[Array, "b e"], Float[Array, "b e"], Float[Array, ""] | float]:
    """(video, text, 1 / temperature) of the masked batch; unit norm."""
    ids = jnp.where(batch["text_hidden"], self.text.mask_id, batch["text_ids"])
    video = self.encode_video(batch["video"], batch["video_keep_idx"])
    text = self.encode_text(ids, batch["text_valid"], train=True)
    return unit(video), unit(text), self.scale()

  def embed_video(self, batch: Batch) -> Float[Array, "b e"]:
    return unit(self.encode_video(batch["video"]))

  def embed_text(self, batch: Batch) -> Float[Array, "b e"]:
    ids, valid = batch["text_ids"], batch["text_valid"]
    return unit(self.encode_text(ids, valid, train=False))


def forward(model: MAC, params: Params, batch: Batch, key: jax.Array) -> Forward:
  """Embeddings of one masked batch; `key` is of the dropout."""
  out = model.apply({"params": params}, batch, rngs={"dropout": key})
  return Forward(*out, terms={})


def build(config: Config, clip: ClipSpec, text: TextSpec, mask: MaskSpec) -> Objective:
  """Builds the objective.

  Raises:
    ConfigError: divided attention with hidden places that differ between frames.
  """
  hidden = mask.num_hidden(clip.grid)
  if config.attention == "divided" and hidden and mask.video != "tube":
    raise ConfigError(
      f"config.mask.video: {mask.video!r} hides other places in every frame, but "
      "divided attention needs the same ones; set 'tube', or "
      "config.objective.attention = 'joint'"
    )
  model = MAC(clip, text, config)

  def init(key: jax.Array, batch: Batch):
    params, dropout = jax.random.split(key)
    return model.init({"params": params, "dropout": dropout}, batch)["params"]

  return Objective(
    model=model,
    mask=mask,
    init=init,
    forward=lambda params, batch, key: forward(model, params, batch, key),
    embed_video=method(model, "embed_video"),
    embed_text=method(model, "embed_text"),
    terms=(),
  )
