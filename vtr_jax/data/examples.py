"""One record to one row of a batch: reading, augmentation, rejection."""

import dataclasses
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import UInt8

from vtr_jax.core import batch as batch_lib
from vtr_jax.core.batch import ClipSpec, MaskSpec, TextSpec, patchify
from vtr_jax.core.config import choose, require
from vtr_jax.core.errors import BadSample, DataBudgetError
from vtr_jax.data import augment, crops, deadline, masks, sources
from vtr_jax.data.mixture import Part
from vtr_jax.data.tokenizers import base as tokenizers
from vtr_jax.data.video import decode

TRIES = 10  # records tried for one row before the split is called unusable
_PROBLEM = "U160"  # fixed width: grain's shared memory takes no Python objects


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Section `data` of the config: the data sets, and how clips are cut."""

  name: str  # data set under dir, as "moving_shapes/full"; newest version of it
  dir: str = "data"  # directory of all prepared data sets; ours
  # split to train on; TFDS slices such as "train[:1000]" are allowed; ours
  split: str = "train"
  # segments | time_segments (of equal time where the rate varies) | contiguous, see
  # video.frame_indices; code: Frozen
  sampling: str = "segments"
  stride: int = 1  # frames between two of a clip; read by contiguous; ours
  # resize | multi_scale | random_resized, see crops.random_view; code: Frozen, MCQ
  crop: str = "random_resized"
  # of the short side, or (min, max) of the area; code: Frozen, MCQ
  crop_scales: tuple[float, ...] = (0.5, 1.0)
  flip: bool = True  # mirror with chance 1/2 in training; code: Frozen, MCQ
  # off unless n > 0, see augment.py; ours
  rand_augment: augment.RandAugment = dataclasses.field(
    default_factory=augment.RandAugment
  )
  erase: float = 0.0  # chance of random erasing; ours: off (VideoMAE's code: 0.25)
  # successive rows of a batch that are clips of one record; ours (VideoMAE's code: 2)
  repeats: int = 1
  num_workers: int = 8  # processes that make batches; 0 = threads of this process; ours
  max_bad_fraction: float = 0.01  # of samples that may be unusable, [0, 1]; ours
  # (from step, frames of the clip, alternating) of each stage; () = always
  # clip.num_frames; ((0, (1,)), (1000, (4,))): one frame, then four; ((0, (1, 4)),):
  # alternating; ours: Frozen has 1, then 4
  curriculum: tuple[tuple[int, tuple[int, ...]], ...] = ()
  # data sets to train on instead of `name` and `split`, see mixture.py; evaluators and
  # the tokenizer still use `name`; ours: none
  mixture: tuple[Part, ...] = ()
  decode_timeout: float = 30.0  # seconds of CPU time that one record may take; ours

  def __post_init__(self):
    choose(self.sampling, decode.SAMPLINGS, "sampling")
    choose(self.crop, crops.CROPS, "crop")
    scales = self.crop_scales
    require(self.stride >= 1, f"stride: {self.stride} must be at least 1")
    require(0 <= self.erase <= 1, f"erase: {self.erase} not in [0, 1]")
    require(self.repeats >= 1, f"repeats: {self.repeats} must be at least 1")
    require(
      self.num_workers >= 0, f"num_workers: {self.num_workers} must not be negative"
    )
    require(
      self.decode_timeout > 0, f"decode_timeout: {self.decode_timeout} must be positive"
    )
    require(
      0 <= self.max_bad_fraction <= 1,
      f"max_bad_fraction: {self.max_bad_fraction} not in [0, 1]",
    )
    require(all(0 < s <= 1 for s in scales), f"crop_scales: {scales} must be in (0, 1]")
    if self.crop == "multi_scale":
      require(len(scales) > 0, "crop_scales: multi_scale needs at least one scale")
    if self.crop == "random_resized":
      require(
        len(scales) == 2 and scales[0] <= scales[1],
        f"crop_scales: {scales}; random_resized needs (min, max) fraction of the area",
      )
    steps = [step for step, _ in self.curriculum]
    require(
      steps == sorted(set(steps)) and steps[:1] in ([], [0]),
      f"curriculum: stages start at steps {steps}; start at 0 and go up",
    )
    for step, frames in self.curriculum:
      require(
        len(frames) > 0 and min(frames) > 0,
        f"curriculum: frames {frames} from step {step}; give one positive number or "
        "more",
      )

  def open(self, split: str = "") -> sources.Split:
    """Opens `split`, or the training split, of `name`.

    Raises:
      DataError: see `sources.open_split`.
    """
    return sources.open_split(sources.find(self.dir, self.name), split or self.split)

  def open_mixture(self) -> list[sources.Split]:
    """Opens the splits of `mixture`; raises DataError."""
    return [
      sources.open_split(sources.find(self.dir, part.name), part.split)
      for part in self.mixture
    ]

  def parts(self, clip: ClipSpec) -> list[Part]:
    """`mixture`; `num_frames` is 0 only where `curriculum` decides it step by step."""
    if self.curriculum:
      return list(self.mixture)
    return [
      dataclasses.replace(p, num_frames=p.num_frames or clip.num_frames)
      for p in self.mixture
    ]

  def fingerprint(self) -> str:
    """16 hex digits that change when a record to train on does; raises DataError."""
    parts = self.mixture or (Part(self.name, self.split, 1.0),)
    fingerprints = [
      sources.fingerprint(sources.find(self.dir, part.name), part.split)
      for part in parts
    ]
    if len(fingerprints) == 1:
      return fingerprints[0]
    return sources.digest(fingerprints)

  def frame_counts(self, clip: ClipSpec, of: int = 0) -> tuple[int, ...]:
    """Numbers of frames of the clips of parts with `num_frames = of`, ascending."""
    if of:
      return (of,)
    frames = {f for _, by_turns in self.curriculum for f in by_turns}
    return tuple(sorted(frames)) or (clip.num_frames,)

  def frames_at(self, clip: ClipSpec, step: int) -> int:
    """Frames of the training clips of batch number `step`; see `curriculum`."""
    for start, frames in reversed(self.curriculum):
      if start <= step:
        return frames[(step - start) % len(frames)]
    return clip.num_frames


def check_frames(data: DataConfig, clip: ClipSpec) -> None:
  """Rejects numbers of frames that do not fit the tubelets or the pos_embed.

  Raises:
    ConfigError: frames are not a multiple of the tubelet's, or exceed
      `clip.num_frames`.
  """
  counts = [("curriculum", frames) for frames in data.frame_counts(clip)]
  counts += [("mixture", part.num_frames) for part in data.mixture if part.num_frames]
  for key, frames in counts:
    require(
      frames % clip.tubelet_size[0] == 0,
      f"config.data.{key}: {frames} frames are not a multiple of "
      f"clip.tubelet_size[0] = {clip.tubelet_size[0]}; change one of them",
    )
    require(
      frames <= clip.num_frames,
      f"config.data.{key}: {frames} frames are more than clip.num_frames = "
      f"{clip.num_frames}; lower them, or raise clip.num_frames",
    )


@dataclasses.dataclass(frozen=True)
class Reader:
  """How clips and texts of training rows are read; sent to worker processes."""

  data: DataConfig
  clip: ClipSpec
  text: TextSpec
  mask: MaskSpec
  tokenizer: tokenizers.Tokenizer

  def read(
    self, video: bytes, rng: np.random.Generator
  ) -> UInt8[np.ndarray, "t h w 3"]:
    """A random clip of an encoded video; raises BadSample."""
    return read_clip(video, self.clip, self.data, rng)


@runtime_checkable
class Rows(Protocol):
  """What a training row holds, and how a record becomes one; a field of objectives.

  Methods must be picklable with their object.
  """

  def examples(self, source: sources.Split) -> sources.Records:
    """What rows are made of: the records, or more or fewer of them, with notes."""
    ...

  def labels(self, directory: str, split: str) -> list[str]:
    """The class of each example of a split; "" of none. Empty without classes."""
    ...

  def spec(
    self, clip: ClipSpec, text: TextSpec, mask: MaskSpec, batch_size: int
  ) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a training batch, with `row` and `valid`; see core/batch.py."""
    ...

  def row(
    self, record: dict, reader: Reader, rng: np.random.Generator
  ) -> dict[str, np.ndarray]:
    """All of `spec` but `row` and `valid`; raises BadSample."""
    ...


class CaptionRows:
  """A clip, one of its captions, and masks of both: the rows of pre-training."""

  def examples(self, source: sources.Split) -> sources.Records:
    return source

  def labels(self, directory: str, split: str) -> list[str]:
    return []

  def spec(
    self, clip: ClipSpec, text: TextSpec, mask: MaskSpec, batch_size: int
  ) -> dict[str, jax.ShapeDtypeStruct]:
    return batch_lib.spec(clip, text, mask, batch_size)

  def row(
    self, record: dict, reader: Reader, rng: np.random.Generator
  ) -> dict[str, np.ndarray]:
    if not record["captions"]:
      raise BadSample("no caption")
    caption = record["captions"][rng.integers(len(record["captions"]))]
    mask, tokenizer = reader.mask, reader.tokenizer
    ids, valid = tokenizer.encode(caption, reader.text.max_length)
    clip = reader.read(record["video"], rng)
    keep_idx, mask_idx = masks.video_mask(mask, reader.clip.grid, rng)
    if mask.visible_only:
      tubelets = patchify(clip[None], reader.clip.tubelet_size)[0]
      sent = dict(video_visible=tubelets[keep_idx])
    else:
      sent = dict(video=clip)
    words, special = tokenizer.word_ids(ids), tokenizer.special_ids
    return sent | dict(
      video_keep_idx=keep_idx,
      video_mask_idx=mask_idx,
      text_ids=ids,
      text_valid=valid,
      text_masked=masks.text_mask(mask, ids, valid, words, special, rng),
    )


class TrainExample:
  """(index of the example, generator) to a row of a training batch."""

  def __init__(self, source: sources.Records, rows: Rows, reader: Reader):
    self._source = source
    self._rows = rows
    self._reader = reader

  def __call__(self, index: int, rng: np.random.Generator) -> dict:
    """The row, made of another record where this one cannot be used.

    `untold` has warnings of a worker process, which `Batches` takes out and tells.

    Raises:
      DataBudgetError: ten records in a row cannot be used.
    """
    problem, chosen = "", index
    for _ in range(TRIES):
      try:
        record = self._source[chosen]
        with deadline.item(chosen, record["id"], self._reader.data.decode_timeout):
          row = self._rows.row(record, self._reader, rng)
        break
      except BadSample as e:
        problem = problem or sources.name_problem(self._source, index, e)
        chosen = int(rng.integers(len(self._source)))
    else:
      raise DataBudgetError(
        f"{self._source.directory}: {TRIES} records in a row cannot be used, the "
        f"first is {problem}; repair the data set"
      )
    return row | dict(
      valid=np.bool_(not problem),
      record=np.int64(index),
      problem=np.array(problem, _PROBLEM),
      untold=np.array("; ".join(decode.untold()), _PROBLEM),
    )


class EvalExample:
  """Index of the record to a row of an evaluation batch."""

  def __init__(self, source: sources.Split, data: DataConfig, clip: ClipSpec):
    self._source = source
    self._data = data
    self._clip = clip

  def __call__(self, index: int) -> dict:
    """The row.

    Raises:
      DataError: the record cannot be used; evaluation replaces none.
    """
    try:
      record = self._source[index]
      with deadline.item(index, record["id"], self._data.decode_timeout):
        clip = read_clip(record["video"], self._clip, self._data, None)
    except BadSample as e:
      raise sources.unusable(self._source, index, e) from e
    return dict(video=clip, valid=np.True_, record=np.int64(index))


def read_clip(
  data: bytes,
  clip: ClipSpec,
  config: DataConfig,
  rng: np.random.Generator | None,
  damage: list[str] | None = None,
) -> UInt8[np.ndarray, "t h w 3"]:
  """Decodes one clip and augments it; without a generator the centred one as it is.

  `damage` is `video.decode`'s.

  Raises:
    BadSample: see `video.decode`.
  """
  indices = decode.chooser(clip.num_frames, config.sampling, config.stride, rng)

  def view(height: int, width: int) -> crops.View:
    if rng is None:
      return crops.resize_view(height, width, clip.image_size)
    return crops.random_view(
      height, width, clip.image_size, config.crop, config.crop_scales, config.flip, rng
    )

  limits = clip.num_frames, config.decode_timeout, damage
  frames = decode.decode(data, indices, view, *limits)
  if rng is None:
    return frames
  frames = augment.rand_augment(frames, config.rand_augment, rng)
  return augment.erase(frames, config.erase, clip.mean, clip.std, rng)
