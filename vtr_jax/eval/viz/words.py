"""Token maps: cosine of each token with each tubelet, as in MILES' figures.

A token or a tubelet is embedded as if it were the only input of the model's pooling
(compare arXiv 2204.12408, figure 4, for verbs and nouns).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from PIL import Image

from vtr_jax.core.batch import Batch
from vtr_jax.core.errors import DataError
from vtr_jax.eval.viz import base
from vtr_jax.eval.viz.canvas import Video
from vtr_jax.objectives.base import Objective, Params

PREDICTIONS = ("embed_tokens", "embed_patches", "embed_text")  # of the objective


class WordMaps(NamedTuple):
  """Cosines of a caption and its tokens with the tubelets of a clip."""

  words: list[str]
  maps: Float[np.ndarray, "w t y x"]  # of each token
  caption: Float[np.ndarray, "t y x"]  # of the caption's embedding


def word_maps(
  model: base.Model, clips: base.Clips, texts: Sequence[str]
) -> list[WordMaps]:
  """Token maps of each clips[i] and its caption texts[i].

  Args:
    model: see `base.Model`.
    clips: uint8 [t h w 3], of the model's frames and size.
    texts: one caption per clip.

  Raises:
    ConfigError: the objective lacks one of `PREDICTIONS`.
    DataError: a clip has another size, or the numbers of clips and texts differ.
  """
  for name in PREDICTIONS:
    model.objective.prediction(name, "token maps")
  if len(clips) != len(texts):
    raise DataError(f"texts: {len(texts)} for {len(clips)} clips; give one per clip")
  batch = dict(video=base.clip_rows(model, clips)) | base.text_rows(model, texts)
  maps, captions = base.on_devices(model, _cosines, batch)
  results, grid = [], model.config.clip.grid
  for i, (ids, valid) in enumerate(
    zip(batch["text_ids"], batch["text_valid"], strict=True)
  ):
    positions = base.word_positions(model.tokenizer, ids, valid)
    tokens = base.token_strings(model.tokenizer, ids)
    token_maps = maps[i, positions].reshape(-1, *grid)
    caption_map = captions[i].reshape(grid)
    results.append(WordMaps([tokens[k] for k in positions], token_maps, caption_map))
  return results


def picture(model: base.Model, clip: Video, text: str) -> Image.Image:
  """A clip, the map of its caption, and of each token; tokens share a colour scale."""
  (cosines,) = word_maps(model, [clip], [text])
  return base.frame_grid([("clip", clip), *rows(clip, cosines)], text, height=70)


def rows(clip: Video, cosines: WordMaps) -> list[tuple[str, Video]]:
  """Rows of `base.frame_grid` for one clip."""
  caption = cosines.caption
  labelled = [(_label("caption", caption), base.heatmap(clip, caption))]
  if cosines.words:
    low, high = float(cosines.maps.min()), float(cosines.maps.max())
    for word, values in zip(cosines.words, cosines.maps, strict=True):
      labelled.append((_label(word, values), base.heatmap(clip, values, low, high)))
  return labelled


def _label(word: str, values: np.ndarray) -> str:
  return f"{word}\ncosine {values.min():.2f} to {values.max():.2f}"


def _cosines(objective: Objective) -> Callable[[Params, Batch], tuple]:
  def cosines(params: Params, batch: Batch) -> tuple:
    tokens, patches, caption = (
      objective.predict[name](params, batch) for name in PREDICTIONS
    )
    return (
      jnp.einsum("ble,bne->bln", tokens, patches),
      jnp.einsum("be,bne->bn", caption, patches),
    )

  return cosines
