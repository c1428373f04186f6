"""Action recognition: a video backbone that is fine-tuned on labelled clips.

A linear head reads the pooled features of the unmasked clip, as in VideoMAE (arXiv
2203.12602, section 4 and run_class_finetuning.py): targets are smoothed, clips and
targets mixed on the device, blocks dropped at random, and the head starts near zero.
Labels are those of the records; an example is a record with one.
Ours: `mask.video_ratio` drops tubelets in training, which makes a step cheaper; classes
are always predicted from all tubelets.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from vtr_jax.core import batch as batch_lib
from vtr_jax.core.arrays import AnyArray
from vtr_jax.core.batch import Batch, ClipSpec, MaskSpec, TextSpec
from vtr_jax.core.config import choose, nearest, require
from vtr_jax.core.errors import BadSample, ConfigError
from vtr_jax.data import masks, sources
from vtr_jax.data.examples import Reader
from vtr_jax.data.sources import Records, Split
from vtr_jax.models import dual_encoder
from vtr_jax.models.backbones.base import BackboneConfig
from vtr_jax.models.config import ARCHS, ArchSpec, check_video
from vtr_jax.models.layers import Compute, Dense, l2_normalize
from vtr_jax.models.mixing import MixConfig, mix, smooth_targets
from vtr_jax.models.pooling import AttentionPool, VideoFeatures
from vtr_jax.objectives.base import (
  Objective,
  Outputs,
  Params,
  apply,
  dropout,
  initializer,
  methods,
)
from vtr_jax.objectives.losses import masked_sum, soft_cross_entropy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Section `objective` of the config."""

  # frozen | clip | open_clip | siglip | simvtp | videoprism: of the run or the weights
  # that it starts from; ours
  arch: str = "frozen"
  video: BackboneConfig
  compute: Compute = dataclasses.field(default_factory=Compute)
  # cls | mean (of the tubelets' tokens) | attention (by a learned query, part of the
  # head: `head_pool`); code: VideoMAE
  pool: str = "mean"
  # names, in the order of the logits; () = all labels of the training split, sorted;
  # ours
  classes: tuple[str, ...] = ()
  num_classes: int = 0  # expected number of classes; 0 = as many as there are; ours
  smoothing: float = 0.1  # of labels; code: VideoMAE
  mix: MixConfig = dataclasses.field(default_factory=MixConfig)
  drop_path: float = 0.1  # of the last block, see layers.run_blocks; code: VideoMAE
  head_dropout: float = 0.0  # before the head; code: VideoMAE (UCF101: 0.5)
  head_scale: float = 0.001  # of the head's initial kernel; code: VideoMAE

  def __post_init__(self):
    choose(self.arch, ARCHS, "arch")
    choose(self.pool, ("cls", "mean", "attention"), "pool")
    for name in ("smoothing", "drop_path", "head_dropout"):
      value = getattr(self, name)
      require(0 <= value < 1, f"{name}: {value} not in [0, 1)")
    require(self.head_scale > 0, f"head_scale: {self.head_scale} must be positive")
    require(len(set(self.classes)) == len(self.classes), "classes: a name occurs twice")
    require(len(self.classes) != 1, "classes: one name only; nothing to tell apart")
    require(self.num_classes >= 0, f"num_classes: {self.num_classes} is negative")
    count = len(self.classes)
    require(
      not count or self.num_classes in (0, count),
      f"num_classes: {self.num_classes}, but there are {count} classes; set 0",
    )
    check_video(self)

  @property
  def parts(self) -> ArchSpec:
    return ARCHS[self.arch]

  @property
  def count(self) -> int:
    """Number of classes; 0 = not known yet."""
    return len(self.classes) or self.num_classes


def from_data(values: dict[str, Any], labels: Callable[[Any], list[str]]) -> dict:
  """Section `objective` with the classes of the training split where it has none.

  Raises:
    ConfigError: the split has no labels, one class only, not as many as expected, or
      one that is not among the config's.
  """
  classes = tuple(sorted(set(labels(sources.labels)) - {""}))
  where = "config.data: the training split"
  require(len(classes) > 0, f"{where} has no labels; prepare it with a format that has")
  if named := values.get("classes"):
    if unknown := sorted(set(classes) - set(named)):
      others = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
      raise ConfigError(
        f"config.objective.classes: lacks {unknown[0]!r}{others} of the training "
        f"split, {nearest(unknown[0], named)}; add it, or set () to take all of them"
      )
    return values
  require(
    len(classes) > 1, f"{where} has one class only, {classes[0]!r}; nothing to tell"
  )
  expected = values.get("num_classes", 0)
  require(
    expected in (0, len(classes)),
    f"config.objective.num_classes: {expected}, but the training split has "
    f"{len(classes)} classes, as {classes[0]!r}; set 0, or complete the data",
  )
  return values | dict(classes=classes)


class _Labelled:
  """The records of a split that have a label."""

  def __init__(self, source: Split, labels: list[str]):
    self.directory = source.directory
    self._source = source
    self._indices = np.flatnonzero(labels)

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, index: int) -> dict:
    return self._source[int(self._indices[index])]


class LabelRows:
  """A clip and its label."""

  def __init__(self, classes: tuple[str, ...]):
    self._index = {name: i for i, name in enumerate(classes)}

  def labels(self, directory: str, split: str) -> list[str]:
    return sources.labels(directory, split)

  def examples(self, source: Split) -> Records:
    labels = sources.labels(source.directory, source.name)
    return source if all(labels) else _Labelled(source, labels)

  def spec(
    self, clip: ClipSpec, text: TextSpec, mask: MaskSpec, batch_size: int
  ) -> dict[str, jax.ShapeDtypeStruct]:
    shapes = batch_lib.spec(clip, text, mask, batch_size)
    label = jax.ShapeDtypeStruct((batch_size,), np.int32)
    keys = ["video", "row", "valid"]
    if mask.num_masked(clip.grid):
      keys.append("video_keep_idx")
    return {key: shapes[key] for key in keys} | dict(label=label)

  def row(
    self, record: dict, reader: Reader, rng: np.random.Generator
  ) -> dict[str, np.ndarray]:
    label = record["label"]
    if not label:
      raise BadSample("no label")
    if label not in self._index:
      hint = nearest(label, self._index)
      raise BadSample(f"label {label!r} is none of config.objective.classes; {hint}")
    row = dict(
      video=reader.read(record["video"], rng),
      label=np.array(self._index[label], np.int32),
    )
    mask, grid = reader.mask, reader.clip.grid
    if mask.num_masked(grid):
      row["video_keep_idx"] = masks.video_mask(mask, grid, rng)[0]
    return row


class Actions(dual_encoder.DualEncoder):
  """The video side of a dual encoder, and a linear head."""

  config: Any  # Config

  def setup(self):
    c = self.config
    self.setup_video()
    if c.pool == "attention":
      self.head_pool = AttentionPool(c.video, c.compute, c.parts.kind)
    self.head_drop = nn.Dropout(c.head_dropout)
    self.head = Dense(
      c.count,
      ("embed", "classes"),
      "float32",
      kernel_init=nn.initializers.variance_scaling(
        c.head_scale**2, "fan_in", "truncated_normal"
      ),
    )

  def __call__(self, batch: Batch) -> Float[Array, "b v"]:
    """Logits of a training pass."""
    keep_idx = batch.get("video_keep_idx")
    pooled = self.video_features(batch, self.config.drop_path, keep_idx).pooled
    return self.head(self.head_drop(pooled, deterministic=False))

  def video_features(
    self,
    batch: Batch,
    drop_path: float = 0.0,
    keep_idx: Int32[AnyArray, "b k"] | None = None,
  ) -> VideoFeatures:
    """Features of clips; `pooled` is what the head reads."""
    if self.config.pool != "attention":
      return super().video_features(batch, drop_path, keep_idx)
    tokens = self.video_tokens(batch, drop_path, keep_idx)
    everything = jnp.concatenate([tokens.cls, tokens.patches], axis=1)
    if self.config.parts.norm_pooled:
      everything = self.video_norm(everything)
    return VideoFeatures(self.head_pool(everything), everything)

  def logits(self, batch: Batch) -> Float[Array, "b v"]:
    """Logits of the classes, without dropout."""
    return self.head(self.video_features(batch).pooled)

  def encode_video(self, batch: Batch) -> Float[Array, "b d"]:
    """The features that the head reads."""
    return self.video_features(batch).pooled.astype(jnp.float32)

  def embed_video(self, batch: Batch) -> Float[Array, "b d"]:
    return l2_normalize(self.encode_video(batch))


def forward(
  model: Actions, params: Params, teacher: Params | None, batch: Batch, key: jax.Array
) -> Outputs:
  """The loss of one batch of labelled clips."""
  del teacher
  c: Config = model.config
  mixing, key = jax.random.split(key)
  valid: AnyArray = batch["valid"]
  video = batch["video"]
  targets = smooth_targets(batch["label"], c.count, c.smoothing)
  if c.mix.prob:
    video, targets = mix(mixing, video, targets, valid, batch["row"], c.mix)
  rngs = dropout(key, batch)
  logits = apply(model, params, {**batch, "video": video}, rngs=rngs)
  terms = dict(actions=masked_sum(soft_cross_entropy(logits, targets), valid))
  return Outputs(terms, {})


def build(config: Config, clip: ClipSpec, text: TextSpec, mask: MaskSpec) -> Objective:
  """Builds the objective.

  Raises:
    ConfigError: the backbone cannot drop the masked tubelets, or the classes are not
      known.
  """
  dual_encoder.check_drops(config.video, clip, mask)
  require(
    config.count > 0,
    "config.objective.num_classes: 0 until training reads the labels; set their number",
  )
  model = Actions(clip, text, mask, config)
  group = config.mix.group if config.mix.prob else 1
  return Objective(
    model=model,
    mask=mask,
    compute=config.compute,
    init=initializer(model),
    forward=functools.partial(forward, model),
    terms=("actions",),
    pairs=(),
    predict=methods(model, "logits", "embed_video", "encode_video", "video_features"),
    row_group=group,
    batch_group=(group, "config.objective.mix.group"),
    mixed=group > 1,
    rows=LabelRows(config.classes),
    reads_text=False,
    classes=config.classes,
    unnamed=config.num_classes,
  )
