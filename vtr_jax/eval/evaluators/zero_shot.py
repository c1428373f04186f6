"""Zero-shot recognition: classification by similarity to texts of the classes.

As in MILES (arXiv 2204.12408, section 4): every phrase of a class is embedded in every
prompt. A class is represented by the normalised mean of its texts' embeddings (prompt
ensembling of CLIP, arXiv 2103.00020, section 3.1.4), and its score is a cosine.

The mean of texts with different meanings is near none of them: averaging "grows, then
moves left" and "rises, then blinks" loses the order. With a temperature T (ours), the
score is instead T log mean exp(cosine / T) over the class's texts: up to a constant, T
times the log-probability of the class by a contrastive model of temperature T.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from vtr_jax.core.config import choose, nearest, require
from vtr_jax.core.errors import BadSample, ConfigError
from vtr_jax.data import captions, sources
from vtr_jax.eval import metrics, query_texts
from vtr_jax.eval.evaluators.base import Context
from vtr_jax.eval.scoring import class_scores
from vtr_jax.eval.viz import plots
from vtr_jax.objectives.base import Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """One section of `evals` with kind = "zero_shot"."""

  split: str  # of the data set
  every: int = 0  # steps between runs; 0 = at the end only; ours
  classes: dict[str, tuple[str, ...]]  # label -> phrases; {} = labels as phrases
  prompts: tuple[str, ...]  # templates with one "{}" for the phrase
  temperature: float = 0.01  # of a class's texts; 0 = their mean, as CLIP; ours
  others: str = "refuse"  # clips with a label that is not a class: refuse | skip; ours

  needs = ("embed_video", "embed_text")  # predictions of the objective

  def __post_init__(self):
    choose(self.others, ("refuse", "skip"), "others")
    query_texts.check_classes(self.classes, self.prompts)
    require(self.temperature >= 0, f"temperature: {self.temperature} is negative")


class Evaluator:
  """See base.Evaluator."""

  def __init__(self, config: Config, context: Context):
    self.every = config.every
    self._config, self._context = config, context
    self._source = context.data.open(config.split)
    clip_labels = labels(self._source)
    self._classes = config.classes or {k: (k,) for k in sorted(set(clip_labels))}
    self._names = list(self._classes)
    missing = set(clip_labels) - set(self._names)
    if missing and (config.others == "refuse" or missing == set(clip_labels)):
      label = min(missing)
      raise ConfigError(
        f"evals: split {config.split!r} has the label {label!r}, not among classes; "
        f"add it, or others='skip', or {nearest(label, self._names)}"
      )
    self._rows = np.flatnonzero([label in self._classes for label in clip_labels])
    self._label = np.array([self._names.index(clip_labels[i]) for i in self._rows])
    texts, owner = self._texts()
    name = lambda i: f"class {self._names[owner[i]]!r}"
    captions.check(context.tokenizer, texts, "evals: classes", name)
    self._embed = context.embedder

  def run(self, params: Params) -> dict[str, float]:
    scores = self._scores(params)
    self._results, self._confusion = metrics.recognition(scores, self._label)
    return self._results

  def report(self) -> str:
    text = report(self._config.split, self._results, self._confusion)
    return f"{text}\nper class: figures/*_classes.md and *_confusion.png"

  def protocol(self) -> dict[str, Any]:
    return dataclasses.asdict(self._config) | dict(
      classes=self._classes,
      fingerprint=sources.fingerprint(self._source.directory, self._config.split),
      clips=len(self._label),
      texts=len(self._texts()[0]),
      data=self._context.data.name,
      frames=self._context.clip.num_frames,
      sampling=f"{self._context.data.sampling}, deterministic, one centred clip",
      ties="counted fractionally",
    )

  def draw(self, directory: pathlib.Path, name: str) -> None:
    draw(directory, name, self._results, self._confusion, self._names)

  def _texts(self) -> tuple[list[str], np.ndarray]:
    """All texts, and the class index of each."""
    return query_texts.class_texts(self._classes, self._config.prompts)

  def _scores(self, params: Params) -> np.ndarray:
    """Scores [classes, videos]."""
    texts, owner = self._texts()
    video = self._embed.videos(params, self._source)[self._rows]
    text = self._embed.texts(params, texts)
    return class_scores(video, text, owner, self._config.temperature)


def draw(
  directory: pathlib.Path,
  name: str,
  results: dict[str, float],
  confusion: np.ndarray,
  names: list[str],
) -> None:
  """Writes the table of the classes and the confusion matrix."""
  (directory / f"{name}_classes.md").write_text(table(names, confusion) + "\n")
  title = f"{name}: top-1 {results['top1']:.1f} %"
  plots.confusion(directory / f"{name}_confusion.png", confusion, names, title)


def report(split: str, results: dict[str, float], confusion: np.ndarray) -> str:
  """The results of `metrics.recognition` in two lines.

  The mean per class is over classes that have a clip; if some have none, it says so.
  """
  n, count = results, len(confusion)
  seen = int((confusion.sum(axis=1) > 0).sum())
  of = "" if seen == count else f" of the {seen} classes that have a clip"
  return "\n".join(
    [
      f"{split}: {confusion.sum():.0f} clips, {count} classes, chance "
      f"top-1 {100 / count:.1f}, top-5 {min(100, 500 / count):.1f}",
      f"top-1 {n['top1']:.1f}   top-5 {n['top5']:.1f}   "
      f"mean per-class top-1 {n['mean_class_top1']:.1f}{of}",
    ]
  )


def table(names: list[str], confusion: np.ndarray) -> str:
  """Per-class accuracy as a Markdown table."""
  width = max(5, *map(len, names))
  lines = [f"| {'class':{width}} | clips | top-1 | most frequent confusion |"]
  lines += [f"|{'-' * (width + 2)}|------:|------:|-------------------------|"]
  for i, (name, row) in enumerate(zip(names, confusion, strict=True)):
    clips, others = row.sum(), np.where(np.arange(len(row)) == i, 0.0, row)
    percent = 100 * row / max(clips, 1)
    worst = int(others.argmax())
    confused = f"{names[worst]} ({percent[worst]:.0f} %)" if others.any() else ""
    top1 = f"{percent[i]:.1f}" if clips else ""
    lines.append(f"| {name:{width}} | {clips:5.0f} | {top1:>5} | {confused} |")
  return "\n".join(lines)


def labels(source: sources.Split) -> list[str]:
  """The label of every record.

  Raises:
    DataError: a record has no label or cannot be read.
  """
  labels = sources.labels(source.directory, source.name)
  if "" in labels:
    raise sources.unusable(source, labels.index(""), BadSample("no label"))
  return labels
