"""Video question answering: a pre-trained model, fine-tuned on clips and questions.

The base is any objective with a video and a text side. Of a dual encoder (MAC, MILES),
the question's tokens attend to the clip's tokens in new blocks (models/fusion.py);
SimVTP reads both in its own joint pass, as its matching does. A head reads one pooled
token: scores of all answers (open), one score of each option, with the question (choice
), or a number (count). An example is a question with its record, see data/notes.py.
Sources: the open-ended head and its loss are ALPRO's (arXiv 2112.09583) and VIOLET's
(arXiv 2111.12681), which has the score of options; a number is regressed, as in TGIF-QA
(arXiv 1704.04497). SimVTP's code for answers is not public. Ours: `mask.video_ratio`
drops tubelets in training, which makes a step cheaper; answers read all.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from vtr_jax.core.arrays import AnyArray
from vtr_jax.core.batch import Batch, ClipSpec, MaskSpec, TextSpec
from vtr_jax.core.config import choose, require
from vtr_jax.data import notes
from vtr_jax.data.questions import FORMS, QuestionRows
from vtr_jax.models import dual_encoder
from vtr_jax.models.fusion import Fusion, Head
from vtr_jax.models.layers import Compute
from vtr_jax.models.text_tower import with_appended
from vtr_jax.objectives import base as objectives
from vtr_jax.objectives import simvtp
from vtr_jax.objectives.base import (
  Objective,
  Outputs,
  Params,
  apply,
  dropout,
  initializer,
  methods,
)
from vtr_jax.objectives.losses import cross_entropy, masked_sum


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Section `objective` of the config."""

  base: dict[str, Any]  # section `objective` of the run that it starts from; ours
  compute: Compute = dataclasses.field(default_factory=Compute)  # of the base too
  notes: str  # set of the questions, as msvd_qa; see data/notes.py
  types: tuple[str, ...] = ()  # of questions to take; () = all; ours
  form: str = "open"  # open | choice (of options) | count (a number); ours
  # of an open form, in the order of the scores; () = the most frequent training
  # answers; ours
  classes: tuple[str, ...] = ()
  vocabulary: int = 0  # number of those; 0 = all; ours
  options: int = 5  # of each question of form choice; code: VIOLET (TGIF-QA has 5)
  # predicted counts are rounded and cut to these; TGIF-QA's (ALPRO's code: 1 to 10)
  counts: tuple[int, int] = (0, 10)
  # blocks in which words attend to a dual encoder's tokens; 0 = the base's own joint
  # pass (SimVTP); code: Singularity, UMT
  fusion: int = 3
  head_dropout: float = 0.1  # before the head; code: VIOLET

  def __post_init__(self):
    choose(self.form, FORMS, "form")
    require(
      0 <= self.head_dropout < 1, f"head_dropout: {self.head_dropout} not in [0, 1)"
    )
    require(len(set(self.classes)) == len(self.classes), "classes: an answer twice")
    require(self.vocabulary >= 0, f"vocabulary: {self.vocabulary} is negative")
    require(self.options >= 2, f"options: {self.options} is below 2")
    low, high = self.counts
    require(low <= high, f"counts: {self.counts}; give the least and the greatest")
    require(self.fusion >= 0, f"fusion: {self.fusion} is negative")

  @property
  def outputs(self) -> int:
    """Numbers that the head gives; 0 = not known yet."""
    return (len(self.classes) or self.vocabulary) if self.form == "open" else 1


def from_data(values: dict[str, Any], labels: Callable[[Any], list[str]]) -> dict:
  """Section `objective` with the most frequent training answers as classes.

  Raises:
    ConfigError: the training split has no two different answers.
  """
  if values.get("form", "open") != "open" or values.get("classes"):
    return values
  rows = QuestionRows(values.get("notes", ""), tuple(values.get("types", ())))
  answers = notes.frequent(labels(rows.labels), values.get("vocabulary", 0))
  require(
    len(answers) > 1,
    "config.data: the training questions have fewer than two different answers; "
    "nothing to tell",
  )
  return values | dict(classes=tuple(answers))


class Answers(nn.Module):
  """A base model, and the head that reads a clip and a question."""

  base: Any  # a dual encoder, or SimVTP
  settings: Config

  def setup(self):
    c = self.settings
    nn.share_scope(self, self.base)  # parameters have the base's paths
    if c.fusion:
      size = dataclasses.replace(self.config.text, depth=c.fusion)
      self.fusion = Fusion(size, c.compute)
    self.head = Head(c.outputs, c.head_dropout)

  @property
  def config(self) -> Any:
    """The base's."""
    return self.base.config

  @nn.nowrap
  def layers_above(self, path: str) -> int | range:
    """As the base's; 0 for what is new, see `optim.by_layer`."""
    return self.base.layers_above(path)

  def __call__(self, batch: Batch) -> Float[Array, "b v"]:
    """As `answers`, of a training pass."""
    return self._scores(batch, train=True)

  def answers(self, batch: Batch) -> Float[Array, "b v"]:
    """Scores of the answers or of the options; of form count one number."""
    return self._scores(batch, train=False)

  def _scores(self, batch: Batch, *, train: bool) -> Float[Array, "b v"]:
    keep_idx = batch.get("video_keep_idx") if train else None
    video = self._video(batch, keep_idx)
    if self.settings.form != "choice":
      ids, valid = batch["text_ids"], batch["text_valid"]
      return self.head(self._pooled(video, ids, valid, train=train), train=train)
    ids, valid = batch["option_ids"], batch["option_valid"]
    rows, options, length = ids.shape
    flat = lambda x: x.reshape(rows * options, length)
    video = jnp.repeat(video, options, axis=0)
    pooled = self._pooled(video, flat(ids), flat(valid), train=train)
    return self.head(pooled, train=train).reshape(rows, options)

  def _video(
    self, batch: Batch, keep_idx: Int32[AnyArray, "b k"] | None
  ) -> Float[Array, "b n d"]:
    """The clip's tokens."""
    if not self.settings.fusion:
      return self.base.embed_visible(batch["video"], keep_idx)
    tokens = self.base.video_tokens(batch, keep_idx=keep_idx)
    return jnp.concatenate([tokens.cls, tokens.patches], axis=1)

  def _pooled(
    self,
    video: Float[Array, "b n d"],
    ids: Int32[AnyArray, "b l"],
    valid: Bool[AnyArray, "b l"],
    *,
    train: bool,
  ) -> Float[Array, "b e"]:
    """What the head reads of clips and texts."""
    if not self.settings.fusion:
      return self.base.pooled_pair(video, ids, valid, train=train)
    words = self.base.text_tower(ids, valid, train=train)
    return self.fusion(words, with_appended(self.config, valid), video)


def forward(
  model: Answers, params: Params, teacher: Params | None, batch: Batch, key: jax.Array
) -> Outputs:
  """The loss of one batch of questions."""
  del teacher
  scores = apply(model, params, batch, rngs=dropout(key, batch))
  if model.settings.form == "count":
    error = jnp.square(scores[:, 0] - jnp.asarray(batch["label"], jnp.float32))
  else:
    error = cross_entropy(scores, batch["label"])
  return Outputs(dict(answers=masked_sum(error, batch["valid"])), {})


def build(config: Config, clip: ClipSpec, text: TextSpec, mask: MaskSpec) -> Objective:
  """Builds the objective.

  Raises:
    ConfigError: the base cannot read a clip and a text, or drop the masked tubelets, or
      the answers are not known.
  """
  compute = {
    f.name: getattr(config.compute, f.name) for f in dataclasses.fields(Compute)
  }
  where = "config.objective.base"
  base = objectives.build(config.base, clip, text, mask, where=where, **compute).model
  joint = isinstance(base, simvtp.SimVTP)
  require(
    joint
    or (isinstance(base, dual_encoder.DualEncoder) and hasattr(base.config, "text")),
    f"{where}.name: {config.base.get('name')!r} does not read texts; use mac, miles or "
    "simvtp",
  )
  require(
    joint == (config.fusion == 0),
    f"config.objective.fusion: {config.fusion}; "
    + ("SimVTP has its own joint pass, set 0" if joint else "towers need some, as 3"),
  )
  if not joint:
    dual_encoder.check_drops(base.config.video, clip, mask)
  require(
    config.outputs > 0,
    "config.objective.vocabulary: 0 until training reads the answers; set their number",
  )
  model = Answers(base, config)
  names = [field.name for field in dataclasses.fields(QuestionRows)]
  rows = QuestionRows(**{name: getattr(config, name) for name in names})
  return Objective(
    model=model,
    mask=mask,
    compute=config.compute,
    init=initializer(model),
    forward=functools.partial(forward, model),
    terms=("answers",),
    pairs=(),
    predict=methods(model, "answers"),
    rows=rows,
    classes=config.classes,
  )
