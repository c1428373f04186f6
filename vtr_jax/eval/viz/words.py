"""What each word means where: similarity of words and tubelets, as in MILES' figures.

A word, and a tubelet, is what the model would embed if its pooling saw that one alone;
their cosine is the map (arXiv 2204.12408, figure 4, shows the like of verbs and nouns).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from PIL import Image

from vtr_jax.core.batch import Batch
from vtr_jax.core.errors import ConfigError, DataError
from vtr_jax.eval.viz import base
from vtr_jax.eval.viz.canvas import Video
from vtr_jax.objectives.base import Objective, Params


class WordMaps(NamedTuple):
  """Cosines of one caption with the tubelets of one clip."""

  words: list[str]
  maps: Float[np.ndarray, "w t y x"]  # of each word
  whole: Float[np.ndarray, "t y x"]  # of the caption's own embedding


def word_maps(
  model: base.Model, clips: base.Clips, texts: Sequence[str]
) -> list[WordMaps]:
  """Of texts[i] and clips[i].

  Args:
    model: see `base.Model`.
    clips: uint8 [t h w 3] of the model's size.
    texts: as many captions.

  Raises:
    ConfigError: the objective tells no embeddings of single words and tubelets.
    DataError: clips of another size, or not as many as texts.
  """
  if model.objective.embed_tokens is None or model.objective.embed_patches is None:
    raise ConfigError(
      "word maps: this objective has no embed_tokens and embed_patches; give it both"
    )
  if len(clips) != len(texts):
    raise DataError(f"texts: {len(texts)} of {len(clips)} clips; give as many")
  batch = dict(video=base.clip_rows(model, clips)) | base.text_rows(model, texts)
  maps, whole = base.on_devices(model, _cosines, batch)
  found, grid = [], model.config.clip.grid
  for i, (ids, valid) in enumerate(
    zip(batch["text_ids"], batch["text_valid"], strict=True)
  ):
    real = base.spoken(model.tokenizer, ids, valid)
    said = base.spelled(model.tokenizer, ids)
    each = maps[i, real].reshape(-1, *grid)
    found.append(WordMaps([said[k] for k in real], each, whole[i].reshape(grid)))
  return found


def picture(model: base.Model, clip: Video, text: str) -> Image.Image:
  """A clip, the map of its caption, and of each word; all words on one scale."""
  (found,) = word_maps(model, [clip], [text])
  return base.strips([("clip", clip), *rows(clip, found)], text, height=70)


def rows(clip: Video, found: WordMaps) -> list[tuple[str, Video]]:
  """What `base.strips` draws of a clip."""
  strips = [(_name("caption", found.whole), base.heat(clip, found.whole))]
  if found.words:
    low, high = float(found.maps.min()), float(found.maps.max())
    for word, each in zip(found.words, found.maps, strict=True):
      strips.append((_name(word, each), base.heat(clip, each, low, high)))
  return strips


def _name(word: str, values: np.ndarray) -> str:
  return f"{word}\ncosine {values.min():.2f} to {values.max():.2f}"


def _cosines(objective: Objective) -> Callable[[Params, Batch], tuple]:
  embed_patches, embed_tokens = objective.embed_patches, objective.embed_tokens
  assert embed_patches is not None
  assert embed_tokens is not None

  def cosines(params: Params, batch: Batch) -> tuple:
    places = embed_patches(params, batch)
    words = embed_tokens(params, batch)
    whole = objective.embed_text(params, batch)
    return (
      jnp.einsum("ble,bne->bln", words, places),
      jnp.einsum("be,bne->bn", whole, places),
    )

  return cosines
