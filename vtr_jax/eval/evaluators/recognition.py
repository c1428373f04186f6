"""Recognition by a fine-tuned head: top-1 and top-5 accuracy, per class, confusion.

The score of a class is the mean over a video's clips of its softmax, as in VideoMAE's
`engine_for_finetuning.merge`: segments along time times crops in space.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from vtr_jax.core.config import nearest, require
from vtr_jax.core.errors import ConfigError
from vtr_jax.core.sharding import OnDevices
from vtr_jax.data import sources
from vtr_jax.data.views import Views
from vtr_jax.eval import metrics
from vtr_jax.eval.evaluators import zero_shot
from vtr_jax.eval.evaluators.base import Context, each_view
from vtr_jax.objectives.base import Params, probabilities


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

  def __init__(self, config: Config, context: Context, progress: bool = False):
    self.every = config.every
    self._config, self._context, self._progress = config, context, progress
    self._source = context.data.open(config.split)
    labels = zero_shot.labels(self._source)
    where = f"split {config.split!r} of {context.data.name}"
    known, count = context.objective.classes, context.objective.num_classes
    require(
      count > 0,
      "config.evals: kind 'recognition' needs classes, which this objective does not "
      "state (Objective.classes)",
    )
    self._sorted = not known  # of converted public weights
    self._names = list(known) or in_usual_order(labels)
    require(
      not self._sorted or len(self._names) == count,
      f"config.objective.classes: none, and {where} has {len(self._names)} labels, the "
      f"head {count}; name them (convert --classes), or test on a split that has all",
    )
    self._label = label_indices(labels, self._names, where)
    self._views = Views(
      context.clip.num_frames,
      context.data.sampling,
      context.data.stride,
      config.windows,
      config.crops,
    )
    logits = context.objective.predict["logits"]
    self._probabilities = OnDevices(probabilities(logits), context.mesh)

  def run(self, params: Params) -> dict[str, float]:
    each = each_view(
      self._context,
      self._probabilities,
      params,
      self._source,
      self._views,
      self._progress,
    )
    scores = each.mean(axis=1, dtype=np.float64).T
    self._results, self._confusion = metrics.recognition(scores, self._label)
    return self._results

  def summary(self) -> str:
    """The metrics of the last run in two or three lines."""
    text = zero_shot.report(self._config.split, self._results, self._confusion)
    note = (
      "\nclasses: the run names none, so the split's labels in their usual order "
      "(numbers by value, names without regard to case); if the weights have another, "
      "convert them with --classes=FILE"
    )
    return text + note * self._sorted

  def report(self) -> str:
    return f"{self.summary()}\nper class: figures/*_classes.md and *_confusion.png"

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


def in_usual_order(labels: list[str]) -> list[str]:
  """The different labels in the order in which public data sets number their classes.

  UCF101, HMDB51, Kinetics and Something-Something sort names without regard to case.
  """
  if all(label.isdecimal() for label in labels):
    return sorted(set(labels), key=int)
  return sorted(set(labels), key=lambda label: (label.lower(), label))


def label_indices(labels: list[str], classes: list[str], where: str) -> np.ndarray:
  """[v] index of each label.

  Raises:
    ConfigError: training never saw a label.
  """
  if unknown := sorted(set(labels) - set(classes)):
    others = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
    raise ConfigError(
      f"{where}: training never saw label {unknown[0]!r}{others}; remove those clips, "
      f"or train on them; {nearest(unknown[0], classes)}"
    )
  index = {name: i for i, name in enumerate(classes)}
  return np.array([index[label] for label in labels])
