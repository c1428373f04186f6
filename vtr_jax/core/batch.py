"""The batch: the one contract between loader, objectives and evaluators.

Letters in shapes: b batch, t frames, h w pixels, c channels, n tubelets,
k visible tubelets, m masked tubelets, l text length.
"""

import dataclasses
from collections.abc import Mapping
from typing import overload

import jax
import numpy as np
from jaxtyping import Array, Num

from vtr_jax.core.arrays import AnyArray
from vtr_jax.core.config import choose, require

# What the device sees, by key; evaluation batches leave out the masks. Indices count
# tubelets in (time, height, width) order.
#   video           uint8 [b t h w c]  raw RGB; normalised on the device
#   video_visible   uint8 [b k p]      instead of `video` where MaskSpec.visible_only
#   video_keep_idx  int32 [b k]        sorted indices of visible tubelets
#   video_mask_idx  int32 [b m]        sorted indices of masked tubelets
#   text_ids        int32 [b l]        original ids, also of masked tokens
#   text_valid      bool [b l]         True = a real token, False = padding
#   text_masked     bool [b l]         True = masked; see MaskSpec.max_masked_tokens
#   option_ids      int32 [b o l]      instead of text_ids: a question with each option
#   option_valid    bool [b o l]       of these
#   label           int32 [b]          class, answer, right option, or count
#   row             int32 [b]          number in the global batch, in the loader's order
#   valid           bool [b]           False = the row counts in no loss and no metric
Batch = Mapping[str, AnyArray]

# Keys that stay on the host. `record` [b] int64 is the index of the record that
# was requested; `problem` [b] str is the reason if it was replaced, else empty.
HOST_KEYS = ("record", "problem")
VIDEO_MASKS = ("tube", "per_frame", "random", "block", "block_tube")


@dataclasses.dataclass(frozen=True)
class ClipSpec:
  """Size of the clip that the model sees, and how it is cut into tubelets."""

  num_frames: int  # frames per clip
  image_size: int = 224  # height and width, pixels; code: Frozen, MILES, SimVTP
  # (frames, pixels, pixels) of one token; code: Frozen's patches of each frame
  tubelet_size: tuple[int, int, int] = (1, 16, 16)
  # of RGB in [0, 1], subtracted; ImageNet's; code: Frozen, MILES, SimVTP
  mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
  # of RGB in [0, 1], divided by, ImageNet's; code: Frozen, MILES, SimVTP
  std: tuple[float, float, float] = (0.229, 0.224, 0.225)

  def __post_init__(self):
    pt, ph, pw = self.tubelet_size
    require(
      min(self.tubelet_size) > 0, f"tubelet_size: {self.tubelet_size} must be positive"
    )
    require(self.num_frames > 0, f"num_frames: {self.num_frames} must be positive")
    require(
      self.num_frames % pt == 0,
      f"num_frames: {self.num_frames} is not a multiple of tubelet_size[0] = {pt}; "
      f"use {_around(self.num_frames, pt)}",
    )
    for p in (ph, pw):
      require(
        self.image_size > 0 and self.image_size % p == 0,
        f"image_size: {self.image_size} is not a multiple of the tubelet's {p} pixels; "
        f"use {_around(self.image_size, p)}",
      )

  @property
  def grid(self) -> tuple[int, int, int]:
    """Tubelets along (time, height, width)."""
    pt, ph, pw = self.tubelet_size
    return self.num_frames // pt, self.image_size // ph, self.image_size // pw

  @property
  def num_tubelets(self) -> int:
    return int(np.prod(self.grid))

  @property
  def tubelet_dim(self) -> int:
    """Values in one tubelet: frames x pixels x pixels x 3 colours."""
    return int(np.prod(self.tubelet_size)) * 3


@dataclasses.dataclass(frozen=True)
class TextSpec:
  """Size of the text that the model sees."""

  # tokens, special tokens included; longer captions are cut; ours: the papers' code
  # pads to the longest, at most 512
  max_length: int = 64
  # rows of the word embedding; the tokenizer may have fewer; code: (Distil)BERT uncased
  vocab_size: int = 30522
  # id of the mask token, the tokenizer's own; ours: of those that `prepare` trains
  # (BERT's is 103)
  mask_id: int = 3
  # how captions become pieces of a T5 vocabulary, which two families share: siglip |
  # videoprism, see data/tokenizers/kinds.py; code: big_vision
  t5_rules: str = "siglip"

  def __post_init__(self):
    choose(self.t5_rules, ("siglip", "videoprism"), "t5_rules")
    require(self.max_length >= 2, f"max_length: {self.max_length} must be at least 2")
    require(self.vocab_size > 4, f"vocab_size: {self.vocab_size} must be over 4")
    require(
      0 <= self.mask_id < self.vocab_size,
      f"mask_id: {self.mask_id} is not below vocab_size {self.vocab_size}",
    )


@dataclasses.dataclass(frozen=True)
class MaskSpec:
  """What the loader masks. Counts are fixed, so shapes are static under jit.

  video: "tube" masks the same patches in every time slice, "per_frame" the same
    number in every slice but different ones, "random" any tubelets; "block" and
    "block_tube" are "per_frame" and "tube" with patches that form rectangles.
  """

  video: str  # tube | per_frame | random | block | block_tube
  video_ratio: float  # fraction of tubelets masked, [0, 1)
  # replace (by the mask token) | drop (left out of attention); paper: MAC, SimVTP
  text: str = "replace"
  # chance of each real, non-special token to be masked, [0, 1]; paper: MILES
  text_ratio: float = 0.0
  whole_word: bool = False  # mask all pieces of a word, or none; code: SimVTP
  # masked tokens of a caption at most, so that no more positions need a prediction
  # (`max_predictions_per_seq` in BERT's code); 0 = any number; code: SimVTP
  text_max: int = 0
  # Send only the visible tubelets to the device. Derived by the objective (nothing of
  # it reads masked pixels), never configured.
  visible_only: bool = dataclasses.field(default=False, metadata=dict(derived=True))

  def __post_init__(self):
    choose(self.video, VIDEO_MASKS, "video")
    choose(self.text, ("replace", "drop"), "text")
    require(0 <= self.video_ratio < 1, f"video_ratio: {self.video_ratio} not in [0,1)")
    require(0 <= self.text_ratio <= 1, f"text_ratio: {self.text_ratio} not in [0, 1]")
    require(
      self.text_max >= 0,
      f"text_max: {self.text_max} is negative; use 1 or more, 0 = any number",
    )

  def num_masked(self, grid: tuple[int, int, int]) -> int:
    """Masked tubelets per clip; rounded down as in SimVTP, and one stays visible."""
    t, h, w = grid
    # Without the nudge, 0.7 * 10 = 6.999... would round down to 6.
    count = lambda n: min(int(self.video_ratio * n + 1e-9), n - 1)
    return count(t * h * w) if self.video == "random" else t * count(h * w)

  def max_masked_tokens(self, length: int) -> int:
    """The most tokens that are masked of a caption padded to `length`.

    All `length` without `text_max`: some vocabularies have no special tokens.
    """
    return min(self.text_max or length, length)


def spec(
  clip: ClipSpec, text: TextSpec, mask: MaskSpec, batch_size: int
) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes of a training batch, before any data exists."""
  masked = mask.num_masked(clip.grid)
  visible = clip.num_tubelets - masked
  if mask.visible_only:
    shapes = dict(video_visible=((visible, clip.tubelet_dim), np.uint8))
  else:
    shapes = dict(
      video=((clip.num_frames, clip.image_size, clip.image_size, 3), np.uint8)
    )
  shapes |= dict(
    video_keep_idx=((visible,), np.int32),
    video_mask_idx=((masked,), np.int32),
    text_ids=((text.max_length,), np.int32),
    text_valid=((text.max_length,), np.bool_),
    text_masked=((text.max_length,), np.bool_),
    row=((), np.int32),
    valid=((), np.bool_),
  )
  return {
    key: jax.ShapeDtypeStruct((batch_size, *shape), dtype)
    for key, (shape, dtype) in shapes.items()
  }


def fake(
  clip: ClipSpec, text: TextSpec, mask: MaskSpec, batch_size: int, seed: int = 0
) -> dict[str, np.ndarray]:
  """A random but valid training batch, for benchmarks and contract tests."""
  rng = np.random.default_rng(seed)
  shapes = spec(clip, text, mask, batch_size)
  keep = shapes["video_keep_idx"].shape[1]
  order = rng.permuted(np.tile(np.arange(clip.num_tubelets), (batch_size, 1)), axis=1)
  lengths = rng.integers(2, text.max_length + 1, (batch_size, 1))
  text_valid = np.arange(text.max_length) < lengths
  masked = rng.random((batch_size, text.max_length)) < mask.text_ratio
  masked &= text_valid & (np.arange(text.max_length) > 0)
  masked &= masked.cumsum(axis=1) <= mask.max_masked_tokens(text.max_length)
  video = "video_visible" if mask.visible_only else "video"
  return dict(
    {video: rng.integers(0, 256, shapes[video].shape, np.uint8)},
    video_keep_idx=np.sort(order[:, :keep]).astype(np.int32),
    video_mask_idx=np.sort(order[:, keep:]).astype(np.int32),
    text_ids=rng.integers(4, text.vocab_size, text_valid.shape, np.int32) * text_valid,
    text_valid=text_valid,
    text_masked=masked,
    row=np.arange(batch_size, dtype=np.int32),
    valid=np.ones(batch_size, np.bool_),
  )


@overload
def patchify(
  video: Num[np.ndarray, "b t h w c"], tubelet: tuple[int, int, int]
) -> Num[np.ndarray, "b n p"]: ...
@overload
def patchify(
  video: Num[Array, "b t h w c"], tubelet: tuple[int, int, int]
) -> Num[Array, "b n p"]: ...
def patchify(
  video: Num[AnyArray, "b t h w c"], tubelet: tuple[int, int, int]
) -> Num[AnyArray, "b n p"]:
  """Cuts clips into tubelets, (time, height, width) order, values (pt ph pw c)."""
  b, t, h, w, c = video.shape
  pt, ph, pw = tubelet
  x = video.reshape(b, t // pt, pt, h // ph, ph, w // pw, pw, c)
  x = x.transpose(0, 1, 3, 5, 2, 4, 6, 7)
  return x.reshape(b, -1, pt * ph * pw * c)


def unpatchify(
  patches: Num[AnyArray, "b n p"], clip: ClipSpec
) -> Num[AnyArray, "b t h w c"]:
  """Inverse of `patchify`."""
  (gt, gh, gw), (pt, ph, pw) = clip.grid, clip.tubelet_size
  x = patches.reshape(-1, gt, gh, gw, pt, ph, pw, 3)
  x = x.transpose(0, 1, 4, 2, 5, 3, 6, 7)
  return x.reshape(-1, clip.num_frames, clip.image_size, clip.image_size, 3)


def _around(value: int, step: int) -> str:
  """The multiples of `step` on both sides of `value`, for messages."""
  low = value // step * step
  return f"{low} or {low + step}" if low else str(step)
