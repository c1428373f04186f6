"""Recognition by a fine-tuned head: top-1 and top-5 accuracy, per class, confusion.

The score of a class is the mean over a video's clips of its softmax, as in VideoMAE's
`engine_for_finetuning.merge`: segments along time times crops in space.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtr_jax.core.config import nearest, require
from vtr_jax.core.errors import ConfigError
from vtr_jax.core.sharding import OnDevices
from vtr_jax.data import sources
from vtr_jax.data.views import Views
from vtr_jax.eval import metrics
from vtr_jax.eval.evaluators import zero_shot
from vtr_jax.eval.evaluators.base import Context, each_view
from vtr_jax.objectives.base import Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """One section of `evals` with kind = "recognition"."""

  split: str  # of the data set
  every: int = 0  # steps between runs; 0 = at the end only; ours
  windows: int = 1  # clips along time; ours (VideoMAE: 5, or 2 for SSv2)
  crops: int = 1  # of each, in space; ours (VideoMAE: 3)

  needs = ("logits",)  # predictions of the objective

  def __post_init__(self):
    for name in ("windows", "crops"):
      require(getattr(self, name) >= 1, f"{name}: {getattr(self, name)} is below 1")


class Evaluator:
  """See base.Evaluator."""

  def __init__(self, config: Config, context: Context):
    self.every = config.every
    self._config, self._context = config, context
    self._source = context.data.open(config.split)
    self._names = list(context.objective.model.config.classes)
    require(
      len(self._names) > 0,
      "config.objective.classes: none; train on labelled data, which sets them",
    )
    labels = zero_shot.labels(self._source)
    self._label = label_indices(labels, self._names, config.split)
    self._views = Views(
      context.clip.num_frames,
      context.data.sampling,
      context.data.stride,
      config.windows,
      config.crops,
    )
    logits = context.objective.predict["logits"]
    odds = lambda params, batch: jax.nn.softmax(jnp.float32(logits(params, batch)))
    self._odds = OnDevices(odds, context.mesh)

  def run(self, params: Params) -> dict[str, float]:
    odds = each_view(self._context, self._odds, params, self._source, self._views)
    scores = odds.mean(axis=1, dtype=np.float64).T
    self._results, self._confusion = metrics.recognition(scores, self._label)
    return self._results

  def report(self) -> str:
    text = zero_shot.report(self._config.split, self._results, self._confusion)
    return f"{text}\nper class: figures/*_classes.md and *_confusion.png"

  def protocol(self) -> dict[str, Any]:
    return dataclasses.asdict(self._config) | dict(
      classes=self._names,
      fingerprint=sources.fingerprint(self._source.directory, self._config.split),
      clips=len(self._label),
      data=self._context.data.name,
      frames=self._context.clip.num_frames,
      sampling=f"{self._context.data.sampling}, deterministic",
      score="mean of the softmax of each view",
      ties="counted fractionally",
    )

  def draw(self, directory: pathlib.Path, name: str) -> None:
    zero_shot.draw(directory, name, self._results, self._confusion, self._names)


def label_indices(labels: list[str], classes: list[str], split: str) -> np.ndarray:
  """[v] index of each label.

  Raises:
    ConfigError: training never saw a label.
  """
  if unknown := sorted(set(labels) - set(classes)):
    raise ConfigError(
      f"evals: split {split!r} has the label {unknown[0]!r}, which training never saw; "
      f"remove its clips, or train on it; {nearest(unknown[0], classes)}"
    )
  index = {name: i for i, name in enumerate(classes)}
  return np.array([index[label] for label in labels])
