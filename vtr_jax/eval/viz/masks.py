"""Masked clips and captions, and a model's reconstructions of them."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int32, UInt8
from PIL import Image

from vtr_jax.core.batch import VIDEO_MASKS, ClipSpec, MaskSpec, patchify, unpatchify
from vtr_jax.core.config import require
from vtr_jax.core.errors import ConfigError, DataError
from vtr_jax.data import masks
from vtr_jax.data.tokenizers.base import Tokenizer
from vtr_jax.eval.viz import base, plots
from vtr_jax.eval.viz.canvas import Video
from vtr_jax.objectives.base import Objective

GRAY = 128  # of masked tubelets


class Reconstructed(NamedTuple):
  """Masked clips and captions, and their reconstructions by a model."""

  masked: UInt8[np.ndarray, "b t h w 3"]  # masked tubelets are gray
  reconstructed: UInt8[np.ndarray, "b t h w 3"]  # masked tubelets are predictions
  words: list[list[plots.Word]]  # prediction is None if the model has none


def masked(
  video: UInt8[np.ndarray, "b t h w 3"],
  mask_idx: Int32[np.ndarray, "b m"],
  clip: ClipSpec,
) -> UInt8[np.ndarray, "b t h w 3"]:
  """Clips with the tubelets at `mask_idx` in gray."""
  return _put(video, mask_idx, np.array(GRAY, np.uint8), clip)


def filled(
  video: UInt8[np.ndarray, "b t h w 3"],
  mask_idx: Int32[np.ndarray, "b m"],
  pixels: Float[np.ndarray, "b m p"],
  clip: ClipSpec,
) -> UInt8[np.ndarray, "b t h w 3"]:
  """Clips with the tubelets at `mask_idx` replaced by `pixels`, RGB in [0, 1]."""
  return _put(video, mask_idx, (255 * pixels + 0.5).astype(np.uint8), clip)


def words(
  tokenizer: Tokenizer,
  ids: Int32[np.ndarray, " l"],
  valid: np.ndarray,
  masked: np.ndarray,
  predicted_ids: Int32[np.ndarray, " l"] | None = None,
) -> list[plots.Word]:
  """(token, masked, prediction) of each token; special tokens are omitted."""
  tokens, predicted = base.token_strings(tokenizer, ids), [None] * len(ids)
  if predicted_ids is not None:
    # The model's vocabulary may be larger than the tokenizer's.
    in_vocab = predicted_ids < tokenizer.vocab_size
    clipped = np.where(in_vocab, predicted_ids, tokenizer.unk_id)
    predicted = base.token_strings(tokenizer, clipped)
  return [
    (tokens[i], bool(masked[i]), predicted[i] if masked[i] else None)
    for i in base.word_positions(tokenizer, ids, valid)
  ]


def draw(
  mask: MaskSpec, clip: ClipSpec, seed: int = 0
) -> tuple[Int32[np.ndarray, " k"], Int32[np.ndarray, " m"]]:
  """(visible, masked) tubelets of a clip, as the loader draws them."""
  return masks.video_mask(mask, clip.grid, np.random.default_rng(seed))


def kinds(
  clip: Video, spec: ClipSpec, ratio: float = 0.6, seed: int = 0
) -> Image.Image:
  """A clip under every type of video mask.

  Args:
    clip: uint8 [t h w 3], of the size of `spec`.
    spec: frames, size and tubelets of the clip.
    ratio: fraction masked, [0, 1).
    seed: of the masks.
  """
  rows = [("clip", clip)]
  for kind in VIDEO_MASKS:
    mask = MaskSpec(kind, ratio, "replace", 0.0, False)
    _, mask_idx = draw(mask, spec, seed)
    label = f"{kind}\n{len(mask_idx)} of {spec.num_tubelets} masked"
    rows.append((label, masked(clip[None], mask_idx[None], spec)[0]))
  return base.frame_grid(rows)


def masked_inputs(
  clips: UInt8[np.ndarray, "b t h w 3"],
  texts: Sequence[str],
  config: base.InputConfig,
  mask: MaskSpec,
  tokenizer: Tokenizer,
  seed: int = 0,
) -> Reconstructed:
  """Clips and texts masked as in training; no reconstruction."""
  batch = _masked_batch(clips, texts, config, mask, tokenizer, seed)
  video = masked(clips, batch["video_mask_idx"], config.clip)
  return Reconstructed(video, video, _words(batch, None, tokenizer))


def reconstruct(
  model: base.Model,
  clips: base.Clips,
  texts: Sequence[str],
  ratio: float | None = None,
  seed: int = 0,
) -> Reconstructed:
  """Masks clips and texts as in the model's training, and reconstructs them.

  Args:
    model: see `base.Model`.
    clips: uint8 [t h w 3], of the model's frames and size.
    texts: one caption per clip.
    ratio: fraction of the tubelets masked, (0, 1); None = as in training.
    seed: of the masks.

  Raises:
    ConfigError: the model has no decoder, or this ratio masks nothing.
    DataError: a clip has another size, or the numbers of clips and texts differ.
  """
  mask = model.objective.mask
  if "reconstruct" not in model.objective.predict:
    raise ConfigError("reconstruction: this model has no decoder; use SimVTP's")
  if ratio is not None:
    mask = dataclasses.replace(mask, video_ratio=ratio)
  grid = model.config.clip.grid
  require(mask.num_masked(grid) > 0, f"ratio: {mask.video_ratio:g} masks nothing")
  if len(clips) != len(texts):
    raise DataError(f"texts: {len(texts)} for {len(clips)} clips; give one per clip")
  clips = base.clip_rows(model, clips)
  batch = _masked_batch(clips, texts, model.config, mask, model.tokenizer, seed)
  pixels, predicted = base.on_devices(model, _reconstruct, batch)
  idx, spec = batch["video_mask_idx"], model.config.clip
  return Reconstructed(
    masked(clips, idx, spec),
    filled(clips, idx, pixels, spec),
    _words(batch, predicted, model.tokenizer),
  )


def ratios(
  model: base.Model,
  clip: Video,
  text: str,
  mask_ratios: Sequence[float] = (0.25, 0.5, 0.75, 0.9),
  seed: int = 0,
) -> Image.Image:
  """A clip, masked and reconstructed at several mask ratios, as in SimVTP's figures."""
  rows = [("clip", clip)]
  for ratio in mask_ratios:
    result = reconstruct(model, [clip], [text], ratio, seed)
    rows.append((f"{ratio:.0%} masked", result.masked[0]))
    rows.append(("reconstructed", result.reconstructed[0]))
  return base.frame_grid(rows, text, height=70)


def gif(
  model: base.Model, clip: Video, text: str, ratio: float | None = None, seed: int = 0
) -> base.Gif:
  """The original, masked and reconstructed clip side by side."""
  result = reconstruct(model, [clip], [text], ratio, seed)
  return base.Gif([clip, result.masked[0], result.reconstructed[0]])


def _reconstruct(objective: Objective) -> Callable:
  return objective.predict["reconstruct"]


def _put(
  video: np.ndarray, mask_idx: np.ndarray, values: np.ndarray, clip: ClipSpec
) -> np.ndarray:
  patches = np.array(patchify(video, clip.tubelet_size))
  np.put_along_axis(patches, mask_idx[:, :, None], values, axis=1)
  return np.asarray(unpatchify(patches, clip))


def _masked_batch(
  clips: np.ndarray,
  texts: Sequence[str],
  config: base.InputConfig,
  mask: MaskSpec,
  tokenizer: Tokenizer,
  seed: int,
) -> dict[str, np.ndarray]:
  """A batch of unmasked clips, with masks drawn as by the loader."""
  rows = []
  for index, (clip, text) in enumerate(zip(clips, texts, strict=True)):
    rng = np.random.default_rng((seed, index))
    ids, valid = tokenizer.encode(text, config.text.max_length)
    keep_idx, mask_idx = masks.video_mask(mask, config.clip.grid, rng)
    word_ids, special = tokenizer.word_ids(ids), tokenizer.special_ids
    rows.append(
      dict(
        video=clip,
        video_keep_idx=keep_idx,
        video_mask_idx=mask_idx,
        text_ids=ids,
        text_valid=valid,
        text_masked=masks.text_mask(mask, ids, valid, word_ids, special, rng),
      )
    )
  return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def _words(
  batch: dict[str, np.ndarray], predicted: np.ndarray | None, tokenizer: Tokenizer
) -> list[list[plots.Word]]:
  keys = ("text_ids", "text_valid", "text_masked")
  rows = [None] * len(batch["video"]) if predicted is None else predicted
  columns = zip(*(batch[key] for key in keys), rows, strict=True)
  return [words(tokenizer, *row) for row in columns]
